"""Writes a model into a folder: weights, configuration and tokenizers, all of them or none.

In: a model, its weights by name, the folder. Out: `model.safetensors`, `config.json` and, for a tokenizer of waveforms that
can be saved, `semantic_tokenizer/`. A model that was in the folder stays whole until the new one takes its place.
"""

from __future__ import annotations

import json
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spear_tts_pytorch.model.config import ModelConfig
from spear_tts_pytorch.utils.files import remove, with_usual_mode
from spear_tts_pytorch.utils.replacing import replaced
from spear_tts_pytorch.version import __version__

WEIGHTS, CONFIG, SEMANTIC_TOKENIZER, CARD = "model.safetensors", "config.json", "semantic_tokenizer", "README.md"
FORMAT_VERSION = 2  # of config.json; 1 is release 0.5.0, which had no such field. Add one with each new field.
NAMES = (CONFIG, WEIGHTS, SEMANTIC_TOKENIZER, CARD)


class Saved(Protocol):
    """A model that is saved."""

    config: ModelConfig
    tokenizer_encode: Any
    wav2vec: Any

    @property
    def arguments(self) -> dict[str, Any]: ...


def write_pretrained(model: Saved, save_directory: str | Path, weights: dict[str, Tensor]) -> None:
    """Writes what `save_pretrained` writes but for the model card, with weights from elsewhere, as sharded training needs."""
    with replaced_model(save_directory) as folder:
        write_files(model, folder, weights)


def write_files(model: Saved, folder: Path, weights: dict[str, Tensor]) -> None:
    """Writes the files of a model into a folder without one.

    Warns of tokenizers that cannot be saved.

    Raises:
        OSError: a file cannot be written, for example on a full disk.
    """
    contiguous = {key: value.contiguous() for key, value in weights.items()}
    try:
        safetensors.torch.save_file(contiguous, folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS} cannot be written ({error}): make room, or choose another folder") from error
    config: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "arguments": model.arguments,
        "text_tokenizer": None,
    }
    text = model.tokenizer_encode
    if hasattr(text, "to_dict"):
        config["text_tokenizer"] = text.to_dict()
    elif text is not None and not model.arguments.get("use_openai_tokenizer"):
        _warn("tokenizer_encode", text, "to_dict()")
    config["semantic_tokenizer"] = _save_semantic_tokenizer(model.wav2vec, folder / SEMANTIC_TOKENIZER)
    with_usual_mode(folder)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_semantic_tokenizer(tokenizer: Any, folder: Path) -> bool:
    """Saves a tokenizer of waveforms, and says whether there is one that was saved."""
    if tokenizer is None:
        return False
    if not hasattr(tokenizer, "save"):
        _warn("wav2vec", tokenizer, "save(folder)")
        return False
    try:
        tokenizer.save(folder)
    except TypeError as error:  # a tokenizer within it has no `save`
        remove(folder)
        _warn("wav2vec", tokenizer, f"save(folder) ({error})")
        return False
    return True


def _warn(argument: str, tokenizer: object, method: str) -> None:
    kind = getattr(tokenizer, "__name__", type(tokenizer).__name__)
    warnings.warn(
        f"{argument}, {kind}, is not saved with the model, because it has no {method}: pass {argument} to from_pretrained, "
        "too",
        stacklevel=3,
    )


def replaced_model(save_directory: str | Path) -> AbstractContextManager[Path]:
    """A folder to write a model into. At the end its files take the place of the model at `save_directory`.

    An edited model card stays, and so do files that are none of a model's. See `utils.replacing.replaced`.
    """
    return replaced(save_directory, NAMES, keep=(CARD,))


def split_options(options: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `save_pretrained` for files, and those for a push to the Hub, which are empty without a push."""
    files = {key: options.pop(key) for key in ("config", "model_card_kwargs") if key in options}
    push, repo_id = options.pop("push_to_hub", False), options.pop("repo_id", None)
    return files, {"repo_id": repo_id or name, **options} if push else {}
