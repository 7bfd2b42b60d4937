"""Keys and values of past positions, so that each decoding step computes only what is new.

`KVCache` is mutable decoding state and always an argument. Self-attention keys are stored rotated, those of all layers
in one preallocated tensor that grows by doubling; every row has a length of its own. Cross-attention keys and values
are computed once per source and shared by all rows (beams) that belong to it.
Does not know what the rows mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALLEST = 64  # positions for which room is made at first


class KVCache:
    """Keys and values of `r` rows in all layers, plus the mask and positions of their `s` sources.

    Args:
        depth: decoder layers.
        context: encoded sources `[s, m, dim]`, of which each layer makes its cross keys and values once.
        context_mask: `[s, m]`, True at real positions, or None.
        context_positions: `[s, m]`, or None.
    """

    def __init__(
        self, depth: int, context: Tensor, context_mask: Tensor | None, context_positions: Tensor | None = None
    ):
        self.context = context
        self.context_mask = context_mask
        self.context_positions = context_positions
        self.rows = context.shape[0]
        self.keys: Tensor | None = None  # [depth * r, h, capacity, d], layer by layer
        self.values: Tensor | None = None
        self.cross: tuple[Tensor, Tensor] | None = None  # [depth, s, h, 1 + m, d] each, null first
        self.layer_lengths = [[0] * self.rows] * depth  # positions filled, one per row; on the host: no synchronisation
        self.alike: np.ndarray | None = None  # [r, r], positions up to which two rows are known to hold the same
        self.pending: list[tuple[Tensor, Tensor | None]] = []  # drafted positions that the upper layers have yet to see
        self.prompted: Tensor | None = None  # [r, 1], the last id of a prompt, yet to be read

    @property
    def lengths(self) -> list[int]:
        """Positions held, one per row."""
        return self.layer_lengths[0]

    @property
    def sources(self) -> int:
        return self.context.shape[0]

    def reserve(self, heads: int, length: int, dim_head: int, dtype: torch.dtype) -> None:
        """Makes room for more than `length` positions in every layer; at least doubles when it has to grow.

        More, because to a compiled graph a cache that is filled to the last position would be a case of its own.
        """
        capacity = 0 if self.keys is None else self.keys.shape[2]
        if length < capacity:
            return
        shape = (len(self.layer_lengths) * self.rows, heads, max(length + 1, 2 * capacity, SMALLEST), dim_head)
        self.keys = _grown(self.keys, shape, dtype, self.context.device)  # one after the other: less memory at a time
        self.values = _grown(self.values, shape, dtype, self.context.device)

    def extend(self, n: int, first: int, last: int) -> None:
        """Counts `n` positions more in every row of the layers `first` to `last` (excluded)."""
        lengths = [length + n for length in self.layer_lengths[first]]
        self.layer_lengths[first:last] = [lengths] * (last - first)

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`): keeps, repeats or reorders rows, in place.

        Neighbouring rows of one source go on sharing its cross keys and values, as long as all sources have equally many.
        """
        host = rows.tolist()
        rows_per_source = self.rows // self.sources
        origin = [row // rows_per_source for row in host]
        group = next((i for i, source in enumerate(origin) if source != origin[0]), len(origin))
        shared = len(origin) % group == 0 and all(s == origin[i - i % group] for i, s in enumerate(origin))
        self._select_sources(origin[::group] if shared else origin)
        filled, alike = max(self.layer_lengths[0]), self.alike
        if self.keys is not None and self.values is not None:
            moves = _moves(host, rows_per_source, alike, self.layer_lengths[0]) if len(host) == self.rows else None
            self.keys = _take(self.keys, self.rows, host, moves, filled)
            self.values = _take(self.values, self.rows, host, moves, filled)
        if alike is not None or len(set(host)) < len(host):
            former = np.array(host)
            alike = np.zeros((self.rows, self.rows), dtype=np.int64) if alike is None else alike
            own = np.array(self.layer_lengths[0])[former]
            self.alike = np.where(former[:, None] == former, own, alike[former[:, None], former])
        self.layer_lengths = [[lengths[row] for row in host] for lengths in self.layer_lengths]
        self.rows = len(host)

    def _select_sources(self, index: list[int]) -> None:
        if index == list(range(self.sources)):
            return
        keep = torch.tensor(index, device=self.context.device)
        self.context = self.context[keep]
        self.context_mask = None if self.context_mask is None else self.context_mask[keep]
        self.context_positions = None if self.context_positions is None else self.context_positions[keep]
        if self.cross is not None:
            self.cross = (self.cross[0][:, keep], self.cross[1][:, keep])

    def replace(self, sources: list[int], other: KVCache) -> None:
        """Puts the sources of `other`, with as many rows each, in the place of `sources`, in order and in place.

        In both caches ids have been read, and none of them are drafts. The other cache is used up.
        """
        self._replace_sources(sources, other)
        per_source = self.rows // self.sources
        rows = [source * per_source + i for source in sources for i in range(per_source)]
        filled = max(other.lengths)
        self.reserve(self.keys.shape[1], filled, self.keys.shape[3], self.keys.dtype)
        for mine, new in ((self.keys, other.keys), (self.values, other.values)):
            mine.unflatten(0, (-1, self.rows))[:, rows, :, :filled] = new.unflatten(0, (-1, other.rows))[
                :, :, :, :filled
            ]
        if self.alike is not None:
            self.alike[rows], self.alike[:, rows] = 0, 0
            self.alike[np.ix_(rows, rows)] = np.diag(other.layer_lengths[0]) if other.alike is None else other.alike
        for layer, lengths in enumerate(other.layer_lengths):
            mine = np.array(self.layer_lengths[layer])
            mine[rows] = lengths
            self.layer_lengths[layer] = mine.tolist()

    def _replace_sources(self, sources: list[int], other: KVCache) -> None:
        """The sources' part of `replace`: what is encoded of them, their masks and positions, cross keys and values."""
        self.context = _put(self.context, sources, other.context)
        mask, new_mask = (_mask(cache) for cache in (self, other))
        self.context_mask = _put(mask.clone(), sources, new_mask)  # a new one: masks made of the old one are stale
        self.context_mask[sources, new_mask.shape[1] :] = False
        if self.context_positions is not None:
            self.context_positions = _put(self.context_positions.clone(), sources, other.context_positions)
        pairs = zip(self.cross, other.cross, strict=True)
        self.cross = tuple(_put(held, sources, new, row_dim=1, dim=3) for held, new in pairs)
        longest = int(self.context_mask.sum(dim=1).max())
        if 2 * longest <= self.context.shape[1]:  # the long sources have left
            self.context, self.context_mask = self.context[:, :longest].clone(), self.context_mask[:, :longest]
            if self.context_positions is not None:
                self.context_positions = self.context_positions[:, :longest]
            self.cross = tuple(held[:, :, :, : 1 + longest].contiguous() for held in self.cross)

    def truncate(self, lengths: list[int]) -> None:
        """Forgets every row's positions from `lengths[row]` on."""
        self.layer_lengths = [
            [min(old, new) for old, new in zip(layer, lengths, strict=True)] for layer in self.layer_lengths
        ]
        if self.alike is not None:
            self.alike = np.minimum(self.alike, np.minimum.outer(lengths, lengths))


def _mask(cache: KVCache) -> Tensor:
    if cache.context_mask is not None:
        return cache.context_mask
    return torch.ones(cache.context.shape[:2], dtype=torch.bool, device=cache.context.device)


def _put(held: Tensor, sources: list[int], new: Tensor, row_dim: int = 0, dim: int = 1) -> Tensor:
    """`held` with `new` in the places `sources` of `row_dim`, lengthened by zeros where `new` is longer in `dim`."""
    if held.shape[dim] < new.shape[dim]:
        shape = list(held.shape)
        shape[dim] = new.shape[dim]
        grown = held.new_zeros(shape)
        grown.narrow(dim, 0, held.shape[dim]).copy_(held)
        held = grown
    place: list[Any] = [slice(None)] * held.ndim
    place[row_dim], place[dim] = sources, slice(new.shape[dim])
    held[tuple(place)] = new
    return held


def _grown(cached: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    grown = torch.zeros(shape, dtype=dtype, device=device)
    if cached is not None:
        grown[:, :, : cached.shape[2]] = cached
    return grown


Move = tuple[list[int], list[int], int, int]  # rows, the rows they become copies of, first and last (excluded) position


def _moves(rows: list[int], rows_per_source: int, alike: np.ndarray | None, lengths: list[int]) -> list[Move]:
    """What has to be copied so that row i becomes the former row `rows[i]`: no positions at which the two agree.

    One move for all rows, but where sources of different ages stand side by side several, for as many of them as need about
    as much. Rows of one source read each other, so they move together.
    """
    by_source: dict[int, list[int]] = {}
    for row, former in enumerate(rows):
        if row != former:
            by_source.setdefault(row // rows_per_source, []).append(row)
    if any(rows[row] // rows_per_source != source for source, moved in by_source.items() for row in moved):
        by_source = {0: [row for moved in by_source.values() for row in moved]}
    groups: dict[tuple[int, int], Move] = {}
    for to in by_source.values():
        of = [rows[row] for row in to]
        begin, end = 0 if alike is None else int(alike[to, of].min()), max(lengths[row] for row in of)
        key = (end - begin).bit_length(), end.bit_length()
        others = groups.get(key, ([], [], begin, end))
        groups[key] = (others[0] + to, others[1] + of, min(others[2], begin), max(others[3], end))
    return [move for move in groups.values() if move[2] < move[3]]


def _take(cached: Tensor, r: int, rows: list[int], moves: list[Move] | None, filled: int) -> Tensor:
    """The `rows` of each layer of `cached` `[depth * r, h, capacity, d]`; in place where their number stays: `moves`."""
    layers = cached.unflatten(0, (-1, r))
    if moves is not None:
        for to, of, begin, end in moves:
            layers[:, to, :, begin:end] = layers[:, of, :, begin:end]
        return cached
    taken = cached.new_zeros((len(layers), len(rows), *cached.shape[1:]))
    for layer in range(len(layers)):  # one after the other: less memory at a time
        taken[layer, :, :, :filled] = layers[layer, rows, :, :filled]
    return taken.flatten(0, 1)
