"""The model: first loss, padding, cached = uncached, generation, freezing, files, bad input."""

import json
import math
from pathlib import Path

import pytest
import small
import torch

from spear_tts_pytorch.decoding.generate import encoded
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.tokens import mask_after_eos

PAIRS = small.DIRECTIONS
SIZES = {"speech": 20, "text": 30}
VARIANTS = {
    "plain": {},
    "grouped": {"target_kv_heads": 2},
    "positions": {"add_positions": True, "text_position_rate": 2.5},
    "prior": {"cross_attention_prior": True, "text_position_rate": 2.5},
}


def make_model(**kwargs):
    return small.make_model(32, spread=1, **{"source_depth": 2, "target_depth": 3, "heads": 4, **kwargs}).eval()


def make_ids(modality, lengths, seed=0):
    return small.make_ids(modality, SIZES[modality], lengths, seed)


@pytest.mark.parametrize("dim", [64, 256])
@pytest.mark.parametrize(("source_type", "target_type"), PAIRS)
def test_first_loss_is_that_of_a_uniform_guess(dim, source_type, target_type):
    torch.manual_seed(0)
    model = TextToSemantic(dim, source_depth=2, target_depth=2, num_text_token_ids=100, num_semantic_token_ids=500)
    size = {"speech": 500, "text": 100}
    source, target = torch.randint(1, size[source_type], (4, 30)), torch.randint(1, size[target_type], (4, 30))
    loss = model(source, target, source_type=source_type, target_type=target_type, return_loss=True).item()
    assert loss == pytest.approx(math.log(size[target_type] + 1), rel=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("source_type", "target_type"), PAIRS)
def test_a_padded_row_is_the_row_alone(variant, source_type, target_type):
    model = make_model(**VARIANTS[variant], target_early_exit_layer=2)
    source, target = make_ids(source_type, [3, 7, 5]), make_ids(target_type, [6, 2, 8], seed=1)
    types = dict(source_type=source_type, target_type=target_type)
    together = model(source, target, **types)
    losses, weights = [], []
    for i, (n, m) in enumerate([(3, 6), (7, 2), (5, 8)]):
        alone = model(source[i : i + 1, :n], target[i : i + 1, :m], **types)
        torch.testing.assert_close(together[i, : m + 1], alone[0], atol=1e-5, rtol=1e-5)
        losses.append(model(source[i : i + 1, :n], target[i : i + 1, :m], return_loss=True, **types))
        weights.append(m + 1)  # end-of-sequence counts
    mean = (torch.stack(losses) * torch.tensor(weights)).sum() / sum(weights)
    torch.testing.assert_close(model(source, target, return_loss=True, **types), mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("source_type", "target_type"), PAIRS)
def test_cached_logits_are_the_uncached(variant, source_type, target_type):
    model = make_model(**VARIANTS[variant])
    source, target = make_ids(source_type, [3, 7]), make_ids(target_type, [9, 9], seed=1)
    step, cache = encoded(model, source, DecodingOptions(source_type=source_type, target_type=target_type))
    empty = target[:, :0]
    pieces = [step(empty, cache), step(target[:, :4], cache)] + [step(target[:, i : i + 1], cache) for i in range(4, 9)]
    uncached = model(source, target, source_type=source_type, target_type=target_type)
    torch.testing.assert_close(torch.cat(pieces, dim=1), uncached, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cache_rows_of_unequal_length_give_the_uncached_logits(variant):
    model = make_model(**VARIANTS[variant])
    source, target = make_ids("text", [3, 7]), make_ids("speech", [9, 9], seed=1)
    step, cache = encoded(model, source, DecodingOptions())
    step(target[:, :5], cache)  # start token and 5 ids
    cache.truncate([3, 6])  # the first row forgets 3 of them
    new = torch.stack((target[0, 2:4], target[1, 5:7]))
    got = step(new, cache)
    uncached = model(source, target, source_type="text", target_type="speech")
    torch.testing.assert_close(got[0], uncached[0, 3:5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], uncached[1, 6:8], atol=1e-5, rtol=1e-5)


def greedy_by_hand(model, source, source_type, target_type, max_length):
    """One row, no cache: run the whole model for every id."""
    ids = torch.empty(1, 0, dtype=torch.long)
    while ids.shape[1] < max_length:
        logits = model(source, ids, source_type=source_type, target_type=target_type)[:, -1]
        if target_type == "text":
            logits[:, 0] = -torch.inf
        ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
        if ids[0, -1] == model.eos_id[target_type]:
            break
    return ids[0].tolist()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("source_type", "target_type"), PAIRS)
