"""The network from speech ids to log-mel spectra, and from ids without repeats to their durations.

In: ids `[b, n]`, 50 a second, padded with -1. Out: Whisper's log-mel spectra `[b, 2 n, 80]`, 100 a second; logarithms of
durations in frames `[b, n]`. Convolutions only: it works at any length, and padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from spear_tts_pytorch.tokenizers.whisper_mel import BANDS
from spear_tts_pytorch.tokens import SPEECH_PAD_ID

KERNEL = 5
SPECTRA = 2  # of each frame
DURATION_DIM, DURATION_DEPTH = 128, 3


class _Block(nn.Module):
    """A residual convolution of rows `[b, n, d]`; positions of padding are zero for it."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.convolution = nn.Conv1d(dim, dim, KERNEL, padding=KERNEL // 2)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        heard = (self.norm(x) * real).transpose(1, 2)
        return x + F.gelu(self.convolution(heard)).transpose(1, 2)


class UnitNetwork(nn.Module):
    """Embedding, residual convolutions, and a linear layer; for durations the same again, smaller, over the same embedding.

    Args:
        num_ids: K, ids are `0..K-1`.
        dim: width.
        depth: residual convolutions over frames.

    Attributes:
        stretch: factor of predicted durations: `exp` of a mean logarithm is below the mean.
    """

    stretch: Tensor

    def __init__(self, num_ids: int, dim: int, depth: int):
        super().__init__()
        self.embedding = nn.Embedding(num_ids, dim)
        self.blocks = nn.ModuleList(_Block(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.to_mel = nn.Linear(dim, SPECTRA * BANDS)
        self.to_durations_dim = nn.Linear(dim, DURATION_DIM)
        self.duration_blocks = nn.ModuleList(_Block(DURATION_DIM) for _ in range(DURATION_DEPTH))
        self.to_log_duration = nn.Linear(DURATION_DIM, 1)
        self.register_buffer("stretch", torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids at full rate `[b, n]`, padded with -1, to log-mel spectra `[b, 2 n, 80]`."""
        x, real = self._embedded(ids)
        x = self.norm(_through(self.blocks, x, real))
        return rearrange(self.to_mel(x), "b n (s m) -> b (n s) m", s=SPECTRA)

    def log_durations(self, ids: Tensor) -> Tensor:
        """Ids without repeats `[b, n]`, padded with -1, to logarithms of durations in frames `[b, n]`."""
        x, real = self._embedded(ids)
        x = self.to_durations_dim(x.detach())  # the embedding is learned from sound alone
        return self.to_log_duration(_through(self.duration_blocks, x, real))[..., 0]

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors `[b, n, d]`, and 0 at padding `[b, n, 1]`."""
        real = ids != SPEECH_PAD_ID
        return self.embedding(ids.masked_fill(~real, 0)), real[..., None]

    @torch.no_grad()
    def begin_at(self, centroids: Tensor | None, mean_mel: Tensor) -> None:
        """Begins the output at mean spectra `[80]`, and the embedding at centroids `[K, p]`, so that near units sound alike."""
        self.to_mel.bias.copy_(mean_mel.repeat(SPECTRA))
        if centroids is None:
            return
        rows, dim = (centroids - centroids.mean(dim=0)).double(), self.embedding.embedding_dim
        _, _, axes = cast("tuple[Tensor, Tensor, Tensor]", torch.linalg.svd(rows, full_matrices=False))
        embedded = rows @ axes[:dim].T  # their principal components
        embedded = F.pad(embedded, (0, dim - embedded.shape[1]))
        self.embedding.weight.copy_(embedded / embedded.std().clamp(min=1e-9))


def _through(blocks: Iterable[nn.Module], x: Tensor, real: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, real)
    return x
