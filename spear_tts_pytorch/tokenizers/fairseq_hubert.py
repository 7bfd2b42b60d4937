"""Reads published HuBERT files and k-means codebooks without the libraries that wrote them.

In: a fairseq checkpoint such as `hubert_base_ls960.pt`; a codebook from joblib, NumPy or safetensors. Out: the same
model in `transformers`, and centroids `[K, d]`. No code in these files is run (`utils/restricted.py`).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

from spear_tts_pytorch.utils.arrays import load_arrays
from spear_tts_pytorch.utils.restricted import load_joblib, load_tensors
from spear_tts_pytorch.utils.weight_files import read_shapes

if TYPE_CHECKING:
    from transformers import HubertModel

STAND_INS = ("fairseq", "omegaconf", "argparse", "hydra", "typing", "enum")
MOST_LAYERS = 100  # of convolutions
LEAST_TENSORS = 12  # of a layer of the transformer
UNUSED = re.compile(r"^(final_proj|label_embs_concat|_codebook_indices)")  # weights that only pretraining needs
RENAMED = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)


def read_fairseq_hubert(path: str | Path) -> tuple[HubertModel, bool]:
    """Reads the model in a fairseq checkpoint, and whether it needs waveforms of mean 0 and variance 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds code, or is of another architecture.
    """
    package: Any = load_tensors(path, stand_ins=STAND_INS)
    if not isinstance(package, dict) or not isinstance(cast("dict[str, Any]", package).get("model"), dict):
        raise ValueError(
            f"{path} is no fairseq checkpoint, since it has no 'model': give a fairseq file, or the folder or id of a "
            "HuggingFace model"
        )
    package = cast("dict[str, Any]", package)
    options = _section(package, "model")
    if not options:
        raise ValueError(
            f"{path} does not say how its model is built: convert it with transformers and give the folder"
        )
    try:
        weights: dict[str, Tensor] = package["model"]
        _check_sizes(options, weights)
        model = _model_of(options)
        state = {_renamed(key): value.float() for key, value in weights.items() if not UNUSED.match(key)}
        normalize = bool(_section(package, "task").get("normalize", False))
    except Exception as error:  # transformers raises errors of many types for options that it cannot build
        raise ValueError(
            f"{path} is not a HuBERT that this version knows ({type(error).__name__}: {error}): convert it with "
            "transformers and give the folder"
        ) from error
    own: dict[str, Tensor] = model.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state and key != "masked_spec_embed"]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    wrong += [
        f"{key} is {list(state[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        raise ValueError(f"{path} is not a HuBERT that this version knows: {'; '.join(wrong[:5])}")
    model.load_state_dict(state, strict=False)
    return model.eval(), normalize


def _model_of(options: dict[str, Any]) -> HubertModel:
    """A model with random weights, of the sizes in fairseq's options."""
    from transformers import HubertConfig, HubertModel

    layers = _conv_layers(options)
    config = cast(Any, HubertConfig)(  # its signature lacks some of its own options
        hidden_size=options.get("encoder_embed_dim", 768),
        num_hidden_layers=options.get("encoder_layers", 12),
        num_attention_heads=options.get("encoder_attention_heads", 12),
        intermediate_size=options.get("encoder_ffn_embed_dim", 3072),
        hidden_act=options.get("activation_fn", "gelu"),
        conv_dim=[layer[0] for layer in layers],
        conv_kernel=[layer[1] for layer in layers],
        conv_stride=[layer[2] for layer in layers],
        conv_bias=bool(options.get("conv_bias", False)),
        num_feat_extract_layers=len(layers),
        feat_extract_norm="layer" if options.get("extractor_mode", "default") == "layer_norm" else "group",
        num_conv_pos_embeddings=options.get("conv_pos", 128),
        num_conv_pos_embedding_groups=options.get("conv_pos_groups", 16),
        do_stable_layer_norm=bool(options.get("layer_norm_first", False)),
    )
    return HubertModel(config)