def test_greedy_batch_is_row_by_row_without_a_cache(variant, source_type, target_type):
    model = make_model(**VARIANTS[variant])
    lengths = [3, 7, 5, 1]
    source = make_ids(source_type, lengths)
    types = dict(source_type=source_type, target_type=target_type)
    ids = model.generate(source, temperature=0.0, max_length=12, **types)
    beam_of_one = model.generate(source, beam_search_decode=True, beam_size=1, max_length=12, **types)
    for i, length in enumerate(lengths):
        wanted = greedy_by_hand(model, source[i : i + 1, :length], source_type, target_type, 12)
        for got in (ids[i], beam_of_one[i]):
            assert got[: len(wanted)].tolist() == wanted
            assert (got[len(wanted) :] == model.pad_id[target_type]).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_beam_search_batch_is_row_by_row(variant):
    model = make_model(**VARIANTS[variant])
    lengths = [3, 7, 5]
    source = make_ids("text", lengths)
    options = dict(source_type="text", target_type="speech", beam_search_decode=True, beam_size=3, max_length=10)
    together, scores = model.generate(source, return_scores=True, **options)
    for i, length in enumerate(lengths):
        alone, score = model.generate(source[i : i + 1, :length], return_scores=True, **options)
        assert together[i, : alone.shape[1]].tolist() == alone[0].tolist()
        assert scores[i].item() == pytest.approx(score.item(), abs=1e-4)


def test_beam_score_is_the_log_probability_of_its_ids():
    model = make_model()
    source = make_ids("text", [4])
    types = dict(source_type="text", target_type="speech")
    ids, score = model.generate(source, beam_search_decode=True, max_length=8, return_scores=True, **types)
    log_probs = model(source, ids[:, :-1], **types).log_softmax(dim=-1)
    assert score.item() == pytest.approx(log_probs.gather(-1, ids[..., None]).sum().item(), abs=1e-4)


