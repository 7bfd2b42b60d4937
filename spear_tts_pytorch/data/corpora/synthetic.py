"""A speech corpus out of nothing: espeak-ng, called in process, reads sentences of a small grammar in a few voices.

In: how many utterances, a seed. Out: a `Corpus`, the same one each time, held in memory as 16-bit samples. The
library comes from the pip package espeakng-loader; no system package, no download, about a thousand times real time.
Knows nothing of tokenizers or training.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts

DEFAULT_UNLABELLED = 1900  # about an hour


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng: `pitch` and `pitch_range` 0 to 99, `rate` in words a minute."""

    name: str
    pitch: int
    pitch_range: int
    rate: int


VOICES = (
    Voice("en-us+m1", 40, 40, 160),
    Voice("en-us+f2", 55, 55, 170),
    Voice("en-us+m3", 35, 50, 180),
)

# One word of each list fills a slot: ten names, ten verbs and so on.
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
    """Distinct sentences, each read by one of three voices at its own speed; every voice gets its share of each part.

    Raises:
        ImportError: espeakng-loader is missing.
        OSError: espeak-ng does not start on this machine.
        ValueError: a count below one, or more sentences than the grammar has.
    """
    check_counts(labelled=labelled, unlabelled=unlabelled, test=test)
    counts = {"test": test, "labelled": labelled, "unlabelled": unlabelled}
    if sum(counts.values()) > 30_000:
        raise ValueError(
            f"the grammar is meant for at most 30,000 sentences, {sum(counts.values())} asked for: lower labelled={labelled}"
        )
    taken: set[str] = set()
    parts: dict[str, list[Utterance]] = {}
    bar = tqdm(total=sum(counts.values()), desc="synthesis", unit="clip", disable=None if progress else True)
    with bar, open_espeak() as espeak:
        # The test first, then the labelled, each from its own random numbers: more of one changes nothing before it.
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
        template = TEMPLATES[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))][0]
        text = template.format(**{slot: words.split()[rng.integers(10)] for slot, words in GRAMMAR.items()})
        if text not in taken:
            taken.add(text)
            return text


def _utterance(id_: str, text: str, speaker: str, sample_hz: int, samples: np.ndarray) -> Utterance:
    return Utterance(id_, text, speaker, sample_hz, lambda: samples.astype(np.float32) / 32768, len(samples))


class Espeak:
    """A running espeak-ng; made by `open_espeak`.

    Attributes:
        sample_hz: rate in Hz of what `say` gives.
    """

    SYNCHRONOUS, NO_EXIT, UTF8 = 2, 0x8000, 1
    RATE, PITCH, RANGE = 1, 3, 4

    def __init__(self, library: str, data: str) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise OSError(f"espeak-ng does not load ({error}): reinstall espeakng-loader") from error
        self.sample_hz = self._library.espeak_Initialize(self.SYNCHRONOUS, 0, os.fsencode(data), self.NO_EXIT)
        if self.sample_hz <= 0:
            raise OSError(f"espeak-ng does not start with the data in {data}: reinstall espeakng-loader")
        self._pieces: list[bytes] = []
        # Kept as an attribute: the library calls it as long as it lives.
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)
        if hasattr(self._library, "espeak_ng_SetRandSeed"):
            self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))

    def _receive(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        return 0  # go on

    def say(self, text: str, voice: Voice, rate: int | None = None) -> np.ndarray:
        """`text` as int16 samples `[t]`, without the silence around it.

        Raises:
            OSError: espeak-ng does not know the voice or makes no sound.
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
        return samples[max(0, loud[0] - margin) : loud[-1] + margin].copy()

    def close(self) -> None:
        """Frees what espeak-ng holds."""
        self._library.espeak_Terminate()


_LOCK = threading.Lock()  # espeak-ng keeps its state in global variables


@contextmanager
def open_espeak() -> Iterator[Espeak]:
    """Starts espeak-ng, one at a time, in a state that depends on nothing before.

    Its oscillators run on from one utterance to the next, whatever is reset. So a private copy of the library is
    loaded each time: its variables are new, and those of others who use espeak-ng in this process are left alone.

    Raises:
        ImportError: espeakng-loader is missing.
        OSError: espeak-ng does not start on this machine.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError('synthetic speech needs espeakng-loader: pip install "spear-tts-pytorch[demo]"') from error
    library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    # Windows does not delete a library that is loaded.
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
    copy = shutil.copy(library, folder)
    try:
        return Espeak(copy, data)
    except OSError:
        # Temporary folders can forbid execution; the installed library then is second best.
        return Espeak(library, data)
