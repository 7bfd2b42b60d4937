"""Which parameters of a model train: freezing by part, for the stages of the recipe.

Each function changes `requires_grad` of its own part only. Tokenizers are not parts of a model and are never unfrozen.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from spear_tts_pytorch.nn.transformer import Transformer
from spear_tts_pytorch.tokens import Modality
from spear_tts_pytorch.utils.values import whole_number


class Freezable(Protocol):
    """A model with an encoder, a decoder, and embeddings of both modalities."""

    source_transformer: Transformer
    target_transformer: Transformer
    token_emb: nn.ModuleDict
    start_token: nn.ParameterDict

    def requires_grad_(self, requires_grad: bool = True) -> object: ...


def unfreeze_all(model: Freezable) -> None:
    """Makes every parameter trainable."""
    model.requires_grad_(True)


def freeze_encoder(model: Freezable) -> None:
    """Freezes the encoder's layers."""
    model.source_transformer.requires_grad_(False)


def freeze_encoder_below_layer(model: Freezable, layer: int) -> None:
    """Freezes the first `layer` encoder layers and trains the others."""
    layers = _encoder_layers(model, layer)
    model.source_transformer.requires_grad_(True)
    layers[:layer].requires_grad_(False)


def freeze_encoder_above_layer(model: Freezable, layer: int) -> None:
    """Freezes the encoder but for its first `layer` layers: the paper's choice for finetuning (arXiv 2302.03540)."""
    layers = _encoder_layers(model, layer)
    model.source_transformer.requires_grad_(False)
    layers[:layer].requires_grad_(True)


def freeze_decoder(model: Freezable, except_cross_attention: bool = False) -> None:
    """Freezes the decoder. The paper goes on training its cross-attention: `except_cross_attention=True`."""
    model.target_transformer.requires_grad_(False)
    if except_cross_attention:
        for block in model.target_transformer.layers:
            block.cross_attention.requires_grad_(True)


def freeze_speech_emb(model: Freezable) -> None:
    """Freezes the embeddings and the start token of speech."""
    _freeze_emb(model, "speech")


def freeze_text_emb(model: Freezable) -> None:
    """Freezes the embeddings and the start token of text."""
    _freeze_emb(model, "text")


def _freeze_emb(model: Freezable, modality: Modality) -> None:
    model.token_emb[modality].requires_grad_(False)
    model.start_token[modality].requires_grad_(False)


def _encoder_layers(model: Freezable, layer: int) -> nn.ModuleList:
    layers = model.source_transformer.layers
    whole_number("layer", layer, 0, len(layers), also=" (the encoder's depth)")
    return layers
