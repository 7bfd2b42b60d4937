"""Keys and values of past positions, so that a decoding step computes only the new ones.

In: encoded sources `[s, m, dim]`, and from each step the new keys and values. Out: those of all past positions.

`KVCache` is the state of one decoding run, and always an argument. Self-attention keys are stored rotated, those of all
layers in one preallocated tensor that grows by doubling; each row has its own length. Cross-attention keys and values are
computed once per source, and all rows (beams) of a source share them.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SMALLEST = 64  # positions of the first allocation


class KVCache:
    """Keys and values of `r` rows in all layers, and the encoded sources of these rows with their mask and positions.

    Args:
        depth: number of decoder layers.
        context: encoded sources `[s, m, dim]`. Each layer makes its cross keys and values from them once.
        context_mask: `[s, m]`, True at real positions; None if all are real.
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
        # positions filled, per layer and row; on the host, so that reading them does not wait for the device
        self.layer_lengths: list[list[int]] = [[0] * self.rows] * depth
        self.alike: npt.NDArray[np.int64] | None = (
            None  # [r, r], number of first positions that two rows have in common
        )
        self.pending: list[tuple[Tensor, Tensor | None]] = []  # drafted positions that the upper layers have not read
        self.prompted: Tensor | None = None  # [r, 1], the last id of each prompt, which no step has read

    @property
    def lengths(self) -> list[int]:
        """Number of positions held, per row."""
        return self.layer_lengths[0]

    @property
    def sources(self) -> int:
        """Number of sources."""
        return self.context.shape[0]

    def reserve(self, heads: int, length: int, dim_head: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Makes room for more than `length` positions in every layer. If it has to grow, it at least doubles.

        At least one position stays free. A full cache would need another compiled graph.

        Returns:
            Keys and values `[depth * r, h, capacity, d]`.
        """
        if self.keys is not None and self.values is not None and length < self.keys.shape[2]:
            return self.keys, self.values
        capacity = 0 if self.keys is None else self.keys.shape[2]
        shape = (len(self.layer_lengths) * self.rows, heads, max(length + 1, 2 * capacity, SMALLEST), dim_head)
        self.keys = _grown(self.keys, shape, dtype, self.context.device)  # in two steps, to hold less memory at a time
        self.values = _grown(self.values, shape, dtype, self.context.device)
        return self.keys, self.values

    def extend(self, n: int, first: int, last: int) -> None:
        """Counts `n` more positions in every row of the layers `first` to `last` (excluded)."""
        lengths = [length + n for length in self.layer_lengths[first]]
        self.layer_lengths[first:last] = [lengths] * (last - first)

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row `rows[i]` (int64 `[new r]`): keeps, repeats or reorders rows, in place.

        Neighbouring rows of one source still share its cross keys and values, if all sources have equally many rows.
        """
        host = cast("list[int]", rows.tolist())
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
        """Puts the sources of `other` in the places `sources`, in order and in place. Do not use `other` afterwards.

        Both caches have equally many rows per source. Both have read ids, and neither holds drafts.

        Raises:
            RuntimeError: a cache has not read any ids.
            ValueError: one cache has positions of its sources, the other has none.
        """
        (keys, values, cross), (new_keys, new_values, new_cross) = self._held(), other._held()
        self._replace_sources(sources, other)
        self.cross = _put_cross(cross, sources, new_cross)
        self._drop_free_positions()
        per_source = self.rows // self.sources
        rows = [source * per_source + i for source in sources for i in range(per_source)]
        filled = max(other.lengths)
        keys, values = self.reserve(keys.shape[1], filled, keys.shape[3], keys.dtype)
        for mine, new in ((keys, new_keys), (values, new_values)):
            held = torch.unflatten(mine, 0, (-1, self.rows))  # [depth, r, h, capacity, d], a view
            held[:, rows, :, :filled] = torch.unflatten(new, 0, (-1, other.rows))[:, :, :, :filled]
        if self.alike is not None:
            self.alike[rows], self.alike[:, rows] = 0, 0
            self.alike[np.ix_(rows, rows)] = np.diag(other.layer_lengths[0]) if other.alike is None else other.alike
        self.layer_lengths = [
            _with_items(own, rows, new) for own, new in zip(self.layer_lengths, other.layer_lengths, strict=True)
        ]

    def _held(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Keys, values, and cross keys and values."""
        if self.keys is None or self.values is None or self.cross is None:
            raise RuntimeError("the cache holds no keys and values: let the decoder read ids into it first")
        return self.keys, self.values, self.cross

    def _replace_sources(self, sources: list[int], other: KVCache) -> None:
        """The part of `replace` that concerns encodings, masks and positions of sources."""
        positions, new_positions = self.context_positions, other.context_positions
        if (positions is None) != (new_positions is None):
            raise ValueError("both caches need context_positions, or neither: make them with the same model")
        if positions is not None and new_positions is not None:
            self.context_positions = _put(positions.clone(), sources, new_positions)
        self.context = _put(self.context, sources, other.context)
        mask, new_mask = (_mask(cache) for cache in (self, other))
        self.context_mask = _put(
            mask.clone(), sources, new_mask
        )  # a new tensor: masks derived from the old one are stale
        self.context_mask[sources, new_mask.shape[1] :] = False

    def _drop_free_positions(self) -> None:
        """Shortens sources to the longest of them, if that halves them at least: a long source may have left."""
        mask, length = self.context_mask, self.context.shape[1]
        longest = length if mask is None else int(mask.sum(dim=1).max())
        if mask is None or 2 * longest > length:
            return
        self.context, self.context_mask = self.context[:, :longest].clone(), mask[:, :longest]
        if self.context_positions is not None:
            self.context_positions = self.context_positions[:, :longest]
        if self.cross is not None:
            keys, values = (held[:, :, :, : 1 + longest].contiguous() for held in self.cross)
            self.cross = keys, values

    def truncate(self, lengths: list[int]) -> None:
        """Forgets the positions of each row from `lengths[row]` on."""
        self.layer_lengths = [
            [min(old, new) for old, new in zip(layer, lengths, strict=True)] for layer in self.layer_lengths
        ]
        if self.alike is not None:
            self.alike = np.minimum(self.alike, np.minimum.outer(lengths, lengths))


def _mask(cache: KVCache) -> Tensor:
    if cache.context_mask is not None:
        return cache.context_mask
    return torch.ones(cache.context.shape[:2], dtype=torch.bool, device=cache.context.device)


def _put_cross(held: tuple[Tensor, Tensor], sources: list[int], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    keys, values = (_put(mine, sources, other, row_dim=1, dim=3) for mine, other in zip(held, new, strict=True))
    return keys, values


def _with_items(values: list[int], places: list[int], new: list[int]) -> list[int]:
    """A copy of `values` with `new` in the places `places`."""
    changed = list(values)
    for place, value in zip(places, new, strict=True):
        changed[place] = value
    return changed


def _put(held: Tensor, sources: list[int], new: Tensor, row_dim: int = 0, dim: int = 1) -> Tensor:
    """`held` with `new` in the places `sources` of dimension `row_dim`, in place if it fits.

    If `new` is longer in `dim`, the result is a longer copy, and zeros fill it up.
    """
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


Move = tuple[list[int], list[int], int, int]  # rows, the rows to copy from, first and last (excluded) position


def _moves(
    rows: list[int], rows_per_source: int, alike: npt.NDArray[np.int64] | None, lengths: list[int]
) -> list[Move]:
    """The copies that make row i the former row `rows[i]`. Positions at which both rows agree are not copied.

    Sources that have to copy about equally many positions share a move. Rows of one source are always in one move, because
    they read each other.
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
    """The `rows` of each layer of `cached` `[depth * r, h, capacity, d]`: by `moves` in place, or without moves a copy."""
    layers = torch.unflatten(cached, 0, (-1, r))  # [depth, r, h, capacity, d], a view
    if moves is not None:
        for to, of, begin, end in moves:
            layers[:, to, :, begin:end] = layers[:, of, :, begin:end]
        return cached
    taken = cached.new_zeros((len(layers), len(rows), *cached.shape[1:]))
    for layer in range(len(layers)):  # layer by layer, to hold less memory at a time
        taken[layer, :, :, :filled] = layers[layer, rows, :, :filled]
    return taken.flatten(0, 1)
