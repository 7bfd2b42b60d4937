"""Error rates of texts and ids, with confidence intervals.

In: hypotheses and references, as texts or rows of ids. Out: counts of errors, and rates in percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise ImportError('error rates need jiwer: pip install "spear-tts-pytorch[demo]"') from error
    return jiwer


def _check_match(hypotheses: Sequence[object], references: Sequence[object]) -> None:
    if len(hypotheses) != len(references) or len(references) == 0:
        raise ValueError(
            f"hypotheses and references must be equally many and not empty, got {len(hypotheses)} and {len(references)}"
        )


def character_errors(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[list[int], list[int]]:
    """Number of insertions, deletions and substitutions of each pair, and number of characters of each reference.

    Spaces at the ends do not count. Everything else does: normalise hypotheses and references in the same way first.

    Raises:
        ImportError: jiwer is missing.
        ValueError: no texts, or not one hypothesis for each reference.
    """
    _check_match(hypotheses, references)
    jiwer = _jiwer()
    errors: list[int] = []
    lengths: list[int] = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        if not reference.strip():  # jiwer 3 refuses empty references
            errors.append(len(hypothesis.strip()))
            lengths.append(0)
            continue
        counts = jiwer.process_characters(reference, hypothesis)
        errors.append(counts.substitutions + counts.deletions + counts.insertions)
        lengths.append(counts.hits + counts.substitutions + counts.deletions)
    return errors, lengths


def character_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The sum of all character errors over the number of all reference characters, in percent.

    Insertions can make it larger than 100.

    Raises:
        ImportError: jiwer is missing.
        ValueError: no texts, not one hypothesis for each reference, or references without a character.
    """
    return _rate(*character_errors(hypotheses, references))


def token_errors(
    hypotheses: Sequence[Sequence[int] | Tensor], references: Sequence[Sequence[int] | Tensor]
) -> tuple[list[int], list[int]]:
    """Levenshtein distance of each pair of rows of ids `[n]`, and number of ids of each reference.

    Raises:
        ImportError: rapidfuzz, which comes with jiwer, is missing.
        ValueError: no rows, or not one hypothesis for each reference.
    """
    _check_match(hypotheses, references)
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError('error rates need rapidfuzz: pip install "spear-tts-pytorch[demo]"') from error
    rows = [(_ids(a), _ids(b)) for a, b in zip(hypotheses, references, strict=True)]
    return [Levenshtein.distance(a, b) for a, b in rows], [len(b) for _, b in rows]


def token_error_rate(
    hypotheses: Sequence[Sequence[int] | Tensor], references: Sequence[Sequence[int] | Tensor]
) -> float:
    """The sum of all id errors over the number of all reference ids, in percent.

    Remove padding and end-of-sequence from the rows first.

    Raises:
        ImportError, ValueError: as `token_errors`; references without an id.
    """
    return _rate(*token_errors(hypotheses, references))


def _ids(row: Sequence[int] | Tensor) -> list[int]:
    return cast("list[int]", row.tolist()) if isinstance(row, Tensor) else list(row)


def _rate(errors: Sequence[float], lengths: Sequence[float]) -> float:
    total = sum(lengths)
    if total == 0:
        raise ValueError("references hold nothing to compare with: an error rate needs at least one character or id")
    return 100 * sum(errors) / total


def bootstrap_interval(
    errors: Sequence[float], lengths: Sequence[float], *, seed: int = 0, level: float = 0.95, draws: int = 2000
) -> tuple[float, float]:
    """Confidence interval of `100 * sum(errors) / sum(lengths)`, by drawing utterances with replacement (bootstrap).

    Args:
        errors, lengths: errors and length of each utterance, as `character_errors` returns them.
        seed: of the draws.
        level: share of the draws inside the interval, between 0 and 1.
        draws: number of draws.

    Returns:
        Low and high end, in percent.

    Raises:
        ValueError: no utterances, not one length for each, lengths that sum to 0, or `level` outside (0, 1).
    """
    _check_match(errors, lengths)
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level must be in (0, 1) and draws at least 1, got {level} and {draws}")
    _rate(errors, lengths)
    wrong, total = np.asarray(errors, dtype=np.float64), np.asarray(lengths, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(total), size=(draws, len(total)))
    sums = total[picks].sum(axis=1)
    rates = 100 * wrong[picks].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mel_cepstral_distortion(spectra: Tensor, reference: Tensor, *, order: int = 13) -> float:
    """Mel-cepstral distortion of speech to a reference, in dB: the root mean square difference of smoothed log spectra.

    Both are aligned by dynamic time warping, and the distance is the mean over the path. Loudness does not count. With
    cepstra c of the logarithm of the amplitude it is 10 / ln(10) sqrt(2 sum (c_k - c'_k)^2) for k of 1 to `order` (R. Kubichek,
    1993, https://doi.org/10.1109/PACRIM.1993.407206), here of mel bands.

    Args:
        spectra: natural logarithms of the power in mel bands, `[n, m]`.
        reference: the same of the reference, `[k, m]`.
        order: cepstral coefficients that count.

    Raises:
        ValueError: no frames, or another number of bands.
    """
    if (
        spectra.ndim != 2
        or reference.ndim != 2
        or spectra.shape[1] != reference.shape[1]
        or not order < spectra.shape[1]
    ):
        raise ValueError(
            f"spectra and reference must have the shapes [n, m] and [k, m], m above order={order}, got "
            f"{list(spectra.shape)} and {list(reference.shape)}"
        )
    if not len(spectra) or not len(reference):
        raise ValueError("spectra and reference must have at least one frame each")
    bands = spectra.shape[1]
    place = (torch.arange(bands, dtype=torch.float64) + 0.5) * math.pi / bands
    # [m, order]; the amplitude's logarithm is half the power's
    cosines = torch.cos(place[:, None] * torch.arange(1, order + 1)) / bands
    first, second = (one.detach().cpu().double() @ cosines for one in (spectra, reference))
    costs = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    return 10 / math.log(10) * math.sqrt(2) * _mean_of_path(costs.numpy())


def _mean_of_path(costs: FloatArray) -> float:
    """The mean cost over the cheapest path through `[n, k]` from one corner to the other, by steps of one row, column or both.

    Anti-diagonals are computed one after the other.
    """
    rows, columns = costs.shape
    total: FloatArray = np.full((2, rows + 1), np.inf)  # of the two diagonals before, by row + 1
    length: FloatArray = np.zeros((2, rows + 1))
    for diagonal in range(rows + columns - 1):
        low, high = max(0, diagonal - columns + 1), min(rows, diagonal + 1)
        row = cast("npt.NDArray[np.int64]", np.arange(low, high))  # of each cell of the diagonal
        cost = costs[row, diagonal - row]
        if diagonal == 0:
            new_total, new_length = cost, np.ones(1)
        else:
            before = np.stack([total[0, row], total[1, row + 1], total[1, row]])  # both, one column, one row further
            best, each = before.argmin(axis=0), row - low
            steps = np.stack([length[0, row], length[1, row + 1], length[1, row]])
            new_total = before[best, each] + cost
            new_length = steps[best, each] + 1
        total[0], length[0] = total[1], length[1]
        total[1], length[1] = np.inf, 0
        total[1, row + 1], length[1, row + 1] = new_total, new_length
    return float(total[1, rows] / length[1, rows])
