"""Says texts: several samples of each, of which the backtranslator chooses the one that it reads best.

In: texts, a model, a backtranslator if there is one. Out: `Said`: ids `[n]`, their sound, and what is read back from them.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator, speak
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer, normalize_text
from spear_tts_pytorch.utils.metrics import character_error_rate
from spear_tts_pytorch.utils.values import real_number, whole_number


@runtime_checkable
class Resynthesizer(Protocol):
    """A semantic tokenizer or a network that turns ids `[n]` into a waveform `[t]` at `target_sample_hz`."""

    @property
    def target_sample_hz(self) -> int: ...

    def resynthesize(self, ids: Tensor) -> Tensor: ...


@dataclass
class Said:
    """A text that was said.

    Attributes:
        text: the text.
        ids: speech ids, int64 `[n]`; empty if the model said nothing.
        read_back: what the backtranslator reads in the ids; None without one.
        error: character error rate of `read_back`, percent; None without a backtranslator.
    """

    text: str
    ids: Tensor
    read_back: str | None = None
    error: float | None = None
    resynthesizer: Resynthesizer | None = field(default=None, repr=False)

    @property
    def sample_hz(self) -> int:
        """The sampling rate of `wav` in Hz."""
        return self._sounds().target_sample_hz

    @property
    def wav(self) -> Tensor:
        """The sound, float32 `[t]`.

        Raises:
            ValueError: the tokenizer cannot turn ids into sound, or there are no ids.
        """
        return self._sounds().resynthesize(self.ids)

    def save(self, path: str | Path) -> None:
        """Writes the sound as a WAV."""
        save_audio(path, self.wav, self.sample_hz)

    def __repr__(self) -> str:
        read = "" if self.read_back is None else f", read back as {self.read_back!r} ({self.error:.0f} % errors)"
        return f"Said({self.text!r}, {len(self.ids)} ids{read})"

    def _repr_html_(self) -> str:
        """The text and a player, in notebooks."""
        display: Any = import_module("IPython.display")
        player = display.Audio(self.wav.numpy(), rate=self.sample_hz)
        return f"<p>{html.escape(repr(self))}</p>{player._repr_html_()}"

    def _sounds(self) -> Resynthesizer:
        if self.resynthesizer is None:
            raise ValueError(
                "the model's tokenizer cannot turn ids into sound: train a UnitToSpeech (in a voice: resynthesis.steps)"
            )
        return self.resynthesizer


def say(
    model: TextToSemantic,
    texts: Sequence[str],
    *,
    reader: CTCBacktranslator | None = None,
    candidates: int = 4,
    temperature: float = 0.5,
    seed: int = 0,
    resynthesizer: Resynthesizer | None = None,
) -> list[Said]:
    """Says texts.

    Args:
        model: of speech from text.
        texts: what to say.
        reader: chooses among the samples, and reads the chosen one back. Without it, one sample of each text is drawn, and
            none is read.
        candidates: samples of each text; 1 leaves no choice.
        temperature: of the samples; 0 is greedy, and all samples are the same.
        seed: of the samples.
        resynthesizer: turns ids into sound, such as `UnitToSpeech`; None is the model's tokenizer, if it can.

    Raises:
        ValueError: a text is empty, or has characters that the model does not know.
    """
    candidates, seed = whole_number("candidates", candidates, 1), whole_number("seed", seed, 0, 2**63 - 1)
    temperature = real_number("temperature", temperature, 0)
    check_alphabet(model, texts)
    generator = torch.Generator(device=model.device).manual_seed(seed)
    options: dict[str, Any] = {"candidates": candidates if reader else 1, "temperature": temperature}
    rows = speak(model, texts, backtranslator=reader, generator=generator, **options)
    own = model.wav2vec if isinstance(model.wav2vec, Resynthesizer) else None
    sounds = own if resynthesizer is None else resynthesizer
    if reader is None:
        return [Said(text, ids, resynthesizer=sounds) for text, ids in zip(texts, rows, strict=True)]
    said: list[Said] = []
    for text, ids in zip(texts, rows, strict=True):
        read = model.text_tokenizer.decode(reader(ids[None])[0][0])[0] if len(ids) else ""
        said.append(Said(text, ids, read, character_error_rate([read], [normalize_text(text)]), sounds))
    return said


def check_alphabet(model: TextToSemantic, texts: Sequence[str]) -> None:
    """Raises ValueError for an empty text, and for characters outside a model's alphabet, with their names.

    Where the alphabet holds a near character, it is proposed: "é (LATIN SMALL LETTER E WITH ACUTE, try 'e')".
    """
    if any(not text.strip() for text in texts):
        raise ValueError('a text is empty: pass what the model shall say, for example "three one four"')
    tokenizer = model.tokenizer_encode
    if not isinstance(tokenizer, CharacterTokenizer) or tokenizer.unknown != "error":
        return
    known = set(tokenizer.symbols)
    for text in texts:
        written = normalize_text(text) if tokenizer.normalize else text
        strange = sorted(set(written) - known)
        if strange:
            named = ", ".join(_named(character, known) for character in strange)
            raise ValueError(f"{text[:60]!r} has characters that the voice did not learn: {named}; respell them")


def _named(character: str, known: set[str]) -> str:
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    near = _near(character, known)
    return f"{character} ({name}{f', try {near!r}' if near else ''})"


def _near(character: str, known: set[str]) -> str:
    """What the alphabet has instead: the letter without its marks, or a plain apostrophe, dash or blank."""
    bare = "".join(one for one in unicodedata.normalize("NFKD", character) if not unicodedata.combining(one)).lower()
    if bare != character and bare and known.issuperset(bare):
        return bare
    plain = {"’": "'", "‘": "'", "`": "'", "–": "-", "—": "-", "“": '"', "”": '"'}.get(character, "")
    if plain and plain in known:
        return plain
    return " " if unicodedata.category(character)[0] in "PZ" and " " in known else ""
