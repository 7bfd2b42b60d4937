"""Pairs of semantic and text ids on disk: a folder of Parquet shards and a dataset.json.

In: ids of one pair at a time (`PairWriter`). Out: a dataset of `(semantic_ids [n], text_ids [m])` int64 pairs, without
padding and end-of-sequence (`GeneratedAudioTextDataset`); the `{n}.pt` rows of releases up to 0.4.8 are read as well.
A file is here either whole or not at all. Knows nothing of models, audio or how pairs come about.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import LongTensor, Tensor
from torch.utils.data import Dataset

from spear_tts_pytorch.data.files import write_whole
from spear_tts_pytorch.data.legacy_pairs import legacy_rows, read_legacy_rows
from spear_tts_pytorch.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

DATASET_NAME = "dataset.json"
FORMAT_VERSION = 1
SPEECH_PAD_ID, TEXT_PAD_ID = -1, 0
SOURCE_GENERATED = "generated"
SOURCE_TRUNCATED = "generated-truncated"  # generated text that reached its maximal length before it had ended
_SHARD = re.compile(r"pairs-(\d{5,})-(\d{6,})\.parquet")


def pair_schema() -> pa.Schema:
    """Columns of a shard."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema(
        [
            ("id", pa.string()),
            ("semantic_ids", ids),
            ("text_ids", ids),
            ("text", pa.string()),
            ("score", pa.float32()),
            ("source", pa.string()),
        ]
    )


def list_shards(folder: str | Path) -> list[Path]:
    """The complete shards of a folder, by rank and number."""
    found = [(match, path) for path in Path(folder).iterdir() if (match := _SHARD.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda item: tuple(map(int, item[0].groups())))]


