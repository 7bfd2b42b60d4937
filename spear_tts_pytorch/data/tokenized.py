"""Turns a corpus of audio into a folder of semantic ids, and opens such a folder as a dataset.

In: utterances, a semantic tokenizer. Out: shards `speech-{number}.parquet` with the columns `id`, `semantic_ids`, `text`,
`speaker` and `seconds`; `tokenizer_of_ids.json` describes the tokenizer; `report.json` names clips that could not be used,
with reasons. An interrupted run continues after its last shard.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from spear_tts_pytorch.data.arrow import Schema, Table, arrow, footer_of, parquet, parquet_bytes
from spear_tts_pytorch.data.audio import resample
from spear_tts_pytorch.data.corpora.clip_files import check_unique
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import RATES, SemanticTokenizer, describe, tokenize_clips
from spear_tts_pytorch.utils.files import locked, write_whole
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.values import unicode_text

REPORT, TOKENIZER = "report.json", "tokenizer_of_ids.json"
BATCH_CLIPS = 32
FATAL = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))  # not the clip's fault
Row = tuple[str, "np.ndarray | None", "str | None", "str | None", float, str]
"""Id, semantic ids int32 `[n]` (None for a clip that cannot be used), text, speaker, seconds, and the reason for None."""


@dataclass
class TokenizeReport:
    """The result of `tokenize_corpus`.

    Attributes:
        clips: number of clips in the folder.
        hours: their duration together.
        skipped: reasons why clips could not be used, by id.
    """

    clips: int = 0
    hours: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict[str, str])


def tokenize_corpus(
    utterances: Iterable[Utterance],
    tokenizer: SemanticTokenizer,
    folder: str | os.PathLike[str],
    *,
    workers: int = 0,
    rows_per_shard: int = 10_000,
    progress: bool = True,
) -> TokenizeReport:
    """Writes the semantic ids of all utterances into `folder`. Clips that the folder already holds are not repeated.

    Args:
        utterances: from the readers of `data/corpora`; ids must be unique.
        tokenizer: turns waveforms into ids.
        folder: made if it does not exist.
        workers: number of processes that tokenize; 0 tokenizes in this process. Workers need a tokenizer and utterances
            that can be pickled.
        rows_per_shard: clips in a file. An error or Ctrl-C (under `spear-tts` also SIGTERM) loses only the batches of 32
            clips in work: one, or with workers two for each and one more. A killed process also loses the clips of its
            unfinished file.
        progress: shows a bar, on terminals.

    Raises:
        FolderInUseError: another run writes into the folder (an OSError and a RuntimeError).
        ValueError: an id that comes twice; a folder whose ids another tokenizer made; counts out of range.
        torch.OutOfMemoryError: a GPU has too little memory for a clip. Other clips that cannot be used are reported.
    """
    if workers < 0 or rows_per_shard < 1:
        raise ValueError(
            f"workers must be at least 0 and rows_per_shard at least 1, got {workers} and {rows_per_shard}"
        )
    if isinstance(utterances, Sequence):
        check_unique([one.id for one in utterances])
    folder = Path(folder).absolute()
    with locked(folder):
        _check_same_tokenizer(folder, tokenizer)
        report, done = _resumed(folder)
        total = len(utterances) - len(done) if isinstance(utterances, Sequence) else None
        batches = _batches(_unique(utterances, done))
        results = (
            _in_processes(batches, tokenizer, workers) if workers else (_tokenized(one, tokenizer) for one in batches)
        )
        with tqdm(total=total, unit="clip", desc="tokenizing", disable=None if progress else True, leave=False) as bar:
            _write_results(folder, results, report, rows_per_shard, bar)
        report.clips = len(_read(folder, ["id"])["id"]) if _shards(folder) else 0
        write_whole(folder / REPORT, (json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n").encode())
    return report


def _write_results(
    folder: Path, results: Iterable[list[Row]], report: TokenizeReport, rows_per_shard: int, bar: tqdm[Any]
) -> None:
    """Counts results in `report` and writes them as they come, also those that came before an error."""
    shards = max((int(path.stem.rpartition("-")[2]) + 1 for path in _shards(folder)), default=0)
    rows: list[Row] = []
    try:
        for found in results:
            rows += [row for row in found if row[1] is not None]
            report.skipped.update({_printable(row[0]): row[5] for row in found if row[1] is None})
            report.hours += sum(row[4] for row in found if row[1] is not None) / 3600
            bar.update(len(found))
            minutes = bar.format_dict["elapsed"] / 60
            bar.set_postfix_str(f"{report.hours:.2f} h, {report.hours / max(minutes, 1e-6):.1f} h of audio a minute")
            while len(rows) >= rows_per_shard:
                shards = _write_shard(folder, shards, rows[:rows_per_shard])
                del rows[:rows_per_shard]
    finally:
        if rows:
            _write_shard(folder, shards, rows)


def fit_tokenizer(
    utterances: Sequence[Utterance],
    num_clusters: int = 100,
    *,
    unique_consecutive: bool = False,
    highest_hz: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> MelKmeans:
    """Fits a `MelKmeans` on the clips that can be read, at their most frequent sampling rate.

    Args:
        utterances: clips of a corpus.
        num_clusters: K, the number of ids.
        unique_consecutive: whether the tokenizer removes consecutive repeats of an id.
        highest_hz: rate in Hz to which audio of a higher rate is resampled; None resamples none.
        seed: fixes the random choices.
        progress: shows a bar, on terminals.

    Raises:
        ValueError: no clip can be read, or there are fewer frames than clusters.
    """
    rates = [one.sample_hz for one in utterances if one.sample_hz in RATES]
    if not rates:
        raise ValueError("no clip of the corpus can be read: check that the files are audio")
    rate = Counter(rates).most_common(1)[0][0]

    def clips() -> Iterator[np.ndarray]:
        for one in utterances:
            try:
                yield resample(one.audio(), one.sample_hz, rate)
            except MemoryError as error:
                warnings.warn(f"{one.id} is left out: {_problem(error)}", stacklevel=3)
            except (ValueError, OSError):
                continue  # `tokenize_corpus` names it

    return MelKmeans.fit(
        clips(),
        rate,
        num_clusters,
        target_sample_hz=rate if highest_hz is None else min(rate, highest_hz),
        unique_consecutive=unique_consecutive,
        seed=seed,
        progress=progress,
    )


class TokenizedSpeech(Dataset[Tensor]):
    """The semantic ids in a folder that `tokenize_corpus` wrote: an item is int64 `[n]`.

    Args:
        folder: the folder of shards.

    Attributes:
        ids: names of the clips.
        texts, speakers: text and speaker of each clip, None where unknown.
        seconds: duration of each clip, float64 `[clips]`.

    Raises:
        FileNotFoundError: the folder has no shards.
        ValueError: a shard cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        if not Path(folder).is_dir() or not _shards(Path(folder)):
            raise FileNotFoundError(f"{folder} holds no tokenized speech: make it with `spear-tts tokenize`")
        table = _read(Path(folder), ["id", "semantic_ids", "text", "speaker", "seconds"])
        self.folder = Path(folder).absolute()
        self.ids: list[str] = table["id"].to_pylist()
        self.texts: list[str | None] = table["text"].to_pylist()
        self.speakers: list[str | None] = table["speaker"].to_pylist()
        self.seconds = np.asarray(table["seconds"], dtype=np.float64)
        lists = table["semantic_ids"].combine_chunks()
        self._values = np.asarray(lists.flatten())
        self._ends = np.asarray(lists.offsets)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        hours = float(self.seconds.sum()) / 3600
        return f"TokenizedSpeech({len(self)} clips, {hours:.2f} hours, {len(self._values)} ids in {self.folder})"

    def __getitem__(self, index: int) -> Tensor:
        """The ids of a clip, int64 `[n]`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} clips")
        index %= len(self)
        return torch.from_numpy(self._values[self._ends[index] : self._ends[index + 1]].astype(np.int64))


def _unique(utterances: Iterable[Utterance], done: set[str]) -> Iterator[Utterance]:
    """The utterances that are not in `done`; raises ValueError at an id that comes twice."""
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise ValueError(f"the id {utterance.id!r} comes twice: rename one of the clips")
        seen.add(utterance.id)
        if utterance.id not in done:
            yield utterance


def _batches(utterances: Iterator[Utterance]) -> Iterator[list[Utterance]]:
    batch: list[Utterance] = []
    for utterance in utterances:
        batch.append(utterance)
        if len(batch) == BATCH_CLIPS:
            yield batch
            batch = []
    if batch:
        yield batch


def _tokenized(batch: list[Utterance], tokenizer: SemanticTokenizer) -> list[Row]:
    """A row for each utterance."""
    rows: list[Row] = []
    for one in batch:
        ids, problem, seconds = None, "", 0.0
        try:
            for name, words in (("id", one.id), ("text", one.text), ("speaker", one.speaker)):
                if words is not None:
                    unicode_text(name, words)
            wav = torch.as_tensor(one.audio())
            rate = one.sample_hz or tokenizer.target_sample_hz
            row = tokenize_clips(tokenizer, [wav], rate)[0]
            ids, seconds = row.cpu().numpy().astype(np.int32), len(wav) / rate
        except FATAL:
            raise
        except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
            problem = _problem(error)
        rows.append((one.id, ids, one.text, one.speaker, seconds, problem))
    return rows


def _problem(error: BaseException) -> str:
    """An error in one line of UTF-8."""
    return _printable(" ".join(str(error).split()) or type(error).__name__)


def _printable(words: str) -> str:
    return words.encode("utf-8", "backslashreplace").decode()  # file names may hold any bytes


_worker_tokenizer: Any = None


def _start_worker(tokenizer: SemanticTokenizer, threads: int) -> None:
    global _worker_tokenizer
    torch.set_num_threads(threads)
    _worker_tokenizer = tokenizer


def _in_worker(batch: list[Utterance]) -> list[Row]:
    return _tokenized(batch, _worker_tokenizer)


def _in_processes(
    batches: Iterator[list[Utterance]], tokenizer: SemanticTokenizer, workers: int
) -> Iterator[list[Row]]:
    """Results in the order of the batches. Only a few batches wait at a time, so the corpus need not fit into memory."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer, threads)) as pool:
        waiting: deque[Future[list[Row]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(_in_worker, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("speech-[0-9]*.parquet"))


def _write_shard(folder: Path, number: int, rows: list[Row]) -> int:
    """Writes a shard; returns the number of the next."""
    columns = [list(column) for column in zip(*rows, strict=True)][:-1]
    table = arrow().table(columns, schema=_schema())
    write_whole(folder / f"speech-{number:06d}.parquet", parquet_bytes(table))
    return number + 1


def _schema() -> Schema:
    """The columns of a shard."""
    pa = arrow()
    kinds = {"id": pa.string(), "semantic_ids": pa.list_(pa.int32()), "text": pa.string(), "speaker": pa.string()}
    return pa.schema({**kinds, "seconds": pa.float64()})


def _read(folder: Path, columns: list[str]) -> Table:
    """Columns of all shards."""
    pa = arrow()
    schema = pa.schema([_schema().field(name) for name in columns])
    try:
        for path in _shards(folder):
            footer_of(path)
        tables = [parquet().read_table(path, columns=columns) for path in _shards(folder)]
        return pa.concat_tables([table.cast(schema) for table in tables])
    except (ValueError, pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(
            f"{folder} holds a shard that cannot be read ({error}): remove it and tokenize again"
        ) from error


def _resumed(folder: Path) -> tuple[TokenizeReport, set[str]]:
    """A report of the clips in the folder, and their ids."""
    if not _shards(folder):
        return TokenizeReport(), set()
    table = _read(folder, ["id", "seconds"])
    return TokenizeReport(hours=sum(table["seconds"].to_pylist()) / 3600), set(table["id"].to_pylist())


def _check_same_tokenizer(folder: Path, tokenizer: SemanticTokenizer) -> None:
    """Writes a description of the tokenizer, or raises ValueError if the folder holds ids of another one."""
    own: dict[str, Any] = json.loads(json.dumps(describe(tokenizer)))
    path = folder / TOKENIZER
    if path.is_file():
        there = read_object(path, "the description of a tokenizer", "restore it, or choose an empty folder")
        differing = sorted(key for key in own.keys() | there.keys() if own.get(key) != there.get(key))
        if differing:
            raise ValueError(
                f"{folder} holds ids of another tokenizer ({differing[0]} is {there.get(differing[0])!r} there and "
                f"{own.get(differing[0])!r} here): choose an empty folder"
            )
    elif _shards(folder):
        raise ValueError(f"{folder} does not say which tokenizer made its ids ({TOKENIZER} is missing): choose another")
    else:
        write_whole(path, (json.dumps(own, indent=2) + "\n").encode())
