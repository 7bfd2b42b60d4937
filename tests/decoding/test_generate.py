"""Generation over the model: strategies, prompts, streams, n-best: each against the plain way of doing it."""

import pytest
import small
import torch

from spear_tts_pytorch.decoding import sampling
from spear_tts_pytorch.tokens import pad_sequences

TYPES, PAIRS = small.TEXT_TO_SPEECH, small.DIRECTIONS
SIZES = {"speech": 20, "text": 30}
EOS = 20


def make_model(**options):
    return small.make_model(32, spread=1, **{"target_depth": 3, "heads": 4, "target_kv_heads": 2, **options}).eval()


VARIANTS = {
    "plain": {},
    "guided": {"cond_drop_prob": 0.2},
    "positions and prior": {"add_positions": True, "cross_attention_prior": True, "text_position_rate": 2.5},
}


def make_ids(modality, lengths, seed=0):
    return small.make_ids(modality, SIZES[modality], lengths, seed)


def options_of(variant):
    return dict(cond_scale=2.0) if variant == "guided" else {}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lengths", [[5], [3, 7, 5, 1, 6, 2]])
@pytest.mark.parametrize("layer", [1, 3])
def test_greedy_speculation_is_greedy(variant, lengths, layer):
    model = make_model(target_early_exit_layer=layer, **VARIANTS[variant])
    source, options = make_ids("text", lengths), dict(temperature=0.0, max_length=25, **TYPES, **options_of(variant))
    wanted, scores = model.generate(source, return_scores=True, **options)
    for gamma in (1, 4):
        result = model.generate(source, spec_decode=True, spec_decode_gamma=gamma, return_result=True, **options)
        assert torch.equal(result.ids, wanted)
        torch.testing.assert_close(result.scores, scores, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [2, 40])
def test_speculation_draws_from_the_models_distribution(max_length):
    """First two ids of 3,000 rows: as often as the model itself says, and as plain sampling draws them.

    Where many ids are to be drawn, drafts come from an exit that is rounded to 8 bits.
    """
    model = make_model(target_early_exit_layer=1, num_semantic_token_ids=4)
    model.token_emb["speech"].weight.data.mul_(0.3)
    source = make_ids("text", [5]).expand(3000, -1)
    options = dict(max_length=max_length, filter_logits_fn=None, temperature=0.8, **TYPES)
    first = (model(source[:1], torch.empty(1, 0).long(), **TYPES)[0, -1] / 0.8).softmax(-1)
    joint = torch.zeros(5, 5)
    for a in range(5):
        if a == 4:
            joint[a, 4] = first[a]  # ended: counted once
        else:
            joint[a] = first[a] * (model(source[:1], torch.tensor([[a]]), **TYPES)[0, -1] / 0.8).softmax(-1)
    for spec in (True, False):
        ids = model.generate(source, spec_decode=spec, generator=torch.Generator().manual_seed(1), **options)
        pairs = torch.stack((ids[:, 0], ids[:, 1].masked_fill(ids[:, 0] == 4, 4)), dim=1)
        counts = torch.zeros(5, 5).index_put((pairs[:, 0], pairs[:, 1]), torch.ones(3000), accumulate=True)
        seen = joint > 0
        chi2 = ((counts - 3000 * joint)[seen].square() / (3000 * joint[seen])).sum()
        p = torch.special.gammaincc(torch.tensor((int(seen.sum()) - 1) / 2), chi2 / 2)
        assert p > 1e-3, spec


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("source_type", "target_type"), PAIRS)
def test_a_prompt_is_gone_on_from(variant, source_type, target_type):
    """Greedy ids, continued from any of their beginnings, are the rest of them; rows of unequal length."""
    model = make_model(target_early_exit_layer=1, **VARIANTS[variant])
    source = make_ids(source_type, [3, 7, 5])
    types = dict(source_type=source_type, target_type=target_type)
    options = dict(temperature=0.0, **types, **options_of(variant))
    whole = model.generate(source, max_length=12, **options)
    begun = whole[:, 0] != model.eos_id[target_type]  # nothing goes on from end-of-sequence
    assert begun.sum() >= 2
    source, whole = source[begun], whole[begun]
    lengths = (whole != model.pad_id[target_type]).sum(-1).tolist()
    cuts = [max(1, min(cut, length - 1)) for cut, length in zip((2, 5, 1), lengths, strict=False)]
    prompt = pad_sequences([row[:cut] for row, cut in zip(whole, cuts, strict=True)], model.pad_id[target_type])
    strategies = [{}, dict(beam_search_decode=True, beam_size=1, temperature=1.0)]
    strategies += [dict(spec_decode=True)] if types == TYPES else []
    for strategy in strategies:
        rest = model.generate(source, prompt=prompt, max_length=12, **{**options, **strategy})
        for row, cut, length, got in zip(whole, cuts, lengths, rest, strict=True):
            wanted = row[cut:length]
            assert got[: len(wanted)].tolist() == wanted.tolist(), strategy