def read_column(shard: Path, name: str) -> pa.ChunkedArray:
    """One column of a shard.

    Raises:
        ValueError: the file is not a readable shard of pairs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(shard, columns=[name], memory_map=True).column(name)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{shard} is not a readable shard of pairs ({reason}): remove it and let the generator make it anew"
        ) from error


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """The contents of dataset.json, {} where there is none.

    Raises:
        ValueError: it is not JSON, or was written by a later version of the format.
    """
    path = Path(folder) / DATASET_NAME
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version = metadata["format_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a folder of pairs ({error!r}): restore or remove it") from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has the format {version}, this version reads up to {FORMAT_VERSION}: upgrade the package"
        )
    return metadata


def update_counts(folder: str | Path) -> dict[str, Any]:
    """Counts pairs and shards anew from the shards' footers, writes them to dataset.json and returns its contents."""
    import pyarrow.parquet as pq

    metadata, shards = read_metadata(folder), list_shards(folder)
    metadata["counts"] = {"pairs": sum(pq.read_metadata(path).num_rows for path in shards), "shards": len(shards)}
    write_whole(Path(folder) / DATASET_NAME, (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode())
    return metadata


def _describe(
    num_semantic_token_ids: int | None,
    num_text_token_ids: int | None,
    unique_consecutive: bool | None,
    model_hash: str | None,
    options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "num_semantic_token_ids": num_semantic_token_ids,
        "num_text_token_ids": num_text_token_ids,
        "pad_id": {"speech": SPEECH_PAD_ID, "text": TEXT_PAD_ID},
        "unique_consecutive": unique_consecutive,
        "model_hash": model_hash,
        "options": dict(options or {}),
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """How two dataset.json describe different data, in words; None if they agree. Counts and versions do not matter."""
    keys = [key for key in new if key not in ("counts", "library_version", "format_version", "options")]
    found = [f"{key} is {old.get(key)!r} there and {new[key]!r} here" for key in keys if old.get(key) != new[key]]
    there, here = old.get("options") or {}, new.get("options") or {}
    for key in sorted({*there, *here}):
        if there.get(key) != here.get(key):
            found.append(f"the option {key} is {there.get(key)!r} there and {here.get(key)!r} here")
    return "; ".join(found) or None


class PairWriter:
    """Writes pairs to shards `pairs-{rank:05d}-{n:06d}.parquet`; a context manager.

    Writing to a folder goes on after its last shard; what stands there is never touched.

    Args:
        folder: made if it does not exist.
        num_semantic_token_ids, num_text_token_ids: K and V; ids written are checked against them.
        unique_consecutive: whether the tokenizer removes repeats.
        model_hash, options: where the pairs come from; kept in dataset.json.
        rank: number of this process; each process writes shards of its own, the one of rank 0 also dataset.json.
        rows_per_shard: pairs after which a shard is complete.

    Raises:
        ValueError: the folder holds pairs of another description, or files that are not pairs of this format.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_semantic_token_ids: int | None = None,
        num_text_token_ids: int | None = None,
        unique_consecutive: bool | None = None,
        model_hash: str | None = None,
        options: Mapping[str, Any] | None = None,
        rank: int = 0,
        rows_per_shard: int = 10_000,
    ):
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
        self.folder, self.rank, self.rows_per_shard = Path(folder), rank, rows_per_shard
        self.limits = {"semantic_ids": (0, num_semantic_token_ids), "text_ids": (1, num_text_token_ids)}
        self.folder.mkdir(parents=True, exist_ok=True)
        description = _describe(num_semantic_token_ids, num_text_token_ids, unique_consecutive, model_hash, options)
        if rank == 0:
            self._open(description)
        own = [int(_SHARD.fullmatch(path.name)[2]) for path in list_shards(self.folder) if self._is_own(path)]
        self.next_shard = max(own, default=-1) + 1
        self.rows: list[dict[str, Any]] = []

    def _is_own(self, path: Path) -> bool:
        return int(_SHARD.fullmatch(path.name)[1]) == self.rank

    def _open(self, description: dict[str, Any]) -> None:
        shards = list_shards(self.folder)
        old = read_metadata(self.folder) if shards else {}  # a description of nothing binds nobody
        if not old and (shards or legacy_rows(self.folder)):
            raise ValueError(f"{self.folder} holds pairs without a {DATASET_NAME}: write to another folder")
        different = difference(old, description) if old else None
        if different is not None:
            raise ValueError(f"{self.folder} holds pairs of another kind ({different}): write to another folder")
        if not old:
            description["counts"] = {"pairs": 0, "shards": 0}
            text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
            write_whole(self.folder / DATASET_NAME, text.encode())

    def write(
        self,
        id: str,
        semantic_ids: Tensor | Sequence[int],
        text_ids: Tensor | Sequence[int],
        *,
        text: str | None = None,
        score: float | None = None,
        source: str = SOURCE_GENERATED,
    ) -> None:
        """Adds a pair of ids `[n]` and `[m]`, without padding and end-of-sequence. It is on disk once its shard is.

        Raises:
            ValueError: ids out of range or of the wrong shape.
        """
        row = {"id": str(id), "text": text, "score": None if score is None else float(score), "source": source}
        for name, ids in (("semantic_ids", semantic_ids), ("text_ids", text_ids)):
            row[name] = self._checked(ids, name, row["id"])
        self.rows.append(row)
        if len(self.rows) >= self.rows_per_shard:
            self.flush()

    def _checked(self, ids: Tensor | Sequence[int], name: str, id: str) -> np.ndarray:
        array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"{name} of the pair {id!r} must be integers [n], got {array.dtype} {list(array.shape)}")
        low, high = self.limits[name]
        if array.size and (array.min() < low or (high is not None and array.max() >= high)):
            worst = array.min() if array.min() < low else array.max()
            top = "" if high is None else f" to {high - 1}"
            raise ValueError(
                f"{name} of the pair {id!r} holds {worst}, ids are {low}{top}: leave out padding and end-of-sequence, "
                "and give semantic ids first, text ids second"
            )
        return array.astype(np.int32)

    def flush(self) -> None:
        """Writes the pairs held back as a shard of their own."""
        if not self.rows:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = f"pairs-{self.rank:05d}-{self.next_shard:06d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(self.rows, schema=pair_schema()), sink, compression="zstd")
        write_whole(self.folder / name, sink.getvalue().to_pybytes())
        self.next_shard += 1
        self.rows = []

    def close(self) -> None:
        self.flush()
        if self.rank == 0:
            update_counts(self.folder)

    def __enter__(self) -> PairWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()  # pairs that are complete are kept, whatever happened after them


def write_pairs(
    folder: str | Path,
    pairs: Iterable[tuple[Tensor | Sequence[int], Tensor | Sequence[int]]],
    *,
    ids: Iterable[str] | None = None,
    texts: Iterable[str | None] | None = None,
    source: str = "real",
    **metadata: Any,
) -> None:
    """Writes `(semantic ids [n], text ids [m])` pairs to a folder; for `metadata` see `PairWriter`."""
    ids, texts = None if ids is None else iter(ids), None if texts is None else iter(texts)
    with PairWriter(folder, **metadata) as writer:
        for index, (semantic_ids, text_ids) in enumerate(pairs):
            name = str(index) if ids is None else next(ids)
            writer.write(name, semantic_ids, text_ids, text=None if texts is None else next(texts), source=source)


@dataclass(frozen=True)
class _Ragged:
    """Rows of different lengths in one array: row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[Tensor]) -> _Ragged:
        values = torch.cat([*rows, torch.empty(0, dtype=torch.long)]).to(torch.int32).numpy()
        return cls(values, np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64))))

    @classmethod
    def from_column(cls, column: pa.ChunkedArray) -> _Ragged:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
        lengths = [np.diff(chunk.offsets.to_numpy(zero_copy_only=False)) for chunk in chunks]
        offsets = np.concatenate([[0], *lengths]).astype(np.int64).cumsum()
        return cls(values[0] if len(values) == 1 else np.concatenate([np.empty(0, np.int32), *values]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> LongTensor:
        row = self.values[self.offsets[index] : self.offsets[index + 1]]
        return torch.from_numpy(row.astype(np.int64))

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


class GeneratedAudioTextDataset(Dataset):
    """The pairs of a folder, `(semantic_ids [n], text_ids [m])` int64 without padding and end-of-sequence.

    Reads the Parquet shards of `PairWriter`, or the `{n}.pt` rows of releases up to 0.4.8.

    Args:
        folder: where the pairs are.
        delimiter_id: what stands between audio and text in `{n}.pt` rows.
        eos_id: end-of-sequence ids to take out of `{n}.pt` rows, as `model.eos_id`. Without it they are recognised: the
            highest id, only ever the last of a row, ending every row of audio and then (text may have been cut) half
            the rows of text or more. `{}` leaves the rows as they are.

    Attributes:
        metadata: contents of dataset.json; {} for `{n}.pt` rows.
        lengths: ids of each pair, int64 `[pairs, 2]`: semantic, text.
        paths: the files read.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        ValueError: a file in it is broken.
    """

    def __init__(self, folder: str | Path, delimiter_id: int = -1, *, eos_id: Mapping[str, int] | None = None):
        self.folder, self.delimiter_id = Path(folder), delimiter_id
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder of pairs {self.folder}: generate the pairs first")
        shards, rows = list_shards(self.folder), legacy_rows(self.folder)
        if shards and rows:
            raise ValueError(
                f"{self.folder} holds both Parquet shards and .pt rows: move one kind to a folder of its own"
            )
        self.metadata = read_metadata(self.folder)
        if not shards and not rows:
            raise FileNotFoundError(
                f"there are no pairs in {self.folder}: expected pairs-*.parquet files (or old .pt rows)"
            )
        self.paths = shards or rows
        self._semantic: list[_Ragged] = []
        self._text: list[_Ragged] = []
        if shards:
            for path in shards:
                self._semantic.append(_Ragged.from_column(read_column(path, "semantic_ids")))
                self._text.append(_Ragged.from_column(read_column(path, "text_ids")))
        else:
            semantic, text = read_legacy_rows(rows, delimiter_id, eos_id)
            self._semantic, self._text = [_Ragged.from_rows(semantic)], [_Ragged.from_rows(text)]
        self._starts = [0, *accumulate(len(part) for part in self._semantic)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, ind: int) -> tuple[LongTensor, LongTensor]:
        index = ind + len(self) if ind < 0 else ind
        if not 0 <= index < len(self):
            raise IndexError(f"pair {ind} of {len(self)}")
        part = bisect_right(self._starts, index) - 1
        row = index - self._starts[part]
        return self._semantic[part][row], self._text[part][row]

    @property
    def lengths(self) -> np.ndarray:
        return np.stack(
            [np.concatenate([part.lengths for part in kind]) for kind in (self._semantic, self._text)], axis=1
        )

    @property
    def ids(self) -> list[str]:
        """The id of each pair."""
        return self.column("id")

    def column(self, name: str) -> list[Any]:
        """A column of all pairs: `id`, `text`, `score` or `source`. Old rows have only an `id`, the file's number."""
        if self.paths[0].suffix == ".pt":
            return [path.stem if name == "id" else None for path in self.paths]
        return [value for path in self.paths for value in read_column(path, name).to_pylist()]


class MockDataset(Dataset):
    """`length` clips of noise, `[1024]` samples each: stands in for audio in examples."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, ind: int) -> Tensor:
        if not -self.length <= ind < self.length:
            raise IndexError(f"item {ind} of {self.length}")
        return torch.randn(1024)
