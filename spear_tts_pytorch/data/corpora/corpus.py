"""Utterances, whose audio is loaded when it is needed, and corpora, which have three parts of them.

In: ids, texts, speakers, rates and functions that load audio, from the readers. Out: `Utterance` and `Corpus`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spear_tts_pytorch.data.corpora.clip_files import few
from spear_tts_pytorch.tokenizers.semantic import problem_with
from spear_tts_pytorch.utils.values import as_tensor


@dataclass
class Utterance:
    """One clip.

    Attributes:
        id: its name, unique in the corpus.
        text: its text, None if unknown.
        speaker: name of the speaker, None if unknown.
        sample_hz: sampling rate of the audio in Hz; 0 if the file cannot be read.
        load: returns the audio, mono float32 `[t]` in -1..1.
        num_samples: length in samples, None if it is unknown before loading.
        path: the file that holds it, None if there is none.
    """

    id: str
    text: str | None
    speaker: str | None
    sample_hz: int
    load: Callable[[], np.ndarray] = field(repr=False)
    num_samples: int | None = None
    path: Path | None = None

    def audio(self) -> np.ndarray:
        """The waveform, float32 `[t]` at `sample_hz`."""
        return self.load()

    @property
    def seconds(self) -> float:
        """Its duration in seconds; loads the audio if the length is unknown."""
        if self.num_samples is None:
            self.num_samples = len(self.load())
        return self.num_samples / self.sample_hz


@dataclass
class Corpus:
    """The data of a recipe: audio without text, a few pairs of audio and text, and pairs for testing.

    Attributes:
        name: shown in messages and reports.
        unlabelled: utterances whose texts, if known, only an evaluator may use.
        labelled: utterances with text, none of them in `unlabelled`.
        test: utterances with texts that occur in neither of the other parts.
    """

    name: str
    unlabelled: list[Utterance]
    labelled: list[Utterance]
    test: list[Utterance]

    def __repr__(self) -> str:
        parts = {"unlabelled": self.unlabelled, "labelled": self.labelled, "test": self.test}
        return f"Corpus({self.name!r}: {', '.join(_shown(name, part) for name, part in parts.items())})"


def _shown(name: str, utterances: Sequence[Utterance]) -> str:
    """Clips and minutes of a part, without loading audio: clips of unknown length are counted apart."""
    known = [one.num_samples / one.sample_hz for one in utterances if one.num_samples and one.sample_hz]
    unknown = f" and {len(utterances) - len(known)} clips of unknown length" if len(known) < len(utterances) else ""
    return f"{len(utterances)} {name} clips ({sum(known) / 60:.1f} minutes{unknown})"


def minutes(utterances: Iterable[Utterance]) -> float:
    """The duration of utterances together, in minutes."""
    return sum(utterance.seconds for utterance in utterances) / 60


def without_bad_audio(corpus: Corpus) -> Corpus:
    """The corpus without clips that are silent, not finite or shorter than 0.1 seconds; a warning names them.

    Raises:
        ValueError: a part has no clip left.
    """
    problems: dict[str, str] = {}

    def good(utterance: Utterance) -> bool:
        wav = as_tensor(utterance.audio())
        problem = problem_with(wav, utterance.sample_hz // 10, utterance.sample_hz)
        if problem:
            problems[utterance.id] = problem
        return not problem

    parts = {name: [u for u in getattr(corpus, name) if good(u)] for name in ("unlabelled", "labelled", "test")}
    if problems:
        name, problem = next(iter(problems.items()))
        message = f"{corpus.name}: {len(problems)} clips cannot be used ({few(list(problems))}); {name} {problem}"
        if not all(parts.values()):
            raise ValueError(f"{message}; no clip is left to train on or to test with")
        warnings.warn(f"{message}; they are left out", stacklevel=2)
    return Corpus(corpus.name, **parts)


def check_counts(**counts: int) -> None:
    """Raises ValueError for a count below one, naming it."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