def test_same_seed_same_ids_and_nothing_after_eos():
    model = make_model()
    source = make_ids("text", [4, 6, 2])
    options = dict(source_type="text", target_type="speech", max_length=30)
    first, second = (
        model.generate(source, generator=torch.Generator().manual_seed(5), temperature=20.0, **options)
        for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(first, mask_after_eos(first, 20, -1))
    other = model.generate(source, generator=torch.Generator().manual_seed(6), temperature=20.0, **options)
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.parametrize("sign", [1, -1])
def test_text_padding_is_never_generated(sign):
    model = make_model()
    model.token_emb["text"].weight.data[0] *= 100 * sign  # by far the largest logit for one of the signs
    source = make_ids("speech", [4, 6, 2, 3])
    types = dict(source_type="speech", target_type="text")
    ids, mask = model.generate(source, temperature=0.0, max_length=20, return_target_mask=True, **types)
    assert (ids[:, 0] != 0).all() and torch.equal(mask, ids != 0)
    lengths = mask.sum(dim=-1)
    assert all(mask[i, : lengths[i]].all() for i in range(4))


def test_generate_restores_training_mode_even_after_an_error():
    model = make_model().train()
    types = dict(source_type="text", target_type="speech")
    with pytest.raises(ValueError, match="temperature"):
        model.generate(make_ids("text", [3]), temperature=-1.0, **types)
    assert model.training


def test_generate_restores_the_mode_of_every_part():
    model = make_model().train()
    model.source_transformer.eval()
    model.generate(make_ids("text", [3]), max_length=2, source_type="text", target_type="speech")
    assert model.training and model.target_transformer.training and not model.source_transformer.training


def test_a_wrong_layer_freezes_nothing():
    model = make_model()
    model.freeze_encoder()
    for freeze in (model.freeze_encoder_below_layer, model.freeze_encoder_above_layer):
        for layer, error in ((9, ValueError), (-1, ValueError), (1.5, TypeError)):
            with pytest.raises(error, match="layer must be .*at least 0 and at most 2"):
                freeze(layer)
    assert not any(p.requires_grad for p in model.source_transformer.parameters())


def test_a_bare_state_dict_loads(tmp_path):
    model, other = make_model(), make_model()
    for parameter in other.parameters():
        parameter.data.zero_()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load(tmp_path / "model.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_conditioning_is_dropped_by_row_in_training_only():
    model = make_model(cond_drop_prob=0.5)
    source, target = make_ids("text", [4] * 64), make_ids("speech", [5] * 64, seed=1)
    source[:], target[:] = source[:1], target[:1]
    types = dict(source_type="text", target_type="speech")
    assert model(source, target, **types).std(dim=0).max() < 1e-5
    logits = model.train()(source, target, **types)
    kinds = torch.unique((logits[:, -1] * 1e3).round(), dim=0)
    assert len(kinds) == 2  # with and without the source, in one batch


def test_alignment_regularizer_of_a_batch_of_one_is_finite():
    model = make_model(cond_drop_prob=0.5)
    types = dict(source_type="text", target_type="speech", return_loss=True, cond_drop_prob=1.0)
    assert model(make_ids("text", [4]), make_ids("speech", [5]), **types).isfinite()


def test_gradients_reach_every_parameter_that_takes_part():
    model = make_model(ctc=True, target_early_exit_layer=2).train()
    source, target = make_ids("speech", [12, 9]), make_ids("text", [4, 3])
    model(source, target, source_type="speech", target_type="text", return_loss=True, ctc_weight=0.5).backward()
    types = dict(source_type="text", target_type="speech")
    model(target, source, return_loss=True, return_early_exit_loss=True, **types).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_freezing_by_part():
    model = make_model()
    model.unfreeze_all()
    model.freeze_encoder_above_layer(1)
    model.freeze_decoder(except_cross_attention=True)
    model.freeze_speech_emb()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(
        name.startswith(("source_transformer.layers.0.", "token_emb.text", "start_token.text"))
        or "cross_attention" in name
        for name in trainable
    )
    assert {"token_emb.text.weight", "start_token.text"} <= trainable
    model.freeze_encoder_below_layer(1)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("source")}
    assert all(not name.startswith("source_transformer.layers.0.") for name in trainable) and trainable
    with pytest.raises(ValueError, match="layer must be at least 0 and at most 2"):
        model.freeze_encoder_below_layer(3)


def test_ctc_loss_is_torchs_and_learns(tmp_path):
    model = make_model(ctc=True)
    source, target = make_ids("speech", [12, 9]), make_ids("text", [4, 3])
    log_probs, lengths = model.ctc_logits(source)
    assert log_probs.shape == (2, 13, 30) and lengths.tolist() == [13, 10]  # the end-of-sequence id is read too
    reference = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1), target, lengths, torch.tensor([4, 3]), reduction="sum"
    )
    types = dict(source_type="speech", target_type="text", return_loss=True)
    torch.testing.assert_close(model(source, target, ctc_weight=1.0, **types), reference / 9)  # 7 ids, 2 ends


def test_save_and_load(tmp_path):
    tokenizer = CharacterTokenizer.fit(["hello world"])
    model = make_model(tokenizer_encode=tokenizer, num_text_token_ids=None, add_positions=True)
    model.save_pretrained(tmp_path / "model")
    loaded = TextToSemantic.from_pretrained(tmp_path / "model")
    types = dict(source_type="text", target_type="speech")
    target = make_ids("speech", [5])
    torch.testing.assert_close(model(["hello"], target, **types), loaded(["hello"], target, **types))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["arguments"]["dim"] == 32
    assert loaded.text_tokenizer.decode(loaded.tokenizer_encode(["hello"])) == ["hello"]


def test_push_to_hub_uploads_the_folder_that_save_pretrained_writes(monkeypatch):
    uploaded = {}

    class Hub:  # in place of the network
        def __init__(self, *args, **kwargs): ...

        def create_repo(self, repo_id, **kwargs):
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            uploaded[repo_id] = {path.name for path in Path(folder_path).rglob("*") if path.is_file()}
            return "commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    make_model(tokenizer_encode=CharacterTokenizer.fit(["hello"]), num_text_token_ids=None).push_to_hub("someone/model")
    assert {"model.safetensors", "config.json"} <= uploaded["someone/model"]


