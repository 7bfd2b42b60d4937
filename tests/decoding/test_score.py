"""Scores of given ids: they are probabilities, and those that generate speaks of."""

import itertools

import pytest
import small
import torch
from small import DIRECTIONS, PADS, TEXT_TO_SPEECH, Frames, letters

from spear_tts_pytorch.tokens import append_eos

SIZES = {"speech": 12, "text": 9}


def make_model(**options):
    sizes = dict(target_depth=2, num_text_token_ids=9, num_semantic_token_ids=12)
    return small.make_model(spread=0.4, **{**sizes, **options}).eval()


def make_ids(modality, lengths, seed=0):
    return small.make_ids(modality, SIZES[modality], lengths, seed)


@pytest.fixture(scope="module")
def model():
    return make_model()


def test_probabilities_of_all_strings_add_up_to_one():
    """Strings that end within 3 ids, and those that have not ended after 3: one of them must come."""
    model = make_model(num_semantic_token_ids=2)
    ended = [list(string) for n in range(3) for string in itertools.product([0, 1], repeat=n)]
    cut = [list(string) for string in itertools.product([0, 1], repeat=3)]
    ended = torch.tensor([string + [-1] * (2 - len(string)) for string in ended])
    total = model.score(torch.ones(7, 3, dtype=torch.long), ended, **TEXT_TO_SPEECH).log_probs.exp().sum()
    total += (
        model.score(torch.ones(8, 3, dtype=torch.long), torch.tensor(cut), end=False, **TEXT_TO_SPEECH)
        .log_probs.exp()
        .sum()
    )
    assert total.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("source_type", "target_type"), DIRECTIONS)
def test_scores_are_the_log_softmax_of_the_logits(model, source_type, target_type):
    source, target = make_ids(source_type, [3, 6, 4]), make_ids(target_type, [5, 2, 7], seed=1)
    types = dict(source_type=source_type, target_type=target_type)
    scores = model.score(source, target, **types)
    log_probs = model(source, target, **types).log_softmax(dim=-1)
    for row, length in enumerate([5, 2, 7]):
        wanted = target[row, :length].tolist() + [model.eos_id[target_type]]
        by_hand = torch.stack([log_probs[row, place, one] for place, one in enumerate(wanted)])
        assert scores.ids[row, : length + 1].tolist() == wanted
        torch.testing.assert_close(scores.token_log_probs[row, : length + 1], by_hand)
        torch.testing.assert_close(scores.log_probs[row], by_hand.sum())
        torch.testing.assert_close(scores.mean_log_probs[row], by_hand.mean())
        assert scores.mask[row].tolist() == [True] * (length + 1) + [False] * (7 - length)
        assert scores.token_log_probs[row, length + 1 :].tolist() == [0.0] * (7 - length)
        assert (scores.ids[row, length + 1 :] == PADS[target_type]).all()
    open_ = model.score(source, target, end=False, **types)
    assert torch.equal(open_.ids, target)
    torch.testing.assert_close(open_.token_log_probs, scores.token_log_probs[:, :7] * open_.mask)


@pytest.mark.parametrize("variant", [{}, {"add_positions": True, "cross_attention_prior": True}])
def test_a_batch_is_its_rows_whatever_the_batch_size(variant):
    model = make_model(**variant)
    source, target = make_ids("text", [3, 6, 4, 1, 2]), make_ids("speech", [5, 2, 7, 1, 3], seed=1)
    together = model.score(source, target, **TEXT_TO_SPEECH)
    for size in (1, 2, 4, 9):
        parts = model.score(source, target, batch_size=size, **TEXT_TO_SPEECH)
        torch.testing.assert_close(parts.token_log_probs, together.token_log_probs, atol=1e-5, rtol=1e-5)
        assert torch.equal(parts.ids, together.ids)
    for row, (n, m) in enumerate([(3, 5), (6, 2), (4, 7), (1, 1), (2, 3)]):
        alone = model.score(source[row : row + 1, :n], target[row : row + 1, :m], **TEXT_TO_SPEECH)
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.mean_log_probs[0], together.mean_log_probs[row], atol=1e-5, rtol=1e-5)


def test_logits_normalised_in_slices_are_the_same(model, monkeypatch):
    source, target = make_ids("text", [3, 6, 4]), make_ids("speech", [5, 2, 7], seed=1)
    whole = model.score(source, target, **TEXT_TO_SPEECH).token_log_probs
    monkeypatch.setattr("spear_tts_pytorch.decoding.score.SLICE", 1)
    torch.testing.assert_close(model.score(source, target, **TEXT_TO_SPEECH).token_log_probs, whole)


