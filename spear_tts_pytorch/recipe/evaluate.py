"""An independent judge of generated speech tokens, and the error rates (`utils/metrics.py`).

In: rows of semantic ids `[n]`. Out: rows of text ids `[m]`, as another model than the one that made the semantic ids
reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import TokenBudgetBatchSampler
from spear_tts_pytorch.decoding.ctc import CharacterLM, ctc_beam_search, ctc_greedy
from spear_tts_pytorch.nn.rotary import sinusoids
from spear_tts_pytorch.nn.transformer import Transformer
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


class SemanticASR(nn.Module):
    """Semantic ids to text ids: a convolution, a small bidirectional encoder, CTC with the text padding id 0 as blank.

    Args:
        num_semantic_token_ids: K, speech ids are `0..K-1`.
        num_text_token_ids: V, text ids are `1..V-1`.
        dim, depth, heads: size of the encoder.
        dropout: in the feedforward layers.
        frames_per_token: how often each semantic id is repeated. CTC emits at most one text id per frame, so speech with
            hardly more semantic ids than characters needs 2 or more.
    """

    def __init__(
        self,
        num_semantic_token_ids: int,
        num_text_token_ids: int,
        *,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.1,
        frames_per_token: int = 1,
    ):
        super().__init__()
        if num_semantic_token_ids < 1 or num_text_token_ids < 2 or frames_per_token < 1:
            raise ValueError(
                "num_semantic_token_ids and frames_per_token must be at least 1 and num_text_token_ids at least 2, got"
                f" {num_semantic_token_ids}, {frames_per_token} and {num_text_token_ids}"
            )
        self.num_semantic_token_ids, self.num_text_token_ids = num_semantic_token_ids, num_text_token_ids
        self.dim, self.frames_per_token = dim, frames_per_token
        self.mask_id = num_semantic_token_ids  # replaces dropped ids and padding
        self.embedding = nn.Embedding(num_semantic_token_ids + 1, dim)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.convolution = nn.Conv1d(dim, dim, kernel_size=5, padding=2)
        self.encoder = Transformer(dim=dim, depth=depth, dim_head=dim // heads, heads=heads, ff_dropout=dropout)
        self.to_logits = nn.Linear(dim, num_text_token_ids)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        vocabularies = f"{self.num_semantic_token_ids} semantic ids to {self.num_text_token_ids} text ids"
        return f"SemanticASR({vocabularies}, dim {self.dim}, {size:,} parameters, {self.device})"

    @property
    def device(self) -> torch.device:
        return self.to_logits.weight.device

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Semantic ids `[b, n]` padded with -1 to log-probabilities `[b, n', v]` and their lengths `[b]`.

        n' is n times `frames_per_token`; padding is on the right.
        """
        lengths = lengths_of(ids, SPEECH_PAD)
        return self._log_probs(ids.masked_fill(ids == SPEECH_PAD, self.mask_id), lengths)

    def _log_probs(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        lengths = lengths * self.frames_per_token
        ids = ids.repeat_interleave(self.frames_per_token, dim=1)
        mask = mask_from_lengths(lengths, ids.shape[1])
        x = self.embedding(ids) * mask[..., None]  # zero padding, because the convolution reads beyond a row's end
        x = x + F.gelu(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = x + sinusoids(positions, self.dim) * self.dim**-0.5
        return self.to_logits(self.encoder(x, mask=mask)).log_softmax(dim=-1), lengths

    def fit(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        *,
        steps: int = 300,
        batch_tokens: int = 2500,
        lr: float = 3e-3,
        token_dropout: float = 0.1,
        seed: int = 0,
        progress: bool = True,
    ) -> list[float]:
        """Trains on pairs of (semantic ids `[n]`, text ids `[m]`), both without padding and end-of-sequence.

        Pairs without semantic ids are left out.

        Args:
            steps: updates; the learning rate warms up over a tenth of them and falls nearly to zero as a cosine.
            batch_tokens: semantic ids in a batch, padding included.
            token_dropout: share of semantic ids that are masked.
            seed: of batches, masks and dropout. The caller's random state is left as it was.

        Returns:
            The loss of each step, nats per text id.

        Raises:
            ValueError: no pairs, ids out of range, or texts that have more ids than there are frames in most pairs.
        """
        semantic, text = self._check_pairs(pairs)
        sampler = TokenBudgetBatchSampler([len(row) for row in semantic], batch_tokens, seed=seed)
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
        warmup = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / steps)),
        )
        history: list[float] = []
        self.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            tqdm(total=steps, desc="evaluator", disable=None if progress else True) as bar,
        ):
            torch.manual_seed(seed)
            epoch = 0
            while len(history) < steps:
                for batch in sampler.batches(epoch)[: steps - len(history)]:
                    loss = self._loss([semantic[i] for i in batch], [text[i] for i in batch], token_dropout)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    history.append(loss.item())
                    bar.set_postfix(loss=f"{history[-1]:.3f}", refresh=False)
                    bar.update()
                epoch += 1
        self.eval()
        return history

    def _loss(self, semantic: list[Tensor], text: list[Tensor], token_dropout: float) -> Tensor:
        ids = pad_sequences(semantic, SPEECH_PAD).to(self.device)
        lengths = lengths_of(ids, SPEECH_PAD)
        dropped = (ids == SPEECH_PAD) | (torch.rand(ids.shape, device=ids.device) < token_dropout)
        log_probs, lengths = self._log_probs(ids.masked_fill(dropped, self.mask_id), lengths)
        targets = pad_sequences(text, TEXT_PAD).to(self.device)
        target_lengths = torch.tensor([len(row) for row in text], device=self.device)
        # A text with more ids than frames has no alignment and an infinite loss; zero_infinity leaves it out.
        losses = F.ctc_loss(
            log_probs.transpose(0, 1), targets, lengths, target_lengths, reduction="none", zero_infinity=True
        )
        return losses.sum() / target_lengths.sum().clamp(min=1)

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