def test_a_prompt_in_a_beam_search_scores_what_follows():
    model = make_model()
    source, prompt = make_ids("text", [4, 6]), make_ids("speech", [3, 1])
    ids, scores = model.generate(
        source, prompt=prompt, beam_search_decode=True, max_length=6, return_scores=True, **TYPES
    )
    for i, cut in enumerate((3, 1)):
        row = ids[i][ids[i] >= 0]
        whole = torch.cat((prompt[i, :cut], row))[None]
        log_probs = model(source[i : i + 1], whole[:, :-1], **TYPES).log_softmax(-1).gather(-1, whole[..., None])
        assert scores[i].item() == pytest.approx(log_probs[0, cut:].sum().item(), abs=1e-4)


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("strategy", [dict(), dict(temperature=0.0), dict(spec_decode=True, spec_decode_gamma=3)])
@pytest.mark.parametrize("prompted", [False, True])
def test_a_stream_is_what_generate_returns(chunk, strategy, prompted):
    model = make_model(target_early_exit_layer=1).train()
    source = make_ids("text", [3, 7, 5, 2, 6])
    options = dict(max_length=30, temperature=40.0, filter_logits_fn=None, **TYPES) | strategy
    options |= dict(prompt=make_ids("speech", [2, 1, 4, 3, 3])) if prompted else {}
    wanted = model.generate(source, generator=torch.Generator().manual_seed(3), return_result=True, **options)
    stream = model.generate_stream(source, chunk=chunk, generator=torch.Generator().manual_seed(3), **options)
    assert model.training and stream.result is None
    pieces = list(stream)
    assert all(1 <= piece.shape[1] <= chunk for piece in pieces)
    assert torch.equal(torch.cat(pieces, dim=1), wanted.ids)
    torch.testing.assert_close(stream.result.scores, wanted.scores)
    assert 0 < stream.seconds_to_first


