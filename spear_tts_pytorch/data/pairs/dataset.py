"""A folder of pairs of semantic and text ids as a dataset with random access.

In: a folder of Parquet shards, or of `{n}.pt` rows of releases up to 0.4.8. Out: `(semantic_ids [n], text_ids [m])` int64
pairs without padding and end-of-sequence, or other columns on request. `writer.py` writes such folders, `tools.py` merges,
splits and counts them.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spear_tts_pytorch.data.arrow import Column, Footer, arrow, compute
from spear_tts_pytorch.data.pairs.cache import Part, Shards, cache_folders, decode, remove_stale
from spear_tts_pytorch.data.pairs.legacy import legacy_rows, split_row, without_eos
from spear_tts_pytorch.data.pairs.shards import (
    COLUMNS,
    ID_COLUMNS,
    id_limits,
    list_shards,
    pair_table,
    read_column,
    read_footer,
    read_metadata,
)
from spear_tts_pytorch.utils.values import absolute_path, one_of, place, real_number, shown, unicode_text, whole_number

IN_MEMORY_IDS = 16 * 2**20  # folders with fewer ids are decoded in memory, without files beside the shards
Range = tuple[int | None, int | None]


class _Filters:
    """The filters of the dataset, checked; see there."""

    def __init__(
        self,
        min_score: float | None,
        score_quantile: float | None,
        semantic_lengths: Range | None,
        text_lengths: Range | None,
        ids: Collection[str] | None,
    ):
        self.min_score = None if min_score is None else real_number("min_score", min_score)
        self.score_quantile = None if score_quantile is None else real_number("score_quantile", score_quantile, 0, 1)
        self.semantic_lengths = _checked_range("semantic_lengths", semantic_lengths)
        self.text_lengths = _checked_range("text_lengths", text_lengths)
        if isinstance(ids, str):
            ids = [ids]
        try:
            self.ids = None if ids is None else [unicode_text("one of ids", str(one)) for one in ids]
        except TypeError:
            raise TypeError(f"ids must be names of pairs or None, got {shown(cast(object, ids))}") from None


def _checked_range(name: str, bounds: object) -> Range | None:
    """A pair of bounds, each a number of ids or None."""
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(cast("tuple[object, ...]", bounds)) != 2:
        raise TypeError(
            f"{name} must be (lowest, highest), each a number of ids or None, got {shown(cast(object, bounds))}"
        )
    low, high = (None if one is None else whole_number(name, one, 0) for one in cast("tuple[object, object]", bounds))
    if low is not None and high is not None and low > high:
        raise ValueError(f"{name} must be (lowest, highest), got {low} and {high}")
    return low, high


def _checked_columns(columns: object) -> tuple[str, ...]:
    """Names of columns."""
    names = (columns,) if isinstance(columns, str) else columns
    if not isinstance(names, Sequence) or not all(one in COLUMNS for one in cast("Sequence[object]", names)):
        raise ValueError(f"columns must be of {', '.join(COLUMNS)}, got {shown(columns)}")
    if not names:
        raise ValueError(f"columns must be of {', '.join(COLUMNS)}, got none")
    return tuple(cast("Sequence[str]", names))


def _checked_eos(eos_id: object) -> dict[str, int] | None:
    """End-of-sequence ids by modality."""
    if eos_id is None:
        return None
    if not isinstance(eos_id, Mapping) or not set(cast("Mapping[object, object]", eos_id)) <= {"speech", "text"}:
        raise TypeError(
            f"eos_id must have the keys 'speech' and 'text' (or {{}}, or None), got {shown(cast(object, eos_id))}"
        )
    return {kind: whole_number(f"eos_id[{kind!r}]", one) for kind, one in cast("Mapping[str, object]", eos_id).items()}


class GeneratedAudioTextDataset(Dataset[tuple[Any, ...]]):
    """The pairs of a folder, `(semantic_ids [n], text_ids [m])` int64 without padding and end-of-sequence.

    Opening reads only the ends of the shards. A shard is decoded when `lengths` or one of its pairs is first needed. The
    shards of a small folder are decoded in memory. A shard of a large folder is decoded once, to a file with 2 bytes for
    each id that all processes map into memory. These files are in the hidden folder `.decoded-1` beside the shards, or in
    `~/.cache/spear-tts-pytorch` if the folder cannot be written to; they may be removed at any time. Datasets can be
    pickled, concatenated and read by workers.

    Args:
        folder: the folder of pairs.
        delimiter_id: the id between audio and text in `{n}.pt` rows.
        eos_id: end-of-sequence ids to remove from `{n}.pt` rows, as `model.eos_id`; `{}` removes none. If None, the
            highest id counts as end-of-sequence if it only ever ends rows: every row of audio, and at least half of the
            rows of text, since text may have been cut.
        columns: contents of an item, in this order, of `id`, `semantic_ids`, `text_ids`, `text`, `score` and `source`.
        min_score: leaves out pairs with a lower score or without a score; None keeps them.
        score_quantile: leaves out this share, 0 to 1, of the scored pairs, those with the lowest scores, and all pairs
            without a score; None keeps them.
        semantic_lengths, text_lengths: lowest and highest number of ids, both inclusive; None sets no bound.
        ids: names of the pairs to keep; None keeps all.
        on_error: "raise", or "skip" to leave out shards and `{n}.pt` rows that cannot be read or hold ids out of range,
            with a warning. "skip" decodes every shard at once.
        cache_folder: a folder for all decoded files; it may serve several folders of pairs.

    Attributes:
        metadata: contents of dataset.json; {} for `{n}.pt` rows.
        lengths: number of ids of each pair, int64 `[pairs, 2]`: semantic, text.
        paths: the files read.
        skipped: the errors of shards and rows that were left out.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no pairs.
        TypeError, ValueError: a wrong option; a file is broken (damage inside a shard is found when one of its pairs is
            read); no pair is left.
    """

    def __init__(
        self,
        folder: str | Path,
        delimiter_id: int = -1,
        *,
        eos_id: Mapping[str, int] | None = None,
        columns: Sequence[str] = ID_COLUMNS,
        min_score: float | None = None,
        score_quantile: float | None = None,
        semantic_lengths: Range | None = None,
        text_lengths: Range | None = None,
        ids: Collection[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        cache_folder: str | Path | None = None,
    ):
        self.folder = absolute_path("folder", folder)
        self.delimiter_id, self.columns = whole_number("delimiter_id", delimiter_id), _checked_columns(columns)
        one_of("on_error", on_error, ("raise", "skip"))
        filters = _Filters(min_score, score_quantile, semantic_lengths, text_lengths, ids)
        eos_id = _checked_eos(eos_id)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder of pairs {self.folder}: generate the pairs first")
        shards, rows = list_shards(self.folder), legacy_rows(self.folder)
        if shards and rows:
            raise ValueError(
                f"{self.folder} holds both Parquet shards and .pt rows: move one kind to a folder of its own"
            )
        if not shards and not rows:
            raise FileNotFoundError(
                f"there are no pairs in the folder {self.folder}: expected pairs-*.parquet files (or old .pt rows)"
            )
        self.metadata = read_metadata(self.folder)
        self.skipped: list[str] = []
        chosen = None if cache_folder is None else absolute_path("cache_folder", cache_folder)
        self._caches = [] if chosen is None else cache_folders(self.folder, chosen)
        self._parts: dict[int, Part] = {}
        self._kept: np.ndarray | None = None
        self._lengths: np.ndarray | None = None
        if shards:
            self._open(shards, on_error == "skip")
        else:
            self._open_legacy(rows, eos_id, on_error == "skip")
        self._keep(filters)

    def _open(self, shards: list[Path], skip: bool) -> None:
        """Reads the ends of the shards, and with `skip` decodes all of them."""
        footers: list[tuple[Path, Footer]] = []
        for path in shards:
            try:
                footers.append((path, read_footer(path)))
            except ValueError as error:
                self._skip(error, skip)
        if not self._caches and sum(_count_ids(footer) for _, footer in footers) > IN_MEMORY_IDS:
            self._caches = cache_folders(self.folder)
        remove_stale(shards, self._caches)
        limits = (self.metadata.get(f"num_{kind}_token_ids") for kind in ("semantic", "text"))
        self._shards = Shards(id_limits(*limits), self._caches)
        self.paths: list[Path] = []
        counts: list[int] = []
        for path, footer in footers:
            if skip:
                try:
                    self._parts[len(self.paths)] = self._shards.read(path)
                except ValueError as error:
                    self._skip(error, skip)
                    continue
            self.paths.append(path)
            counts.append(footer.num_rows)
        if not self.paths:
            raise ValueError(f"no shard of {self.folder} can be read: {'; '.join(self.skipped)}")
        self._starts = [0, *accumulate(counts)]

    def _skip(self, error: ValueError, skip: bool) -> None:
        if not skip:
            raise error
        self.skipped.append(str(error))
        warnings.warn(f"left out: {error}", stacklevel=4)  # names the line that makes the dataset

    def _open_legacy(self, rows: list[Path], eos_id: Mapping[str, int] | None, skip: bool) -> None:
        """Reads `{n}.pt` rows into memory."""
        paths, pairs = list[Path](), list[tuple[Tensor, Tensor]]()
        for path in rows:
            try:
                pairs.append(split_row(path, self.delimiter_id))
                paths.append(path)
            except ValueError as error:
                self._skip(error, skip)
        if not pairs:
            raise ValueError(f"no row of {self.folder} can be read: {'; '.join(self.skipped[:3])}")
        semantic, text = without_eos(pairs, eos_id)
        none = [None] * len(pairs)
        ids = [[row.int().numpy() for row in kind] for kind in (semantic, text)]
        columns: tuple[list[Any], ...] = ([path.stem for path in paths], *ids, none, none, none)
        table = pair_table(dict(zip(COLUMNS, columns, strict=True)))
        self.paths, self._starts, self._parts = paths, [0, len(paths)], {0: Part(decode(table))}

    @property
    def _is_legacy(self) -> bool:
        return self.paths[0].suffix == ".pt"

    def _keep(self, filters: _Filters) -> None:
        """Leaves out the pairs that do not pass the filters of the constructor."""
        kept = np.ones(self._starts[-1], dtype=bool)
        if filters.ids is not None:
            pa = arrow()
            own = pa.chunked_array([chunk for part in self._columns("id") for chunk in part], pa.string())
            kept &= np.asarray(compute().is_in(own, value_set=pa.array(filters.ids, pa.string())))
        if filters.min_score is not None or filters.score_quantile is not None:
            scores = self._scores()
            kept &= scores >= (-np.inf if filters.min_score is None else filters.min_score)
            if filters.score_quantile is not None:
                kept &= scores >= np.nanquantile(scores, filters.score_quantile)
        for column, bounds in enumerate((filters.semantic_lengths, filters.text_lengths)):
            if bounds is not None:
                low, high = bounds
                kept &= self.lengths[:, column] >= (0 if low is None else low)
                kept &= self.lengths[:, column] <= (np.inf if high is None else high)
        if len(kept) and not kept.any():
            names = " and ".join(name for name, value in vars(filters).items() if value is not None)
            raise ValueError(f"{self.folder} holds no pair that passes {names}, of {len(kept)}: loosen them")
        if not kept.all():
            self._kept = kept.nonzero()[0]
            self._lengths = None if self._lengths is None else self._lengths[self._kept]

    def _scores(self) -> np.ndarray:
        """The score of each pair `[pairs]`, NaN without one; raises ValueError if no pair has a score."""
        parts = [chunk.to_numpy(zero_copy_only=False) for part in self._columns("score") for chunk in part]
        scores = np.concatenate([np.empty(0), *parts])
        if np.isnan(scores).all():
            raise ValueError(f"{self.folder} holds no scores: leave out min_score and score_quantile")
        return scores

    def _part(self, index: int, keep: bool = True) -> Part:
        """The decoded shard of this index; `keep` keeps it for later."""
        part = self._parts.get(index)
        if part is None:
            part = self._shards.read(self.paths[index])
            if keep:
                self._parts[index] = part
        return part

    def _columns(self, name: str) -> Iterator[list[Column]]:
        """A column of each shard, in pieces, before any filter."""
        if self._is_legacy:
            yield [self._parts[0].batch.column(name)]
        else:
            yield from (read_column(path, name).chunks for path in self.paths)

    def __len__(self) -> int:
        return self._starts[-1] if self._kept is None else len(self._kept)

    def __getitem__(self, ind: int) -> tuple[Any, ...]:
        index = place(ind, len(self))
        if self._kept is not None:
            index = int(self._kept[index])
        part = bisect_right(self._starts, index) - 1
        found, row = self._part(part), index - self._starts[part]
        return tuple(found.value(name, row) for name in self.columns)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": self._parts if self._is_legacy else {}}  # another process maps them again

    def __repr__(self) -> str:
        ids = (self.metadata.get(f"num_{kind}_token_ids") for kind in ("semantic", "text"))
        semantic, text = ("an unknown number of" if number is None else number for number in ids)
        return f"GeneratedAudioTextDataset({len(self)} pairs in {self.folder},\n    {semantic} semantic ids, {text} text ids)"

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids of each pair, int64 `[pairs, 2]`: semantic, text."""
        if self._lengths is None:
            # Mapped files are not kept: the pages of all shards that were read here would count as memory in use.
            parts = (self._part(part, keep=not self._caches) for part in range(len(self._starts) - 1))
            lengths = np.concatenate([part.lengths for part in parts])
            self._lengths = lengths if self._kept is None else lengths[self._kept]
        return self._lengths

    @property
    def ids(self) -> list[str]:
        """The id of each pair."""
        return self.column("id")

    def column(self, name: str) -> list[Any]:
        """A column of all pairs: `id`, `text`, `score` or `source`. `{n}.pt` rows have only an `id`, the number n."""
        values: list[Any] = [value for part in self._columns(name) for chunk in part for value in chunk.to_pylist()]
        return values if self._kept is None else [values[index] for index in cast("list[int]", self._kept.tolist())]


def _count_ids(footer: Footer) -> int:
    """Number of ids in a shard; an empty row counts as 1."""
    first = footer.row_group(0) if footer.num_row_groups else None
    names = [first.column(index).path_in_schema.split(".")[0] for index in range(footer.num_columns)] if first else []
    columns = [index for index, name in enumerate(names) if name in ID_COLUMNS]
    return sum(footer.row_group(g).column(c).num_values for g in range(footer.num_row_groups) for c in columns)


class MockDataset(Dataset[Tensor]):
    """`length` clips of noise, float32 `[1024]` each, in place of audio in examples."""

    def __init__(self, length: int):
        self.length = whole_number("length", length, 0)

    def __repr__(self) -> str:
        return f"MockDataset({self.length} clips of noise)"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, ind: int) -> Tensor:
        place(ind, self.length)
        return torch.randn(1024)
