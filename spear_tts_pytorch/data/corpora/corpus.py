"""What a corpus is: utterances whose audio is loaded when asked for, in three parts.

In: nothing but what a reader of some layout knows. Out: `Utterance` and `Corpus`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from spear_tts_pytorch.data.corpora.clip_files import few
from spear_tts_pytorch.tokenizers.semantic import problem_with


@dataclass
class Utterance:
    """One clip.

    Attributes:
        id: its name, unique in the corpus.
        text: what is said, None if unknown.
        speaker: who says it, None if unknown.
        sample_hz: rate of the audio in Hz.
        load: gives the audio, mono float32 `[t]`.
        num_samples: its length in samples where that is known without loading.
    """

    id: str
    text: str | None
    speaker: str | None
    sample_hz: int
    load: Callable[[], np.ndarray] = field(repr=False)
    num_samples: int | None = None

    def audio(self) -> np.ndarray:
        """The waveform, float32 `[t]` at `sample_hz`."""
        return self.load()

    @property
    def seconds(self) -> float:
        """Its duration; loads the audio if the length is not known yet."""
        if self.num_samples is None:
            self.num_samples = len(self.load())
        return self.num_samples / self.sample_hz


@dataclass
class Corpus:
    """What a recipe needs: audio alone, a few pairs, and pairs to test with.

    Attributes:
        unlabelled: utterances whose text, if there, is for an evaluator's eyes only.
        labelled: utterances with text, none of them in `unlabelled`.
        test: utterances with texts that neither of the others has.
    """

    name: str
    unlabelled: list[Utterance]
    labelled: list[Utterance]
    test: list[Utterance]


def minutes(utterances: Iterable[Utterance]) -> float:
    """How long they are together, in minutes."""
    return sum(utterance.seconds for utterance in utterances) / 60


def without_bad_audio(corpus: Corpus) -> Corpus:
    """The corpus without clips that are silent, not finite or shorter than a tenth of a second; a warning names them.

    Raises:
        ValueError: nothing is left of a part.
    """
    problems: dict[str, str] = {}

    def good(utterance: Utterance) -> bool:
        wav = torch.as_tensor(utterance.audio())
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
