"""Models on disk: a folder with `model.safetensors` and `config.json`, the Hub, and checkpoints of releases up to 0.4.8.

In: a model, or a folder's name. Out: files, constructor arguments and weights. Nothing is unpickled but tensors and numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import huggingface_hub
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from spear_tts_pytorch.model.config import ModelConfig
from spear_tts_pytorch.tokenizers import load_semantic_tokenizer, tokenizer_from_dict
from spear_tts_pytorch.utils.distributed import sharded_like
from spear_tts_pytorch.utils.restricted import load_tensors
from spear_tts_pytorch.version import __version__

WEIGHTS, CONFIG, SEMANTIC_TOKENIZER = "model.safetensors", "config.json", "semantic_tokenizer"
HUB_KEYWORDS = ("revision", "token", "cache_dir", "force_download", "local_files_only")

# parameter names up to 0.4.8, which had one list of [self-attention, cross-attention, feedforward] per layer
_RENAMES = [
    (r"(source|target)_transformer\.layers\.(\d+)\.0\.", r"\1_transformer.layers.\2.attention."),
    (r"(source|target)_transformer\.layers\.(\d+)\.1\.", r"\1_transformer.layers.\2.cross_attention."),
    (r"(source|target)_transformer\.layers\.(\d+)\.2\.0\.", r"\1_transformer.layers.\2.feed_forward.norm."),
    (r"(source|target)_transformer\.layers\.(\d+)\.2\.1\.", r"\1_transformer.layers.\2.feed_forward.to_inner."),
    (r"(source|target)_transformer\.layers\.(\d+)\.2\.4\.", r"\1_transformer.layers.\2.feed_forward.to_out."),
    (r"\.to_q\.0\.", ".to_q."),
    (r"\.to_kv\.0\.", ".to_kv."),
    (r"to_early_exit_semantic_logits\.0\.fn\.0\.", "early_exit.feed_forward.norm."),
    (r"to_early_exit_semantic_logits\.0\.fn\.1\.", "early_exit.feed_forward.to_inner."),
    (r"to_early_exit_semantic_logits\.0\.fn\.4\.", "early_exit.feed_forward.to_out."),
    (r"to_early_exit_semantic_logits\.1\.", "early_exit.norm."),
    (r"to_early_exit_semantic_logits\.2\.", "early_exit.to_logits."),
]
# keys of older files that stand there twice, that are computed, or that belong to the speech tokenizer
_DROPPED = re.compile(r"^(semantic_token_emb\.|to_logits\.|wav2vec\.)|rotary_emb\.|\.attend\.mask$")


def rename_old_keys(state: dict[str, Any], prefix: str = "") -> None:
    """Renames, in place, the keys of a state dict written by a release up to 0.4.8; `prefix` is where the model lies in it."""
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        if _DROPPED.search(name):
            del state[key]
            continue
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        if prefix + name != key:
            state[prefix + name] = state.pop(key)


class Pretrained(Protocol):
    """A model that is saved and loaded."""

    config: ModelConfig
    tokenizer_encode: Any
    wav2vec: Any

    @property
    def arguments(self) -> dict[str, Any]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> object: ...


def write_pretrained(model: Pretrained, save_directory: str | Path, weights: dict[str, Tensor]) -> None:
    """Writes what `save_pretrained` writes but for the model card, with weights from elsewhere, as sharded training needs."""
    folder = Path(save_directory)
    safetensors.torch.save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS)
    config: dict[str, Any] = {"library_version": __version__, "arguments": model.arguments, "text_tokenizer": None}
    if hasattr(model.tokenizer_encode, "to_dict"):
        config["text_tokenizer"] = model.tokenizer_encode.to_dict()
    if hasattr(model.wav2vec, "save"):
        model.wav2vec.save(folder / SEMANTIC_TOKENIZER)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_folder(name: str, hub: Mapping[str, Any]) -> Path:
    """The folder of a saved model; one on the Hub is downloaded to the cache.

    Args:
        name: a folder written by `save_pretrained`, or a Hub id such as "someone/model".
        hub: keywords of huggingface_hub: `revision`, `token`, `cache_dir`, ...

    Raises:
        FileNotFoundError: there is no such folder, or it is not a model's.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no model folder {name!r}: give a folder written by save_pretrained, or a Hub id")
    return Path(cast(str, cast(Any, huggingface_hub).snapshot_download(name, **hub)))


