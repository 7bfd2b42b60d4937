"""Decoding with rounded weights and compiled steps, against decoding as it is."""

import copy
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import small
import torch

from spear_tts_pytorch import TextToSemantic, TextToSemanticWrapper
from spear_tts_pytorch.decoding.accelerate import fused_decoder

TYPES = small.TEXT_TO_SPEECH
PAD = -1


def make_model(**options):
    return small.make_model(40, spread=1, **{"target_depth": 2, "heads": 4, "target_kv_heads": 2, **options}).eval()


def sources(*lengths):
    random = torch.Generator().manual_seed(len(lengths))
    rows = torch.randint(1, 30, (len(lengths), max(lengths)), generator=random)
    return rows.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], 0)


@pytest.fixture(scope="module")
def speaker():
    """A model that has learned to say each character by two ids, the second by what comes before; and 75 sentences."""
    torch.manual_seed(0)
    options = dict(add_positions=True, cross_attention_prior=True, text_position_rate=2.0)
    sizes = dict(num_text_token_ids=30, num_semantic_token_ids=61, heads=4, dim_head=16, target_kv_heads=2)
    model = TextToSemantic(64, source_depth=2, target_depth=2, **sizes, **options).train()
    random = torch.Generator().manual_seed(0)

    def pairs(number):
        text = torch.randint(1, 29, (number, 8), generator=random)
        return text, torch.stack((2 * text, 2 * text + 1 + (text > text.roll(1, 1)).long()), dim=-1).flatten(1)

    wrapper = TextToSemanticWrapper(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=200)
    for _ in range(200):
        loss, _ = wrapper(*pairs(32))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval(), *pairs(75)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.98), ("int8", 0.95)])
def test_rounded_weights_say_the_same(speaker, precision, least):
    model, text, said = speaker
    options = dict(temperature=0.0, max_length=40, **TYPES)
    wanted = model.generate(text, **options)
    assert (
        wanted[:, :16] == said
    ).float().mean() > 0.8  # it has learned something: agreement on noise would say little
    got = copy.deepcopy(model).quantize(precision).generate(text, **options)
    n = min(got.shape[1], wanted.shape[1])
    counted = wanted[:, :n] != PAD
    agreement = (got[:, :n] == wanted[:, :n])[counted].sum() / (wanted != PAD).sum()
    assert agreement >= least, float(agreement)


def test_rounding_is_of_decoding_alone_and_follows_the_weights(tmp_path):
    model, source = make_model(), sources(5, 3)
    options = dict(temperature=0.0, max_length=40, **TYPES)
    plain, target = model.generate(source, **options), torch.randint(0, 20, (2, 6))
    logits = model(source, target, **TYPES)
    assert model.quantize("int8") is model
    rounded = fused_decoder(model, "speech", rows=1, steps=1)
    assert (
        rounded is fused_decoder(model, "speech", rows=1, steps=1)
        and rounded.layers[0].to_out.weight.dtype == torch.int8
    )
    assert torch.equal(model(source, target, **TYPES), logits)
    model.save_pretrained(tmp_path)
    assert torch.equal(TextToSemantic.from_pretrained(tmp_path).eval().generate(source, **options), plain)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.generate(source, **options), model.generate(source, **options))
        assert fused_decoder(other, "speech", rows=1, steps=1) is not rounded
    for weight in (model.token_emb["speech"].weight, model.target_transformer.layers[1].attention.to_out.weight):
        original = weight.detach().clone()
        saved = (8 * original).round() / 8  # sums are exact: rounding does not tell
        weight.data.copy_(saved)
        former = fused_decoder(model, "speech", rows=1, steps=1)
        for changed in (saved.roll(1, 0), saved.roll(1, 1), -saved):
            weight.data.copy_(changed)  # past the version counter
            assert fused_decoder(model, "speech", rows=1, steps=1) is not former, (
                "weights moved within their tensor count, too"
            )
        weight.data.copy_(original)
    model.double().float()
    model.target_transformer.layers[0] = copy.deepcopy(model.target_transformer.layers[0])
    model.generate(source, **options)
    assert torch.equal(model.quantize("fp32").generate(source, **options), plain)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of 'fp32', 'bf16', 'int8', got 'int4'"):
        make_model().quantize("int4")
    with pytest.raises(ValueError, match="batch_sizes must be at least 1"):
        make_model().compile(batch_sizes=(0,))


