"""CTC and a language model together: log-probabilities to text ids, and the weights that do so best on known texts.

In: log-probabilities `[n, v]` of a clip. Out: text ids `[m]` and a score.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.ctc import collapse_blanks, ctc_beam_search
from spear_tts_pytorch.decoding.language_model import CharacterLM
from spear_tts_pytorch.utils.metrics import character_error_rate

WEIGHTS, BONUSES = (0.3, 0.6, 1.0, 1.4, 1.8), (0.0, 0.75, 1.5, 2.25, 3.0)  # that are tried
LEAST_TO_CHOOSE, MOST_TO_CHOOSE = 5, 40  # clips with a known text on which they are tried
TRIED_BEAM = 8


@dataclass(frozen=True)
class Fusion:
    """How a language model takes part in a search, see `decoding.ctc.ctc_beam_search`.

    Attributes:
        lm: of text ids; None for none.
        lm_weight, length_bonus, beam_size: of the search.
        blank: the id that is no text.
    """

    lm: CharacterLM | None
    lm_weight: float = 1.0
    length_bonus: float = 0.0
    beam_size: int = 8
    blank: int = 0

    def decode(self, log_probs: Tensor) -> tuple[Tensor, float]:
        """Text ids `[m]` of log-probabilities `[n, v]`, and a score.

        The score is the log-probability per id without the bonus; higher is surer.
        """
        frames = collapse_blanks(log_probs, self.blank)
        [(ids, total)] = ctc_beam_search(
            frames[None],
            torch.tensor([len(frames)]),
            self.blank,
            beam_size=self.beam_size,
            lm=self.lm,
            lm_weight=self.lm_weight,
            length_bonus=self.length_bonus,
        )
        return ids, total / max(1, len(ids)) - self.length_bonus * bool(len(ids))

    def chosen(self, rows: Sequence[Tensor], texts: Sequence[str], spell: Callable[[Tensor], str]) -> Fusion:
        """The same with the weight and bonus that read clips of known texts best; this one, if there are too few of them.

        Args:
            rows: log-probabilities `[n, v]` of clips that no training has seen.
            texts: their texts.
            spell: text ids `[m]` to a text.
        """
        rows, texts = rows[:MOST_TO_CHOOSE], texts[:MOST_TO_CHOOSE]
        if self.lm is None or len(rows) < LEAST_TO_CHOOSE:
            return self
        best, least = self, float("inf")
        for weight, bonus in itertools.product(WEIGHTS, BONUSES):
            tried = replace(self, lm_weight=weight, length_bonus=bonus, beam_size=min(TRIED_BEAM, self.beam_size))
            error = character_error_rate([spell(tried.decode(row)[0]) for row in rows], list(texts))
            if error < least:
                best, least = replace(tried, beam_size=self.beam_size), error
        return best
