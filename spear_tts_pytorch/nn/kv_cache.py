"""Keys and values of past positions, so that each decoding step computes only what is new.

`KVCache` is mutable decoding state and always an argument. Self-attention keys are stored rotated in preallocated
`[r, h, capacity, d]` tensors that grow by doubling; every row has a length of its own. Cross-attention keys and
values are computed once per source and shared by all rows (beams) that belong to it.
Does not know what the rows mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class LayerCache:
    keys: Tensor | None = None  # [r, h, capacity, d]
    values: Tensor | None = None
    cross: tuple[Tensor, Tensor] | None = None  # [s, h, m, d] each, s sources
    lengths: list[int] = field(default_factory=list)  # positions filled, one per row; on the host: no synchronisation

    def reserve(self, rows: int, heads: int, length: int, dim_head: int, like: Tensor) -> None:
        """Makes room for `length` positions; at least doubles when it has to grow."""
        capacity = 0 if self.keys is None else self.keys.shape[2]
        if length <= capacity:
            return
        shape = (rows, heads, max(length, 2 * capacity, 64), dim_head)
        keys, values = (torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        if self.keys is not None and self.values is not None:
            keys[:, :, :capacity], values[:, :, :capacity] = self.keys, self.values
        self.keys, self.values = keys, values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes `[r, h, n, d]` behind each row's own length; returns all keys and values `[r, h, longest, d]`."""
        rows, heads, n, dim_head = keys.shape
        if not self.lengths:
            self.lengths = [0] * rows
        longest = max(self.lengths) + n
        self.reserve(rows, heads, longest, dim_head, keys)
        assert self.keys is not None and self.values is not None
        if min(self.lengths) + n == longest:
            self.keys[:, :, longest - n : longest] = keys
            self.values[:, :, longest - n : longest] = values
        else:
            row = torch.arange(rows, device=keys.device)[:, None]
            position = torch.tensor(self.lengths, device=keys.device)[:, None] + torch.arange(n, device=keys.device)
            self.keys[row, :, position] = keys.transpose(1, 2)
            self.values[row, :, position] = values.transpose(1, 2)
        self.lengths = [length + n for length in self.lengths]
        return self.keys[:, :, :longest], self.values[:, :, :longest]


class KVCache:
    """One `LayerCache` per decoder layer, plus the mask and positions of the sources.

    Args:
        depth: decoder layers.
        context: encoded sources `[s, m, dim]`, of which each layer makes its cross keys and values once.
        context_mask: `[s, m]`, True at real positions, or None.
    """

    def __init__(
        self, depth: int, context: Tensor, context_mask: Tensor | None, context_positions: Tensor | None = None
    ):
        self.layers = [LayerCache() for _ in range(depth)]
        self.context = context
        self.context_mask = context_mask
        self.context_positions = context_positions
        self.rows = context.shape[0]
        self.pending: list[tuple[Tensor, Tensor | None]] = []  # drafted positions that the upper layers have yet to see
        self.prompted: Tensor | None = None  # [r, 1], the last id of a prompt, yet to be read

    @property
    def lengths(self) -> list[int]:
        """Positions held, one per row."""
        return self.layers[0].lengths or [0] * self.rows

    @property
    def sources(self) -> int:
        return self.context.shape[0]

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`): keeps, repeats or reorders rows, in place.

        Neighbouring rows of one source go on sharing its cross keys and values, as long as all sources have equally many.
        """
        host = rows.tolist()
        rows_per_source = self.rows // self.sources
        origin = [row // rows_per_source for row in host]
        group = next((i for i, source in enumerate(origin) if source != origin[0]), len(origin))
        shared = len(origin) % group == 0 and all(s == origin[i - i % group] for i, s in enumerate(origin))
        starts = origin[::group] if shared else origin
        self._select_sources(starts)
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                filled = max(layer.lengths)
                layer.keys, layer.values = (_take(cached, host, filled) for cached in (layer.keys, layer.values))
                layer.lengths = [layer.lengths[row] for row in host]
        self.rows = len(host)

    def _select_sources(self, index: list[int]) -> None:
        if index == list(range(self.sources)):
            return
        keep = torch.tensor(index, device=self.context.device)
        self.context = self.context[keep]
        self.context_mask = None if self.context_mask is None else self.context_mask[keep]
        self.context_positions = None if self.context_positions is None else self.context_positions[keep]
        for layer in self.layers:
            if layer.cross is not None:
                layer.cross = (layer.cross[0][keep], layer.cross[1][keep])

    def truncate(self, lengths: list[int]) -> None:
        """Forgets every row's positions from `lengths[row]` on."""
        for layer in self.layers:
            if layer.lengths:
                layer.lengths = [min(old, new) for old, new in zip(layer.lengths, lengths, strict=True)]


def _take(cached: Tensor, rows: list[int], filled: int) -> Tensor:
    """`cached[rows]`, copying only the filled positions; in place where the number of rows stays."""
    if len(rows) == len(cached):
        moved = [row for row, former in enumerate(rows) if row != former]
        if moved:
            cached[moved, :, :filled] = cached[[rows[row] for row in moved], :, :filled]
        return cached
    taken = cached.new_zeros((len(rows), *cached.shape[1:]))
    taken[:, :, :filled] = cached[rows, :, :filled]
    return taken
