"""Losses on logits and pooled embeddings: cross entropy, CTC, alignment regulariser.

In: logits `[b, n, v]`, target ids `[b, n]` with padding, masks. Out: scalars; padding never counts.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.utils.distributed import gather_rows


def cross_entropy(logits: Tensor, target: Tensor, pad_id: int, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the real ids of `target` `[b, n]`, given `logits` `[b, n, v]`; float32 whatever the logits are."""
    logits = logits.flatten(0, 1).float()
    return F.cross_entropy(logits, target.flatten(), ignore_index=pad_id, label_smoothing=label_smoothing)


def ctc(log_probs: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006), summed over rows; too short ones to be aligned add 0.

    Args: `log_probs` `[b, n, v]`, `lengths` `[b]` of the inputs, `target` `[b, m]`, `target_lengths` `[b]`.
    """
    return ctc_per_row(log_probs, lengths, target, target_lengths, blank).sum()


def ctc_alignable(lengths: Tensor, target: Tensor, target_lengths: Tensor) -> Tensor:
    """`[b]`: whether each input is long enough for its target, a repeated id needing one position more."""
    repeats = (target[:, 1:] == target[:, :-1]) & (
        torch.arange(1, target.shape[1], device=target.device) < target_lengths[:, None]
    )
    return lengths >= target_lengths + repeats.sum(dim=-1)


def ctc_per_row(log_probs: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor, blank: int) -> Tensor:
    """-log p(target | input) of each row, `[b]`; 0 where the input is too short to be aligned, without gradient."""
    return F.ctc_loss(
        log_probs.transpose(0, 1).float(),
        target.clamp(min=0),
        lengths,
        target_lengths,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )


def pool(x: Tensor, mask: Tensor, temperature: float | None) -> Tensor:
    """Max over the real positions of `x` `[b, n, d]`, or its smooth form logsumexp at a temperature: `[b, d]`."""
    x = x.float().masked_fill(~mask[..., None], float("-inf"))
    if temperature is None:
        return x.amax(dim=1)
    return (x / temperature).logsumexp(dim=1) * temperature


def alignment_regularizer(
    source: Tensor,
    target: Tensor,
    source_mask: Tensor,
    target_mask: Tensor,
    dropped: Tensor,
    drop_prob: float,
    temperature: float | None = 0.1,
) -> Tensor:
    """Keeps the similarities between sources and those between their targets alike (arXiv 2309.08773).

    It is about the pairs of rows that did not see their source. Its expectation is `drop_prob` times the mean over all
    pairs, whatever the batch size: that of dropping the sources of whole batches. Rows of all processes make pairs, and
    each process returns the same value. One row has no pair: 0.

    Args:
        source, target: embeddings `[b, n, d]` and `[b, m, d]`, with masks of real positions.
        dropped: `[b]`, True at rows that did not see their source; each with probability `drop_prob`.
    """
    pooled = torch.stack((pool(source, source_mask, temperature), pool(target, target_mask, temperature)), dim=1)
    pooled, dropped = gather_rows(F.normalize(pooled, dim=-1)), gather_rows(dropped)
    has_autocast = torch.amp.is_autocast_available(pooled.device.type)
    with torch.autocast(pooled.device.type, enabled=False) if has_autocast else nullcontext():
        of_sources, of_targets = torch.einsum("aid,bid->iab", pooled, pooled)
    rows = len(dropped)
    pairs = dropped[:, None] & dropped[None, :] & ~torch.eye(rows, dtype=torch.bool, device=dropped.device)
    squares = (of_sources - of_targets).square().masked_fill(~pairs, 0.0)
    return squares.sum() / (max(1, rows * (rows - 1)) * drop_prob)
