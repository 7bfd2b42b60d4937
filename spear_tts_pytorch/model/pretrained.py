"""Models on disk: a folder with `model.safetensors` and `config.json`, the Hub, and checkpoints of releases up to 0.4.8.

In: a model, or a folder's name. Out: files, constructor arguments and weights. Nothing is unpickled but tensors and numbers.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import huggingface_hub
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from spear_tts_pytorch.model.config import check_saved
from spear_tts_pytorch.model.saving import CONFIG, FORMAT_VERSION, SEMANTIC_TOKENIZER, WEIGHTS, Saved
from spear_tts_pytorch.tokenizers import load_semantic_tokenizer, tokenizer_from_dict
from spear_tts_pytorch.utils.distributed import sharded_like
from spear_tts_pytorch.utils.files import recover_folder
from spear_tts_pytorch.utils.json_files import REQUIRED, field, read_object
from spear_tts_pytorch.utils.replacing import whole
from spear_tts_pytorch.utils.restricted import load_tensors
from spear_tts_pytorch.utils.values import given_path
from spear_tts_pytorch.utils.weight_files import read_shapes, shape_problems, shown

LEAST_TENSORS = 7  # of a layer
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


class Pretrained(Saved, Protocol):
    """A model that is saved and loaded."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> object: ...


def model_folder(name: str | Path, hub: Mapping[str, Any]) -> Path:
    """The folder of a saved model; one on the Hub is downloaded to the cache.

    Args:
        name: a folder written by `save_pretrained`, or a Hub id such as "someone/model".
        hub: keywords of huggingface_hub: `revision`, `token`, `cache_dir`, ...

    Raises:
        FileNotFoundError: there is no such folder, or it is not a model's.
    """
    folder = given_path("pretrained_model_name_or_path", name, also=" or a Hub id")
    name = str(name)
    recover_folder(folder)
    if folder.is_dir():
        return whole(folder, CONFIG)
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
    if set(changes) - set(known):
        raise TypeError(f"from_pretrained has no argument {sorted(set(changes) - set(known))[0]!r}")
    config = _read_config(folder, known)
    return {**config["arguments"], **_tokenizers(folder, config, changes), **changes}


