"""The encoder as a module of its own, for `torch.export` and its runtimes.

In: int64 ids `[b, n]`, padded on the right and not checked. Out: embeddings `[b, m, dim]` and their mask `[b, m]`.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from spear_tts_pytorch.tokens import MODALITIES, Modality
from spear_tts_pytorch.utils.values import one_of


class EncoderModule(nn.Module):
    """A model's encoder for sources of one modality. It shares its weights with the model.

    Raises:
        ValueError: a modality that is neither "speech" nor "text".
    """

    def __init__(self, model: nn.Module, source_type: Modality):
        super().__init__()
        one_of("source_type", source_type, MODALITIES)
        self.model = model
        self.source_type: Modality = source_type

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x, mask, _ = cast(Any, self.model).encode_ids(ids, self.source_type)
        return x, mask
