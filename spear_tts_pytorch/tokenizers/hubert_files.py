"""Opens encoders of `transformers`: HuBERT, WavLM and wav2vec 2.0, from files, folders or the Hub.

In: a path or a Hub id. Out: a model, and whether it needs waveforms of mean 0 and variance 1. No code that comes with the
files is run, and nothing is asked on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch

from spear_tts_pytorch.tokenizers.fairseq_hubert import LEAST_TENSORS, MOST_LAYERS, read_fairseq_hubert
from spear_tts_pytorch.utils.json_files import field, read_object
from spear_tts_pytorch.utils.restricted import RefusedError, load_tensors, without_advice
from spear_tts_pytorch.utils.weight_files import Shapes, read_shapes

NO_CODE = {"trust_remote_code": False}  # the default of transformers asks on the terminal
MOST_SIZE = 2**20


def read_model(path: str) -> tuple[Any, bool]:
    """The model at a fairseq file, a folder or a Hub id, and whether it needs waveforms of mean 0 and variance 1.

    Raises:
        ImportError: transformers is missing.
        FileNotFoundError: there is no such file or folder.
        ValueError: the files are damaged, hold code, or are of another kind of model.
    """
    try:
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
    except ImportError as error:
        raise ImportError('HubertWithKmeans needs transformers: pip install "spear-tts-pytorch[hubert]"') from error
    if Path(path).is_file():
        return read_fairseq_hubert(path)
    if not Path(path).is_dir() and (path.count("/") != 1 or path.startswith((".", "/", "~"))):
        raise FileNotFoundError(f"checkpoint_path {path!r} is no file, no folder and no Hub id")
    folder = Path(path)
    if folder.is_dir():
        _check_config(folder / "config.json")
        if (folder / "adapter_config.json").exists():  # names another model, which would be loaded instead
            raise ValueError(f"checkpoint_path {path!r} holds an adapter: merge it into its model and give that folder")
    try:
        config = cast(Any, AutoConfig).from_pretrained(path, **NO_CODE)
        _check_kind(config)
        if folder.is_dir():
            _check_sizes(config, _shapes(folder))
        loaded: Any = cast(Any, AutoModel).from_pretrained(path, weights_only=True, output_loading_info=True, **NO_CODE)
        model: Any = loaded[0].float()
        _check_whole(loaded[1]["missing_keys"])
        normalize: bool = config.feat_extract_norm == "layer"
        if not folder.is_dir():
            normalize = cast(Any, AutoFeatureExtractor).from_pretrained(path, **NO_CODE).do_normalize
    except (RefusedError, PermissionError):
        raise
    except Exception as error:  # transformers raises errors of many types for what it cannot build
        raise ValueError(
            f"checkpoint_path {path!r} cannot be loaded by transformers: {without_advice(error)}"
        ) from error
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        remedy = "copy the folder again"
        found = read_object(preprocessor, "a preprocessor configuration", remedy)
        try:
            normalize = field(found, "do_normalize", bool, normalize)
        except ValueError as error:
            raise ValueError(f"{preprocessor} is not a preprocessor configuration ({error}): {remedy}") from error
    return model.eval(), bool(normalize)


def _check_config(path: Path) -> None:
    """Checks the numbers in the configuration of an encoder; raises ValueError."""
    remedy = "copy the folder again"
    config = read_object(path, "the configuration of a model of transformers", remedy)
    for name, value in config.items():
        numbers = cast("list[object]", value) if isinstance(value, list) else [value]
        if any(isinstance(number, (int, float)) and abs(number) > MOST_SIZE for number in numbers):
            raise ValueError(f"{path} holds a {name} of more than {MOST_SIZE}: {remedy}")


def _check_kind(config: Any) -> None:
    """Raises ValueError for a model that takes no waveforms, or that needs code from elsewhere."""
    if not hasattr(type(config)(), "conv_stride"):  # a file may give any configuration this field
        raise ValueError(f"it is a {config.model_type}, which takes no waveforms")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("it is quantized, which needs another library: give the model as it was before")
    attention: Any = getattr(config, "_attn_implementation", None)
    if attention not in (None, "eager", "sdpa"):  # others may be downloaded and run
        raise ValueError(f"it asks for the attention {attention!r}: remove attn_implementation from its config.json")
    if len(config.conv_stride) > MOST_LAYERS:
        raise ValueError(f"it has {len(config.conv_stride)} convolutions, more than {MOST_LAYERS}")
    for name in ("conv_dim", "conv_kernel", "conv_stride"):
        if not all(type(number) is int and number > 0 for number in getattr(config, name)):
            raise ValueError(f"{name} must be integers of 1 or more, got {getattr(config, name)}")


def _check_whole(missing: Iterable[str]) -> None:
    """Raises ValueError if weights are missing; transformers draws them at random."""
    # Only pretraining uses the first; the second has had several names.
    names = sorted(name for name in missing if name != "masked_spec_embed" and "pos_conv_embed" not in name)
    if names:
        raise ValueError(f"its weights lack {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))


def _shapes(folder: Path) -> Shapes:
    """The shapes of the weights in a folder.

    Raises:
        RefusedError: pickled weights that hold code.
        ValueError: damaged weights, or none.
    """
    paths = sorted(folder.glob("model*.safetensors"))  # transformers prefers these
    if paths:
        return {name: shape for path in paths for name, shape in read_shapes(path).items()}
    found: Shapes = {}
    for path in sorted(folder.glob("pytorch_model*.bin")):
        weights: Any = load_tensors(path)
        if isinstance(weights, dict):
            tensors = cast("dict[str, Any]", weights)
            found |= {name: tuple(value.shape) for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return found


def _check_sizes(config: Any, shapes: Shapes) -> None:
    """Raises ValueError if a model of this configuration is larger than the weights. Takes no memory for the model."""
    from transformers import AutoModel

    options = cast("dict[str, object]", vars(config))
    layers = [value for name, value in options.items() if name.endswith("layers") and isinstance(value, int)]
    if max(len(config.conv_stride), LEAST_TENSORS * config.num_hidden_layers, *layers) > len(shapes):
        raise ValueError(f"its {len(shapes)} tensors are too few for {config.num_hidden_layers} layers")
    with torch.device("meta"):
        model: Any = cast(Any, AutoModel).from_config(config, **NO_CODE)
    expected = sum(value.numel() for value in model.state_dict().values())
    there = sum(torch.Size(shape).numel() for shape in shapes.values())
    if expected > 2 * there + 2**20:
        raise ValueError(f"its configuration asks for {expected} numbers, its weights are {there}")
