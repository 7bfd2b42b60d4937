"""Opens speech encoders of `transformers` up to a layer, from folders, fairseq files or the Hub.

In: a path or a Hub id. Out: a model, and what its folder says of the audio that it takes. No code that comes with the files
is run, nothing is asked on the terminal, and no model is built that is larger than its weights.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from spear_tts_pytorch.tokenizers.fairseq_hubert import LEAST_TENSORS, MOST_LAYERS, read_fairseq_hubert
from spear_tts_pytorch.tokenizers.semantic import RATES
from spear_tts_pytorch.utils.files import with_usual_mode
from spear_tts_pytorch.utils.json_files import field, read_object
from spear_tts_pytorch.utils.restricted import RefusedError, load_tensors, without_advice
from spear_tts_pytorch.utils.values import shown
from spear_tts_pytorch.utils.weight_files import Shapes, read_shapes

NO_CODE = {"trust_remote_code": False}  # the default of transformers asks on the terminal
MOST_SIZE = 2**20
PREPROCESSOR = "preprocessor_config.json"
WAVEFORM_KINDS = ("hubert", "wavlm", "wav2vec2", "unispeech", "unispeech-sat")  # one architecture in many names
MEL_KINDS = ("wav2vec2-bert", "whisper")
REMEDY = "copy the folder again"
_FILES = ["config.json", PREPROCESSOR, "model*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class Opened:
    """An encoder as its files give it.

    Attributes:
        model: of `transformers`, in evaluation, with the layers 1 to `layer`.
        kind: its `model_type`, such as "hubert".
        layer: number of its last layer.
        depth: number of layers that the whole encoder has.
        sample_hz: rate of the audio that it was trained on.
        normalize: whether waveforms are brought to mean 0 and variance 1.
    """

    model: Any
    kind: str
    layer: int
    depth: int
    sample_hz: int
    normalize: bool


def open_encoder(
    path: str | os.PathLike[str],
    layer: int | None = None,
    *,
    name: str = "encoder",
    layer_name: str = "layer",
    kinds: tuple[str, ...] | None = WAVEFORM_KINDS + MEL_KINDS,
    depth: int | None = None,
) -> Opened:
    """Opens an encoder up to a layer.

    Args:
        path: a folder of `transformers`, a Hub id, or a fairseq file of HuBERT.
        layer: number of the last layer, from 1; None is half of all layers, rounded up.
        name, layer_name: of the arguments that are `path` and `layer`, for messages.
        kinds: the values of `model_type` that are taken; None takes all whose models hear waveforms.
        depth: layers of the whole encoder, if the folder holds a part of it; None: the folder holds all.

    Raises:
        ImportError: transformers is missing.
        FileNotFoundError: there is no such file or folder, or the Hub cannot be reached.
        ValueError: the files are damaged, hold code, or are of another kind of model; a layer that it does not have.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ImportError(f'{name} needs transformers: pip install "spear-tts-pytorch[hubert]"') from error
    path = os.fspath(path)
    if Path(path).is_file():
        model, normalize = read_fairseq_hubert(path)
        whole = model.config.num_hidden_layers
        layer = checked_layer(layer, whole, path, layer_name)
        _cut(model.config, "hubert", layer)
        model.encoder.layers = model.encoder.layers[:layer]
        remove_norm(unused_norm("hubert", model.config, is_last=layer == whole), model)
        return Opened(model, "hubert", layer, whole, 16000, normalize)
    folder = folder_of(path, name)
    check_config(folder / "config.json")
    if (folder / "adapter_config.json").exists():  # names another model, which would be loaded instead
        raise ValueError(f"{name} {path!r} holds an adapter: merge it into its model and give that folder")
    with explained(name, path):
        config: Any = cast(Any, AutoConfig).from_pretrained(folder, **NO_CODE)
        check_kind(config, kinds)
    whole = config.num_hidden_layers if depth is None else depth
    layer = checked_layer(layer, whole, path, layer_name)
    with explained(name, path):
        _cut(config, config.model_type, layer)
        model = _loaded(folder, config, is_last=layer == whole)
    return Opened(model, config.model_type, layer, whole, *_preprocessing(folder, config))


