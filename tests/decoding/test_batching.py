"""Many sources at once: each gets what it gets alone, in order, under the budget, and a bad one harms no other."""

import io
import sys

import numpy as np
import pytest
import torch
from sources import LENGTHS, QUIET, SPEECH, TYPES, FramesOf10, Letters, Watch, alone, make_model, make_rows, same

from spear_tts_pytorch.decoding.step import DecoderStep


@pytest.fixture(scope="module")
def model():
    return make_model(target_early_exit_layer=1)


STRATEGIES = {
    "greedy": dict(temperature=0.0),
    "beam": dict(beam_search_decode=True, beam_size=3, length_penalty=0.5),
    "speculative": dict(temperature=0.0, spec_decode=True),
}


@pytest.mark.parametrize(
    ("types", "strategy"),
    [(TYPES, "greedy"), (SPEECH, "greedy"), (TYPES, "beam"), (SPEECH, "beam"), (TYPES, "speculative")],
)
def test_each_source_gets_what_it_gets_alone_in_its_place(model, types, strategy):
    rows = make_rows()
    options = dict(max_length=6, **STRATEGIES[strategy])
    results = model.generate_many(rows, max_tokens=30, max_batch_size=4, **types, **QUIET, **options)
    assert len(results) == len(rows)
    wanted = [alone(model, row, types, **options) for row in rows]
    for result, (ids, score, truncated) in zip(results, wanted, strict=True):
        assert result.ids.dtype == torch.int64 and result.ids.device.type == "cpu"
        assert result.ids.tolist() == ids
        assert result.score == pytest.approx(score, abs=1e-4)
        assert result.truncated == truncated
    assert len({(tuple(ids), truncated) for ids, _, truncated in wanted}) > 3  # a wrong order would show


def test_both_kinds_of_ends_are_told_apart(model):
    results = model.generate_many(make_rows(), max_length=6, seed=0, **TYPES, **QUIET)
    cut = [result for result in results if result.truncated]
    assert 0 < len(cut) < len(results)
    assert all(len(result.ids) == 6 for result in cut)
    assert all(len(result.ids) < 6 for result in results if not result.truncated)
    assert all(((result.ids >= 0) & (result.ids < 12)).all() for result in results)


def test_without_end_of_sequence_nothing_is_truncated():
    model = make_model(autoset_semantic_eos_id=False)
    results = model.generate_many(make_rows(), max_length=4, seed=0, **TYPES, **QUIET)
    assert all(len(result.ids) == 4 and not result.truncated for result in results)


