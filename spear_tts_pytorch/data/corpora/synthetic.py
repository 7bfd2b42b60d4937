"""Synthetic speech: espeak-ng, called in this process, reads sentences of a small grammar in a few voices.

In: numbers of utterances, a seed. Out: a `Corpus`, held in memory as 16-bit samples; the same seed gives the same corpus.
The library is in the pip package espeakng-loader and needs no system package and no download. It is about a thousand
times faster than real time.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts

DEFAULT_UNLABELLED = 1900  # about an hour


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng: `pitch` and `pitch_range` from 0 to 99, `rate` in words per minute."""

    name: str
    pitch: int
    pitch_range: int
    rate: int


VOICES = (
    Voice("en-us+m1", 40, 40, 160),
    Voice("en-us+f2", 55, 55, 170),
    Voice("en-us+m3", 35, 50, 180),
)

# A slot is filled with one of its ten words.
GRAMMAR = {
    "name": "anna peter rachel thomas helen victor julia martin oscar emma",
    "verb": "bought found sold likes wants sees gave lost counts hides",
    "number": "two three four five six seven eight nine twelve twenty",
    "adjective": "green old large small red heavy cheap dark yellow round",
    "noun": "chairs ships houses flowers spoons tables rings books clocks boxes",
}
TEMPLATES = (
    ("{name} {verb} {number} {adjective} {noun}", 0.6),
    ("{name} {verb} the {adjective} {noun}", 0.2),
    ("{number} {adjective} {noun} for {name}", 0.2),
)


def espeak_corpus(
    *,
    labelled: int = 60,
    unlabelled: int = DEFAULT_UNLABELLED,
    test: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Corpus:
    """Makes distinct sentences, each read by one of three voices at a random speed. The voices take turns in each part.

    Args:
        labelled, unlabelled, test: numbers of utterances of each part.
        seed: fixes the random choices.
        progress: shows a bar, on terminals.

    Raises:
        ImportError: espeakng-loader is missing.
        OSError: espeak-ng does not start on this machine.
        ValueError: a count below one, or more sentences than the grammar has.
    """
    check_counts(labelled=labelled, unlabelled=unlabelled, test=test)
    counts = {"test": test, "labelled": labelled, "unlabelled": unlabelled}
    if sum(counts.values()) > 30_000:
        raise ValueError(
            f"the grammar is meant for at most 30,000 sentences, got {sum(counts.values())}: lower labelled={labelled}, "
            f"unlabelled={unlabelled} or test={test}"
        )
    taken: set[str] = set()
    parts: dict[str, list[Utterance]] = {}
    bar = tqdm(total=sum(counts.values()), desc="synthesis", unit="clip", disable=None if progress else True)
    with bar, open_espeak() as espeak:
        # Each part has its own random numbers, in this order: a larger part does not change the parts before it.
        for part, (name, count) in enumerate(counts.items()):
            rng = np.random.default_rng([seed, part])
            parts[name] = []
            for index in range(count):
                text, voice = random_sentence(rng, taken), VOICES[index % len(VOICES)]
                rate = round(voice.rate * rng.uniform(0.88, 1.12))
                samples = espeak.say(text, voice, rate)
                parts[name].append(_utterance(f"{name}-{index:05d}", text, voice.name, espeak.sample_hz, samples))
                bar.update()
    return Corpus("espeak", parts["unlabelled"], parts["labelled"], parts["test"])


def random_sentence(rng: np.random.Generator, taken: set[str]) -> str:
    """A sentence of the grammar that is not in `taken`, to which it is added."""
    shares = np.cumsum([share for _, share in TEMPLATES])
    while True:
        template = TEMPLATES[int(np.searchsorted(shares, rng.random() * float(shares[-1]), side="right"))][0]
        text = template.format(**{slot: words.split()[int(rng.integers(10))] for slot, words in GRAMMAR.items()})
        if text not in taken:
            taken.add(text)
            return text


def _utterance(id_: str, text: str, speaker: str, sample_hz: int, samples: np.ndarray) -> Utterance:
    return Utterance(id_, text, speaker, sample_hz, lambda: samples.astype(np.float32) / 32768, len(samples))


class Espeak:
    """A running espeak-ng; made by `open_espeak`.

    Attributes:
        sample_hz: sampling rate in Hz of the samples that `say` returns.
    """

    SYNCHRONOUS, NO_EXIT, UTF8 = 2, 0x8000, 1
    RATE, PITCH, RANGE = 1, 3, 4

    def __init__(self, library: str, data: str) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise OSError(f"espeak-ng does not load ({error}): reinstall espeakng-loader") from error
        self.sample_hz: int = self._library.espeak_Initialize(self.SYNCHRONOUS, 0, os.fsencode(data), self.NO_EXIT)
        if self.sample_hz <= 0:
            raise OSError(f"espeak-ng does not start with the data in {data}: reinstall espeakng-loader")
        self._pieces: list[bytes] = []
        # An attribute, because the library calls it until it is closed.
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        if hasattr(self._library, "espeak_ng_SetRandSeed"):
            self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def _receive(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0  # continue

    def say(self, text: str, voice: Voice, rate: int | None = None) -> np.ndarray:
        """`text` as int16 samples `[t]`, without silence at both ends.

        Raises:
            OSError: espeak-ng does not have the voice, or makes no sound.
        """
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise OSError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in ((self.RATE, rate or voice.rate), (self.PITCH, voice.pitch)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_SetParameter(self.RANGE, voice.pitch_range, 0)
        data = text.encode()
        self._pieces.clear()
        status = self._library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, self.UTF8, None, None)
        samples = np.frombuffer(b"".join(self._pieces), dtype=np.int16)
        loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 50)
        if status != 0 or loud.size == 0:
            raise OSError(f"espeak-ng made no sound of {text!r} (status {status})")
        margin = self.sample_hz // 50
        return np.copy(samples[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin])

    def close(self) -> None:
        """Ends espeak-ng and frees its memory."""
        self._library.espeak_Terminate()


_LOCK = threading.Lock()  # espeak-ng keeps its state in global variables


@contextmanager
def open_espeak() -> Generator[Espeak, None, None]:
    """Starts espeak-ng in its initial state; other threads wait until it is closed.

    Its oscillators carry state from one utterance to the next, and nothing resets them. So each call loads a private copy
    of the library, which has new variables. Other users of espeak-ng in this process are not affected.

    Raises:
        ImportError: espeakng-loader is missing.
        OSError: espeak-ng does not start on this machine.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError('synthetic speech needs espeakng-loader: pip install "spear-tts-pytorch[demo]"') from error
    library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    # Windows cannot delete a library while it is loaded.
    with _LOCK, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if sys.platform.startswith("win"):
            espeak = Espeak(library, data)
        else:
            espeak = _from_copy(library, data, Path(folder))
        try:
            yield espeak
        finally:
            espeak.close()


def _from_copy(library: str, data: str, folder: Path) -> Espeak:
    """Starts a copy of the library in `folder`."""
    copy = shutil.copy(library, folder)
    try:
        return Espeak(str(copy), data)
    except OSError:  # some temporary folders forbid execution: use the installed library
        return Espeak(library, data)