def test_load_tells_another_architecture_and_a_pair_file(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"another architecture: .*\[32.*\[16"):
        TextToSemantic(
            16, source_depth=2, target_depth=3, num_text_token_ids=30, num_semantic_token_ids=20, dim_head=8, heads=4
        ).load(tmp_path / "model")
    torch.save(torch.tensor([1, 2, -1, 3]), tmp_path / "0.pt")
    with pytest.raises(ValueError, match="pseudo-labelled pair"):
        make_model().load(tmp_path / "0.pt")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        make_model().load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("content", [b"", b"junk!", b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_damaged_and_malicious_weights_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is damaged or no file of weights|holds .os.system.)"):
        make_model().load(tmp_path / name)


def test_from_pretrained_names_what_is_wrong(tmp_path):
    make_model().save_pretrained(tmp_path / "demo" / "model")
    with pytest.raises(FileNotFoundError, match="did you mean .*model"):
        TextToSemantic.from_pretrained(tmp_path / "demo")
    with pytest.raises(FileNotFoundError, match="no model folder"):
        TextToSemantic.from_pretrained(tmp_path / "no" / "where")
    config = tmp_path / "demo" / "model" / "config.json"
    whole = json.loads(config.read_text())
    whole["arguments"]["new_keyword"] = 1
    config.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="new_keyword .* upgrade"):
        TextToSemantic.from_pretrained(tmp_path / "demo" / "model")
    config.write_text("[1]")
    with pytest.raises(ValueError, match="not the configuration of a model"):
        TextToSemantic.from_pretrained(tmp_path / "demo" / "model")


def test_a_bigger_module_with_old_keys_loads(fixtures):
    from safetensors.torch import load_file

    index = json.loads((fixtures / "index.json").read_text())
    holder = torch.nn.ModuleDict({"text_to_semantic": TextToSemantic(**index["configs"]["mha"]["kwargs"])})
    state = {f"text_to_semantic.{k}": v for k, v in load_file(fixtures / "mha.state.safetensors").items()}
    holder.load_state_dict(state, strict=True)
    loaded = holder["text_to_semantic"].token_emb["speech"].weight
    assert torch.equal(loaded, state["text_to_semantic.semantic_token_emb.weight"])


def speak(model, source=None, **kwargs):
    source = make_ids("text", [3]) if source is None else source
    return model.generate(source, **{"source_type": "text", "target_type": "speech", **kwargs})


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: speak(m, torch.tensor([[31]])), ValueError, "source holds the id 31"),
        (lambda m: speak(m, torch.tensor([[-1]])), ValueError, "source holds the id -1"),
        (lambda m: speak(m, torch.tensor([[3], [0]])), ValueError, "row without any id"),
        (lambda m: speak(m, torch.rand(1, 4)), TypeError, "integer tensor"),
        (lambda m: speak(m, torch.tensor([[0, 3]])), ValueError, "pad rows on the right only"),
        (lambda m: speak(m, "one text"), TypeError, "give a list of texts"),
        (lambda m: speak(m, ["hi"]), ValueError, "needs a tokenizer: pass tokenizer_encode"),
        (lambda m: speak(m, torch.rand(1, 4), source_type="speech"), ValueError, "pass wav2vec"),
        (lambda m: speak(m, target_type="audio"), ValueError, "one of speech, text"),
        (lambda m: speak(m, cond_scale=2.0), ValueError, "trained with cond_drop_prob"),
        (lambda m: speak(m, cond_scale=0.5), ValueError, "at least 1"),
        (lambda m: speak(m, max_length=0), ValueError, "max_length"),
        (lambda m: speak(m, beam_search_decode=True, beam_size=0), ValueError, "beam_size"),
        (lambda m: speak(m, spec_decode=True), ValueError, "target_early_exit_layer"),
        (lambda m: speak(m, spec_decode=True, beam_search_decode=True), ValueError, "not both"),
        (lambda m: m(make_ids("text", [3]), make_ids("speech", [3, 4]), **TYPES), ValueError, "1 rows and target 2"),
        (lambda m: m(make_ids("text", [3]), make_ids("speech", [3]), return_early_exit_loss=True, **LOSS), ValueError, "exit"),
        (lambda m: m(make_ids("text", [3]), make_ids("speech", [3]), ctc_weight=0.5, **LOSS), ValueError, "speech to text"),
        (lambda m: make_model(heads=4, target_kv_heads=3), ValueError, "multiple"),
        (lambda m: make_model(cond_drop_prob=1.0), ValueError, "cond_drop_prob"),
        (lambda m: make_model(dim_head=15), ValueError, "dim_head must be even"),
        (lambda m: make_model(source_depth=0), ValueError, "at least 1"),
        (lambda m: make_model(num_text_token_ids=None), ValueError, "num_text_token_ids is missing"),
        (lambda m: make_model(target_early_exit_layer=9), ValueError, "1 to target_depth"),
        (lambda m: make_model(heads="four"), TypeError, "heads"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, words):
    model = make_model()
    with pytest.raises(error, match=words):
        call(model)


TYPES = dict(source_type="text", target_type="speech")
LOSS = dict(**TYPES, return_loss=True)
