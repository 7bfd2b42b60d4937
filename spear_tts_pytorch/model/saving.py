"""Writes a model into a folder: weights, configuration and tokenizers, all of them or none.

In: a model, its weights by name, the folder. Out: `model.safetensors`, `config.json` and, for a tokenizer of waveforms that
can be saved, `semantic_tokenizer/`. A model that was in the folder stays whole until the new one takes its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spear_tts_pytorch.model.config import ModelConfig
from spear_tts_pytorch.utils.files import (
    beside,
    exchange,
    recover_folder,
    remove,
    sync_tree,
    whole_folder,
    with_usual_mode,
)
from spear_tts_pytorch.version import __version__

WEIGHTS, CONFIG, SEMANTIC_TOKENIZER, CARD = "model.safetensors", "config.json", "semantic_tokenizer", "README.md"
_OWN = (WEIGHTS, SEMANTIC_TOKENIZER, CARD, CONFIG)  # in the order in which they take their places
_STAGE = "pretrained"  # temporary folders inside a folder of other files are named after this


class Saved(Protocol):
    """A model that is saved."""

    config: ModelConfig
    tokenizer_encode: Any
    wav2vec: Any

    @property
    def arguments(self) -> dict[str, Any]: ...


def write_pretrained(model: Saved, save_directory: str | Path, weights: dict[str, Tensor]) -> None:
    """Writes what `save_pretrained` writes but for the model card, with weights from elsewhere, as sharded training needs."""
    with replaced(save_directory) as folder:
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
    config: dict[str, Any] = {"library_version": __version__, "arguments": model.arguments, "text_tokenizer": None}
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


@contextlib.contextmanager
def replaced(save_directory: str | Path) -> Generator[Path]:
    """Yields a folder to write a model into. At the end its files take the place of the model at `save_directory`.

    The folder is swapped in one step if it holds a model alone. Beside other files, which stay, the files of the model
    are renamed one after the other; a file of the former model that the new one lacks is removed.

    Raises:
        NotADirectoryError: there is a file at `save_directory`.
    """
    target = Path(save_directory).resolve()  # a link to a folder stays a link
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"save_directory {save_directory} is a file: choose another")
    names = {path.name for path in target.iterdir()} if target.is_dir() else set[str]()
    if target.is_dir() and not names:
        yield target
    elif names <= set(_OWN) and _can_move(target):
        with whole_folder(target, replace=True) as folder:
            if (target / CARD).is_file():
                shutil.copyfile(target / CARD, folder / CARD)
            yield folder
    else:
        recover_folder(target / _STAGE)
        stage = beside(target / _STAGE)
        stage.mkdir()
        try:
            if (target / CARD).is_file():
                shutil.copyfile(target / CARD, stage / CARD)
            yield stage
            sync_tree(stage)
            for name in _OWN:
                _put(stage / name, target / name)
        finally:
            remove(stage)


def split_options(options: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `save_pretrained` for files, and those for a push to the Hub, which are empty without a push."""
    files = {key: options.pop(key) for key in ("config", "model_card_kwargs") if key in options}
    push, repo_id = options.pop("push_to_hub", False), options.pop("repo_id", None)
    return files, {"repo_id": repo_id or name, **options} if push else {}


def _can_move(folder: Path) -> bool:
    """Whether another folder may take the place of this one: nothing is mounted there, and no program is at work in it."""
    here = Path.cwd()
    inside = folder == here or folder in here.parents
    parent = next(path for path in folder.parents if path.is_dir())
    return not inside and not os.path.ismount(folder) and os.access(parent, os.W_OK)


def _put(new: Path, old: Path) -> None:
    """Moves a file or folder to the place of a former one, or removes that one if there is none new."""
    if not new.exists():
        if old.exists() or old.is_symlink():
            old.rename(beside(new, "old"))  # in the stage, which is removed
    elif new.is_file() or not (old.exists() and exchange(new, old)):
        if new.is_dir() and old.exists():
            old.rename(beside(new, "old"))
        os.replace(new, old)
