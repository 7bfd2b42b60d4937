"""The n-gram language model: probabilities by hand and by plain counting, sums, and what it refuses."""

import itertools
import math

import pytest

from spear_tts_pytorch.decoding.language_model import CharacterLM


def language_model(order: int = 3) -> CharacterLM:
    return CharacterLM.fit([[1, 2, 1, 2], [1, 2, 3], [2, 2, 1], [3]], vocab_size=4, order=order)


@pytest.mark.parametrize("order", [1, 2, 3, 6])
@pytest.mark.parametrize("pad_id", [0, None])
def test_language_model_probabilities_sum_to_one(order, pad_id):
    lm = CharacterLM.fit([[1, 2, 1, 2, 1], [1, 3], [], [2]], vocab_size=5, order=order, pad_id=pad_id)
    for context in ([], [1], [4], [1, 2], [4, 4, 4], [2, 1, 2, 1, 2, 1, 2, 1]):
        probs = [math.exp(p) for p in lm.next_log_probs(context)]
        assert len(probs) == 6 and sum(probs) == pytest.approx(1.0)
        assert (probs[0] == 0) == (pad_id == 0) and min(probs[1:]) > 0


def test_kneser_ney_by_hand():
    """Counts after one id: 3, 2, 1, 2, 1. So two are 1, two are 2, one is 3 and none is 4, and discounts follow."""
    lm = CharacterLM.fit([[1, 2], [1, 2], [1, 3]], vocab_size=4, order=2)
    share = 2 / (2 + 2 * 2)
    of_1, of_2 = 1 - 2 * share * 2 / 2, 2 - 3 * share * 1 / 2
    uniform = 1 / 4  # 1, 2, 3 and end-of-sequence
    # One different id stands before each of 1, 2 and 3, two before the end. No count is 3, so discounts are fixed.
    unigram_of_2 = (1 - 0.5 + (3 * 0.5 + 0.75) * uniform) / 5
    assert math.exp(lm.next_log_probs([])[1]) == pytest.approx((3 - 2.95 + 2.95 * unigram_of_2) / 3)
    assert math.exp(lm.next_log_probs([1])[2]) == pytest.approx((2 - of_2 + (of_1 + of_2) * unigram_of_2) / 3)
    assert math.exp(lm.next_log_probs([2])[2]) == pytest.approx(of_2 * unigram_of_2 / 2)


def slow_kneser_ney(texts, ids, vocab_size, order):
    """Counts from the texts: all n-grams at the top and at beginnings, elsewhere the different ids before."""
    grams = [(-1, *text, vocab_size) for text in texts]
    every = [tuple(row[i : i + n]) for row in grams for n in range(1, order + 2) for i in range(len(row) - n + 1)]

    def count(context, token):
        gram = (*context, token)
        if len(gram) == order or context[:1] == (-1,):
            return every.count(gram)
        return len({longer for longer in every if longer[1:] == gram})

    def discounts(length):
        found = [
            count(context, token)
            for context in {gram[:-1] for gram in every if len(gram) == length + 1}
            for token in range(vocab_size + 1)
        ]
        one, two, three, four = (found.count(n) for n in (1, 2, 3, 4))
        if not one * two * three:
            return 0.5, 0.75, 0.9
        y = one / (one + 2 * two)
        raw = (1 - 2 * y * two / one, 2 - 3 * y * three / two, 3 - 4 * y * four / three)
        return [min(max(value, 0.05), n + 0.95) for n, value in enumerate(raw)]

    def probability(context, token):
        if not context:
            lower = 0.0 if token == 0 else 1 / vocab_size
        else:
            lower = probability(context[1:], token)
        counts = [count(context, other) for other in range(vocab_size + 1)]
        if not sum(counts):
            return lower
        loss = [discounts(len(context))[min(n, 3) - 1] if n else 0.0 for n in counts]
        return (counts[token] - loss[token] + sum(loss) * lower) / sum(counts)

    before = (-1, *ids)[-(order - 1) :] if order > 1 else ()
    return [probability(before, token) for token in range(vocab_size + 1)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_equal_those_of_plain_counting(order):
    texts = [[1, 2, 1, 2, 3], [1, 2, 3, 3], [2, 2, 1], [3, 1, 2], [], [1, 2, 1]]
    lm = CharacterLM.fit(texts, vocab_size=4, order=order)
    for ids in ([], [1], [1, 2], [2, 1], [3, 3], [1, 2, 1]):
        found = [math.exp(p) for p in lm.next_log_probs(ids)]
        assert found == pytest.approx(slow_kneser_ney(texts, ids, 4, order), abs=1e-12)


def test_longer_contexts_predict_better():
    texts = [[1, 1, 2, 3] * 5, [2, 3, 1, 1] * 5]
    scores = [CharacterLM.fit(texts, vocab_size=4, order=order).log_prob([1, 1, 2, 3] * 3) for order in (1, 2, 3)]
    assert scores == sorted(scores) and scores[2] > scores[0] + 5


def test_all_strings_together_have_at_most_probability_one():
    lm = language_model()
    total = sum(math.exp(lm.log_prob(s)) for n in range(7) for s in itertools.product(range(1, 4), repeat=n))
    assert 0.8 < total < 1


@pytest.mark.parametrize(
    ("sequences", "options", "message"),
    [
        ([], {}, "empty"),
        ([[1, 4]], {}, "id 4"),
        ([[1, 0]], {}, "id 0"),
        ([[1]], {"order": 0}, "order"),
    ],
)
def test_bad_texts_are_refused(sequences, options, message):
    with pytest.raises(ValueError, match=message):
        CharacterLM.fit(sequences, vocab_size=4, **options)
