"""Long recordings as clips: cuts at silences, or at the times of a transcript. No audio is copied.

In: an `Utterance` of a long file. Out: `Utterance`s of parts of it, whose audio is read from the file when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from spear_tts_pytorch.data.audio import load_part
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.corpora.transcripts import Passage

Span = tuple[float, float]
"""Start and end in seconds."""

FRAME = 0.01  # seconds
PAUSE = 0.25  # seconds of quiet that may end a clip
LONG_PAUSE = 1.0  # seconds of quiet that always end one
MARGIN = 0.1  # seconds of quiet kept around speech
QUIET = 0.25  # of the way from the noise to the speech of a recording, in decibels
LEAST_RANGE = 10.0  # decibels between noise and speech; with less, a recording has no silence


def cut_at_silences(wav: np.ndarray, sample_hz: int, shortest: float = 2.0, longest: float = 15.0) -> list[Span]:
    """Finds the clips of a long recording: speech between pauses. Long silences belong to none.

    Where speech has no pause for `longest` seconds, the cut is at its quietest place.

    Args:
        wav: `[t]`, mono.
        sample_hz: its sampling rate in Hz.
        shortest: seconds; clips are joined to reach it where the pauses between them are short.
        longest: seconds; no clip is longer.

    Returns:
        Starts and ends in seconds, in their order.
    """
    levels = _levels(wav, sample_hz)
    if not len(levels):
        return []
    spans = _speech(levels)
    split = [part for span in spans for part in _split(span, levels, shortest, longest)]
    joined: list[tuple[int, int]] = []
    for start, end in split:
        if joined and _belongs(joined[-1], (start, end), shortest, longest):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    seconds = _frame_size(sample_hz) / sample_hz  # 220 samples at 22,050 Hz are a little less than `FRAME`
    return [(start * seconds, end * seconds) for start, end in joined]


def part_of(one: Utterance, span: Span, text: str | None = None) -> Utterance:
    """A part of a recording as a clip. Its id holds start and end in hundredths of a second.

    Raises:
        ValueError: the recording has ended before the part begins.
    """
    start, end = (round(seconds * one.sample_hz) for seconds in span)
    if one.num_samples is not None:
        end = min(end, one.num_samples)  # a rounded end may be a few samples behind the last one
    if start >= end:
        raise ValueError(f"{one.id} has {one.seconds:.2f} s, no part from {span[0]:.2f} s to {span[1]:.2f} s")
    load = partial(_samples, one.load, start, end) if one.path is None else partial(load_part, one.path, start, end)
    name = f"{one.id}-{round(span[0] * 100):07d}-{round(span[1] * 100):07d}"
    return replace(one, id=name, text=text, load=load, num_samples=end - start)


def silent_cuts(one: Utterance, shortest: float, longest: float, within: Sequence[Span] | None = None) -> list[Span]:
    """`cut_at_silences` of a recording, or of stretches of it."""
    wav = one.audio()
    stretches = [(0.0, len(wav) / one.sample_hz)] if within is None else within
    found: list[Span] = []
    for start, end in stretches:
        part = wav[round(start * one.sample_hz) : round(end * one.sample_hz)]
        found += [(start + a, start + b) for a, b in cut_at_silences(part, one.sample_hz, shortest, longest)]
    return [span for span in found if span[1] - span[0] >= min(shortest, 0.5)]


def join_passages(passages: Sequence[Passage], longest: float) -> list[Passage]:
    """Joins passages that follow each other closely, such as words, until a clip would exceed `longest` seconds."""
    joined: list[Passage] = []
    for one in passages:
        last = joined[-1] if joined else None
        if last and one.start - last.end < PAUSE and one.end - last.start <= longest and not last.ends_sentence():
            joined[-1] = Passage(last.start, one.end, f"{last.text} {one.text}")
        else:
            joined.append(one)
    return joined


def between(passages: Sequence[Passage], seconds: float, least: float) -> list[Span]:
    """The stretches of a recording of `seconds` that no passage covers and that are not shorter than `least`."""
    edges = [0.0, *(edge for one in passages for edge in (one.start, one.end)), seconds]
    free = zip(edges[::2], edges[1::2], strict=True)
    return [(start, end) for start, end in free if end - start >= least]


def _levels(wav: np.ndarray, sample_hz: int) -> np.ndarray:
    """Decibels of each frame of 10 ms, smoothed over 5 of them."""
    size = _frame_size(sample_hz)
    count = len(wav) // size
    power = np.square(wav[: count * size].reshape(count, size)).mean(axis=1)
    kernel = np.ones(5) / 5
    return 10 * np.log10(np.convolve(power, kernel, mode="same") + 1e-10) if count else power


def _frame_size(sample_hz: int) -> int:
    return max(1, sample_hz // round(1 / FRAME))  # at most `FRAME` long, so that clips keep to their limit


def _speech(levels: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of speech as frames, with a margin; the pauses between them last `PAUSE` at least."""
    noise, voice = np.percentile(levels, (10, 90))
    if voice - noise < LEAST_RANGE:
        return [(0, len(levels))]
    loud = np.concatenate([[False], levels > noise + QUIET * (voice - noise), [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1])
    margin, pause = round(MARGIN / FRAME), round(PAUSE / FRAME)
    spans: list[tuple[int, int]] = []
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if spans and start - spans[-1][1] < pause:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [(max(0, start - margin), min(len(levels), end + margin)) for start, end in spans]


def _split(span: tuple[int, int], levels: np.ndarray, shortest: float, longest: float) -> list[tuple[int, int]]:
    """Cuts a stretch that is too long, each time at the quietest frame of the allowed ones, the last of equal ones."""
    parts, (start, end), most = list[tuple[int, int]](), span, round(longest / FRAME)
    least = min(round(shortest / FRAME), most // 2)
    while end - start > most:
        last = min(start + most, end - least)
        cut = last - int(np.argmin(levels[start + least : last + 1][::-1]))
        parts.append((start, cut))
        start = cut
    return [*parts, (start, end)]


def _belongs(last: tuple[int, int], new: tuple[int, int], shortest: float, longest: float) -> bool:
    """Whether two neighbours become one clip: one is too short, the pause is short, and together they are not too long."""
    is_short = min(last[1] - last[0], new[1] - new[0]) < shortest / FRAME
    return is_short and new[0] - last[1] <= LONG_PAUSE / FRAME and new[1] - last[0] <= longest / FRAME


def _samples(load: Callable[[], np.ndarray], start: int, end: int) -> np.ndarray:
    return load()[start:end]