def check_sizes(folder: Path, model_class: type[nn.Module], arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of a model whose sizes are those of the weights in its folder. Takes no memory for the model.

    Args:
        model_class: `TextToSemantic`; it is built without memory for its weights.
        arguments: of its constructor.

    Raises:
        ValueError: names or shapes differ, or a damaged file of weights.
    """
    shapes: dict[str, Any] = dict(read_shapes(folder / WEIGHTS))
    rename_old_keys(shapes)
    depth = arguments["source_depth"] + arguments["target_depth"]
    if depth * LEAST_TENSORS > len(shapes):
        problems = [f"{len(shapes)} tensors there are too few for {depth} layers here"]
    else:
        try:
            with torch.device("meta"):
                own = inspect.signature(model_class.__init__).parameters  # a subclass may take others
                model = model_class(**{name: value for name, value in arguments.items() if name in own})
        except ValueError as error:
            raise ValueError(f"{folder / CONFIG}, with the arguments given, describes no model: {error}") from error
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise ValueError(f"{folder / CONFIG} gives sizes that no model can have: save the model again") from error
        here = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        problems = shape_problems(shapes, here, strict=False)
        numbers, there = sum(map(math.prod, here.values())), sum(map(math.prod, shapes.values()))
        if not problems and numbers > 2 * there + 2**20:
            problems = [f"{there} numbers there are too few for {numbers} here"]
    if problems:
        raise ValueError(f"{folder} holds a model of another architecture: {shown(problems)}")
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
    path = given_path("path", path)
    if not path.exists():
        raise FileNotFoundError(f"path {path} does not exist")
    if path.is_dir():
        path = whole(path, CONFIG) / WEIGHTS
    package = read_package(path)
    load_weights(model, package["model"], source=str(path), strict=strict)
    return package


def read_package(path: Path) -> dict[str, Any]:
    """The contents of a file of weights: `{"model": tensors by name}`, and in a trainer's file `optim` and `scheduler`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no model.
    """
    found = _read_weights(path)
    package = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if package and all(isinstance(value, Tensor) for value in package.values()):
        package = {"model": package}  # a bare state dict
    state: Any = package.get("model")
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no model: expected a dictionary with the key 'model', got {_kind(found)}")
    for key, value in cast("dict[Any, Any]", state).items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{path} holds no model: expected tensors by name, got a {type(value).__name__} under {key!r:.60}"
            )
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
    state = _without_prefix(state, own)
    there = {key: value.shape for key, value in state.items()}
    problems = shape_problems(there, {key: value.shape for key, value in own.items()}, strict)
    for key in own.keys() & state.keys():
        if state[key].is_floating_point() != own[key].is_floating_point():
            problems.append(f"{key} is of {state[key].dtype} there and of {own[key].dtype} here")
    if problems:
        raise ValueError(f"{source} holds a model of another architecture: {shown(problems)}")
    state = {key: sharded_like(value, own[key]) if key in own else value for key, value in state.items()}
    model.load_state_dict(state, strict=strict)


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model that was wrapped (compiled, in parallel or in a trainer), under the names of the model itself."""
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}  # of torch.compile, at any depth
    while state and not state.keys() & own.keys():
        prefixes = {key.split(".", 1)[0] for key in state if "." in key}
        if len(prefixes) != 1 or not all("." in key for key in state):
            break
        state = {key.split(".", 1)[1]: value for key, value in state.items()}
        rename_old_keys(state)
    return state


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict in a model folder.

    Raises:
        ValueError: a damaged file.
    """
    return _read_weights(folder / WEIGHTS)["model"]


def _read_config(folder: Path, known: Collection[str]) -> dict[str, Any]:
    """The configuration in a model folder, which must have weights too, with its fields checked."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            inside = f"; did you mean {folder / 'model'}?" if (folder / "model" / name).is_file() else ""
            raise FileNotFoundError(
                f"{folder} is not a model folder, as save_pretrained writes them: it has no {name}{inside}"
            )
    remedy = "save the model again"
    config = read_object(folder / CONFIG, "the configuration of a model", remedy)
    try:
        arguments: dict[str, Any] = field(config, "arguments", dict)
        version: str = field(config, "library_version", str, "unknown")
        complete = field(config, "format_version", int, 1) == FORMAT_VERSION
        field(config, "text_tokenizer", (dict, type(None)), REQUIRED if complete else None)
        field(config, "semantic_tokenizer", bool, REQUIRED if complete else None)
        unknown = sorted(set(arguments) - set(known))
        if not unknown:
            check_saved(arguments, complete)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is not the configuration of a model ({error}): {remedy}") from error
    if unknown:
        raise ValueError(
            f"{folder} was written by release {version[:20]}, whose {unknown[0][:60]} this one does not know: upgrade "
            "spear-tts-pytorch"
        )
    return config


def _read_weights(path: Path) -> Any:
    """The contents of a file of weights, the state dict under "model"; unpickles nothing but tensors and numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            read_shapes(path)
            return {"model": safetensors.torch.load_file(path)}
        return load_tensors(path)
    except PermissionError:
        raise
    except (SafetensorError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} is damaged or no file of weights ({reason}): copy or save it again") from error


def _kind(package: Any) -> str:
    if isinstance(package, Tensor):
        return f"a tensor of shape {list(package.shape)} (a pseudo-labelled pair, perhaps)"
    if isinstance(package, dict):
        return f"keys {sorted(map(str, cast('dict[Any, Any]', package)))[:5]}"
    return type(package).__name__


def _tokenizers(folder: Path, config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizers saved beside a model, as constructor arguments, but for those that are replaced."""
    found: dict[str, Any] = {}
    if config.get("text_tokenizer") is not None and "tokenizer_encode" not in changes:
        try:
            found["tokenizer_encode"] = tokenizer_from_dict(config["text_tokenizer"])
        except ValueError as error:
            raise ValueError(
                f"{folder / CONFIG} holds a text_tokenizer that cannot be used ({error}): save the model again, or pass "
                "tokenizer_encode"
            ) from error
    saved = folder / SEMANTIC_TOKENIZER
    if config.get("semantic_tokenizer", saved.is_dir()) and "wav2vec" not in changes:
        found["wav2vec"] = load_semantic_tokenizer(saved)
    return found
