"""Many sources at once: each gets what it gets alone, in order, under the budget, and a bad one harms no other."""

import io
import sys
import warnings

import numpy as np
import pytest
import small
import torch

from spear_tts_pytorch.decoding.step import DecoderStep

TYPES, SPEECH = small.TEXT_TO_SPEECH, small.SPEECH_TO_TEXT
QUIET = dict(progress=False)
LENGTHS = [3, 11, 1, 7, 7, 2, 9, 4, 12, 5, 6, 1, 8]


class FramesOf10(small.Frames):
    """A tokenizer of waveforms: one id per 10 samples; refuses clips of zeros."""

    def __init__(self):
        super().__init__(10, 12)

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        if bool((wav == 0).all(dim=1).any()):
            raise RuntimeError("a clip holds only zeros")
        return super().__call__(wav, lengths, input_sample_hz, flatten)


class Letters:
    """A tokenizer of texts that refuses what is not a letter of a to h, and notes how many texts it sees."""

    vocab_size = 9

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen.append(len(texts))
        return [[1 + "abcdefgh".index(letter) for letter in text] for text in texts]


class Watch:
    """The shapes of what goes into the encoder."""

    def __init__(self, model):
        self.shapes = []
        hook = lambda module, args: self.shapes.append(tuple(args[0].shape[:2]))  # noqa: E731
        self.handle = model.source_transformer.register_forward_pre_hook(hook)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def make_model(**options):
    sizes = dict(target_depth=2, num_text_token_ids=9, num_semantic_token_ids=12)
    parts = ("token_emb", "cross_attention")  # ids differ between sources
    return small.make_model(spread=0.5, spread_in=parts, **{**sizes, **options}).eval()


def make_rows(lengths=LENGTHS, size=9):
    return small.make_rows(size, lengths, seed=5)


def alone(model, row, types, **options):
    """What `generate` says of one source: ids without padding and end-of-sequence, score, whether it was cut."""
    ids, scores = model.generate(row[None], return_scores=True, **types, **options)
    ids, eos = ids[0].tolist(), model.eos_id[{**types, **options}["target_type"]]
    return (ids[: ids.index(eos)], float(scores), False) if eos in ids else (ids, float(scores), True)


def same(one, other):
    near = abs(one.score - other.score) < 1e-4
    return torch.equal(one.ids, other.ids) and one.truncated == other.truncated and near


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


def test_a_bad_source_is_named_before_any_work():
    model = make_model(tokenizer_encode=Letters())
    texts = ["cab", "bad", "dé", "a"]
    with Watch(model) as watch, pytest.raises(ValueError, match=r"sources\[2\]: .*not found"):
        model.generate_many(texts, **TYPES, **QUIET)
    assert watch.shapes == []


