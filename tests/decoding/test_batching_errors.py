"""Many sources at once: what is wrong with one is named before any work, or is skipped and harms no other."""

import warnings

import pytest
import torch
from sources import QUIET, SPEECH, TYPES, FramesOf10, Letters, Watch, make_model, make_rows, same


@pytest.fixture(scope="module")
def model():
    return make_model(target_early_exit_layer=1)


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

    with pytest.raises(ValueError, match="among sources .*: filter_logits_fn .* raised: the filter gives up"):
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
        ({"max_batch_size": 2.5}, TypeError, "max_batch_size must be a whole number at least 1, got 2.5"),
        ({"beam_search_decode": True, "length_penalty": float("inf")}, ValueError, "length_penalty must be a finite"),
        ({"target_type": "song"}, ValueError, "target_type must be one of speech, text"),
        ({"source_type": "song"}, ValueError, "source_type must be one of speech, text"),
        ({"max_tokens": 0}, ValueError, "max_tokens must be at least 1, got 0"),
        ({"max_batch_size": 0}, ValueError, "max_batch_size must be at least 1, got 0"),
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
    with pytest.raises(ValueError, match="on_error must be one of raise, skip, got 'ignore'"):
        model.generate_many(make_rows(), on_error="ignore", **TYPES)


# the rest
