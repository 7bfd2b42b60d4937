"""One decoding step of a model: `step(ids [r, n], cache) -> logits [r, n', v]`, with guidance and the prompt inside.

`Seq2Seq` is what decoding asks of a model. A `DecoderStep` is made for one call of `generate`. A call on an empty cache puts
the start token in front, so that ids `[r, 0]` give the logits of the first id. `draft` and `verify` run the lower and the
upper layers apart, for speculative decoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from spear_tts_pytorch.nn.fused.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.nn.transformer import EarlyExit, Transformer
from spear_tts_pytorch.tokens import Batch, Modality, Vocabulary, lengths_of, with_start


class Seq2Seq(Protocol):
    """An encoder-decoder over ids of both modalities, as far as decoding is concerned."""

    target_transformer: Transformer
    early_exit: EarlyExit | None
    early_exit_layer: int | None
    cond_drop_prob: float
    cross_attention_prior: bool

    @property
    def vocabulary(self) -> Mapping[Modality, Vocabulary]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def wav2vec(self) -> Any: ...

    @property
    def target_has_early_exit(self) -> bool: ...

    def table(self, modality: Modality) -> Tensor:
        """Embeddings of a modality's ids, `[v, dim]`."""
        ...

    def to_ids(
        self,
        x: Batch,
        modality: Modality,
        name: str,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        empty_rows: bool = True,
        right_padded: bool = True,
    ) -> Tensor:
        """Checked ids `[b, n]` of texts, waveforms or ids."""
        ...

    def source_ids(self, source: Batch, source_type: Modality, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Checked ids `[b, n]` of sources; every row has some."""
        ...

    def encode_ids(
        self, ids: Tensor, modality: Modality, position_rate: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encoded sources `[b, m, dim]`, their mask `[b, m]` and positions `[1, m]`."""
        ...

    def embed_target(self, ids: Tensor, modality: Modality, first: list[int]) -> tuple[Tensor, Tensor | None]:
        """Embeddings of target ids, the start token in front of rows that begin, and positions if the model has any."""
        ...

    def cross_mask(
        self, allowed: Tensor | None, source_positions: Tensor | None, target_positions: Tensor | None
    ) -> Tensor | None:
        """The mask of cross-attention, boolean or additive; None for no mask."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


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
        model: gives embeddings, masks and the early exit, as they are now.
        decoder: the model's decoder for this target modality, see `accelerate.fused_decoder`.
        target_type: modality of the decoded ids.
        cond_scale: scale of classifier-free guidance (arXiv 2207.12598); 1 is no guidance.
    """

    def __init__(self, model: Seq2Seq, decoder: FusedDecoder, target_type: Modality, cond_scale: float = 1.0):
        self.model, self.decoder = model, decoder
        self.target_type: Modality = target_type
        self.cond_scale = cond_scale
        # a cache's mask, and the mask of keys made of it
        self._allowed: tuple[Tensor | None, Tensor | None] = (None, None)

    def new_cache(self, context: Tensor, mask: Tensor, positions: Tensor, prompt: Tensor | None = None) -> KVCache:
        """An empty cache for sources `[s, m, dim]` with their mask `[s, m]` and positions `[s, m]`.

        `prompt` `[s, n]`, padded on the right, holds the first ids of the rows: the next call of the step, with ids of the
        shape [s, 0], goes on from its ends.
        """
        kind = KVCache
        if self.cond_scale != 1.0:
            kind, context, positions = GuidedCache, context.repeat(2, 1, 1), positions.repeat(2, 1)
            mask = torch.cat((mask, torch.zeros_like(mask)))
        cache = kind(len(self.decoder.layers), context, mask, positions)
        if prompt is not None:
            lengths = lengths_of(prompt, self.model.vocabulary[self.target_type].pad_id)
            self(prompt[:, :-1], cache)
            cache.truncate(cast("list[int]", lengths.tolist()))
            cache.prompted = prompt.gather(1, lengths[:, None] - 1)  # the last id of each row is still to be read
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
        hidden = torch.cat([x for x, _ in cache.pending], dim=1)
        drafted = [positions for _, positions in cache.pending if positions is not None]
        cache.pending.clear()
        mask = self._cross_mask(cache, torch.cat(drafted, dim=1) if drafted else None)
        return self._guided(self.decoder(hidden, cache, mask, first=self.model.early_exit_layer or 0, head="logits")[1])

    def _embed(self, ids: Tensor, cache: KVCache) -> tuple[Tensor, Tensor | None]:
        """Embeddings `[r, n', dim]` of ids behind those in the cache, and their positions if the model needs them."""
        if cache.prompted is not None and ids.shape[1] == 0:
            ids, cache.prompted = cache.prompted, None
        lengths = cache.lengths
        if self.cond_scale != 1.0:
            ids, lengths = ids.repeat(2, 1), lengths * 2
        return self.model.embed_target(ids, self.target_type, lengths)

    def _cross_mask(self, cache: KVCache, positions: Tensor | None) -> Tensor | None:
        """Which source each new position reads, null first: `[s, 1, 1 or queries, 1 + m]`, or None for everything."""
        if self._allowed[0] is not cache.context_mask:
            self._allowed = cache.context_mask, _unless_all(cache.context_mask)
        if positions is not None and self.model.cross_attention_prior:
            if positions.shape[0] > 1:  # rows of one source are queries of it, one after the other
                positions = positions.reshape(cache.sources, -1)
            else:
                positions = positions.repeat(1, cache.rows // cache.sources)
        return self.model.cross_mask(self._allowed[1], cache.context_positions, positions)

    def _guided(self, logits: Tensor | None) -> Tensor:
        assert logits is not None
        if self.cond_scale == 1.0:
            return logits
        conditioned, unconditioned = logits.chunk(2)
        return unconditioned + (conditioned - unconditioned) * self.cond_scale


def _unless_all(mask: Tensor | None) -> Tensor | None:
    """A mask `[s, m]` of sources as one of keys, null first, `[s, 1, 1, 1 + m]`; None if all keys may be read."""
    return None if mask is None or bool(mask.all()) else with_start(mask)[:, None, None, :]