DECODINGS = [{"temperature": 0.0}, {"temperature": 0.7, "filter_fn_kwargs": {"k": 4}}, {"filter_logits_fn": None}]


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize(("source_type", "target_type"), DIRECTIONS)
def test_the_mean_is_the_score_that_generate_returns(model, source_type, target_type, decoding):
    source = make_ids(source_type, [3, 6, 4, 1, 5, 2, 7, 2] * 4)
    types = dict(source_type=source_type, target_type=target_type)
    generator = torch.Generator().manual_seed(3)
    options = dict(generator=generator, max_length=9, return_scores=True)
    ids, wanted = model.generate(source, **types, **{**options, **decoding})
    torch.testing.assert_close(model.score(source, ids, end=False, **types).mean_log_probs, wanted, atol=1e-4, rtol=0)
    ended = (ids == model.eos_id[target_type]).any(dim=1)
    if "filter_logits_fn" in decoding:
        assert 0 < ended.sum() < len(ids)  # of both kinds there must be some
    if ended.any():  # end-of-sequence in place is not put there once more
        again = model.score(source[ended], ids[ended], **types).mean_log_probs
        torch.testing.assert_close(again, wanted[ended], atol=1e-4, rtol=0)
    if (~ended).any():
        further = model.score(source[~ended], ids[~ended], **types)
        assert (further.mask.sum(dim=1) == 10).all()
        assert ((further.mean_log_probs - wanted[~ended]).abs() > 1e-4).all()


@pytest.mark.parametrize(("source_type", "target_type"), DIRECTIONS)
def test_the_sum_is_the_score_of_beam_search(model, source_type, target_type):
    source = make_ids(source_type, [3, 6, 4, 1])
    types = dict(source_type=source_type, target_type=target_type)
    options = dict(beam_search_decode=True, beam_size=4, max_length=6, return_scores=True)
    ids, wanted = model.generate(source, **types, **options)
    scores = model.score(source, ids, end=False, **types)
    torch.testing.assert_close(scores.log_probs, wanted, atol=1e-4, rtol=0)
    ids, wanted = model.generate(source, length_penalty=1.0, **types, **options)
    scores = model.score(source, ids, end=False, **types)
    torch.testing.assert_close(scores.mean_log_probs, wanted, atol=1e-4, rtol=0)


def test_guidance_is_that_of_generate():
    model = make_model(cond_drop_prob=0.2)
    for parameter in model.target_transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source = make_ids("text", [3, 6, 4])
    ids, wanted = model.generate(
        source, temperature=0.0, max_length=8, cond_scale=2.5, return_scores=True, **TEXT_TO_SPEECH
    )
    state = torch.get_rng_state()
    scores = model.score(source, ids, end=False, cond_scale=2.5, **TEXT_TO_SPEECH)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(scores.mean_log_probs, wanted, atol=1e-4, rtol=0)
    assert ((model.score(source, ids, end=False, **TEXT_TO_SPEECH).mean_log_probs - wanted).abs() > 1e-3).all()


def test_a_vocabulary_without_end_of_sequence_has_none_to_count():
    model = make_model(autoset_semantic_eos_id=False)
    source, target = make_ids("text", [3, 6]), make_ids("speech", [5, 2], seed=1)
    with_end, without = (
        model.score(source, target, **TEXT_TO_SPEECH),
        model.score(source, target, end=False, **TEXT_TO_SPEECH),
    )
    assert torch.equal(with_end.ids, target)
    assert torch.equal(with_end.token_log_probs, without.token_log_probs)