@pytest.mark.parametrize(("max_tokens", "max_rows"), [(30, 4), (24, 32), (1000, 5), (1, 32), (1000, 100)])
def test_batches_keep_to_the_budget_and_use_it(model, max_tokens, max_rows):
    with Watch(model) as watch:
        model.generate_many(make_rows(), max_tokens=max_tokens, max_batch_size=max_rows, max_length=1, **TYPES, **QUIET)
    assert sum(rows for rows, _ in watch.shapes) == len(LENGTHS)
    longest = [length for _, length in watch.shapes]
    assert longest == sorted(longest, reverse=True) and longest[0] == max(LENGTHS) + 1
    for rows, length in watch.shapes:
        assert rows <= max_rows and (rows * length <= max_tokens or rows == 1)
    # places are made for the longest source, and anew when twice as many fit; only the last ones may be fewer
    few = [rows for rows, length in watch.shapes if 2 * rows <= min(max_rows, max_tokens // length)]
    assert len(few) <= 1


def test_every_kind_of_source():
    texts = ["cab", "hedge", "a", "faced", "bad"]
    rows = [torch.tensor(row) for row in Letters()(texts)]
    padded = torch.zeros(5, 7, dtype=torch.long)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    model = make_model(tokenizer_encode=Letters(), wav2vec=FramesOf10())
    options = dict(temperature=0.0, max_length=5, max_batch_size=2, **QUIET)
    wanted = model.generate_many(rows, **TYPES, **options)
    assert len({tuple(result.ids.tolist()) for result in wanted}) > 1
    for sources in (
        texts,
        tuple(texts),
        iter(texts),
        np.array(texts),
        [row.tolist() for row in rows],
        [row.numpy().astype(np.uint8) for row in rows],
        [texts[0], rows[1], rows[2].tolist(), texts[3], rows[4].numpy()],
        padded,
        padded.int().numpy(),
    ):
        assert all(map(same, model.generate_many(sources, **TYPES, **options), wanted))

    clips = [torch.rand(10 * n, generator=torch.Generator().manual_seed(n)) for n in (4, 9, 2, 6)]
    ids = [FramesOf10()(clip[None], torch.tensor([len(clip)]))[0] for clip in clips]
    wanted = model.generate_many(ids, **SPEECH, **options)
    for sources in (clips, [clip.numpy() for clip in clips], [clips[0], ids[1], clips[2].double(), ids[3].tolist()]):
        assert all(map(same, model.generate_many(sources, **SPEECH, **options), wanted))
    equal = torch.stack([clip[:20] for clip in clips])
    wanted = model.generate_many([row[:2] for row in ids], **SPEECH, **options)
    assert all(map(same, model.generate_many(equal, **SPEECH, **options), wanted))


def test_what_needs_a_tokenizer_goes_there_in_chunks():
    model = make_model(tokenizer_encode=Letters(), wav2vec=FramesOf10())
    clips = [torch.rand(10 * n) + 0.01 for n in LENGTHS]
    model.generate_many(clips, max_tokens=30, max_batch_size=4, max_length=1, **SPEECH, **QUIET)
    assert sum(rows for rows, _ in model.wav2vec.seen) == len(clips)
    assert all(rows * samples <= 300 and rows <= 4 for rows, samples in model.wav2vec.seen)
    assert len(model.wav2vec.seen) == 4  # 12 11, 9 8 7, 7 6 5 4, 3 2 1 1 ids
    model.generate_many(["abc"] * 9, max_batch_size=4, max_length=1, **TYPES, **QUIET)
    assert model.tokenizer_encode.seen == [4, 4, 1]


@pytest.mark.parametrize("sources", [[], (), torch.empty(0, 5, dtype=torch.long), np.empty((0, 3))])
def test_no_sources_are_no_results(model, sources):
    assert model.generate_many(sources, **TYPES) == []
    assert model.generate_many(sources, prompt=[], **TYPES) == []


# draws


def draw(model, rows, **options):
    return model.generate_many(rows, max_length=8, filter_logits_fn=None, **TYPES, **QUIET, **options)


def test_a_seed_decides_the_draws(model):
    rows = make_rows()
    wanted = draw(model, rows, seed=4)
    torch.rand(3)
    assert all(map(same, draw(model, rows, seed=4), wanted))
    assert not all(map(same, draw(model, rows, seed=5), wanted))
    from_generator = [draw(model, rows, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert all(map(same, *from_generator))
    used = torch.Generator().manual_seed(4)
    assert not all(map(same, draw(model, rows, generator=used), draw(model, rows, generator=used)))
    torch.manual_seed(7)
    globally = draw(model, rows)
    torch.manual_seed(7)
    assert all(map(same, draw(model, rows), globally))
    assert not all(map(same, draw(model, rows), globally))


def test_equal_sources_get_draws_of_their_own(model):
    results = draw(model, [torch.tensor([1, 2, 3])] * 12, seed=0, max_batch_size=3)
    assert len({tuple(result.ids.tolist()) for result in results}) > 6


def test_draws_depend_on_seed_and_index_only(model):
    rows = make_rows([5, 4, 9, 8, 2, 1])
    wanted = draw(model, rows, seed=4, max_batch_size=1)
    assert len({tuple(one.ids.tolist()) for one in wanted}) == len(rows)
    for limits in ({"max_batch_size": 2}, {"max_batch_size": 4}, {"max_tokens": 20}, {}):
        assert all(map(same, draw(model, rows, seed=4, **limits), wanted))
    others = [rows[0][:1], rows[1], rows[2], rows[0], rows[0], rows[5]]
    results = draw(model, others + rows, seed=4, max_batch_size=3)
    assert [same(*pair) for pair in zip(results, wanted, strict=False)] == [False, True, True, False, False, True]


def test_seeds_of_their_own_make_draws_independent_of_the_place(model):
    rows, seeds = make_rows(), list(range(100, 100 + len(LENGTHS)))
    wanted = draw(model, rows, seed=seeds)
    turned = draw(model, rows[::-1], seed=seeds[::-1], max_batch_size=3)[::-1]
    assert all(map(same, turned, wanted))
    with pytest.raises(ValueError, match="seed has 3 numbers for 13 sources"):
        draw(model, rows, seed=[1, 2, 3])


def test_places_that_come_free_are_taken_at_once(model):
    """The batch stays full: sources need not wait for the longest one."""
    rows_seen = []
    step = DecoderStep.__call__

    def counted(self, ids, cache):
        if ids.shape[1]:
            rows_seen.append(cache.rows)
        return step(self, ids, cache)

    rows = make_rows([6] * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderStep, "__call__", counted)
        results = draw(model, rows, seed=0, max_batch_size=4)
    needed = sum(len(one.ids) + int(not one.truncated) - 1 for one in results)  # the first id costs no step
    lengths = {len(one.ids) for one in results}
    assert len(lengths) > 3
    assert rows_seen.count(4) > 0.9 * len(rows_seen)
    assert sum(rows_seen) < 1.2 * needed


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
@pytest.mark.parametrize("options", [{}, dict(cross_attention_prior=True, add_positions=True)])
def test_refilled_rows_get_what_they_get_alone(strategy, guided, options):
    """Sources of falling length, so that places shrink; prompts of unequal length; with and without guidance."""
    model = make_model(cond_drop_prob=0.2, **options)
    rows = make_rows([40, 33, 25, 19, 14, 11, 8, 6, 5, 4, 3, 2, 1, 1])
    prompts = make_rows([1, 4, 2, 7, 3, 1, 1, 2, 5, 2, 1, 3, 2, 4], size=12)
    how = dict(max_length=30, **STRATEGIES[strategy], **TYPES)
    how |= dict(cond_scale=1.5) if guided else {}
    results = model.generate_many(rows, prompt=prompts, max_batch_size=3, **how, **QUIET)
    for row, prompt, result in zip(rows, prompts, results, strict=True):
        ids, score, truncated = alone(model, row, {}, prompt=prompt[None], **how)
        assert (result.ids.tolist(), result.truncated) == (ids, truncated)
        assert result.score == pytest.approx(score, abs=1e-4)


def test_the_n_best_are_kept_on_request(model):
    rows = make_rows()
    how = dict(beam_size=4, length_penalty=0.6, max_length=6, n_best=3, **TYPES)
    results = model.generate_many(rows, max_batch_size=4, beam_search_decode=True, **how, **QUIET)
    for row, result in zip(rows, results, strict=True):
        wanted = model.generate_n_best(row[None], **how)[0]
        found = [result, *result.others]
        assert [one.score for one in found] == pytest.approx([one.score for one in wanted], abs=1e-5)
        ends = [one.ids[: len(one.ids) - int(not one.truncated)] for one in wanted]
        assert all(torch.equal(one.ids, ids) for one, ids in zip(found, ends, strict=True))


# errors


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_on_terminals_only(model, monkeypatch):
    for stream, progress, shown in (
        (io.StringIO(), True, False),
        (Terminal(), False, False),
        (Terminal(), True, True),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        model.generate_many(make_rows(), max_length=2, progress=progress, **TYPES)
        assert ("13/13" in stream.getvalue() and "source/s" in stream.getvalue()) == shown
        assert bool(stream.getvalue()) == shown


def test_the_mode_is_put_back():
    model = make_model(attn_dropout=0.5).train()
    results = model.generate_many(make_rows(), temperature=0.0, max_length=3, **TYPES, **QUIET)
    assert model.training
    again = model.eval().generate_many(make_rows(), temperature=0.0, max_length=3, **TYPES, **QUIET)
    assert all(map(same, results, again))


def test_each_source_goes_on_from_its_own_prompt(model):
    rows, prompts = make_rows([3, 5, 2, 4]), make_rows([2, 1, 4, 3], size=12)
    options = dict(temperature=0.0, max_length=8, **TYPES)
    results = model.generate_many(rows, prompt=prompts, max_batch_size=2, **QUIET, **options)
    for row, prompt, result in zip(rows, prompts, results, strict=True):
        assert result.ids.tolist() == alone(model, row, TYPES, temperature=0.0, max_length=8, prompt=prompt[None])[0]
    shared = model.generate_many(rows, prompt=prompts[0][None], **QUIET, **options)
    each = model.generate_many(rows, prompt=[prompts[0]] * 4, **QUIET, **options)
    assert all(map(same, shared, each))
    assert not all(map(same, shared, results))
    with pytest.raises(ValueError, match="prompt has 3 rows for 4 sources"):
        model.generate_many(rows, prompt=prompts[:3], **QUIET, **options)
