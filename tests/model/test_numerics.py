"""Reduced precision, compilation, export, gradients: what training at scale leans on."""

import shutil

import pytest
import small
import torch
from torch.export import Dim, export

from spear_tts_pytorch.objectives import SemanticToTextWrapper, SpeechSpeechPretrainWrapper, TextToSemanticWrapper

EVERYTHING = dict(
    target_kv_heads=2,
    target_early_exit_layer=1,
    cond_drop_prob=0.3,
    add_positions=True,
    cross_attention_prior=True,
    text_position_rate=2.0,
    ctc=True,
    label_smoothing=0.1,
)


def make_model(**options):
    return small.make_model(32, **{"source_depth": 2, "target_depth": 2, "heads": 4, **options})


def make_batch(rows=6, text=7, speech=15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text_ids = torch.randint(1, 30, (rows, text), generator=generator)
    speech_ids = torch.randint(0, 20, (rows, speech), generator=generator)
    text_ids[1, 4:], speech_ids[1, 9:] = 0, -1
    return text_ids, speech_ids


LOSSES = (
    lambda model, text, speech: SpeechSpeechPretrainWrapper(model, reconstruct_seq=True)(speech)[0],
    lambda model, text, speech: SemanticToTextWrapper(model, ctc_weight=0.3)(speech, text)[0],
    lambda model, text, speech: TextToSemanticWrapper(model)(text, speech)[0],
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["autocast", "weights"])
@pytest.mark.parametrize("options", [{}, EVERYTHING | {"attn_dropout": 0.1, "ff_dropout": 0.1, "emb_dropout": 0.1}])
def test_bfloat16_trains_without_nan(kind, options):
    model = make_model(**options).train()
    if kind == "weights":
        model = model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    batch = make_batch()
    history = []
    for step in range(90):
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            loss = LOSSES[step % 3 if options else 2](model, *batch)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss.item())
    assert torch.tensor(history).isfinite().all()
    assert sum(history[-12:]) < 0.8 * sum(history[:12])


def test_bfloat16_is_close_to_float32():
    model = make_model().train()
    loss, _ = TextToSemanticWrapper(model)(*make_batch())
    with torch.autocast("cpu", torch.bfloat16):
        reduced, _ = TextToSemanticWrapper(model)(*make_batch())
    assert reduced.item() == pytest.approx(loss.item(), rel=2e-3)


@pytest.mark.parametrize("flash", [False, True])
def test_dropout_trains_with_either_kernel_and_is_off_in_evaluation(flash):
    model = make_model(attn_flash=flash, attn_dropout=0.2, target_kv_heads=2).train()
    wrapper = TextToSemanticWrapper(model)
    values = {wrapper(*make_batch())[0].item() for _ in range(3)}
    assert len(values) == 3
    wrapper(*make_batch())[0].backward()
    plain = make_model(attn_dropout=0.0, target_kv_heads=2)
    torch.testing.assert_close(wrapper.eval()(*make_batch())[0], TextToSemanticWrapper(plain.eval())(*make_batch())[0])


# aot_eager traces everything that a compiler would get, and needs no compiler
@pytest.mark.slow
def test_the_training_forward_and_backward_are_one_graph():
    model = make_model(**EVERYTHING | {"cond_drop_prob": 0.0, "source_depth": 1}).train()
    wrapper, results = TextToSemanticWrapper(model), []
    for step in (torch.compile(wrapper, fullgraph=True, backend="aot_eager"), wrapper):
        loss, logits = step(*make_batch())
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((loss, logits, gradients))
        model.zero_grad()
    torch.testing.assert_close(*results)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["autocast", "weights"])
def test_reduced_precision_compiles_for_batches_of_many_lengths(precision):
    model = make_model(source_depth=1, target_depth=1, attn_dropout=0.1).train()
    model = model.bfloat16() if precision == "weights" else model
    compiled = torch.compile(TextToSemanticWrapper(model), fullgraph=True, dynamic=True, backend="eager")
    for shape in ({}, {"rows": 4, "text": 9, "speech": 21}):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            assert compiled(*make_batch(**shape))[0].isfinite()