def test_the_n_best_are_sorted_and_none_comes_twice():
    model = make_model()
    source = make_ids("text", [3, 7])
    found = model.generate_n_best(source, n_best=4, beam_size=5, max_length=6, **TYPES)
    best = model.generate(source, beam_search_decode=True, beam_size=5, max_length=6, **TYPES)
    for i, hypotheses in enumerate(found):
        strings = [tuple(one.ids.tolist()) for one in hypotheses]
        assert len(set(strings)) == len(strings) == 4
        scores = [one.score for one in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert all(EOS not in string[:-1] for string in strings)
        assert list(strings[0]) == best[i][best[i] >= 0].tolist()


def test_rows_cut_by_max_length_are_reported():
    model = make_model()
    source = make_ids("text", [3, 7, 5, 2])
    options = dict(temperature=40.0, filter_logits_fn=None, generator=torch.Generator().manual_seed(1))
    result = model.generate(source, max_length=12, return_result=True, **options, **TYPES)
    ended = (result.ids == EOS).any(dim=1)
    assert torch.equal(result.truncated, ~ended) and 0 < ended.sum() < 4
    beams = model.generate(source, beam_search_decode=True, max_length=3, return_result=True, **TYPES)
    assert torch.equal(beams.truncated, ~(beams.ids == EOS).any(dim=1))


def test_guidance_of_scale_one_is_none():
    guided = make_model(cond_drop_prob=0.3)
    source = make_ids("text", [3, 7])
    with_scale = guided.generate(source, temperature=0.0, max_length=10, cond_scale=1.0, **TYPES)
    assert torch.equal(with_scale, make_model().generate(source, temperature=0.0, max_length=10, **TYPES))
    assert not torch.equal(with_scale, guided.generate(source, temperature=0.0, max_length=10, cond_scale=8.0, **TYPES))


def test_weights_changed_between_calls_count():
    model = make_model()
    source = make_ids("text", [3, 7, 2, 4, 5])
    before = model.generate(source, temperature=0.0, max_length=40, **TYPES)
    for parameter in model.target_transformer.parameters():
        parameter.data.mul_(-1.5)  # past the version counter
    changed = model.generate(source, temperature=0.0, max_length=40, **TYPES)
    assert before.shape != changed.shape or not torch.equal(before, changed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(prompt=torch.tensor([[1], [-1]])), "prompt has a row without any id"),
        (dict(prompt=torch.tensor([[1]])), "source has 2 rows and prompt 1"),
        (dict(prompt=torch.tensor([[1], [77]])), "prompt holds the id 77"),
        (dict(prompt=torch.tensor([[1, EOS], [2, 3]])), r"prompt holds end-of-sequence \(20\)"),
        (dict(max_length=0), "max_length"),
        (dict(max_length=2.5), "max_length must be a whole number at least 1, got 2.5"),
        (dict(temperature=1e-39), "temperature"),
        (dict(temperature=None), "temperature"),
        (dict(beam_search_decode=True, length_penalty=float("nan")), "length_penalty must be a finite number"),
        (dict(spec_decode=True, spec_decode_gamma=0), "gamma"),
        (dict(spec_decode=True, spec_decode_lenience=0.5), "lenience"),
        (dict(spec_decode=True, beam_search_decode=True), "not both"),
        (dict(beam_search_decode=True, beam_size=22), "beam_size must be at least 1 and at most the 21 ids .* got 22"),
    ],
)
def test_bad_options_are_named(options, words):
    model = make_model(target_early_exit_layer=1)
    with pytest.raises((TypeError, ValueError), match=words):
        model.generate(make_ids("text", [3, 5]), **{**TYPES, "max_length": 5, **options})
    if "beam_search_decode" not in options:
        with pytest.raises((TypeError, ValueError), match=words):
            list(model.generate_stream(make_ids("text", [3, 5]), **{**TYPES, "max_length": 5, **options}))
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        model.generate_stream(make_ids("text", [3, 5]), chunk=0, **TYPES)


@pytest.mark.parametrize("ahead", [16_384, 40])
def test_generate_and_generate_many_draw_the_same_ids_with_one_generator(ahead, monkeypatch):
    """However many slots there are, and however much noise is made at once."""
    monkeypatch.setattr(sampling, "NOISE_AHEAD", ahead)
    model = make_model()
    rows = [make_ids("text", [length])[0] for length in (7, 5, 5, 4, 3, 3, 2, 1)]
    options = dict(max_length=30, temperature=3.0, filter_logits_fn=None, **TYPES)
    for seed in range(3):
        together = model.generate(rows, generator=torch.Generator().manual_seed(seed), **options)
        wanted = [row[(row >= 0) & (row != EOS)].tolist() for row in together]
        assert len(set(map(tuple, wanted))) > 4
        for slots in (1, 3, 8):
            noise = torch.Generator().manual_seed(seed)
            many = model.generate_many(rows, generator=noise, max_batch_size=slots, progress=False, **options)
            assert [one.ids.tolist() for one in many] == wanted
