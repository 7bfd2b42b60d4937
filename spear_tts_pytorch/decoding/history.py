"""The ids of decoding rows so far, for options and filters that look at them.

In: the ids of a prompt, and each id that is drawn. Out: ids `[r, n]`, padded on the right, and their number in each row. The
start token is no id and is not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.tokens import pad_sequences

ROOM = 64  # ids of a row for which room is made at a time


class History:
    """The ids of `r` rows so far: those of a prompt, then those generated. They may have begun at different steps.

    Its tensors are replaced, never written into: `copy.copy` is a history of its own.

    Attributes:
        lengths: int64 `[r]`, ids of each row.
        generated: int64 `[r]`, those of them that no prompt gave.
        longest: no row has more ids. Rows that left may have had as many.

    Args:
        prompts: int64 `[n]` of each row, n may be 0.
        device: of the ids.
    """

    def __init__(self, prompts: Sequence[Tensor], device: torch.device):
        counts = [len(row) for row in prompts]
        self._ids = pad_sequences(list(prompts), 0).to(device)  # [r, room]; anything behind a row's ids
        self.lengths = torch.tensor(counts, dtype=torch.long, device=device)
        self.generated = torch.zeros_like(self.lengths)
        self.longest = max(counts)

    def padded(self, pad_id: int) -> Tensor:
        """The ids `[r, longest]`, padded on the right."""
        void = torch.arange(self.longest, device=self._ids.device) >= self.lengths[:, None]
        return self._ids[:, : self.longest].masked_fill(void, pad_id)

    def append(self, ids: Tensor, counts: Tensor | None = None) -> None:
        """Adds the first `counts` `[r]` of ids `[r, k]` to each row, by default all."""
        k = ids.shape[1]
        if self.longest + k > self._ids.shape[1]:
            self._ids = F.pad(self._ids, (0, self.longest + k - self._ids.shape[1] + ROOM))
        self._ids = self._ids.scatter(1, self.lengths[:, None] + torch.arange(k, device=ids.device), ids)
        counts = torch.full_like(self.lengths, k) if counts is None else counts
        self.lengths, self.generated = self.lengths + counts, self.generated + counts
        self.longest += k

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`)."""
        self._ids, self.lengths, self.generated = self._ids[rows], self.lengths[rows], self.generated[rows]

    def replace(self, rows: Sequence[int], other: History) -> None:
        """The rows of `other` take the places `rows`, in order."""
        width = max(self._ids.shape[1], other._ids.shape[1])
        self._ids, ids = (F.pad(held, (0, width - held.shape[1])) for held in (self._ids, other._ids))
        place = torch.tensor(rows, device=ids.device)
        self._ids = self._ids.index_copy(0, place, ids)
        self.lengths = self.lengths.index_copy(0, place, other.lengths)
        self.generated = self.generated.index_copy(0, place, other.generated)
        self.trim()

    def trim(self) -> None:
        """Brings `longest` down to the longest row that is left. Waits for the device."""
        self.longest = int(self.lengths.max())

    def before_drafts(self, drafts: Tensor) -> History:
        """What stands before each of `drafts` `[r, k]`, and behind all of them: `r * (k + 1)` rows, each row's together."""
        k = drafts.shape[1]
        found = copy(self)
        found.append(drafts, torch.zeros_like(self.lengths))
        found.select(torch.arange(len(drafts), device=drafts.device).repeat_interleave(k + 1))
        places = torch.arange(k + 1, device=drafts.device).repeat(len(drafts))
        found.lengths, found.generated = found.lengths + places, found.generated + places
        return found
