"""What decoding strategies call: `step(ids [r, n], cache) -> logits [r, n', v]`, with guidance and the prompt inside.

A `DecoderStep` is made for one call of `generate` from the model's decoder. A call on an empty cache puts the start
token in front, so that `[r, 0]` gives the logits of the first id. `draft` and `verify` run the lower and the upper layers
apart, for speculative decoding. Does not know how ids are chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.model.positions import add_sinusoids, diagonal_prior, timeline
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.tokens import Modality, lengths_of

if TYPE_CHECKING:
    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic


class GuidedCache(KVCache):
    """A cache that holds every row twice: with the condition, and behind all of those again without it."""

    def select(self, rows: Tensor) -> None:
        super().select(torch.cat((rows, rows + self.rows // 2)))

    def replace(self, sources: list[int], other: KVCache) -> None:
        half = self.sources // 2
        super().replace([*sources, *(half + source for source in sources)], other)

    def truncate(self, lengths: list[int]) -> None:
        super().truncate(lengths * 2)

    @property
    def lengths(self) -> list[int]:
        return self.layer_lengths[0][: self.rows // 2]


class DecoderStep:
    """Decoding steps of one model for one target modality.

    Args:
        model: whose decoder, embeddings and early exit to use, as they are now.
        target_type: what is decoded.
        cond_scale: classifier-free guidance (arXiv 2207.12598); 1 is none.
        rows, steps: how many rows and steps to expect; what pays depends on them, results do not.
        drafts: whether `draft` and `verify` will be called.
    """

    def __init__(
        self,
        model: TextToSemantic,
        target_type: Modality,
        cond_scale: float = 1.0,
        *,
        rows: int = 1,
        steps: int = 1,
        drafts: bool = False,
    ):
        self.model, self.target_type, self.cond_scale = model, target_type, cond_scale
        rows = rows if cond_scale == 1.0 else 2 * rows
        self.decoder = model.fused_decoder(target_type, rows, steps, drafts)
        self.table = model.token_emb[target_type].weight
        self.start_token = model.start_token[target_type]
        self.rate = model.text_position_rate if target_type == "text" else 1.0
        self._padded_mask: tuple[Tensor | None, Tensor | None] = (None, None)

    def new_cache(self, context: Tensor, mask: Tensor, positions: Tensor, prompt: Tensor | None = None) -> KVCache:
        """An empty cache for sources `[s, m, dim]` with their mask `[s, m]` and positions `[s, m]`.

        `prompt` `[s, n]`, padded on the right, is what the rows begin with: the next call of the step, with ids of the
        shape [s, 0], goes on from its ends.
        """
        kind, depth = KVCache, len(self.decoder.layers)
        if self.cond_scale != 1.0:
            kind, context, positions = GuidedCache, context.repeat(2, 1, 1), positions.repeat(2, 1)
            mask = torch.cat((mask, torch.zeros_like(mask)))
        cache = kind(depth, context, mask, positions)
        if prompt is not None:
            lengths = lengths_of(prompt, self.model.pad_id[self.target_type])
            self(prompt[:, :-1], cache)
            cache.truncate(lengths.tolist())
            cache.prompted = prompt.gather(1, lengths[:, None] - 1)  # the last of each row is still to be read
        return cache

    @torch.no_grad()
    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        x, positions = self._embed(ids, cache)
        return self._guided(self.decoder(x, cache, self._cross_mask(cache, positions), head="logits")[1])

    @torch.no_grad()
    def draft(self, ids: Tensor, cache: KVCache, head: bool = True) -> Tensor | None:
        """The early exit's logits `[r, n', v]`, or None; the layers above have yet to see these positions (`verify`)."""
        x, positions = self._embed(ids, cache)
        mask, layer = self._cross_mask(cache, positions), self.model.early_exit_layer
        x, logits = self.decoder(x, cache, mask, last=layer, head="exit" if head else None)
        cache.pending.append((x, positions))
        return None if logits is None else self._guided(logits)

    @torch.no_grad()
    def verify(self, cache: KVCache) -> Tensor:
        """The model's logits `[r, m, v]` of the positions drafted since the last `verify`."""
        hidden, positions = zip(*cache.pending, strict=True)
        cache.pending.clear()
        positions = None if positions[0] is None else torch.cat(positions, dim=1)
        mask, layer = self._cross_mask(cache, positions), self.model.early_exit_layer
        return self._guided(self.decoder(torch.cat(hidden, dim=1), cache, mask, first=layer, head="logits")[1])

    def _embed(self, ids: Tensor, cache: KVCache) -> tuple[Tensor, Tensor | None]:
        """Embeddings `[r, n', dim]` of ids behind what the cache holds, and their positions where the model needs them."""
        if cache.prompted is not None and ids.shape[1] == 0:
            ids, cache.prompted = cache.prompted, None
        lengths = cache.lengths
        if self.cond_scale != 1.0:
            ids, lengths = ids.repeat(2, 1), lengths * 2
        starts = lengths[0] == 0
        x = F.embedding(ids.clamp(0, self.table.shape[0] - 1), self.table)
        if starts:
            x = torch.cat((self.start_token.expand(x.shape[0], 1, -1).to(x.dtype), x), dim=1)
        if not (self.model.add_positions or self.model.cross_attention_prior):
            return x, None
        positions = timeline(lengths, x.shape[1], self.rate, ids.device)
        return (add_sinusoids(x, positions) if self.model.add_positions else x), positions

    def _cross_mask(self, cache: KVCache, positions: Tensor | None) -> Tensor | None:
        """Which source each new position reads, null first: `[s, 1, 1 or queries, 1 + m]`, or None for everything."""
        if self._padded_mask[0] is not cache.context_mask:
            allowed = F.pad(cache.context_mask, (1, 0), value=True)[:, None, None, :]
            self._padded_mask = cache.context_mask, None if bool(allowed.all()) else allowed
        allowed = self._padded_mask[1]
        if not self.model.cross_attention_prior:
            return allowed
        if positions.shape[0] > 1:  # rows of one source are queries of it, one after the other
            positions = positions.reshape(cache.sources, -1)
        else:
            positions = positions.repeat(1, cache.rows // cache.sources)
        prior = F.pad(diagonal_prior(positions, cache.context_positions), (1, 0))[:, None].to(self.table.dtype)
        return prior if allowed is None else prior.masked_fill(~allowed, float("-inf"))

    def _guided(self, logits: Tensor) -> Tensor:
        if self.cond_scale == 1.0:
            return logits
        conditioned, unconditioned = logits.chunk(2)
        return unconditioned + (conditioned - unconditioned) * self.cond_scale
