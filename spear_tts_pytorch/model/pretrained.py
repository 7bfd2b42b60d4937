"""Models on disk: a folder with `model.safetensors` and `config.json`, the Hub, and checkpoints of releases up to 0.4.8.

`PretrainedMixin` gives a module `save_pretrained`, `from_pretrained`, `push_to_hub` and `load`. It asks the module for
`arguments` (what its constructor was given), `tokenizer_encode` and `wav2vec`. Nothing is unpickled but tensors and numbers.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spear_tts_pytorch.utils.distributed import sharded_like
from spear_tts_pytorch.utils.restricted import load_tensors
from spear_tts_pytorch.version import __version__

WEIGHTS, CONFIG, SEMANTIC_TOKENIZER = "model.safetensors", "config.json", "semantic_tokenizer"

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
# what older files hold twice, hold although it is computed, or should not have held
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


class PretrainedMixin(
    ModelHubMixin,
    library_name="spear-tts-pytorch",
    license="mit",
    tags=["text-to-speech", "spear-tts"],
    paper_url="https://arxiv.org/abs/2302.03540",
):
    """Saving and loading for `TextToSemantic`."""

    def _save_pretrained(self, save_directory: Path) -> None:
        self.write_pretrained(save_directory, self.state_dict())

    def write_pretrained(self, save_directory: str | Path, weights: dict[str, Tensor]) -> None:
        """What `save_pretrained` writes but for the model card, with weights from elsewhere, as sharded training needs."""
        folder = Path(save_directory)
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS)
        config = {"library_version": __version__, "arguments": self.arguments, "text_tokenizer": None}
        if hasattr(self.tokenizer_encode, "to_dict"):
            config["text_tokenizer"] = self.tokenizer_encode.to_dict()
        if hasattr(self.wav2vec, "save"):
            self.wav2vec.save(folder / SEMANTIC_TOKENIZER)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any):
        """The model saved in a folder or on the Hub, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder written by `save_pretrained`, or a Hub id such as "someone/model".
            kwargs: huggingface_hub's (`revision`, `token`, `cache_dir`, ...), or constructor arguments to replace.

        Raises:
            FileNotFoundError: there is no such folder, or it is not a model's.
            ValueError: damaged files, or a model of a newer release.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if not folder.is_dir() and (folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~"))):
            raise FileNotFoundError(f"no model folder {name!r}: give a folder written by save_pretrained, or a Hub id")
        if folder.is_dir():
            _read_config(folder)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, token: str | bool | None = None, **kwargs: Any):
        for retired in ("proxies", "resume_download"):  # passed on by huggingface_hub before 1.0
            kwargs.pop(retired, None)
        hub = {k: kwargs.pop(k) for k in ("revision", "cache_dir", "force_download", "local_files_only")}
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(snapshot_download(model_id, token=token, **hub))
        config = _read_config(folder)
        arguments = {**config["arguments"], **_tokenizers(folder, config), **kwargs}
        known = set(inspect.signature(cls.__init__).parameters)
        if set(kwargs) - known:
            raise TypeError(f"from_pretrained has no argument {sorted(set(kwargs) - known)[0]!r}")
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise ValueError(
                f"{folder} was written by release {config.get('library_version')}, whose {unknown[0]} this one does not "
                "know: upgrade spear-tts-pytorch"
            )
        model = cls(**arguments)
        model.load_weights(_read_weights(folder / WEIGHTS)["model"], source=str(folder))
        return model.eval()

    def load(self, path: str | Path, strict: bool = True) -> dict[str, Any]:
        """Loads weights from a model folder, a `.safetensors` file, or a `.pt` file of a release up to 0.4.8.

        Returns what the `.pt` file held (`model`, and in a trainer's file `optim` and `scheduler`), or `{"model": ...}`.

        Raises:
            FileNotFoundError: nothing at `path`.
            ValueError: the file holds no model, or one of another architecture (the message lists keys and shapes).
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"path {path} does not exist")
        if path.is_dir():
            path = path / WEIGHTS
        package = _read_weights(path)
        if isinstance(package, dict) and package and all(isinstance(value, Tensor) for value in package.values()):
            package = {"model": package}  # a bare state dict
        if not isinstance(package, dict) or not isinstance(package.get("model"), dict):
            raise ValueError(f"{path} holds no model: expected a dictionary with the key 'model', got {_kind(package)}")
        self.load_weights(package["model"], source=str(path), strict=strict)
        return package

    def load_weights(self, state: dict[str, Tensor], source: str, strict: bool = True) -> None:
        """Loads a state dict, of this or an older release; a mismatch is a ValueError that says what differs."""
        state = dict(state)
        rename_old_keys(state)
        own = self.state_dict()
        problems = [f"missing {key}" for key in own if key not in state] if strict else []
        problems += [f"unexpected {key}" for key in state if key not in own] if strict else []
        for key in own.keys() & state.keys():
            if own[key].shape != state[key].shape:
                problems.append(f"{key} is {list(state[key].shape)} there and {list(own[key].shape)} here")
        if problems:
            shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise ValueError(f"{source} holds a model of another architecture: {shown}")
        state = {key: sharded_like(value, own[key]) if key in own else value for key, value in state.items()}
        self.load_state_dict(state, strict=strict)


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
    """What a file of weights holds, the state dict under "model"; unpickles nothing but tensors and numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return {"model": load_file(path)}
        return load_tensors(path)
    except (SafetensorError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"{path} is damaged or no file of weights ({reason}): copy or save it again") from error


def _kind(package: Any) -> str:
    if isinstance(package, Tensor):
        return f"a tensor of shape {list(package.shape)} (a pseudo-labelled pair, perhaps)"
    return f"keys {sorted(map(str, package))[:5]}" if isinstance(package, dict) else type(package).__name__


def _tokenizers(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The tokenizers saved beside a model, as constructor arguments."""
    found: dict[str, Any] = {}
    if config.get("text_tokenizer") is not None:
        from spear_tts_pytorch.tokenizers.text import tokenizer_from_dict

        found["tokenizer_encode"] = tokenizer_from_dict(config["text_tokenizer"])
    if (folder / SEMANTIC_TOKENIZER).is_dir():
        from spear_tts_pytorch.tokenizers.semantic import load_semantic_tokenizer

        found["wav2vec"] = load_semantic_tokenizer(folder / SEMANTIC_TOKENIZER)
    return found
