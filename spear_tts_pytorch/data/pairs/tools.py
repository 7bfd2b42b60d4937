"""Merges, deduplicates, splits and counts folders of pairs, with one shard in memory at a time.

In: folders of Parquet shards. Out: a new folder, which appears when it is complete, or counts. A hash of 16 bytes for each
pair is held in memory: 10 million pairs need hundreds of MB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from spear_tts_pytorch.data.arrow import Table, arrow
from spear_tts_pytorch.data.pairs.shard_writer import ShardWriter, shard_bytes, write_shard
from spear_tts_pytorch.data.pairs.shards import (
    ID_COLUMNS,
    check_ids,
    describe,
    difference,
    id_limits,
    list_shards,
    pair_schema,
    ragged,
    read_footer,
    read_metadata,
    read_shard,
    shard_name,
    update_counts,
    write_metadata,
)
from spear_tts_pytorch.utils.files import copy_whole, whole_folder
from spear_tts_pytorch.utils.values import absolute_path, one_of, plain, real_number, shown, switch, whole_number

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
ORIGIN = ("model_hash", "options")


def merge(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    duplicates: Literal["refuse", "drop"] = "refuse",
    mixed: bool = False,
) -> dict[str, int]:
    """Writes the pairs of several folders into a new one, in this order. Shards are copied unchanged if possible.

    Args:
        folders: folders of pairs.
        out: the new folder.
        duplicates: "refuse" raises an error if an id comes twice; "drop" keeps the first pair of each id.
        mixed: allows pairs of different models and options, such as real pairs and pseudo-labels; dataset.json then
            lists the origins. Vocabularies must always agree.

    Returns:
        Numbers of `pairs` written and `removed`.

    Raises:
        ValueError: folders of different descriptions, an id twice, a shard that cannot be read.
        FileExistsError: `out` exists.
    """
    one_of("duplicates", duplicates, ("refuse", "drop"))
    mixed = switch("mixed", mixed)
    if isinstance(folders, (str, Path)) or not isinstance(cast(object, folders), Sequence):
        raise TypeError(f"folders must be a list of folders, got {shown(folders)}")
    folders, out = [absolute_path("folders", folder) for folder in folders], absolute_path("out", out)
    if not folders:
        raise ValueError("folders is empty: there is nothing to merge")
    shards = [shard for folder in folders for shard in _shards(folder)]
    metadata = _common_metadata(folders, mixed)
    kept = _first_of_each(shards, "id")
    if duplicates == "refuse" and not all(mask.all() for mask in kept):
        shard, mask = next((shard, mask) for shard, mask in zip(shards, kept, strict=True) if not mask.all())
        name = read_shard(shard, ["id"])["id"][int(mask.argmin())].as_py()
        raise ValueError(
            f"the id {name!r} comes twice, the second time in {shard}: pass duplicates='drop' to keep the first"
        )
    return _write_kept(shards, kept, out, metadata)


def deduplicate(folder: str | Path, out: str | Path, *, by: Literal["id", "contents"] = "id") -> dict[str, int]:
    """Writes the pairs of a folder into a new one, without pairs that repeat an earlier one.

    Args:
        folder: a folder of pairs.
        out: the new folder.
        by: pairs are equal if they have the same `id`, or the same `contents`, semantic and text ids.

    Returns:
        Numbers of `pairs` written and `removed`.

    Raises:
        ValueError: a shard cannot be read.
        FileExistsError: `out` exists.
    """
    one_of("by", by, ("id", "contents"))
    folder, out = absolute_path("folder", folder), absolute_path("out", out)
    shards = _shards(folder)
    return _write_kept(shards, _first_of_each(shards, by), out, read_metadata(folder))


def split(
    folder: str | Path,
    out: str | Path,
    parts: Mapping[str, float | int],
    *,
    seed: int = 0,
    rows_per_shard: int = 10_000,
) -> dict[str, int]:
    """Writes random parts of a folder of pairs to the folders `out/{name}`. Pairs of a part keep their order.

    Args:
        folder: a folder of pairs.
        out: the new folder.
        parts: by name, shares (floats, 0 to 1) or numbers of pairs (integers). The remaining pairs are not written.
        seed: fixes which pairs go into which part.
        rows_per_shard: pairs after which a shard is complete.

    Returns:
        Number of pairs of each part.

    Raises:
        ValueError: parts larger than the folder, shares and numbers mixed, a part without pairs, a shard that cannot be
            read.
        FileExistsError: `out` exists.
    """
    folder, out, seed = absolute_path("folder", folder), absolute_path("out", out), whole_number("seed", seed, 0)
    rows_per_shard = whole_number("rows_per_shard", rows_per_shard, 1)
    shards = _shards(folder)
    rows: list[int] = [read_footer(shard).num_rows for shard in shards]
    counts = _part_sizes(parts, sum(rows))
    dealt = np.full(sum(rows), -1, dtype=np.int16)
    order = np.random.default_rng(seed).permutation(sum(rows))
    for part, places in enumerate(np.split(order, np.cumsum(counts))[: len(counts)]):
        dealt[places] = part
    del order
    metadata = read_metadata(folder) or describe()
    with whole_folder(out) as temporary:
        writers: list[ShardWriter] = []
        for name in parts:
            (temporary / name).mkdir()
            writers.append(ShardWriter(temporary / name, rows_per_shard=rows_per_shard))
        for shard, own in zip(shards, np.split(dealt, np.cumsum(rows)[:-1]), strict=True):
            table = read_shard(shard)
            for part, writer in enumerate(writers):
                writer.write(_filter(table, own == part))
        for writer in writers:
            writer.flush()
            write_metadata(writer.folder, metadata)
            update_counts(writer.folder)
    return dict(zip(parts, counts, strict=True))


def stats(folder: str | Path, *, ids_per_second: float | None = None) -> dict[str, Any]:
    """Counts and quantiles of a folder of pairs. Every shard is read; broken shards are named and left out.

    Args:
        folder: a folder of pairs.
        ids_per_second: `target_sample_hz / downsample_factor` of the semantic tokenizer, from which hours are computed.
            If the tokenizer removes repeats, the hours are a lower bound.

    Returns:
        `pairs`, `shards`, `bytes`, `hours`, `sources`, numbers of ids, quantiles of lengths and scores, and `broken`, the
        messages of broken shards.

    Raises:
        FileNotFoundError: there are no pairs.
    """
    if ids_per_second is not None:
        ids_per_second = real_number("ids_per_second", ids_per_second, above=0, also=" or None")
    folder = absolute_path("folder", folder)
    shards, metadata = _shards(folder), read_metadata(folder)
    limits = id_limits(*(metadata.get(f"num_{kind}_token_ids") for kind in ("semantic", "text")))
    lengths: dict[str, list[np.ndarray]] = {name: [] for name in ID_COLUMNS}
    scores, hashes, broken = list[np.ndarray](), list[np.ndarray](), list[str]()
    sources: Counter[str] = Counter()
    for shard in shards:
        try:
            table = read_shard(shard)
            check_ids(table, limits, f" in {shard}")
        except ValueError as error:
            broken.append(str(error))
            continue
        for name in ID_COLUMNS:
            lengths[name].append(np.diff(ragged(table[name])[1]).astype(np.int32))
        scores.append(np.asarray(table["score"], dtype=np.float32))
        hashes.append(_hashes(table, "id"))
        sources.update(table["source"].to_pylist())
    semantic, text = (np.concatenate([np.empty(0, np.int32), *lengths[name]]) for name in ID_COLUMNS)
    score = np.concatenate([np.empty(0, np.float32), *scores])
    found: dict[str, Any] = {
        "pairs": len(semantic),
        "shards": len(shards) - len(broken),
        "bytes": sum(shard.stat().st_size for shard in shards),
        "hours": None if ids_per_second is None else float(semantic.sum(dtype=np.int64)) / ids_per_second / 3600,
        "sources": dict(sources),
        "semantic_ids": int(semantic.sum(dtype=np.int64)),
        "text_ids": int(text.sum(dtype=np.int64)),
        "repeated_ids": int((~_firsts(hashes)).sum()),
        "without_score": int(np.isnan(score).sum()),
    }
    for name, values in (("semantic_lengths", semantic), ("text_lengths", text), ("scores", score[~np.isnan(score)])):
        found[name] = {f"{q:g}": float(np.quantile(values, q)) for q in QUANTILES} if len(values) else {}
    return {**found, "broken": broken}


def _shards(folder: str | Path) -> list[Path]:
    """The shards of a folder; raises FileNotFoundError if there are none."""
    shards = list_shards(folder) if Path(folder).is_dir() else []
    if not shards:
        raise FileNotFoundError(
            f"there are no pairs in {folder}: expected pairs-*.parquet files (convert old .pt rows with "
            "write_pairs(new_folder, GeneratedAudioTextDataset(folder)))"
        )
    return shards


def _common_metadata(folders: Sequence[str | Path], mixed: bool) -> dict[str, Any]:
    """The contents of dataset.json for all folders together; raises ValueError if they do not fit."""
    found = [read_metadata(folder) or describe() for folder in folders]
    tokenizers = [metadata.get("semantic_tokenizer") for metadata in found]
    found[0]["semantic_tokenizer"] = next(filter(None, tokenizers), None)
    for folder, metadata in zip(folders[1:], found[1:], strict=True):
        different = difference(found[0], metadata, ORIGIN if mixed else ())
        if different is not None:
            only_origin = not mixed and difference(found[0], metadata, ORIGIN) is None
            remedy = "pass mixed=True to mix them" if only_origin else "keep them apart"
            raise ValueError(f"{folder} holds pairs of another kind than {folders[0]} ({different}): {remedy}")
    if not mixed:
        return found[0]
    origins: list[dict[str, Any]] = []
    for metadata in found:
        origin = {name: metadata.get(name) for name in ORIGIN}
        origins += [origin] if origin not in origins else []
    return found[0] if len(origins) == 1 else {**found[0], "model_hash": None, "options": {"origins": origins}}


def _part_sizes(parts: Mapping[str, float | int], total: int) -> list[int]:
    """Number of pairs of each part; raises ValueError if the parts are not possible."""
    if not isinstance(cast(object, parts), Mapping):
        raise TypeError(f"parts must be shares or numbers of pairs by name, got {shown(parts)}")
    for name in parts:
        if not isinstance(cast(object, name), str):
            raise TypeError(f"parts must have names of folders, got {shown(name)}")
        if not name or name in (".", "..") or set(name) & set("/\\"):
            raise ValueError(f"{name!r} is no name of a folder: choose names such as train or valid")
    values = [plain(value) for value in parts.values()]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 for value in values)
    if not values or not numbers or len({isinstance(value, int) for value in values}) > 1:
        raise ValueError(f"parts must be shares (floats) or numbers of pairs (integers) above 0, got {dict(parts)}")
    counts = [value for value in values if isinstance(value, int)]
    if not counts:
        ends = np.cumsum(values)
        if not ends[-1] <= 1 + 1e-9:
            raise ValueError(f"the shares of parts must add up to 1 or less, got {float(ends[-1]):g}")
        counts = cast("list[int]", np.diff([0, *np.round(ends * total).astype(int)]).tolist())
    if sum(counts) > total or min(counts) < 1:
        raise ValueError(f"parts {dict(parts)} cannot be made of {total} pairs: each needs at least one")
    return counts


def _hashes(table: Table, by: str) -> np.ndarray:
    """A hash of 16 bytes for each row, as uint64 `[rows, 2]`."""
    if by == "id":
        names: list[str] = table["id"].to_pylist()
        rows: Iterator[bytes] = (name.encode() for name in names)
    else:
        rows = _contents(table)
    return np.frombuffer(b"".join(blake2b(row, digest_size=16).digest() for row in rows), np.uint64).reshape(-1, 2)


def _contents(table: Table) -> Iterator[bytes]:
    """The semantic and text ids of each row as bytes."""
    (semantic, s), (text, t) = (ragged(table[name]) for name in ID_COLUMNS)
    semantic_bytes, text_bytes = semantic.tobytes(), text.tobytes()
    s, t = (cast("list[int]", (4 * offsets).tolist()) for offsets in (s, t))  # 4 bytes for an id
    for row in range(len(table)):
        # -1 is not an id, so it separates both kinds of ids
        yield semantic_bytes[s[row] : s[row + 1]] + b"\xff\xff\xff\xff" + text_bytes[t[row] : t[row + 1]]


def _first_of_each(shards: Sequence[Path], by: str) -> list[np.ndarray]:
    """For each shard a mask `[rows]`, True at rows without an equal row before them in any shard."""
    columns = ["id"] if by == "id" else ID_COLUMNS
    hashes = [_hashes(read_shard(shard, columns), by) for shard in shards]
    ends = np.cumsum([len(part) for part in hashes])
    return np.split(_firsts(hashes), ends[:-1])


def _firsts(hashes: list[np.ndarray]) -> np.ndarray:
    """A mask `[rows]`, True at hashes without an equal before them. The list is emptied to save memory."""
    both = np.concatenate([np.empty((0, 2), np.uint64), *hashes])
    hashes.clear()
    order = np.lexsort((both[:, 0], both[:, 1]))  # stable: equal rows keep their order
    both = both[order]
    first = np.ones(len(both), dtype=bool)
    first[order[1:]] = (both[1:] != both[:-1]).any(axis=1)
    return first


def _filter(table: Table, mask: np.ndarray) -> Table:
    return table.filter(arrow().array(mask))


def _write_kept(
    shards: Sequence[Path], kept: Sequence[np.ndarray], out: str | Path, metadata: dict[str, Any]
) -> dict[str, int]:
    """Writes the kept rows of each shard to a new folder. A shard is copied if all of its rows are kept."""
    with whole_folder(out) as temporary:
        number = 0
        for shard, mask in zip(shards, kept, strict=True):
            if not mask.any():
                continue
            path = temporary / shard_name(0, number)
            if mask.all() and read_footer(shard).schema.to_arrow_schema().equals(pair_schema()):
                copy_whole(shard, path)
            else:
                write_shard(path, shard_bytes(_filter(read_shard(shard), mask)))
            number += 1
        write_metadata(temporary, metadata or describe())
        update_counts(temporary)
    pairs = sum(int(mask.sum()) for mask in kept)
    return {"pairs": pairs, "removed": sum(map(len, kept)) - pairs}
