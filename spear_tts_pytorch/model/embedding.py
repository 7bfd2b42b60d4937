"""From ids to the inputs of encoder and decoder: embeddings with positions, and the mask of cross-attention.

In: checked ids `[b, n]`. Out: `[b, n, dim]`. Training and decoding share these functions, so that they agree by construction.

Ids of both modalities have a position on one timeline, in units of semantic tokens: speech id i is at i, and text id i is at
`i * text_position_rate`, the mean number of semantic tokens per text id. If a share p of a speech source was deleted, its
id i is at `i / (1 - p)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_tts_pytorch.nn.dropout import Dropout
from spear_tts_pytorch.nn.rotary import sinusoids
from spear_tts_pytorch.tokens import MODALITIES, Modality, Vocabulary

PRIOR_WIDTH, PRIOR_SPREAD, PRIOR_FLOOR = 5.0, 0.1, 8.0


class Embedder(Protocol):
    """A model with embeddings of both modalities."""

    token_emb: nn.ModuleDict
    start_token: nn.ParameterDict
    emb_dropout: Dropout
    add_positions: bool
    cross_attention_prior: bool
    text_position_rate: float

    @property
    def vocabulary(self) -> Mapping[Modality, Vocabulary]: ...


def initialise(model: Embedder, last_gain: nn.Parameter) -> None:
    """Small tied embeddings and a small last gain: logits near 0, so a first loss of ln(vocabulary) at any width."""
    for modality in MODALITIES:
        table = cast(nn.Embedding, model.token_emb[modality]).weight
        nn.init.normal_(table, std=table.shape[1] ** -0.5)
        nn.init.normal_(model.start_token[modality], std=table.shape[1] ** -0.5)
    nn.init.constant_(last_gain, min(1.0, 4 * len(last_gain) ** -0.5))


def position_rate(model: Embedder, modality: Modality) -> float:
    """Steps of the speech timeline between two ids of a modality."""
    return model.text_position_rate if modality == "text" else 1.0


def embed(model: Embedder, ids: Tensor, modality: Modality, positions: Tensor | None) -> Tensor:
    """Ids `[b, n]` at positions `[b or 1, n]` to embeddings `[b, n, dim]`; padding gets the row of id 0."""
    ids = ids.masked_fill(ids == model.vocabulary[modality].pad_id, 0)
    x: Tensor = model.token_emb[modality](ids)
    return x if positions is None or not model.add_positions else add_sinusoids(x, positions)


def embed_target(
    model: Embedder, ids: Tensor, modality: Modality, first: list[int], dropout: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Embeddings of target ids `[r, n]`, each row's from its position `first` on.

    Where rows begin (position 0), the start token comes before the ids.

    Returns:
        `[r, n', dim]`, and the positions `[r or 1, n']` on the speech timeline, None for a model that needs none.
    """
    starts = first[0] == 0
    positions = None
    if model.add_positions or model.cross_attention_prior:
        positions = timeline(first, ids.shape[1] + int(starts), position_rate(model, modality), ids.device)
    own = positions[:, 1:] if starts and positions is not None else positions
    x = embed(model, ids, modality, own)
    x = model.emb_dropout(x) if dropout else x
    if starts:
        start: Tensor = model.start_token[modality].expand(x.shape[0], 1, -1)
        start = start if positions is None or not model.add_positions else add_sinusoids(start, positions[:, :1])
        x = torch.cat((start.to(x.dtype), x), dim=1)
    return x, positions


def cross_mask(
    model: Embedder, allowed: Tensor | None, source_positions: Tensor | None, target_positions: Tensor | None
) -> Tensor | None:
    """The mask of cross-attention: boolean, with the prior additive; None for no mask.

    Args:
        allowed: True at source positions that may be read, null first, `[s, 1, 1, 1 + m]`; None for all.
        source_positions, target_positions: `[s or 1, m]` and `[s or 1, n]`, on the speech timeline.
    """
    if not model.cross_attention_prior or source_positions is None or target_positions is None:
        return allowed
    prior = F.pad(diagonal_prior(target_positions, source_positions), (1, 0))[:, None]
    prior = prior.to(model.start_token["text"].dtype)
    return prior if allowed is None else prior.masked_fill(~allowed, float("-inf"))


def timeline(first: list[int], n: int, rate: float, device: torch.device) -> Tensor:
    """Positions of `n` ids from each row's `first`, `[b, n]`, or `[1, n]` where all rows agree."""
    starts = first[:1] if min(first) == max(first) else first
    places = torch.tensor(starts, device=device)[:, None] + torch.arange(n, device=device)
    return places * rate


def add_sinusoids(x: Tensor, positions: Tensor) -> Tensor:
    """Adds sinusoids of `positions` `[b or 1, n]` to `x` `[b, n, dim]`, at the scale of `dim ** -0.5` per element."""
    dim = x.shape[-1]
    return x + (sinusoids(positions, dim) * dim**-0.5).to(x.dtype)


def diagonal_prior(target: Tensor, source: Tensor) -> Tensor:
    """How unlikely, a priori, the target position i is to read the source position j: `[b, i, j]`, 0 to -8.

    `-min((i - j)^2 / (2 (5 + 0.1 i)^2), 8)`: a Gaussian about the diagonal that widens as drift adds up.
    """
    width = PRIOR_WIDTH + PRIOR_SPREAD * target[..., :, None]
    distance = (target[..., :, None] - source[..., None, :]) / width
    return -(distance.square() / 2).clamp(max=PRIOR_FLOOR)
