"""Which ids of a row training deletes: the corruption of pretraining, and token dropout.

In: ids `[b, n]` padded on the right, and keys `[b]` of the rows, see `noise.row_keys`. Out: shorter rows of ids, padded on
the right. A row with a key loses the same ids in any batch, on any device. Without keys torch's generator draws.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spear_tts_pytorch.tokens import mask_from_lengths, valid_mask
from spear_tts_pytorch.utils.noise import uniform_rows

DELETION, DROPOUT = 1, 2  # purposes of noise: each gives a row other numbers


def deletion_count(lengths: Tensor, probability: float) -> Tensor:
    """How many ids to delete from rows of these lengths `[b]`: `ceil(probability * length)`, never all of a row."""
    return (lengths * probability).ceil().long().minimum(lengths - 1)


def deletion_mask(valid: Tensor, probability: float, row_keys: Tensor | None = None) -> Tensor:
    """Draws the ids of each row to delete: `deletion_count` of the valid ones.

    Args:
        valid: `[b, n]`, True at real ids.
        probability: share of the real ids, between 0 and 1.
        row_keys: `[b]`.

    Returns:
        A mask `[b, n]`, True at ids to delete.
    """
    noise = uniform_rows(valid.shape, valid.device, row_keys, DELETION)
    order = noise.masked_fill(~valid, 2.0).argsort(dim=-1).argsort(dim=-1)
    return order < deletion_count(valid.sum(dim=-1), probability)[:, None]


def take(ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    """The ids `[b, n]` where `mask` `[b, n]` is True, in order, padded to the longest row: `[b, m]`, m >= 1.

    On an accelerator this waits for the device, as the result's shape depends on the mask.
    """
    counts = mask.sum(dim=-1)
    taken = torch.full((len(ids), max(1, int(counts.max()))), pad_id, dtype=torch.long, device=ids.device)
    taken[mask_from_lengths(counts, taken.shape[1])] = ids[mask].long()
    return taken


def drop_ids(ids: Tensor, share: float, pad_id: int, row_keys: Tensor | None = None) -> Tensor:
    """Deletes each id of `ids` `[b, n]` with the probability `share`. A row keeps its first id if it would lose all."""
    valid = valid_mask(ids, pad_id)
    kept = valid & (uniform_rows(valid.shape, valid.device, row_keys, DROPOUT) >= share)
    kept[:, 0] |= ~kept.any(dim=-1)
    return take(ids, kept, pad_id)
