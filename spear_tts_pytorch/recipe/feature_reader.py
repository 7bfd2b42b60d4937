"""A reader of an encoder's features by CTC, which hears more in a recording than its ids hold.

In: features `[n, d]` of clips and the texts of a few. Out: log-probabilities `[n', v]` of text ids, for labels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import TokenBudgetBatchSampler
from spear_tts_pytorch.nn.dropout import Dropout
from spear_tts_pytorch.nn.rotary import RotaryEmbedding
from spear_tts_pytorch.nn.transformer import Block
from spear_tts_pytorch.tokens import mask_from_lengths, pad_sequences
from spear_tts_pytorch.utils.checks import evaluating

TEXT_PAD = 0
MASK_FRAMES, FRAMES_A_MASK, MASK_SHARE = (
    20,
    100,
    0.1,
)  # SpecAugment: longest span in time, spans by length, span of features


class Source(Protocol):
    """Features `[n, d]` of clips by id."""

    def __getitem__(self, id_: str) -> Tensor: ...


class ConvolutionModule(nn.Module):
    """The convolution of a Conformer (arXiv 2005.08100, section 2.2), with layer norm in place of batch norm."""

    def __init__(self, dim: int, kernel: int = 9, dropout: float = 0.1):
        super().__init__()
        self.norm, self.to_gated = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.inner_norm, self.to_out, self.dropout = nn.LayerNorm(dim), nn.Linear(dim, dim), Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[b, n, dim]`, with a mask `[b, n]` of real frames, to what is added to it."""
        gated = F.glu(self.to_gated(self.norm(x)), dim=-1) * mask[..., None]
        found = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.to_out(F.silu(self.inner_norm(found))))


class FeatureReader(nn.Module):
    """Features to text ids by CTC with the text padding id 0 as blank: blocks of attention, feedforward and convolution.

    Args:
        num_features: d.
        num_text_token_ids: V, text ids are `1..V-1`.
        dim, depth, heads: size.
        dropout: in all blocks.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        num_features: int,
        num_text_token_ids: int,
        *,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        self.to_inner, self.convolution = nn.Linear(num_features, dim), nn.Conv1d(dim, dim, 5, padding=2)
        self.dropout, self.norm = Dropout(dropout), nn.LayerNorm(dim)
        self.rotary = RotaryEmbedding(dim // heads)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                dim_head=dim // heads,
                heads=heads,
                kv_heads=None,
                causal=False,
                cross_attend=False,
                attn_dropout=0.0,
                ff_mult=4,
                ff_dropout=dropout,
                flash=False,
            )
            for _ in range(depth)
        )
        self.convolutions = nn.ModuleList(ConvolutionModule(dim, dropout=dropout) for _ in range(depth))
        self.to_logits = nn.Linear(dim, num_text_token_ids)

    @property
    def device(self) -> torch.device:
        return self.to_logits.weight.device

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Features `[b, n, d]` with lengths `[b]` to log-probabilities `[b, n, v]`."""
        mask = mask_from_lengths(lengths, features.shape[1])
        x = self.dropout(self.to_inner((features - self.mean) * self.scale)) * mask[..., None]
        x = F.gelu(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        x = self.norm(x) * mask[..., None]
        rotation = self.rotary(torch.arange(x.shape[1], device=x.device))
        for block, convolution in zip(self.blocks, self.convolutions, strict=True):
            x = block(x, rotation, mask[:, None, None, :])
            x = x + convolution(x, mask)
        return self.to_logits(self.dropout(x)).log_softmax(dim=-1)

    def fit(
        self,
        features: Source,
        pairs: Sequence[tuple[str, Tensor]],
        *,
        steps: int,
        lr: float = 2e-3,
        batch_frames: int = 3500,
        frames: Sequence[int],
        seed: int = 0,
        progress: bool = True,
    ) -> list[float]:
        """Trains on the features and the text ids `[m]` of clips.

        Args:
            features: by id.
            pairs: id and text ids of each clip, without padding and end-of-sequence.
            steps: updates; the learning rate rises for a tenth of them and then falls to zero as a cosine.
            batch_frames: frames in a batch, padding included.
            frames: number of frames of each clip of `pairs`.
            seed: of batches, masks and dropout. The caller's random state is left as it was.

        Returns:
            The loss of each step, nats per text id.
        """
        sampler = TokenBudgetBatchSampler(list(frames), batch_frames, seed=seed)
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
        history: list[float] = []
        drawn = random.Random(seed)
        hidden = None if progress else True
        self.train()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), tqdm(total=steps, desc="feature reader", disable=hidden) as bar:
            torch.manual_seed(seed)
            epoch = 0
            while len(history) < steps:
                for batch in sampler.batches(epoch)[: steps - len(history)]:
                    done = len(history) / steps
                    for group in optimizer.param_groups:
                        group["lr"] = lr * min(1.0, 10 * done + 10 / steps) * (0.5 + 0.5 * math.cos(math.pi * done))
                    loss = self._loss([features[pairs[i][0]] for i in batch], [pairs[i][1] for i in batch], drawn)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                    optimizer.step()
                    history.append(loss.item())
                    bar.set_postfix(loss=f"{history[-1]:.3f}", refresh=False)
                    bar.update()
                epoch += 1
        self.eval()
        return history

    def _loss(self, rows: list[Tensor], texts: list[Tensor], drawn: random.Random) -> Tensor:
        rows = [self._masked(row, drawn) for row in rows]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        log_probs, targets = self(x, lengths), pad_sequences([text.long() for text in texts], TEXT_PAD).to(self.device)
        counts = torch.tensor([len(text) for text in texts], device=self.device)
        losses = F.ctc_loss(log_probs.transpose(0, 1), targets, lengths, counts, reduction="none", zero_infinity=True)
        return losses.sum() / counts.sum().clamp(min=1)

    def _masked(self, row: Tensor, drawn: random.Random) -> Tensor:
        """Features `[n, d]` with spans of frames and a span of features at their mean (SpecAugment, arXiv 1904.08779)."""
        row, (n, d), mean = row.clone(), row.shape, self.mean.cpu()
        for _ in range(2 + n // FRAMES_A_MASK):
            first = drawn.randrange(n)
            row[first : first + drawn.randint(1, MASK_FRAMES)] = mean
        first, width = drawn.randrange(d), max(1, int(d * MASK_SHARE))
        row[:, first : first + width] = mean[first : first + width]
        return row

    @torch.no_grad()
    def log_probs(self, features: Tensor) -> Tensor:
        """Log-probabilities `[n, v]` of text ids, on the CPU, for the features `[n, d]` of a clip."""
        with evaluating(self):
            return self(features[None].to(self.device), torch.tensor([len(features)], device=self.device))[0].cpu()
