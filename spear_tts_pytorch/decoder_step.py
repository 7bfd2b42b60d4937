"""What decoding strategies call: `step(ids [r, n], cache) -> logits [r, n', v]`, with guidance inside.

Built by `TextToSemantic` from its decoder. A call on an empty cache puts the start token in front, so that `[r, 0]`
gives the logits of the first id. Knows the decoder and its positions; does not know how ids are chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spear_tts_pytorch.nn.kv_cache import KVCache


class GuidedCache(KVCache):
    """A cache that holds every row twice: with the condition, and behind all of those again without it."""

    def select(self, rows: Tensor) -> None:
        super().select(torch.cat((rows, rows + self.rows // 2)))


class DecoderStep:
    """Decoding steps of one model for one target modality.

    Args:
        embed: ids `[r, n]` and their first positions (one per row) to embeddings `[r, n, dim]`, with the start token
            in front where the position is 0.
        attend: embeddings and cache to decoder outputs `[r, n', dim]`.
        to_logits: decoder outputs to logits.
        cond_scale: classifier-free guidance (arXiv 2207.12598); 1 is none.
    """

    def __init__(
        self,
        embed: Callable[[Tensor, list[int]], Tensor],
        attend: Callable[[Tensor, KVCache], Tensor],
        to_logits: Callable[[Tensor], Tensor],
        cond_scale: float = 1.0,
    ):
        self.embed, self.attend, self.to_logits, self.cond_scale = embed, attend, to_logits, cond_scale

    def new_cache(self, depth: int, context: Tensor, mask: Tensor, positions: Tensor | None) -> KVCache:
        if self.cond_scale == 1.0:
            return KVCache(depth, context, mask, positions)
        twice = None if positions is None else positions.repeat(2, 1)
        return GuidedCache(depth, context.repeat(2, 1, 1), torch.cat((mask, torch.zeros_like(mask))), twice)

    @torch.no_grad()
    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        if self.cond_scale == 1.0:
            return self.to_logits(self.attend(self.embed(ids, cache.lengths), cache))
        logits = self.to_logits(self.attend(self.embed(ids.repeat(2, 1), cache.lengths), cache))
        conditioned, unconditioned = logits.chunk(2)
        return unconditioned + (conditioned - unconditioned) * self.cond_scale