def checked_layer(layer: int | None, depth: int, path: object, name: str = "layer") -> int:
    """The number of a layer between 1 and `depth`; None is half of them, rounded up.

    Raises:
        ValueError: there is no such layer.
    """
    chosen = math.ceil(depth / 2) if layer is None else layer
    if not 1 <= chosen <= depth:
        raise ValueError(f"{name} must be between 1 and {depth}, the layers of {path}, got {layer}")
    return chosen


def unused_norm(kind: str, config: Any, is_last: bool) -> str:
    """Where in a model the norm after all layers stands, if `hidden_states[layer]` is without it; "" if there is none.

    Args:
        is_last: whether the layer is the last of the whole encoder. Only Whisper's norm belongs to that.
    """
    if kind == "whisper":
        return "" if is_last else "layer_norm"
    return "encoder.layer_norm" if getattr(config, "do_stable_layer_norm", False) else ""


def folder_of(path: str, name: str, files: Sequence[str] = ()) -> Path:
    """The folder at a path, or that of the downloaded files of a Hub id. `files` are patterns of further files."""
    if Path(path).is_dir():
        return Path(path)
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name} {path!r} is no file, no folder and no Hub id")
    import huggingface_hub

    download = cast("Callable[..., str]", huggingface_hub.snapshot_download)
    try:
        folder = Path(download(path, allow_patterns=[*_FILES, *files]))
        if not list(folder.glob("model*.safetensors")):
            folder = Path(download(path, allow_patterns=[*_FILES, *_PICKLED, *files]))
    except Exception as error:  # the Hub's client raises errors of many types
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"{name} {path!r} is no folder here and cannot be had from the Hub ({type(error).__name__}: {reason:.200}): "
            "check the name and the connection, or give a folder"
        ) from error
    return folder


def save_encoder(model: Any, folder: Path) -> None:
    """Writes a model of `transformers` into a new folder that all may read."""
    with quiet():
        model.save_pretrained(folder)
    with_usual_mode(folder)


