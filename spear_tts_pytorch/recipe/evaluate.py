"""An independent judge of generated speech tokens, and the error rates (`utils/metrics.py`).

In: rows of semantic ids `[n]`. Out: rows of text ids `[m]`, as another model than the one that made the semantic ids
reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from spear_tts_pytorch.data.loader import TokenBudgetBatchSampler
from spear_tts_pytorch.decoding.ctc import CharacterLM, ctc_beam_search, ctc_greedy
from spear_tts_pytorch.recipe.converging import Fit, FitKeywords, FitOptions, fit
from spear_tts_pytorch.tokens import lengths_of, mask_from_lengths, pad_sequences
from spear_tts_pytorch.utils.checks import evaluating
from spear_tts_pytorch.utils.metrics import (
    bootstrap_interval,
    character_error_rate,
    character_errors,
    token_error_rate,
    token_errors,
)

__all__ = [
    "SemanticASR",
    "bootstrap_interval",
    "character_error_rate",
    "character_errors",
    "token_error_rate",
    "token_errors",
]

SPEECH_PAD, TEXT_PAD = -1, 0
DILATIONS = (1, 1, 2, 2, 4, 4)  # of the layers
SPAN = 6  # ids of a masked span, on average


class _GatedConvolution(nn.Module):
    """A residual layer `[b, n, d]`: norm, convolution of kernel 5 with a gate (GLU), projection, dropout."""

    def __init__(self, dim: int, dilation: int, dropout: float):
        super().__init__()
        self.norm, self.project, self.dropout = nn.LayerNorm(dim), nn.Linear(dim, dim), nn.Dropout(dropout)
        self.convolution = nn.Conv1d(dim, 2 * dim, kernel_size=5, padding=2 * dilation, dilation=dilation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = (self.norm(x) * mask).transpose(1, 2)
        y = F.glu(self.convolution(y), dim=1).transpose(1, 2)
        return x + self.dropout(self.project(y))


class SemanticASR(nn.Module):
    """Semantic ids to text ids: gated convolutions at half the rate, CTC with the text padding id 0 as blank.

    The models of a voice are transformers; this is another architecture (gated convolutional networks, arXiv 1612.08083 and
    1712.09444), so that it does not share their faults, and it learns faster than a bidirectional LSTM. In training ids are
    masked, one by one and in spans (SpecAugment, arXiv 1904.08779, over ids).

    Args:
        num_semantic_token_ids: K, speech ids are `0..K-1`.
        num_text_token_ids: V, text ids are `1..V-1`.
        dim: width of the embeddings and of all layers.
        depth: number of gated convolutions; six see 57 ids to both sides.
        dropout: of the embeddings, and of what each layer adds.
        frames_per_token: how many frames each semantic id gives. CTC emits at most one text id per frame, so speech with
            hardly more semantic ids than characters needs 2 or more.
        centroids: `[K, d]` of the clusters, where the embeddings begin: ids that sound alike begin alike. None begins at
            random.
        token_dropout: share of semantic ids that are masked in training.
        span_dropout: share that is masked in spans of `SPAN` ids on average.
    """

    SIZES = ("num_semantic_token_ids", "num_text_token_ids", "dim", "depth", "frames_per_token")

    def __init__(
        self,
        num_semantic_token_ids: int,
        num_text_token_ids: int,
        *,
        dim: int = 128,
        depth: int = 6,
        dropout: float = 0.1,
        frames_per_token: int = 1,
        centroids: Tensor | None = None,
        token_dropout: float = 0.05,
        span_dropout: float = 0.05,
    ):
        super().__init__()
        if num_semantic_token_ids < 1 or num_text_token_ids < 2 or frames_per_token < 1:
            raise ValueError(
                "num_semantic_token_ids and frames_per_token must be at least 1 and num_text_token_ids at least 2, got"
                f" {num_semantic_token_ids}, {frames_per_token} and {num_text_token_ids}"
            )
        self.num_semantic_token_ids, self.num_text_token_ids = num_semantic_token_ids, num_text_token_ids
        self.dim, self.depth, self.frames_per_token = dim, depth, frames_per_token
        self.token_dropout, self.span_dropout = token_dropout, span_dropout
        self.mask_id = num_semantic_token_ids  # replaces masked ids and padding
        self.embedding = nn.Embedding(num_semantic_token_ids + 1, dim)
        if centroids is not None:
            if centroids.ndim != 2 or len(centroids) != num_semantic_token_ids:
                raise ValueError(
                    f"centroids must be [{num_semantic_token_ids}, d], one for each semantic id, got {list(centroids.shape)}"
                )
            self._begin_at(centroids)
        self.dropout = nn.Dropout(dropout)
        self.norm, self.last_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.convolution = nn.Conv1d(dim, dim, kernel_size=5, padding=2)
        self.halving = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        self.layers = nn.ModuleList([_GatedConvolution(dim, DILATIONS[place % 6], dropout) for place in range(depth)])
        self.to_logits = nn.Linear(dim, 2 * frames_per_token * num_text_token_ids)

    def arguments(self) -> dict[str, int]:
        """The arguments that build a network of this size."""
        return {name: getattr(self, name) for name in self.SIZES}

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        vocabularies = f"{self.num_semantic_token_ids} semantic ids to {self.num_text_token_ids} text ids"
        return f"SemanticASR({vocabularies}, dim {self.dim}, {size:,} parameters, {self.device})"

    @property
    def device(self) -> torch.device:
        return self.to_logits.weight.device

    @property
    def module(self) -> nn.Module:
        """Itself, as `converging.Reader` has it."""
        return self

    @torch.no_grad()
    def _begin_at(self, centroids: Tensor) -> None:
        """Begins the embeddings at the main components of the centroids, with a variance of 1."""
        centred = centroids.float() - centroids.float().mean(dim=0)
        axes = cast(Tensor, torch.linalg.svd(centred, full_matrices=False)[2])
        found = (centred @ axes.mT)[:, : self.dim]
        found = F.pad(found, (0, self.dim - found.shape[1]))
        self.embedding.weight[:-1] = found / found.square().mean().sqrt().clamp(min=1e-8)
        self.embedding.weight[-1] = 0

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Semantic ids `[b, n]` padded with -1 to log-probabilities `[b, n', v]` and their lengths `[b]`.

        n' is n times `frames_per_token`; padding is on the right.
        """
        lengths = lengths_of(ids, SPEECH_PAD)
        return self._log_probs(ids.masked_fill(ids == SPEECH_PAD, self.mask_id), lengths)

    def _log_probs(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = mask_from_lengths(lengths, ids.shape[1])[..., None]  # zero padding: convolutions read beyond a row's end
        x = self.dropout(self.norm(self.embedding(ids))) * mask
        x = x + F.gelu(self.convolution(x.transpose(1, 2)).transpose(1, 2)) * mask
        x = self.halving(x.transpose(1, 2)).transpose(1, 2)
        mask = mask_from_lengths((lengths + 1) // 2, x.shape[1])[..., None]
        for layer in self.layers:
            x = layer(x, mask)
        logits = self.to_logits(self.dropout(self.last_norm(x)))
        # b n/2 (2 f v) -> b (n/2 2 f) v
        logits = logits.view(len(ids), -1, self.num_text_token_ids)[:, : ids.shape[1] * self.frames_per_token]
        return logits.log_softmax(dim=-1), lengths * self.frames_per_token

    def fit(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        valid: Sequence[tuple[Tensor, Tensor]] = (),
        *,
        checkpoint: Path | None = None,
        **options: Unpack[FitKeywords],
    ) -> Fit:
        """Trains on pairs of (semantic ids `[n]`, text ids `[m]`), both without padding and end-of-sequence.

        Pairs without semantic ids are left out. The caller's random state is left as it was.

        Args:
            pairs: to learn from.
            valid: held-out pairs; with them the weights of the lowest error rate are kept, and the training ends when it
                falls no more.
            checkpoint: a file of checkpoints, from which an interrupted training goes on; None writes none.
            options: those of `FitOptions`.

        Returns:
            The losses and validations.

        Raises:
            ValueError: no pairs, ids out of range, texts that have more ids than there are frames in most pairs, or a
                checkpoint that is damaged or of another training.
        """
        held_out = list(zip(*self._check_pairs(valid), strict=True)) if len(valid) else []
        pairs = list(zip(*self._check_pairs(pairs), strict=True))
        return fit(self, pairs, held_out, FitOptions(**options), checkpoint)

    def loss(self, semantic: Sequence[Tensor], text: Sequence[Tensor]) -> Tensor:
        """The CTC loss of pairs, nats per text id. In training mode ids are masked."""
        ids = pad_sequences(list(semantic), SPEECH_PAD)
        lengths = lengths_of(ids, SPEECH_PAD)
        masked = ids == SPEECH_PAD
        if self.training:
            masked |= self._masks(lengths, ids.shape[1])
        log_probs, frames = self._log_probs(
            ids.masked_fill(masked, self.mask_id).to(self.device), lengths.to(self.device)
        )
        targets = pad_sequences(list(text), TEXT_PAD).to(self.device)
        target_lengths = torch.tensor([len(row) for row in text], device=self.device)
        # A text with more ids than frames has no alignment and an infinite loss; zero_infinity leaves it out.
        losses = F.ctc_loss(
            log_probs.transpose(0, 1), targets, frames, target_lengths, reduction="none", zero_infinity=True
        )
        return losses.sum() / target_lengths.sum().clamp(min=1)

    def _masks(self, lengths: Tensor, n: int) -> Tensor:
        """Which ids `[b, n]` of a batch are masked in training: single ones, and spans."""
        masked = torch.rand(len(lengths), n) < self.token_dropout
        spans = (lengths * self.span_dropout / SPAN + torch.rand(len(lengths))).long()  # of each row
        most = int(spans.max())
        starts = (torch.rand(len(lengths), most) * lengths[:, None]).long()
        ends = starts + torch.randint(1, 2 * SPAN, (len(lengths), most))
        ends = torch.where(torch.arange(most) < spans[:, None], ends, starts)
        place = torch.arange(n)
        return masked | ((place >= starts[..., None]) & (place < ends[..., None])).any(dim=1)

    def _check_pairs(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        pairs = [pair for pair in pairs if len(pair[0])]
        if len(pairs) == 0:
            raise ValueError("pairs is empty: the evaluator needs pairs of semantic ids and text ids to train on")
        semantic, text = [self._check_row(s) for s, _ in pairs], [t.long() for _, t in pairs]
        for row in text:
            if row.ndim != 1 or (len(row) and not 0 < int(row.min()) <= int(row.max()) < self.num_text_token_ids):
                raise ValueError(
                    f"text ids must be rows [m] within 1..{self.num_text_token_ids - 1}, got {list(row.shape)} with"
                    f" {row.unique().tolist()[:20]}: remove padding and end-of-sequence"
                )
        hopeless = sum(len(t) > len(s) * self.frames_per_token for s, t in zip(semantic, text, strict=True))
        if hopeless > len(pairs) // 2:
            raise ValueError(
                f"{hopeless} of {len(pairs)} pairs have more text ids than frames: raise frames_per_token,"
                f" now {self.frames_per_token}"
            )
        return semantic, text

    def _check_row(self, row: Tensor) -> Tensor:
        row = row.long()
        if row.ndim != 1 or (len(row) and not 0 <= int(row.min()) <= int(row.max()) < self.num_semantic_token_ids):
            raise ValueError(
                f"semantic ids must be rows [n] within 0..{self.num_semantic_token_ids - 1}, got {list(row.shape)} with"
                f" {row.unique().tolist()[:20]}: remove padding and end-of-sequence"
            )
        return row

    @torch.no_grad()
    def transcribe(
        self,
        rows: Sequence[Tensor],
        *,
        batch_tokens: int = 16_000,
        lm: CharacterLM | None = None,
        lm_weight: float = 0.5,
        length_bonus: float = 0.0,
    ) -> list[Tensor]:
        """Reads rows of semantic ids `[n]`. Returns int64 text ids `[m]` for each, on the CPU; an empty row gives an empty one.

        Args:
            batch_tokens: semantic ids read at once, padding included.
            lm: a language model of text ids, for prefix beam search; without it the best id of each frame is taken.
            lm_weight, length_bonus: see `ctc_beam_search`.

        Raises:
            ValueError: ids out of range.
        """
        rows = [self._check_row(row) for row in rows]
        found: list[Tensor] = [torch.empty(0, dtype=torch.long)] * len(rows)
        filled = [index for index, row in enumerate(rows) if len(row)]
        if not filled:
            return found
        sampler = TokenBudgetBatchSampler([len(rows[index]) for index in filled], batch_tokens, shuffle=False)
        with evaluating(self):
            for picks in sampler.batches(0):
                batch = [filled[pick] for pick in picks]
                log_probs, lengths = self(pad_sequences([rows[i] for i in batch], SPEECH_PAD).to(self.device))
                if lm is None:
                    texts = ctc_greedy(log_probs, lengths, TEXT_PAD)
                else:
                    found_texts = ctc_beam_search(
                        log_probs, lengths, TEXT_PAD, lm=lm, lm_weight=lm_weight, length_bonus=length_bonus
                    )
                    texts = [ids for ids, _ in found_texts]
                for index, ids in zip(batch, texts, strict=True):
                    found[index] = ids
        return found
