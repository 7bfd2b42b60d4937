"""An n-gram language model over text ids, fitted in memory on texts, for shallow fusion with a CTC head.

In: texts as rows of ids `[n]`. Out: log-probabilities of the next id after some ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from torch import Tensor

BEGIN = -1  # stands before the first id of a text, in contexts only

Followers = dict[int, int]
"""Id -> how often it follows a context; end-of-sequence is `vocab_size`."""


class CharacterLM:
    """N-gram model of id sequences with interpolated Kneser-Ney smoothing; end-of-sequence is id `vocab_size`.

    The smoothing is "modified Kneser-Ney" of Chen and Goodman (An empirical study of smoothing techniques for language
    modeling, 1999, section 3): each count after a context loses a discount, one for counts of 1, of 2, and of 3 and more.
    What they lose goes to the context without its first id, and at last to the uniform distribution. Shorter contexts than
    the longest count before how many different ids they stand, and not how often.

    Attributes:
        vocab_size: ids are `0..vocab_size-1`.
        order: ids that count, the predicted one included.
    """

    def __init__(self, vocab_size: int, order: int = 8, pad_id: int | None = 0):
        if vocab_size < 2 or order < 1:
            raise ValueError(f"vocab_size must be at least 2 and order at least 1, got {vocab_size} and {order}")
        self.vocab_size, self.order, self.pad_id = vocab_size, order, pad_id
        self._counts: dict[tuple[int, ...], Followers] = {}
        self._discounts: list[tuple[float, float, float]] = []
        self._probs: dict[tuple[int, ...], np.ndarray] = {}
        self._log_probs: dict[tuple[int, ...], list[float]] = {}
        uniform = np.full(vocab_size + 1, 1.0)
        if pad_id is not None:
            uniform[pad_id] = 0.0
        self._uniform = uniform / uniform.sum()

    @classmethod
    def fit(
        cls, sequences: Iterable[Sequence[int] | Tensor], vocab_size: int, order: int = 8, pad_id: int | None = 0
    ) -> CharacterLM:
        """Counts the texts `sequences`, rows of ids `[n]` without padding or end-of-sequence.

        Args:
            pad_id: an id that cannot occur and gets no probability, or None.

        Raises:
            ValueError: no sequences, or an id outside `0..vocab_size-1` or equal to `pad_id`.
        """
        model = cls(vocab_size, order, pad_id)
        levels: list[dict[tuple[int, ...], Followers]] = [{} for _ in range(order)]  # by length of the context
        seen = 0
        for sequence in sequences:
            model._count(_as_list(sequence), levels)
            seen += 1
        if seen == 0:
            raise ValueError("sequences is empty: a language model needs at least one text")
        for longer, level in zip(levels[:0:-1], levels[-2::-1], strict=True):
            for context, followers in longer.items():
                shorter = level.setdefault(context[1:], {})
                for token in followers:
                    shorter[token] = shorter.get(token, 0) + 1
        model._discounts = [_discounts(level.values()) for level in levels]
        for level in levels:
            model._counts.update(level)
        return model

    def _count(self, ids: list[int], levels: list[dict[tuple[int, ...], Followers]]) -> None:
        """Counts each id of a text after its longest context. Near its beginning that is all ids before, and BEGIN."""
        wrong = [i for i in ids if not 0 <= i < self.vocab_size or i == self.pad_id]
        if wrong:
            raise ValueError(
                f"sequences hold the id {wrong[0]}, but ids are 0 to {self.vocab_size - 1} without {self.pad_id}:"
                " remove padding and end-of-sequence"
            )
        padded = (BEGIN, *ids, self.vocab_size)
        for end in range(1, len(padded)):
            context = padded[max(0, end - self.order + 1) : end]
            followers = levels[len(context)].setdefault(context, {})
            followers[padded[end]] = followers.get(padded[end], 0) + 1

    def _distribution(self, context: tuple[int, ...]) -> np.ndarray:
        known = self._probs.get(context)
        if known is not None:
            return known
        shorter = self._distribution(context[1:]) if context else self._uniform
        followers = self._counts.get(context)
        if followers is None:
            return shorter
        discounts, lost = self._discounts[len(context)], 0.0
        probs = np.zeros_like(shorter)
        for token, count in followers.items():
            discount = discounts[min(count, 3) - 1]
            probs[token] = count - discount
            lost += discount
        probs = (probs + lost * shorter) / sum(followers.values())
        self._probs[context] = probs
        return probs

    def _context(self, ids: Sequence[int]) -> tuple[int, ...]:
        context = (BEGIN, *ids) if len(ids) < self.order - 1 else tuple(ids[len(ids) - self.order + 1 :])
        while context and context not in self._counts:
            context = context[1:]
        return context

    def next_log_probs(self, ids: Sequence[int]) -> list[float]:
        """Natural log-probabilities of each id after the text so far, and last of end-of-sequence: `vocab_size + 1`."""
        context = self._context(ids)
        known = self._log_probs.get(context)
        if known is None:
            with np.errstate(divide="ignore"):
                known = cast("list[float]", np.log(self._distribution(context)).tolist())
            self._log_probs[context] = known
        return known

    def log_prob(self, ids: Sequence[int] | Tensor) -> float:
        """Natural log-probability of a whole text, end-of-sequence included."""
        row = _as_list(ids)
        return sum(self.next_log_probs(row[:n])[token] for n, token in enumerate([*row, self.vocab_size]))


def _as_list(ids: Sequence[int] | Tensor) -> list[int]:
    return cast("list[int]", ids.tolist()) if isinstance(ids, Tensor) else list(ids)


def _discounts(level: Iterable[Followers]) -> tuple[float, float, float]:
    """The discounts of counts of 1, of 2, and of 3 and more, from how many counts are 1, 2, 3 and 4 (the paper's equation 26).

    Few texts have none of some of these: then a count of 1 loses a half, and higher ones somewhat more.
    """
    number = Counter(count for followers in level for count in followers.values() if count <= 4)
    one, two, three, four = (number[count] for count in (1, 2, 3, 4))
    if not (one and two and three):
        return 0.5, 0.75, 0.9
    share = one / (one + 2 * two)
    found = (1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three)
    first, second, third = (min(max(value, 0.05), most) for value, most in zip(found, (0.95, 1.95, 2.95), strict=True))
    return first, second, third
