"""Which parameters of a model train: freezing by part, for the stages of the recipe.

`FreezingMixin` asks the module for `source_transformer`, `target_transformer`, `token_emb` and `start_token`. Tokenizers
are not parts of the module and can not be unfrozen by it.
"""

from __future__ import annotations

from torch import nn

from spear_tts_pytorch.tokens import Modality


class FreezingMixin:
    """Freezing for `TextToSemantic`. Each method changes `requires_grad` of its own part only."""

    source_transformer: nn.Module
    target_transformer: nn.Module
    token_emb: nn.ModuleDict
    start_token: nn.ParameterDict

    def unfreeze_all(self) -> None:
        """Makes every parameter trainable."""
        self.requires_grad_(True)

    def freeze_encoder(self) -> None:
        self.source_transformer.requires_grad_(False)

    def freeze_encoder_below_layer(self, layer: int) -> None:
        """Freezes the first `layer` encoder layers and trains the others."""
        layers = self._encoder_layers(layer)
        self.source_transformer.requires_grad_(True)
        layers[:layer].requires_grad_(False)

    def freeze_encoder_above_layer(self, layer: int) -> None:
        """Freezes the encoder but for its first `layer` layers: the paper's choice for finetuning (arXiv 2302.03540)."""
        layers = self._encoder_layers(layer)
        self.source_transformer.requires_grad_(False)
        layers[:layer].requires_grad_(True)

    def freeze_decoder(self, except_cross_attention: bool = False) -> None:
        """Freezes the decoder; the paper goes on training its cross-attention (`except_cross_attention`)."""
        self.target_transformer.requires_grad_(False)
        if except_cross_attention:
            for block in self.target_transformer.layers:
                block.cross_attention.requires_grad_(True)

    def freeze_speech_emb(self) -> None:
        self._freeze_emb("speech")

    def freeze_text_emb(self) -> None:
        self._freeze_emb("text")

    def _freeze_emb(self, modality: Modality) -> None:
        self.token_emb[modality].requires_grad_(False)
        self.start_token[modality].requires_grad = False

    def _encoder_layers(self, layer: int) -> nn.ModuleList:
        layers = self.source_transformer.layers
        if not isinstance(layer, int) or not 0 <= layer <= len(layers):
            raise ValueError(f"layer must be 0 to {len(layers)}, the encoder's depth; got {layer}")
        return layers