def saved_arguments(folder: Path, changes: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The constructor's arguments of the model saved in a folder, tokenizers included, with some of them changed.

    Args:
        known: names of all arguments that the constructor takes.

    Raises:
        TypeError: `changes` has another name.
        ValueError: a damaged configuration, or one of a newer release.
        FileNotFoundError: the folder is not a model's.
    """
    config = _read_config(folder)
    if set(changes) - set(known):
        raise TypeError(f"from_pretrained has no argument {sorted(set(changes) - set(known))[0]!r}")
    arguments = {**config["arguments"], **_tokenizers(folder, config), **changes}
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(
            f"{folder} was written by release {config.get('library_version')}, whose {unknown[0]} this one does not "
            "know: upgrade spear-tts-pytorch"
        )
    return arguments


def load(model: Pretrained, path: str | Path, strict: bool = True) -> dict[str, Any]:
    """Loads weights from a model folder, a `.safetensors` file, or a `.pt` file of a release up to 0.4.8.

    Args:
        path: the folder or file.
        strict: False loads the weights that fit by name, and leaves the others.

    Returns:
        The contents of the `.pt` file (`model`, and in a trainer's file `optim` and `scheduler`), or `{"model": ...}`.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: the file holds no model, or one of another architecture (the message lists keys and shapes).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {path} does not exist")
    if path.is_dir():
        path = path / WEIGHTS
    found = _read_weights(path)
    package = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if package and all(isinstance(value, Tensor) for value in package.values()):
        package = {"model": package}  # a bare state dict
    if not isinstance(package.get("model"), dict):
        raise ValueError(f"{path} holds no model: expected a dictionary with the key 'model', got {_kind(found)}")
    load_weights(model, package["model"], source=str(path), strict=strict)
    return package


def load_weights(model: Pretrained, state: Mapping[str, Tensor], source: str, strict: bool = True) -> None:
    """Loads a state dict, of this or an older release.

    Args:
        source: where it is from, for errors.

    Raises:
        ValueError: keys or shapes differ; the message lists them.
    """
    state = dict(state)
    rename_old_keys(state)
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state] if strict else []
    problems += [f"unexpected {key}" for key in state if key not in own] if strict else []
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            problems.append(f"{key} is {list(state[key].shape)} there and {list(own[key].shape)} here")
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{source} holds a model of another architecture: {shown}")
    state = {key: sharded_like(value, own[key]) if key in own else value for key, value in state.items()}
    model.load_state_dict(state, strict=strict)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict in a model folder.

    Raises:
        ValueError: a damaged file.
    """
    return _read_weights(folder / WEIGHTS)["model"]


def _read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a model folder, which must have weights too."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            inside = f"; did you mean {folder / 'model'}?" if (folder / "model" / name).is_file() else ""
            raise FileNotFoundError(
                f"{folder} is not a model folder, as save_pretrained writes them: it has no {name}{inside}"
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        dict(config["arguments"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is not the configuration of a model: save the model again") from error
    return config


def _read_weights(path: Path) -> Any:
    """The contents of a file of weights, the state dict under "model"; unpickles nothing but tensors and numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return {"model": safetensors.torch.load_file(path)}
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} is damaged or no file of weights ({reason}): copy or save it again") from error


def _kind(package: Any) -> str:
    if isinstance(package, Tensor):
        return f"a tensor of shape {list(package.shape)} (a pseudo-labelled pair, perhaps)"
    if isinstance(package, dict):
        return f"keys {sorted(map(str, cast('dict[Any, Any]', package)))[:5]}"
    return type(package).__name__


def _tokenizers(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizers saved beside a model, as constructor arguments."""
    found: dict[str, Any] = {}
    if config.get("text_tokenizer") is not None:
        found["tokenizer_encode"] = tokenizer_from_dict(config["text_tokenizer"])
    if (folder / SEMANTIC_TOKENIZER).is_dir():
        found["wav2vec"] = load_semantic_tokenizer(folder / SEMANTIC_TOKENIZER)
    return found