@pytest.mark.slow
def test_without_a_compiler_decoding_stays_as_it_was(tmp_path):
    """In a process of its own, because torch remembers which compiler it found."""
    code = """
import torch
import torch._inductor.config as config
config.cpp.cxx = (None, "no-such-compiler")
from spear_tts_pytorch import TextToSemantic
model = TextToSemantic(16, source_depth=1, target_depth=1, num_text_token_ids=9, num_semantic_token_ids=9).eval()
source, options = torch.tensor([[1, 2]]), dict(source_type="text", target_type="speech", temperature=0.0, max_length=5)
model.token_emb["speech"].weight.data[9] = 10 * model.token_emb["speech"].weight.data[:9].sum(0)  # likely to end at once
wanted = model.generate(source, **options)
try:
    model.compile()
except RuntimeError as error:
    print(error)
print(torch.equal(model.generate(source, **options), wanted))
"""
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "torch.compile needs a C++ compiler" in run.stdout and run.stdout.strip().endswith("True"), run.stdout


needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_steps_are_the_steps(precision):
    """Sampling one row and several of unequal sources, guided, in beams, speculative, after prompts."""
    from torch._dynamo.utils import counters

    options = dict(cond_drop_prob=0.2, target_early_exit_layer=1, add_positions=True, cross_attention_prior=True)
    model = make_model(autoset_semantic_eos_id=False, **options).quantize(precision)
    compiled = copy.deepcopy(model).compile()
    assert fused_decoder(compiled, "speech", rows=1, steps=1).compiled is not None
    counters.clear()
    strategies = [
        (sources(5), dict(max_length=150)),
        (sources(5, 3, 8), dict(max_length=150)),
        (
            sources(5),
            dict(max_length=20, cond_scale=2.0),
        ),  # two rows again, as in the last: their graph is compiled once
        (sources(5), dict(max_length=20, beam_search_decode=True, beam_size=3, temperature=1.0)),  # three rows again
        (sources(5, 3), dict(max_length=20, spec_decode=True)),
        (sources(5, 3), dict(max_length=20, prompt=torch.tensor([[1, 2, 3], [4, PAD, PAD]]))),
    ]
    for source, strategy in strategies if precision == "fp32" else strategies[:2]:
        both = [
            one.generate(source, **{"temperature": 0.0, **TYPES, **strategy}, return_scores=True)
            for one in (model, compiled)
        ]
        torch.testing.assert_close(both[1][1], both[0][1], atol=0.02 if precision == "int8" else 1e-4, rtol=1e-3)
        if precision == "fp32":
            assert torch.equal(both[0][0], both[1][0]), strategy
    assert 0 < counters["stats"]["unique_graphs"] <= 12, "graphs must not depend on lengths"


@pytest.mark.slow
@needs_compiler
def test_compiled_steps_follow_the_weights_without_compiling_again():
    from torch._dynamo.utils import counters

    model, source = make_model(), sources(5)
    options = dict(temperature=0.0, max_length=40, **TYPES)
    counters.clear()
    compiled = copy.deepcopy(model).compile(batch_sizes=(1,))
    compiled.generate(source, **options)
    assert counters["stats"]["unique_graphs"] > 0
    counters.clear()
    torch.manual_seed(1)
    for mine, theirs in zip(
        model.target_transformer.parameters(), compiled.target_transformer.parameters(), strict=True
    ):
        mine.data.add_(0.3 * torch.randn_like(mine))
        theirs.data.copy_(mine.data)
    assert torch.equal(compiled.generate(source, **options), model.generate(source, **options))
    assert counters["stats"]["unique_graphs"] == 0
