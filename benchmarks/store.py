"""Time and memory of a store of pairs: opened, read at random, written, merged and deduplicated.

Rows are synthetic: 250 semantic ids of 0 to 499 and 60 text ids on average, lengths log-normal, ids skewed, a text of as
many characters. Each phase runs in a process of its own; its peak of resident memory is printed. Files are removed.

    python benchmarks/store.py                     # 1,000,000 pairs opened and read; 10,000,000 written, merged, deduplicated
    python benchmarks/store.py --open 100000 --many 300000   # in a minute
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from spear_tts_pytorch import GeneratedAudioTextDataset, __version__
from spear_tts_pytorch.data.pairs import PairWriter
from spear_tts_pytorch.data.pairs.shards import COLUMNS, pair_schema
from spear_tts_pytorch.data.pairs.tools import deduplicate, merge, stats

BATCH, POOL = 10_000, 4_000_000
OPTIONS = dict(num_semantic_token_ids=500, num_text_token_ids=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--open", type=int, default=1_000_000, metavar="N", help="pairs to open and read")
    parser.add_argument("--many", type=int, default=10_000_000, metavar="N", help="rows to write, merge, deduplicate")
    parser.add_argument("--folder", type=Path, help="where there is room, about 1.5 kB a row of --many")
    parser.add_argument("--phases", default="open,many", help="which of open and many (default %(default)s)")
    args = parser.parse_args()
    print(f"spear-tts-pytorch {__version__}, torch {torch.__version__}, pyarrow {pa.__version__}")
    root = Path(tempfile.mkdtemp(dir=args.folder, prefix="store-"))
    try:
        if "open" in args.phases:
            opening(root / "open", args.open)
        if "many" in args.phases:
            many(root, args.many)
    finally:
        shutil.rmtree(root)


def opening(folder: Path, rows: int) -> None:
    alone("write", write, folder, rows, 0)
    for round in range(3):
        alone(f"open, round {round + 1}", open_and_read, folder, round == 0)
    shutil.rmtree(folder)


def many(root: Path, rows: int) -> None:
    halves = [root / "a", root / "b"]
    for number, half in enumerate(halves):
        alone(f"write {half.name}", write, half, rows // 2, number)
    alone("one by one, 200,000 rows", write_singly, root / "singly", 200_000)
    alone("merge", merged, halves, root / "all")
    alone("stats", counted, root / "all")
    for half in halves:
        shutil.rmtree(half)
    alone("deduplicate by id", deduplicated, root / "all", root / "by_id", "id")
    shutil.rmtree(root / "by_id")
    alone("deduplicate by contents", deduplicated, root / "all", root / "by_contents", "contents")


def alone(name: str, function: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    """Runs a phase in a fresh process and prints its figures, seconds and peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(timed, (function, *arguments))
    print(f"{name}: {json.dumps(found)}", flush=True)


def timed(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found = function(*arguments)
    seconds = time.perf_counter() - begin
    return {
        **found,
        "seconds": round(seconds, 2),
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def tables(rows: int, seed: int) -> Iterator[pa.Table]:
    """Synthetic pairs, `BATCH` at a time. Every hundredth pair is the same for all seeds, except its score."""
    pools = {}
    random = np.random.default_rng(0)
    for name, low, high in (("semantic_ids", 0, 500), ("text_ids", 1, 30)):
        pools[name] = (low + (high - low) * random.random(POOL) ** 2).astype(np.int32)
    letters = "".join(chr(96 + i) for i in pools["text_ids"][:100_000].tolist())
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        random = np.random.default_rng((seed, start))
        repeated = np.random.default_rng((0, start))  # the draws of seed 0
        columns = {}
        draws = {}
        for name, mean in (("semantic_ids", 250), ("text_ids", 60)):
            both = []
            for generator in (random, repeated):
                lengths = np.clip(generator.lognormal(np.log(mean) - 0.08, 0.4, count).astype(np.int64), 1, 2000)
                both.append((lengths, generator.integers(0, POOL - 2000, count)))
            lengths, begins = both[0]
            lengths[::100], begins[::100] = both[1][0][::100], both[1][1][::100]
            offsets = np.concatenate([[0], lengths.cumsum()])
            places = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
            columns[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(pools[name][places]))
            draws[name] = lengths, begins % 90_000
        numbers = np.arange(start, start + count)
        columns["id"] = [f"speech/{0 if n % 100 == 0 else seed}/{n:09d}" for n in numbers.tolist()]
        columns["text"] = [letters[b : b + n] for n, b in zip(*(x.tolist() for x in draws["text_ids"]), strict=True)]
        columns["score"] = -random.exponential(0.5, count).astype(np.float32)
        columns["source"] = ["generated"] * count
        yield pa.table([columns[name] for name in COLUMNS], schema=pair_schema())


def write(folder: Path, rows: int, seed: int) -> dict[str, Any]:
    inside = 0.0
    with PairWriter(folder, **OPTIONS) as writer:
        for table in tables(rows, seed):
            begin = time.perf_counter()
            writer.write_table(table)
            inside += time.perf_counter() - begin
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    return {"rows": rows, "bytes_per_pair": round(size / rows, 1), "rows_per_second_of_writing": round(rows / inside)}


def write_singly(folder: Path, rows: int) -> dict[str, Any]:
    inside = 0.0
    with PairWriter(folder, **OPTIONS) as writer:
        for table in tables(rows, 2):
            columns = [table[name].to_pylist() for name in ("id", "text", "score")]
            ids = [[row.values.to_numpy() for row in table[name]] for name in ("semantic_ids", "text_ids")]
            begin = time.perf_counter()
            for id, text, score, semantic_ids, text_ids in zip(*columns, *ids, strict=True):
                writer.write(id, semantic_ids, text_ids, text=text, score=score)
            inside += time.perf_counter() - begin
    return {"rows_per_second_of_writing": round(rows / inside)}


def open_and_read(folder: Path, fresh: bool) -> dict[str, Any]:
    before = memory()
    begin = time.perf_counter()
    dataset = GeneratedAudioTextDataset(folder)
    found = {"fresh": fresh, "open_s": round(time.perf_counter() - begin, 3), "open_MB": memory() - before}
    begin = time.perf_counter()
    lengths = dataset.lengths
    found |= {"lengths_s": round(time.perf_counter() - begin, 2), "lengths_MB": memory() - before}
    order = np.random.default_rng(1).integers(0, len(dataset), 200_000).tolist()
    for _ in range(2):
        begin = time.perf_counter()
        for index in order:
            semantic_ids, _ = dataset[index]
        found.setdefault("reads_per_second", []).append(round(len(order) / (time.perf_counter() - begin)))
    assert len(semantic_ids) == lengths[index, 0]
    cache = sum(path.stat().st_size for path in folder.rglob("*.arrow"))
    return {**found, "decoded_bytes_per_pair": round(cache / len(dataset), 1)}


def memory() -> int:
    """Resident memory in MB, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


def merged(folders: list[Path], out: Path) -> dict[str, Any]:
    return merge(folders, out, duplicates="drop")


def deduplicated(folder: Path, out: Path, by: str) -> dict[str, Any]:
    return deduplicate(folder, out, by=by)


def counted(folder: Path) -> dict[str, Any]:
    found = stats(folder, ids_per_second=25)
    return {name: found[name] for name in ("pairs", "bytes", "hours", "repeated_ids")}


if __name__ == "__main__":
    main()