def test_a_cast_does_not_round_positions():
    rotary, positions = make_model().source_transformer.rotary, torch.tensor([2000])
    wanted = torch.stack(rotary(positions))
    cast = make_model().bfloat16().float().source_transformer.rotary
    assert torch.equal(torch.stack(cast(positions)), wanted)
    angle = 2000 * 10_000.0 ** (-2 / 8)
    torch.testing.assert_close(
        wanted[0, 0, 1].item(), torch.tensor(angle, dtype=torch.float64).cos().item(), atol=1e-3, rtol=0
    )


def test_the_loss_is_float32_whatever_the_weights_are():
    model = make_model().bfloat16().eval()
    text, speech = make_batch()
    logits = model(text, speech, source_type="text", target_type="speech")
    loss, logits = model(text, speech, source_type="text", target_type="speech", return_loss=True, return_logits=True)
    assert loss.dtype == torch.float32 and logits.dtype == torch.bfloat16


@pytest.mark.slow
def test_dropped_conditions_and_dropout_are_part_of_the_graph():
    model = make_model(**EVERYTHING, source_depth=1, attn_dropout=0.1).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    text, speech = make_batch()
    options = dict(return_loss=True, return_early_exit_loss=True, source_type="text", target_type="speech")
    assert compiled(text, speech, **options).isfinite()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_compiled_for_a_cpu():
    model = make_model(source_depth=1, target_depth=1, target_kv_heads=2).train()
    compiled = torch.compile(model, fullgraph=True)
    options = dict(return_loss=True, source_type="text", target_type="speech")
    loss = compiled(*make_batch(), **options)
    loss.backward()
    torch.testing.assert_close(loss, model(*make_batch(), **options))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"add_positions": True, "text_position_rate": 2.0}])
@pytest.mark.parametrize(("modality", "pad"), [("text", 0), ("speech", -1)])
def test_the_encoder_exports_for_any_batch(modality, pad, options):
    model = make_model(**options).eval()
    encoder = model.encoder(modality)
    batch = make_batch()[0 if modality == "text" else 1]
    sizes = {"ids": {0: Dim("rows", min=1, max=64), 1: Dim("length", min=1, max=4096)}}
    exported = export(encoder, (batch,), dynamic_shapes=sizes).module()
    for shape in ((1, 1), (5, 33)):
        ids = torch.randint(1, 20, shape)
        ids[-1, 20:] = pad
        x, mask = exported(ids)
        wanted, wanted_mask, _ = model.encode(ids, modality)
        assert torch.equal(mask, wanted_mask)
        torch.testing.assert_close(x[mask], wanted[mask], atol=1e-5, rtol=1e-5)


FREEZING = {
    "nothing": lambda m: m.unfreeze_all(),
    "encoder": lambda m: m.freeze_encoder(),
    "encoder below": lambda m: m.freeze_encoder_below_layer(1),
    "encoder above": lambda m: m.freeze_encoder_above_layer(1),
    "decoder": lambda m: m.freeze_decoder(),
    "decoder but cross-attention": lambda m: m.freeze_decoder(except_cross_attention=True),
    "speech": lambda m: m.freeze_speech_emb(),
    "text": lambda m: m.freeze_text_emb(),
}


@pytest.mark.parametrize("part", FREEZING)
def test_gradients_reach_what_is_not_frozen_and_nothing_else(part):
    model = make_model(target_early_exit_layer=1, ctc=True).train()
    FREEZING[part](model)
    sum(loss(model, *make_batch()) for loss in LOSSES).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert (len(moved) == len(list(model.parameters()))) == (part == "nothing")


@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"beam_search_decode": True}, {"spec_decode": True}])
def test_the_default_dtype_changes_no_ids(options):
    model = make_model(**(EVERYTHING if "spec_decode" in options else {}))
    text, speech = make_batch()

    def said():
        generator = torch.Generator().manual_seed(0)
        ids = model.generate(text, max_length=5, generator=generator, **options)
        return ids, model.score(text, speech, source_type="text", target_type="speech")

    (ids, scores), dtype = said(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again = said()
        loss = TextToSemanticWrapper(make_model(**EVERYTHING))(text, speech)[0]  # weights of 64 bits
    finally:
        torch.set_default_dtype(dtype)
    assert torch.equal(ids, again[0])
    torch.testing.assert_close(scores.log_probs, again[1].log_probs)
    assert bool(torch.isfinite(loss))
