"""The tokenizer of speech that a voice fits: over mel features, or over a layer of a public speech encoder.

In: clips and the settings `[units]`. Out: a tokenizer; and for a new voice, the settings that name an encoder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.tokenized import fit_tokenizer
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.sources import relative
from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
from spear_tts_pytorch.tokenizers.encoder_files import open_encoder
from spear_tts_pytorch.tokenizers.encoder_kmeans import EncoderKmeans
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer
from spear_tts_pytorch.utils.values import absolute_path

ENCODER_CLUSTERS = 1000  # a reader of Mboshi had 43.2 % of the characters wrong with 500 clusters, 40.6 with 1,000
WITHOUT_ENCODER = (
    "units: of mel features. Those of a public speech encoder read far better (40.6 against 67.6 % of characters wrong, "
    "learned from 15 minutes): --encoder FOLDER_OR_HUB_ID"
)


def fit_units(
    utterances: Sequence[Utterance], settings: Settings, folder: Path, progress: bool = True
) -> SemanticTokenizer:
    """Stage 1: a tokenizer of speech, fitted on evenly spaced clips.

    Args:
        folder: the voice folder, to which the path of an encoder is relative.
        progress: shows bars, on terminals.

    Raises:
        ImportError, FileNotFoundError, ValueError: an encoder that cannot be opened, or too little audio.
    """
    units, seed = settings.units, settings.training.seed
    chosen = utterances[:: max(1, len(utterances) // units.fit_clips)]
    if not units.encoder:
        options: dict[str, Any] = {"highest_hz": 16_000, "seed": seed, "progress": progress}
        return fit_tokenizer(chosen, units.clusters, unique_consecutive=units.unique, **options)
    tokenizer = EncoderKmeans.fit(
        chosen,
        place_of_encoder(units.encoder, folder),
        layer=units.layer or None,
        num_clusters=units.clusters,
        device="cuda" if torch.cuda.is_available() else None,
        seed=seed,
        progress=progress,
    )
    return UniqueConsecutive(tokenizer) if units.unique else tokenizer


def on_gpu(tokenizer: SemanticTokenizer) -> SemanticTokenizer:
    """The tokenizer, on the GPU if there is one and it is a network."""
    network = tokenizer.tokenizer if isinstance(tokenizer, UniqueConsecutive) else tokenizer
    if isinstance(network, nn.Module) and torch.cuda.is_available():
        network.to("cuda")
    return tokenizer


def with_encoder(
    encoder: str | os.PathLike[str] | None, folder: Path, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """The settings of a new voice whose units are those of an encoder, which is opened to see that it can be; and a remark.

    Args:
        encoder: a folder, relative to the working directory, or a Hub id, whose files are downloaded now; None for none.
        folder: the new voice folder.
        changes: further settings, of which "units.layer" is the number of its layer.

    Returns:
        The settings, which take the place of units of another voice, and a line; both empty without an encoder.

    Raises:
        ImportError, FileNotFoundError, ValueError: the encoder cannot be opened, or has no such layer.
    """
    if encoder is None:
        return {}, ""
    absolute_path("encoder", encoder)
    layer, place = Settings().replaced(changes).units.layer, Path(encoder).expanduser()
    opened = open_encoder(place if place.exists() else encoder, layer or None)
    name = relative(place, folder) if place.exists() else os.fspath(encoder)
    made = {"units.encoder": name, "units.clusters": ENCODER_CLUSTERS, "units.init": ""}
    return made, f"\nunits: layer {opened.layer} of {opened.depth} of {encoder} ({opened.kind})"


def place_of_encoder(encoder: str, folder: Path) -> str | Path:
    """The folder of an encoder or recogniser, relative to the voice folder, or its Hub id."""
    at = folder / Path(encoder).expanduser()
    return at if at.exists() else encoder
