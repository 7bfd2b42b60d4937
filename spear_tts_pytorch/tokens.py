"""Token ids of both modalities: the only code that knows padding and end-of-sequence.

Speech ids are `0..K-1`, end-of-sequence `K`, padding `-1`; text ids are `1..V-1`, end-of-sequence `V`, padding `0`.
In: rows of ids, any integer dtype. Out: `[b, n]` int64 batches, boolean masks (True = a real id), lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Modality = Literal["speech", "text"]
MODALITIES: tuple[Modality, Modality] = ("speech", "text")
SPEECH_PAD_ID, TEXT_PAD_ID = -1, 0

Row: TypeAlias = Tensor | np.ndarray | Sequence[int] | Sequence[float]
Batch: TypeAlias = Tensor | np.ndarray | Sequence[str] | Sequence[Row]
"""A batch as users give it: texts; or waveforms or ids, as one tensor or array, or as rows."""

INTEGER_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one modality: `num_ids` of them, a padding id and, if `autoset_eos`, one more for end-of-sequence."""

    modality: Modality
    num_ids: int
    pad_id: int
    autoset_eos: bool = True

    @property
    def eos_id(self) -> int:
        return self.num_ids

    @property
    def size(self) -> int:
        """Rows of the embedding table and of the logits."""
        return self.num_ids + int(self.autoset_eos)

    def check(self, ids: Tensor, name: str, *, empty_rows: bool = True, right_padded: bool = True) -> Tensor:
        """`check_ids` for this vocabulary."""
        return check_ids(
            ids,
            name=name,
            num_ids=self.size,
            pad_id=self.pad_id,
            modality=self.modality,
            empty_rows=empty_rows,
            right_padded=right_padded,
        )


def check_ids(
    ids: Tensor,
    *,
    name: str,
    num_ids: int,
    pad_id: int,
    modality: str = "token",
    empty_rows: bool = True,
    right_padded: bool = True,
) -> Tensor:
    """Returns `ids` `[b, n]` as int64. Waits once for the device they are on; compiled code leaves out what needs that.

    Args:
        empty_rows: whether a row may be all padding.
        right_padded: whether padding must stand behind a row's ids.

    Raises:
        TypeError: not an integer tensor.
        ValueError: not two-dimensional, without rows, with an id outside `0..num_ids-1` that is not `pad_id`, or with
            padding or a row that is not allowed.
    """
    if not isinstance(ids, Tensor) or ids.dtype not in INTEGER_DTYPES:
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} must be an integer tensor of {modality} ids, got {kind}")
    if ids.ndim != 2 or ids.shape[0] == 0:
        raise ValueError(f"{name} must have the shape [batch, length] with at least one row, got {list(ids.shape)}")
    ids = ids.long()
    if torch.compiler.is_compiling():
        return ids
    ids = ids.clone() if ids.is_inference() else ids  # of a tokenizer in inference mode: no loss could take them
    padding = ids == pad_id
    outside = ((ids < 0) | (ids >= num_ids)) & ~padding
    hole = padding[:, :-1] & ~padding[:, 1:]
    flags = torch.stack((outside.any(), hole.any(), padding.all(dim=-1).any()))
    has_outside, has_hole, has_empty = cast("list[bool]", flags.tolist())
    if has_outside:
        raise ValueError(
            f"{name} holds the id {int(ids[outside][0])}, but {modality} ids are 0 to {num_ids - 1} (padding {pad_id}): "
            "check that ids and vocabulary belong together, that speech and text are not swapped, and that audio is "
            "floating point (divide 16-bit samples by 32768)"
        )
    if has_hole and right_padded:
        raise ValueError(f"{name} has padding ({pad_id}) before a {modality} id: pad rows on the right only")
    if has_empty and not empty_rows:
        raise ValueError(f"{name} has a row without any id: remove it from the batch")
    return ids


def pad_sequences(rows: Sequence[Tensor], pad_id: int) -> Tensor:
    """Rows of ids `[n_i]` to one int64 batch `[b, n]`, filled up on the right with `pad_id`; n >= 1."""
    if len(rows) == 0:
        raise ValueError("rows is empty: a batch needs at least one row")
    batch = pad_sequence([row.long() for row in rows], batch_first=True, padding_value=pad_id)
    return batch if batch.shape[1] else batch.new_full((len(rows), 1), pad_id)


def valid_mask(ids: Tensor, pad_id: int) -> Tensor:
    """True where `ids` `[b, n]` is not padding."""
    return ids != pad_id


def with_start(mask: Tensor) -> Tensor:
    """A mask `[b, n]` with one more True position in front, for a start token or the null key: `[b, n + 1]`."""
    return F.pad(mask, (1, 0), value=True)


def mask_from_lengths(lengths: Tensor, n: int) -> Tensor:
    """Lengths `[b]` to a mask `[b, n]`, True at the first `lengths` positions."""
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def lengths_of(ids: Tensor, pad_id: int) -> Tensor:
    """Number of ids of each row of `[b, n]` that are not padding, `[b]`."""
    return (ids != pad_id).sum(dim=-1)


def append_eos(ids: Tensor, eos_id: int, pad_id: int) -> Tensor:
    """`[b, n]` to `[b, n + 1]` with `eos_id` right after the last real id of each row that does not already end in it."""
    ids = F.pad(ids, (0, 1), value=pad_id)
    positions = torch.arange(ids.shape[1], device=ids.device)
    end = torch.where(ids != pad_id, positions + 1, 0).amax(dim=-1)  # one past the last real id, [b]
    last = ids.gather(1, (end - 1).clamp(min=0)[:, None])[:, 0]
    missing = (end == 0) | (last != eos_id)
    return torch.where(missing[:, None] & (positions == end[:, None]), eos_id, ids)


def mask_after_eos(ids: Tensor, eos_id: int, pad_id: int) -> Tensor:
    """Everything after the first `eos_id` of each row of `[b, n]` becomes `pad_id`."""
    is_eos = ids == eos_id
    after = (is_eos.cumsum(dim=-1) - is_eos.long()) > 0
    return ids.masked_fill(after, pad_id)


def strip(row: Tensor, pad_id: int, eos_id: int | None) -> Tensor:
    """One row `[n]` as its content `[m]`: cut at the first `eos_id`, without padding."""
    row = row.long()
    if eos_id is not None:
        ends = (row == eos_id).nonzero()
        if len(ends):
            row = row[: int(ends[0])]
    return row[row != pad_id]


def remove_repeats(row: Tensor) -> tuple[Tensor, Tensor]:
    """One row of ids `[n]` without consecutive repeats `[m]`, and how often each stood there `[m]`."""
    ids, durations = cast("tuple[Tensor, Tensor]", torch.unique_consecutive(row, return_counts=True))
    return ids.long(), durations
