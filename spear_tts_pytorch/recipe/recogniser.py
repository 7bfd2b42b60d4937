"""A public speech recogniser that reads log-mel spectra: a judge that was trained by others, on other speech.

In: a folder of `transformers` or a Hub id of Whisper; log-mel spectra `[n, 80]` as `UnitToSpeech.log_mel` and `whisper_mel`
give them. Out: texts, without punctuation. No sound is made: nothing stands between the spectra and the recogniser.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.tokenizers.encoder_files import (
    NO_CODE,
    check_config,
    check_kind,
    check_sizes,
    check_whole,
    explained,
    folder_of,
    quiet,
)
from spear_tts_pytorch.tokenizers.text import normalize_text
from spear_tts_pytorch.tokenizers.whisper_mel import BANDS, MEL_HZ
from spear_tts_pytorch.utils.values import absolute_path, unicode_text, whole_number
from spear_tts_pytorch.utils.weight_files import read_shapes

TEXT_FILES = ("tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
FILES = (*TEXT_FILES, "generation_config.json", "normalizer.json")
MOST_A_SECOND, MOST_EVER = 40, 440  # tokens that are read: a recogniser that repeats itself is stopped
SHORTEST = 0.5  # seconds of the count of tokens


class Recogniser:
    """Whisper as a judge of spectra. Decoding is greedy.

    Args:
        path: a folder of `transformers` or a Hub id, with weights in safetensors. No code in it is run.
        language: such as "de" or "german", for multilingual models; "" lets the model guess it for each clip.
        alphabet: characters of the texts that are expected. Without a digit in it, numbers are written in words. "" allows
            everything.
        device: where it runs, such as "cuda"; None is the GPU if there is one.

    Attributes:
        path: of the model.
        bands: mel bands that it takes, 80.

    Raises:
        ImportError: transformers is missing.
        FileNotFoundError: there is no such folder, and the Hub cannot be reached.
        ValueError: damaged files, another kind of model, one that takes other spectra, or a language that it does not know.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        language: str = "",
        alphabet: str = "",
        device: str | torch.device | None = None,
    ):
        absolute_path("path", path)
        self.path, self.language = os.fspath(path), unicode_text("language", language)
        self.bands = BANDS
        self.model, self.tokenizer = _opened(self.path)
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._options = self._language_options()
        self._without = self._digits() if alphabet and not any(map(str.isdigit, alphabet)) else []

    def __repr__(self) -> str:
        return f"Recogniser({self.path!r}{f', {self.language}' if self.language else ''})"

    @torch.no_grad()
    def read(self, spectra: Sequence[Tensor], *, batch_size: int = 8, progress: bool = False) -> list[str]:
        """The texts in log-mel spectra.

        Args:
            spectra: `[n, 80]` each, 100 a second. Longer ones than the model hears, 30 s, are read in equal parts. An empty
                one has the text "".
            batch_size: parts that are read together.
            progress: shows a bar, on terminals.

        Returns:
            Texts as `spoken` gives them.

        Raises:
            ValueError: spectra of another shape.
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        longest = 2 * int(self.model.config.max_source_positions)
        parts: list[tuple[int, Tensor]] = []
        for index, mel in enumerate(spectra):
            if mel.ndim != 2 or mel.shape[1] != self.bands:
                raise ValueError(f"spectra must have the shape [n, {self.bands}], got {list(mel.shape)}")
            count = -(-len(mel) // longest)
            parts += [(index, part) for part in (mel.float().tensor_split(count) if count else ())]
        order = sorted(range(len(parts)), key=lambda place: -len(parts[place][1]))  # of a length together
        texts = [""] * len(parts)
        batches = range(0, len(order), batch_size)
        for begin in tqdm(batches, desc="recogniser", disable=None if progress else True, leave=False):
            places = order[begin : begin + batch_size]
            for place, text in zip(places, self._read([parts[place][1] for place in places], longest), strict=True):
                texts[place] = text
        found = [""] * len(spectra)
        for (index, _), text in zip(parts, texts, strict=True):
            found[index] = f"{found[index]} {spoken(text)}".strip()
        return found

    def _read(self, spectra: Sequence[Tensor], longest: int) -> list[str]:
        padded = [torch.cat([mel, mel.new_full((longest - len(mel), self.bands), float(mel.min()))]) for mel in spectra]
        seconds = max(SHORTEST, max(map(len, spectra)) / MEL_HZ)
        options: dict[str, Any] = dict(self._options)
        options["max_new_tokens"] = min(MOST_EVER, round(MOST_A_SECOND * seconds))
        if self._without:
            options["suppress_tokens"] = self._without
        with quiet():
            ids = self.model.generate(
                torch.stack(padded).transpose(1, 2).to(self.model.device), num_beams=1, do_sample=False, **options
            )
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _language_options(self) -> dict[str, str]:
        config: Any = self.model.generation_config
        many = bool(getattr(config, "is_multilingual", False))
        if not self.language or not many:
            if self.language and self.language.lower() not in ("en", "english"):
                raise ValueError(
                    f"{self.path} knows English only, not language={self.language!r}: name another recogniser"
                )
            return {"task": "transcribe"} if many else {}
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        code = TO_LANGUAGE_CODE.get(self.language.lower(), self.language.lower())
        known = cast("dict[str, int]", getattr(config, "lang_to_id", {}))
        if f"<|{code}|>" not in known:
            raise ValueError(f"{self.path} does not know language={self.language!r}: give a code such as 'de', or ''")
        return {"task": "transcribe", "language": code}

    def _digits(self) -> list[int]:
        """Ids of all tokens with a digit, and those that the model never says."""
        never = cast("list[int]", getattr(self.model.generation_config, "suppress_tokens", None) or [])
        special = set(cast("list[int]", self.tokenizer.all_special_ids))
        vocabulary = cast("dict[str, int]", self.tokenizer.get_vocab())
        found = {
            id_ for token, id_ in vocabulary.items() if any(map(str.isdigit, token)) and not token.startswith("<|")
        }
        return sorted((found - special) | set(never))


def spoken(text: str) -> str:
    """A text as `normalize_text` gives it, of which letters, their marks, digits and apostrophes are kept."""
    text = normalize_text(text.replace("\u2019", "'"))
    return " ".join(
        "".join(one if one == "'" or unicodedata.category(one)[0] in "LMN" else " " for one in text).split()
    )


def _opened(path: str) -> tuple[Any, Any]:
    """Whisper and its tokenizer of text."""
    try:
        import transformers
        from transformers import AutoConfig, WhisperForConditionalGeneration
    except ImportError as error:
        raise ImportError('a recogniser needs transformers: pip install "spear-tts-pytorch[hubert]"') from error
    folder = folder_of(path, "recogniser", FILES)
    check_config(folder / "config.json")
    shapes = _shapes(folder, path)
    with explained("recogniser", path):
        config: Any = cast(Any, AutoConfig).from_pretrained(folder, **NO_CODE)
        check_kind(config, ("whisper",))
        if config.num_mel_bins != BANDS:
            raise ValueError(
                f"it takes {config.num_mel_bins} mel bands, not {BANDS}: take Whisper large-v2 or a smaller one"
            )
        make: Any = WhisperForConditionalGeneration
        check_sizes(config, shapes, make)
        options = {"config": config, "use_safetensors": True, "output_loading_info": True}
        model, loaded = cast("tuple[Any, dict[str, list[str]]]", make.from_pretrained(folder, **options))
        check_whole(name for name in loaded["missing_keys"] if name != "proj_out.weight")  # it is the embedding
        tokenizer: Any = cast(Any, transformers).WhisperTokenizerFast.from_pretrained(folder)
    return model.float().eval(), tokenizer


def _shapes(folder: Path, path: str) -> dict[str, tuple[int, ...]]:
    files: Iterable[Path] = sorted(folder.glob("model*.safetensors"))
    shapes = {name: shape for file in files for name, shape in read_shapes(file).items()}
    if not any("decoder." in name for name in shapes):
        raise ValueError(f"recogniser {path!r} holds no weights of a recogniser in safetensors: give a whole Whisper")
    return shapes