def test_every_form_of_a_batch_has_the_same_scores():
    model = make_model(wav2vec=Frames(10, 12), tokenizer_encode=letters)
    texts, wav = ["cab", "hedge"], torch.rand(2, 90, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([90, 40])
    text = torch.tensor([row + [0] * (5 - len(row)) for row in letters(texts)])
    spoken = Frames(10, 12)(wav, lengths)
    wanted = model.score(text, spoken, **TEXT_TO_SPEECH).token_log_probs
    for source in (texts, text.to(torch.uint8), text.numpy(), [text[0, :3], text[1]]):
        for target, options in (
            (spoken, {}),
            (wav, {"target_lengths": lengths}),
            ([wav[0], wav[1, :40]], {}),
            ([spoken[0].tolist(), spoken[1, :4].tolist()], {}),
            (spoken.masked_fill(spoken == -1, 7), {"target_mask": spoken != -1}),
        ):
            torch.testing.assert_close(model.score(source, target, **TEXT_TO_SPEECH, **options).token_log_probs, wanted)
    types = dict(source_type="speech", target_type="text")
    wanted = model.score(spoken, text, **types).log_probs
    torch.testing.assert_close(model.score(wav, texts, source_lengths=lengths, **types).log_probs, wanted)


def test_a_mask_may_leave_out_ids_inside_a_source(model):
    source, target = make_ids("text", [6, 6]), make_ids("speech", [4, 4], seed=1)
    mask = torch.tensor([[True, False, True, True, False, False], [True, True, True, True, True, False]])
    scores = model.score(source, target, source_mask=mask, batch_size=1, **TEXT_TO_SPEECH)
    log_probs = model(source, target, source_mask=mask, **TEXT_TO_SPEECH).log_softmax(dim=-1)
    wanted = log_probs.gather(2, append_eos(target, 12, -1)[..., None])[..., 0]
    torch.testing.assert_close(scores.token_log_probs, wanted, atol=1e-5, rtol=1e-5)
    other = source.masked_fill(~mask, 3)  # what is masked does not count
    torch.testing.assert_close(
        model.score(other, target, source_mask=mask, **TEXT_TO_SPEECH).log_probs, scores.log_probs
    )


def test_the_mode_is_put_back_and_dropout_is_off():
    model = make_model(attn_dropout=0.5, ff_dropout=0.5, emb_dropout=0.5, cond_drop_prob=0.9)
    source, target = make_ids("text", [3, 6]), make_ids("speech", [5, 2], seed=1)
    wanted = model.score(source, target, **TEXT_TO_SPEECH)
    model.train()
    scores = model.score(source, target, **TEXT_TO_SPEECH)
    assert model.training and not scores.log_probs.requires_grad
    assert torch.equal(scores.log_probs, wanted.log_probs)
    with pytest.raises(ValueError):
        model.score(source, target[:1], **TEXT_TO_SPEECH)
    assert model.training


def test_weights_of_half_precision_give_float32_scores():
    model = make_model().bfloat16()
    source, target = make_ids("text", [3, 6]), make_ids("speech", [5, 2], seed=1)
    scores = model.score(source, target, **TEXT_TO_SPEECH)
    assert scores.token_log_probs.dtype == scores.mean_log_probs.dtype == torch.float32
    with torch.no_grad():
        logits = model(source, scores.ids[:, :-1], **TEXT_TO_SPEECH)
    assert logits.dtype == torch.bfloat16
    wanted = logits.float().log_softmax(dim=-1).gather(2, scores.ids.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(scores.token_log_probs, wanted * scores.mask, atol=1e-5, rtol=1e-5)


def test_a_padding_id_of_ones_own_changes_nothing(model):
    own = make_model(semantic_pad_id=-100)
    source, target = make_ids("text", [3, 6]), make_ids("speech", [5, 2], seed=1)
    scores = own.score(source, target.masked_fill(target == -1, -100), **TEXT_TO_SPEECH)
    torch.testing.assert_close(scores.token_log_probs, model.score(source, target, **TEXT_TO_SPEECH).token_log_probs)


def test_small_batches_are_not_padded_to_the_longest_row_of_all(model):
    shapes = []
    handles = [
        part.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[:2])))
        for part in (model.source_transformer, model.target_transformer)
    ]
    try:
        model.score(make_ids("text", [3, 6]), make_ids("speech", [5, 2]), batch_size=1, **TEXT_TO_SPEECH)
    finally:
        for handle in handles:
            handle.remove()
    assert shapes == [(1, 4), (1, 6), (1, 7), (1, 3)]  # with end-of-sequence, and with the start token


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": torch.ones(3, 4, dtype=torch.long)}, ValueError, "source has 2 rows and target 3"),
        ({"target": torch.full((2, 4), 40)}, ValueError, "target holds the id 40"),
        ({"target": torch.full((2, 4), -1), "end": False}, ValueError, "target has a row without any id"),
        ({"source": torch.zeros(2, 4, dtype=torch.long)}, ValueError, "source has a row without any id"),
        ({"target": ["a", "b"]}, TypeError, "target must be waveforms or ids"),
        ({"target_type": "song"}, ValueError, "target_type must be one of speech, text"),
        ({"source_type": "song"}, ValueError, "source_type must be one of speech, text"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"cond_scale": 0.5}, ValueError, "cond_scale must be at least 1"),
        ({"cond_scale": 2.0}, ValueError, "cond_drop_prob > 0"),
    ],
)
def test_what_is_wrong_is_named(model, changes, error, message):
    options = dict(source=make_ids("text", [3, 6]), target=make_ids("speech", [5, 2]), **TEXT_TO_SPEECH)
    with pytest.raises(error, match=message):
        model.score(**{**options, **changes})


def test_broken_weights_are_not_a_score():
    model = make_model()
    model.start_token["speech"].data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        model.score(make_ids("text", [3]), make_ids("speech", [5]), **TEXT_TO_SPEECH)


def test_an_empty_target_has_the_probability_of_ending_at_once(model):
    source = make_ids("text", [3, 6])
    scores = model.score(source, torch.full((2, 1), -1), **TEXT_TO_SPEECH)
    wanted = model(source, torch.full((2, 1), -1), **TEXT_TO_SPEECH)[:, 0].log_softmax(dim=-1)[:, 12]
    torch.testing.assert_close(scores.log_probs, wanted)
    assert scores.ids.tolist() == [[12], [12]]
