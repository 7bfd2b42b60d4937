"""CTC decoding against enumeration of all alignments and against torch's CTC loss; the language model sums to one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from spear_tts_pytorch.decoding.ctc import CharacterLM, collapse_blanks, ctc_beam_search, ctc_greedy

EVERYTHING = {"beam_size": 10_000, "min_log_prob": -math.inf, "margin": math.inf}


def frames(rows: int = 1, n: int = 5, v: int = 4, seed: int = 0, sharpness: float = 1.5) -> torch.Tensor:
    logits = sharpness * torch.randn(rows, n, v, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(-1)


def collapse(path: tuple[int, ...], blank: int = 0) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def all_texts(log_probs: torch.Tensor, blank: int = 0) -> dict[tuple[int, ...], float]:
    """Every text with its log-probability, summed over all v ** n alignments of `[n, v]`."""
    totals: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = collapse(path, blank)
        probability = math.exp(sum(log_probs[i, token].item() for i, token in enumerate(path)))
        totals[text] = totals.get(text, 0.0) + probability
    return {text: math.log(total) for text, total in totals.items()}


def language_model(order: int = 3) -> CharacterLM:
    return CharacterLM.fit([[1, 2, 1, 2], [1, 2, 3], [2, 2, 1], [3]], vocab_size=4, order=order)


@pytest.mark.parametrize("blank", [0, 2])
def test_greedy_merges_repeats_and_removes_blanks(blank):
    log_probs = frames(rows=20, n=9)
    lengths = torch.arange(20) % 10
    for row, found in enumerate(ctc_greedy(log_probs, lengths, blank)):
        path = log_probs[row, : lengths[row]].argmax(-1).tolist()
        assert tuple(found.tolist()) == collapse(tuple(path), blank)
        assert found.dtype == torch.long


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("blank", [0, 3])
def test_an_unlimited_beam_finds_the_best_text(seed, blank):
    log_probs = frames(seed=seed, sharpness=0.7)
    texts = all_texts(log_probs[0], blank)
    [(ids, score)] = ctc_beam_search(log_probs, torch.tensor([5]), blank, **EVERYTHING)
    best = max(texts, key=texts.get)
    assert tuple(ids.tolist()) == best
    assert score == pytest.approx(texts[best], abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("weight", "bonus"), [(0.5, 0.0), (1.0, 1.5), (2.0, -0.5)])
def test_fusion_adds_language_model_and_bonus(seed, weight, bonus):
    log_probs, lm = frames(seed=seed, sharpness=0.7), language_model()
    texts = all_texts(log_probs[0])
    fused = {text: score + weight * lm.log_prob(text) + bonus * len(text) for text, score in texts.items()}
    options = {"lm": lm, "lm_weight": weight, "length_bonus": bonus}
    [(ids, score)] = ctc_beam_search(log_probs, torch.tensor([5]), **options, **EVERYTHING)
    best = max(fused, key=fused.get)
    assert tuple(ids.tolist()) == best
    assert score == pytest.approx(fused[best], abs=1e-6)


def test_scores_agree_with_the_ctc_loss():
    log_probs = frames(rows=6, n=7, v=3, sharpness=1.0)
    lengths = torch.tensor([7, 6, 5, 7, 3, 1])
    for row, (ids, score) in enumerate(ctc_beam_search(log_probs, lengths, **EVERYTHING)):
        length = lengths[row : row + 1]
        loss = F.ctc_loss(log_probs[row][:, None], ids[None], length, torch.tensor([len(ids)]), reduction="sum")
        assert score == pytest.approx(-loss.item(), abs=1e-5)


@pytest.mark.parametrize("lm", [None, language_model()])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
def test_narrow_beams_equal_a_plain_prefix_search(beam_size, lm):
    """The reference extends every prefix by every id in log space and keeps the best; no shortcuts."""
    for seed in range(10):
        log_probs = frames(n=12, v=5, seed=seed)
        model = None if lm is None else CharacterLM.fit([[1, 2, 4, 3], [1, 2, 1], [3, 3, 4]], vocab_size=5, order=3)
        beam = {(): (1.0, 0.0)}

        def extra(text, model=model):
            return 0.0 if model is None else 0.5 * sum(model.next_log_probs(text[:i])[t] for i, t in enumerate(text))

        for frame in log_probs[0].double().exp().tolist():
            grown: dict[tuple[int, ...], list[float]] = {}
            for text, (ending, other) in beam.items():
                grown.setdefault(text, [0.0, 0.0])[0] += (ending + other) * frame[0]
                for token in range(1, 5):
                    if text and token == text[-1]:
                        grown.setdefault(text, [0.0, 0.0])[1] += other * frame[token]
                        grown.setdefault((*text, token), [0.0, 0.0])[1] += ending * frame[token]
                    else:
                        grown.setdefault((*text, token), [0.0, 0.0])[1] += (ending + other) * frame[token]
            alive = {text: both for text, both in grown.items() if sum(both) > 0}
            ranked = sorted(alive, key=lambda text: -(math.log(sum(alive[text])) + extra(text)))
            beam = {text: tuple(alive[text]) for text in ranked[:beam_size]}
        ends = {
            text: math.log(sum(both)) + extra(text) + (0.0 if model is None else 0.5 * model.next_log_probs(text)[5])
            for text, both in beam.items()
        }
        best = max(ends, key=ends.get)
        pruned = {"beam_size": beam_size, "min_log_prob": -math.inf, "margin": math.inf}
        [(ids, score)] = ctc_beam_search(log_probs, torch.tensor([12]), lm=model, lm_weight=0.5, **pruned)
        assert tuple(ids.tolist()) == best
        assert score == pytest.approx(ends[best], abs=1e-9)


def test_default_pruning_costs_little_and_long_inputs_do_not_underflow():
    log_probs = frames(rows=2, n=1500, v=12, sharpness=3.0)
    lengths = torch.tensor([1500, 1500])
    exact = ctc_beam_search(log_probs, lengths, min_log_prob=-math.inf, margin=math.inf)
    pruned = ctc_beam_search(log_probs, lengths)
    for (_, best), (ids, score) in zip(exact, pruned, strict=True):
        assert math.isfinite(score) and len(ids) > 500
        assert abs(score - best) < 0.01 * abs(best)


def test_a_batch_equals_its_rows_alone_and_ignores_padding():
    log_probs, lengths = frames(rows=5, n=9), torch.tensor([9, 4, 0, 7, 1])
    together = ctc_beam_search(log_probs, lengths, lm=language_model())
    for row, (ids, score) in enumerate(together):
        cut = log_probs[row : row + 1, : lengths[row]]
        [(alone, other)] = ctc_beam_search(cut, lengths[row : row + 1], lm=language_model())
        assert ids.tolist() == alone.tolist() and score == pytest.approx(other)
    assert together[2][0].tolist() == [] and together[2][1] == pytest.approx(0.5 * language_model().log_prob([]))


def test_the_language_model_decides_between_equals():
    log_probs = torch.full((1, 2, 4), 0.01)
    log_probs[0, 0, 1], log_probs[0, 1, 2], log_probs[0, 1, 3] = 0.97, 0.49, 0.49
    lm = CharacterLM.fit([[1, 3], [1, 3]], vocab_size=4)
    [(ids, _)] = ctc_beam_search(log_probs.log(), torch.tensor([2]), lm=lm)
    assert ids.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": torch.zeros(5, 4)}, "log_probs"),
        ({"lengths": torch.tensor([6])}, "lengths"),
        ({"lengths": torch.tensor([5, 5])}, "lengths"),
        ({"blank": 4}, "blank"),
        ({"beam_size": 0}, "beam_size"),
        ({"lm_weight": -1.0}, "lm_weight"),
        ({"log_probs": torch.full((1, 5, 4), float("nan"))}, "NaN"),
        ({"lm": CharacterLM.fit([[1]], vocab_size=3)}, "lm knows"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"log_probs": frames(), "lengths": torch.tensor([5]), **change}
    with pytest.raises(ValueError, match=message):
        ctc_beam_search(arguments.pop("log_probs"), arguments.pop("lengths"), **arguments)


def test_collapsed_blanks_change_no_text_and_hardly_the_score():
    torch.manual_seed(0)
    log_probs = (3 * torch.randn(60, 5)).log_softmax(dim=-1)
    surely = torch.tensor([0.9996, 1e-4, 1e-4, 1e-4, 1e-4]).log()
    log_probs[torch.rand(60) < 0.7] = surely
    short = collapse_blanks(log_probs)
    assert 20 < len(short) < 50
    found = [ctc_beam_search(rows[None], torch.tensor([len(rows)]), beam_size=64)[0] for rows in (log_probs, short)]
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == pytest.approx(found[1][1], abs=0.05)
    same = torch.stack([surely.flip(0), surely, surely, surely.flip(0)])  # id 4, blanks, id 4
    assert ctc_greedy(collapse_blanks(same)[None], torch.tensor([3]))[0].tolist() == [4, 4]
    assert torch.equal(collapse_blanks(log_probs[:0]), log_probs[:0])