@contextlib.contextmanager
def explained(name: str, path: str) -> Generator[None]:
    """Errors of `transformers` as one ValueError."""
    try:
        with quiet():
            yield
    except (RefusedError, PermissionError):
        raise
    except Exception as error:  # transformers raises errors of many types for what it cannot build
        raise ValueError(f"{name} {path!r} cannot be loaded by transformers: {without_advice(error)}") from error


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """No bars of `transformers`, and no remarks about weights that are left out on purpose."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _loaded(folder: Path, config: Any, is_last: bool) -> Any:
    """The model in a folder. `is_last`: whether its last layer is that of the whole encoder."""
    from transformers import AutoModel

    kind, shapes = config.model_type, _shapes(folder)
    make: Any = AutoModel
    if kind == "whisper":
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        if "conv1.weight" in shapes:  # an encoder that was saved without its decoder
            make = WhisperEncoder
    check_sizes(config, shapes, make)
    options = {"config": config, "weights_only": True, "output_loading_info": True}
    if make is AutoModel:
        options |= NO_CODE
    loaded = cast("tuple[Any, dict[str, list[str]]]", make.from_pretrained(folder, **options))
    model = loaded[0]
    left_out = unused_norm(kind, config, is_last)
    unneeded = (f"{left_out}.", f"encoder.{left_out}.") if left_out else ()
    if kind == "whisper":
        unneeded = (*unneeded, "decoder.")
    check_whole(name for name in loaded[1]["missing_keys"] if not name.startswith(unneeded))
    found: Any = model.encoder if kind == "whisper" and make is AutoModel else model
    remove_norm(left_out, found)
    return found.float().eval()


def remove_norm(norm: str, model: nn.Module) -> None:
    """Removes the norm at a place in a model, if it has one."""
    if norm:
        parent, _, attribute = norm.rpartition(".")
        setattr(model.get_submodule(parent), attribute, nn.Identity())


def _cut(config: Any, kind: str, layer: int) -> None:
    """Sets the number of layers, so that only these are built and read."""
    if kind == "whisper":
        config.encoder_layers, config.decoder_layers = layer, 0
    config.num_hidden_layers = layer


def check_config(path: Path) -> None:
    """Checks the numbers in the configuration of an encoder; raises ValueError."""
    config = read_object(path, "the configuration of a model of transformers", REMEDY)
    for name, value in config.items():
        numbers = cast("list[object]", value) if isinstance(value, list) else [value]
        if any(isinstance(number, (int, float)) and abs(number) > MOST_SIZE for number in numbers):
            raise ValueError(f"{path} holds a {name} of more than {MOST_SIZE}: {REMEDY}")


def check_kind(config: Any, kinds: tuple[str, ...] | None) -> None:
    """Raises ValueError for a model of another kind, or that needs code from elsewhere."""
    kind, hears = (
        config.model_type,
        hasattr(type(config)(), "conv_stride"),
    )  # a file may give any configuration this field
    if kinds is None and not hears:
        raise ValueError(f"it is a {kind}, which takes no waveforms")
    if kinds is not None and kind not in kinds:
        raise ValueError(f"it is a {kind}, known are {', '.join(kinds)}")
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("it is quantized, which needs another library: give the model as it was before")
    attention: Any = getattr(config, "_attn_implementation", None)
    if attention not in (None, "eager", "sdpa"):  # others may be downloaded and run
        raise ValueError(f"it asks for the attention {attention!r}: remove attn_implementation from its config.json")
    if not hears:
        return
    if len(config.conv_stride) > MOST_LAYERS:
        raise ValueError(f"it has {len(config.conv_stride)} convolutions, more than {MOST_LAYERS}")
    for name in ("conv_dim", "conv_kernel", "conv_stride"):
        if not all(type(number) is int and number > 0 for number in getattr(config, name)):
            raise ValueError(f"{name} must be integers of 1 or more, got {getattr(config, name)}")


def check_whole(missing: Iterable[str]) -> None:
    """Raises ValueError if weights are missing; transformers draws them at random."""
    # Only pretraining uses the first; the second has had several names.
    names = sorted(name for name in missing if name != "masked_spec_embed" and "pos_conv_embed" not in name)
    if names:
        raise ValueError(f"its weights lack {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))


def _preprocessing(folder: Path, config: Any) -> tuple[int, bool]:
    """The sampling rate that the folder names, and whether waveforms are brought to mean 0 and variance 1.

    Raises:
        ValueError: a damaged file; log-mel spectra that are computed otherwise than those of the published models.
    """
    path, kind = folder / PREPROCESSOR, config.model_type
    normalize = getattr(config, "feat_extract_norm", "") == "layer"
    if not path.is_file():
        return 16000, normalize
    found = read_object(path, "a preprocessor configuration", REMEDY)
    expected: dict[str, int] = {}
    if kind == "whisper":
        expected = {"sampling_rate": 16000, "feature_size": config.num_mel_bins, "hop_length": 160, "n_fft": 400}
    if kind == "wav2vec2-bert":
        expected = {"sampling_rate": 16000, "num_mel_bins": config.feature_projection_input_dim // 2, "stride": 2}
    try:
        normalize = field(found, "do_normalize", bool, normalize)
        rate = field(found, "sampling_rate", int, 16000)
        if rate not in RATES:
            raise ValueError(f"sampling_rate must be between {RATES[0]} and {RATES[-1]}, got {rate}")
        for name, value in expected.items():
            if found.get(name, value) != value:
                raise ValueError(f"{name} must be {value}, got {shown(found[name])}")
        if kind == "whisper" and field(found, "do_normalize", bool, False):
            raise ValueError("do_normalize must be false")
    except ValueError as error:
        raise ValueError(f"{path} is not a preprocessor configuration ({error}): {REMEDY}") from error
    return rate, normalize and kind not in MEL_KINDS


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


def check_sizes(config: Any, shapes: Shapes, make: Any) -> None:
    """Raises ValueError if a model of this configuration is larger than the weights. Takes no memory for the model."""
    options = cast("dict[str, object]", vars(config))
    layers = [value for name, value in options.items() if name.endswith("layers") and isinstance(value, int)]
    least = max(len(getattr(config, "conv_stride", ())), LEAST_TENSORS * config.num_hidden_layers, *layers)
    if least > len(shapes):
        raise ValueError(f"its {len(shapes)} tensors are too few for {config.num_hidden_layers} layers")
    with torch.device("meta"):
        model: Any = make.from_config(config, **NO_CODE) if hasattr(make, "from_config") else make(config)
    expected = sum(value.numel() for value in model.state_dict().values())
    there = sum(torch.Size(shape).numel() for shape in shapes.values())
    if expected > 2 * there + 2**20:
        raise ValueError(f"its configuration asks for {expected} numbers, its weights are {there}")