def _check_sizes(options: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Raises ValueError if a model of these options is larger than its weights. Takes no memory for the model."""
    layers = options.get("encoder_layers", 12)
    if not isinstance(layers, int) or not 0 < LEAST_TENSORS * layers <= len(weights):
        raise ValueError(f"its {len(weights)} tensors do not fit {layers!r} layers")
    with torch.device("meta"):
        expected = sum(value.numel() for value in _model_of(options).state_dict().values())
    if expected > 2 * sum(value.numel() for value in weights.values()) + 2**20:
        raise ValueError(f"its options ask for {expected} numbers, which its weights are too few for")


def read_centroids(path: str | Path) -> Tensor:
    """Reads centroids `[K, d]`, float32, from a k-means of scikit-learn in joblib, or `.npy`, `.npz`, `.safetensors`, `.pt`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds code, or does not hold exactly one matrix of finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no k-means file at {path}")
    if path.suffix == ".safetensors":
        read_shapes(path)
        try:
            found: Any = from_bytes(path.read_bytes())
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): copy it again") from error
    elif path.suffix in (".npy", ".npz"):
        found = load_arrays(path)
    elif path.suffix in (".pt", ".pth"):
        found = load_tensors(path)
    else:
        found = load_joblib(path, stand_ins=("sklearn", "scipy.sparse"))
        found = getattr(found, "cluster_centers_", found)
    matrices: list[Any] = [found]
    if isinstance(found, dict):
        values = cast("dict[str, Any]", found).values()
        matrices = [value for value in values if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 2]
    matrix = matrices[0] if len(matrices) == 1 else None
    if not isinstance(matrix, (np.ndarray, Tensor)) or matrix.ndim != 2:
        raise ValueError(
            f"{path} does not hold exactly one matrix of centroids [clusters, features]: save that matrix alone"
        )
    centroids = (
        matrix if isinstance(matrix, Tensor) else torch.as_tensor(np.array(cast("np.ndarray", matrix), order="C"))
    )
    if not centroids.is_floating_point() or centroids.numel() == 0 or not bool(centroids.isfinite().all()):
        raise ValueError(f"{path}: centroids must be finite numbers, got {centroids.dtype} {list(centroids.shape)}")
    return centroids.float()


def _section(package: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of the configuration, "model" or "task"; older files have a single namespace without sections."""
    configuration = package.get("cfg")
    section: Any = cast("dict[str, Any]", configuration).get(name) if isinstance(configuration, dict) else None
    for found in (section, package.get("args")):
        options: Any = getattr(found, "__dict__", found)
        if isinstance(options, dict) and options:
            values = cast("dict[str, Any]", options)
            return {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    return {}


def _conv_layers(options: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Channels, kernel and stride of each layer, parsed from `[(512,10,5)] + [(512,3,2)] * 4` without running it."""
    text: object = options.get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
    layers: list[tuple[int, int, int]] = []
    if not isinstance(text, str) or len(text) > 1000:
        raise ValueError("conv_feature_layers of the checkpoint is no short text")
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(\[.*\])\s*(?:\*\s*(\d+))?\s*", part, re.DOTALL)
        if match is None:
            raise ValueError(f"conv_feature_layers of the checkpoint cannot be parsed: {text!r:.90}")
        found: list[tuple[int, int, int]] = [tuple(layer) for layer in ast.literal_eval(match[1])]
        times = int(match[2] or 1)
        if times > MOST_LAYERS or len(layers) + times * len(found) > MOST_LAYERS:
            raise ValueError(f"conv_feature_layers of the checkpoint has more than {MOST_LAYERS} layers: {text!r:.90}")
        layers += found * times
    if any(type(number) is not int or number < 1 for layer in layers for number in layer):
        raise ValueError(f"conv_feature_layers of the checkpoint must be numbers of 1 or more: {text!r:.90}")
    return layers


def _renamed(key: str) -> str:
    """A weight's name in `transformers`."""
    for old, new in RENAMED:
        key = re.sub(old, new, key)
    return key