BAD = {
    "out of range": (torch.tensor([3, 99]), ValueError, "holds the id 99"),
    "empty": (torch.empty(0, dtype=torch.long), ValueError, "without any id"),
    "only padding": (torch.zeros(3, dtype=torch.long), ValueError, "without any id"),
    "padding inside": (torch.tensor([3, 0, 3]), ValueError, "before a text id"),
    "two dimensions": (torch.ones(1, 3, dtype=torch.long), ValueError, "one dimension"),
    "floats": (torch.rand(4), TypeError, "must be rows of text ids"),
    "nothing": (None, TypeError, "NoneType"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_source_is_named_or_skipped(model, kind):
    bad, error, message = BAD[kind]
    rows = make_rows([3, 5, 2, 4])
    sources = [rows[0], rows[1], bad, rows[2], rows[3]]
    with pytest.raises(error, match=rf"sources\[2\]: .*{message}"):
        model.generate_many(sources, **TYPES, **QUIET)
    options = dict(temperature=0.0, max_length=5, **TYPES, **QUIET)
    with pytest.warns(UserWarning, match=rf"1 of 5 .*: 2\. sources\[2\]: .*{message}"):
        results = model.generate_many(sources, on_error="skip", **options)
    assert results[2] is None
    del results[2]
    assert all(map(same, results, model.generate_many(rows, **options)))


def test_clips_that_the_tokenizer_refuses_or_that_have_no_ids():
    model = make_model(wav2vec=FramesOf10())
    clips = [torch.rand(40) + 0.01, torch.zeros(50), torch.rand(30) + 0.01, torch.rand(4) + 0.01, torch.zeros(0)]
    with pytest.raises(RuntimeError, match=r"sources\[1\]: RuntimeError: a clip holds only zeros"):
        model.generate_many(clips, **SPEECH, **QUIET)
    with pytest.warns(UserWarning, match="3 of 5 sources .*: 1, 3, 4"):
        results = model.generate_many(clips, on_error="skip", temperature=0.0, max_length=4, **SPEECH, **QUIET)
    assert [result is None for result in results] == [False, True, False, True, True]
    with pytest.raises(ValueError, match=r"sources\[\d\]: .*needs a tokenizer: pass wav2vec"):
        make_model().generate_many(clips, **SPEECH, **QUIET)


def crowded(limit):
    """A filter that fails as memory does: on more rows than `limit`."""

    def check(logits):
        if len(logits) > limit:
            raise RuntimeError("out of memory")
        return logits

    return check


def test_a_batch_too_large_is_halved_or_named(model):
    rows = make_rows()
    options = dict(max_length=5, seed=0, max_batch_size=8, **TYPES, **QUIET)
    with pytest.raises(RuntimeError, match=r"sources 8, 1, 6, 12, 3, 4, 10, 9 .*out of memory.*max_batch_size"):
        model.generate_many(rows, filter_logits_fn=crowded(3), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = model.generate_many(rows, filter_logits_fn=crowded(3), on_error="skip", **options)
    assert None not in results and len(results) == len(rows)
    with pytest.warns(UserWarning, match="13 of 13 sources were skipped.*out of memory"):
        assert model.generate_many(rows, filter_logits_fn=crowded(0), on_error="skip", **options) == [None] * 13


def test_an_error_on_the_way_names_the_sources_it_is_among(model):
    calls = []

    def fails_later(logits):
        calls.append(len(logits))
        if len(calls) > 12:
            raise ValueError("the filter gives up")
        return logits

    with pytest.raises(ValueError, match="among sources .*: the filter gives up"):
        model.generate_many(make_rows(), filter_logits_fn=fails_later, max_length=4, max_batch_size=2, **TYPES, **QUIET)


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_one_source_that_fails_while_it_is_generated_is_skipped(model, error):
    rows = make_rows()
    rows[6] = torch.tensor([8] * 10)

    def explode(module, args):
        # as a memory error of one long source would: by what stands in the batch
        if bool((ids_seen[-1] == 8).all(dim=1).any()):
            raise error("too much")

    ids_seen = []
    embed = model.token_emb["text"].register_forward_pre_hook(lambda module, args: ids_seen.append(args[0][:, :10]))
    fail = model.source_transformer.register_forward_pre_hook(explode)
    options = dict(temperature=0.0, max_length=5, **TYPES, **QUIET)
    try:
        with pytest.warns(UserWarning, match=r"1 of 13 .*: 6\. sources\[6\]: .*too much"):
            results = model.generate_many(rows, on_error="skip", **options)
    finally:
        embed.remove()
        fail.remove()
    assert results[6] is None
    wanted = model.generate_many(rows, **options)
    assert all(same(result, other) for i, (result, other) in enumerate(zip(results, wanted, strict=True)) if i != 6)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_length": 0}, ValueError, "max_length must be at least 1"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"beam_search_decode": True, "spec_decode": True}, ValueError, "not both"),
        ({"no_such_option": 1}, TypeError, "generate_many has no argument 'no_such_option'"),
        ({"spec_decode_gama": 3}, TypeError, "no argument 'spec_decode_gama'"),
        ({"n_best": 3}, ValueError, "n_best is for beam search"),
        ({"max_batch_size": 2.5}, TypeError, "whole numbers, got 8192 and 2.5"),
        ({"beam_search_decode": True, "length_penalty": float("inf")}, ValueError, "length_penalty must be a finite"),
        ({"target_type": "song"}, ValueError, "target_type must be 'speech' or 'text'"),
        ({"source_type": "song"}, ValueError, "source_type must be 'speech' or 'text'"),
        ({"max_tokens": 0}, ValueError, "max_tokens and max_batch_size must be at least 1, got 0"),
        ({"max_batch_size": 0}, ValueError, "max_tokens and max_batch_size must be at least 1, got 8192 and 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "seed or generator, not both"),
        ({"return_scores": True}, ValueError, "return_scores cannot be passed on"),
        ({"source_lengths": torch.ones(3)}, ValueError, "source_lengths is for one padded batch"),
    ],
)
def test_wrong_options_are_raised_as_they_are(model, options, error, message, on_error):
    with pytest.raises(error, match=message) as caught:
        model.generate_many(make_rows(), on_error=on_error, **{**TYPES, **QUIET, **options})
    assert "sources[" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        ("a text", TypeError, "give a list of texts"),
        (torch.tensor([1, 2]), ValueError, r"shape \[b, n\], got \[2\]"),
        (5, TypeError, "got int"),
    ],
)
def test_what_is_no_list_of_sources_is_refused(model, sources, error, message):
    with pytest.raises(error, match=message):
        model.generate_many(sources, **TYPES)


def test_an_unknown_way_to_treat_errors(model):
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        model.generate_many(make_rows(), on_error="ignore", **TYPES)


# the rest


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
