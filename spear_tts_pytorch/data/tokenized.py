"""Turns a corpus of audio into a folder of semantic ids, and opens such a folder as a dataset.

In: utterances, a semantic tokenizer. Out: shards (`speech_shards.py`); `tokenizer_of_ids.json` describes the tokenizer;
`report.json` names clips that could not be used, with reasons. An interrupted run continues after the clips in the shards.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm.auto import tqdm

from spear_tts_pytorch.data.audio import resample
from spear_tts_pytorch.data.corpora.clip_files import check_unique
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.id_columns import IdRows
from spear_tts_pytorch.data.speech_shards import Row, SpeechWriter, read_speech, speech_shards
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import (
    RATES,
    SemanticTokenizer,
    check_tokenizer,
    describe,
    reason_of,
    tokenize_clips,
)
from spear_tts_pytorch.utils.files import locked, write_whole
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.values import (
    absolute_path,
    as_tensor,
    place,
    plain,
    shown,
    switch,
    unicode_text,
    whole_number,
)
from spear_tts_pytorch.utils.workers import check_can_start, in_processes

REPORT, TOKENIZER = "report.json", "tokenizer_of_ids.json"
DESCRIPTION = "the description of a tokenizer"
BATCH_CLIPS, BATCH_SECONDS = 8, 60.0  # a batch that a process gets is full when it has so many clips, or so much audio
FATAL = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))  # not the clip's fault


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
        rows_per_shard: clips in a file. The last file is written again after each 1,000 clips and each minute, so a
            killed process loses no more than those. An error or Ctrl-C (under `spear-tts` also SIGTERM) loses only the
            clips in work: one, or with workers 8 for each and its two next batches.
        progress: shows a bar, on terminals.

    Raises:
        FolderInUseError: another run writes into the folder (an OSError and a RuntimeError).
        ChildProcessError: a worker was killed, or none could start: in a script, `workers` needs the line
            `if __name__ == "__main__":` before the part that runs.
        TypeError: a count is not a whole number.
        ValueError: an id that comes twice; a folder whose ids another tokenizer made; counts out of range; `workers` in a
            program from standard input.
        torch.OutOfMemoryError: a GPU has too little memory for a clip. Other clips that cannot be used are reported.
    """
    workers, rows_per_shard = whole_number("workers", workers, 0), whole_number("rows_per_shard", rows_per_shard, 1)
    switch("progress", progress)
    check_tokenizer(tokenizer)
    _check_utterances(utterances)
    if workers:
        check_can_start()
    if isinstance(utterances, Sequence):
        check_unique([one.id for one in utterances])
    folder = absolute_path("folder", folder)
    with locked(folder):
        _check_same_tokenizer(folder, tokenizer)
        report, done = _resumed(folder)
        total = len(utterances) - len(done) if isinstance(utterances, Sequence) else None
        results = _results(_unique(utterances, done), tokenizer, workers)
        with (
            closing(results),
            tqdm(total=total, unit="clip", desc="tokenizing", disable=None if progress else True, leave=False) as bar,
        ):
            _write_results(SpeechWriter(folder, rows_per_shard), results, report, bar)
        report.clips = len(read_speech(folder, ["id"])) if speech_shards(folder) else 0
        write_whole(folder / REPORT, (json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n").encode())
    return report


def _write_results(writer: SpeechWriter, results: Iterable[list[Row]], report: TokenizeReport, bar: tqdm[Any]) -> None:
    """Counts results in `report` and writes them as they come, also those that came before an error."""
    try:
        for found in results:
            for row in found:
                if row[1] is None:
                    report.skipped[_printable(row[0])] = row[5]
                else:
                    report.hours += row[4] / 3600
                    writer.add(row)
            writer.write_if_due()
            bar.update(len(found))
            minutes = bar.format_dict["elapsed"] / 60
            bar.set_postfix_str(f"{report.hours:.2f} h, {report.hours / max(minutes, 1e-6):.1f} h of audio a minute")
    finally:
        writer.flush()


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
    _check_utterances(utterances)
    rates = [one.sample_hz for one in utterances if one.sample_hz in RATES]
    if not rates:
        raise ValueError("utterances holds no clip that can be read: check that the files are audio")
    rate = Counter(rates).most_common(1)[0][0]

    def clips() -> Iterator[np.ndarray]:
        for one in utterances:
            try:
                yield resample(one.audio(), one.sample_hz, rate)
            except MemoryError as error:
                warnings.warn(f"{one.id} is left out: {_problem(reason_of(error))}", stacklevel=3)
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
        lengths: ids of each clip, int64 `[clips]`.
        tokenizer: description of the tokenizer that made the ids, None if the folder does not say.

    Raises:
        FileNotFoundError: the folder has no shards.
        ValueError: a shard cannot be read, or holds null or numbers that are not ids; the message names file, row and
            column.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = absolute_path("folder", folder)
        if not self.folder.is_dir() or not speech_shards(self.folder):
            raise FileNotFoundError(f"{self.folder} holds no tokenized speech: make it with `spear-tts tokenize`")
        table = read_speech(self.folder, ["id", "semantic_ids", "text", "speaker", "seconds"])
        self.ids: list[str] = table["id"].to_pylist()
        self.texts: list[str | None] = table["text"].to_pylist()
        self.speakers: list[str | None] = table["speaker"].to_pylist()
        self.seconds = np.asarray(table["seconds"], dtype=np.float64)
        self._rows = IdRows(table["semantic_ids"])
        self.lengths = self._rows.lengths
        path = self.folder / TOKENIZER
        self.tokenizer = read_object(path, DESCRIPTION, f"restore {path.name}") if path.is_file() else None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        hours = float(self.seconds.sum()) / 3600
        return f"TokenizedSpeech({len(self)} clips, {hours:.2f} hours, {self._rows.total} ids in {self.folder})"

    def __getitem__(self, index: int) -> Tensor:
        """The ids of a clip, int64 `[n]`."""
        return torch.from_numpy(self._rows[place(index, len(self))])


def check_made_by(tokenizer: object, dataset: object) -> None:
    """Checks that tokenized speech has ids of the model's tokenizer. What does not say who made it is let through.

    Args:
        tokenizer: the model's semantic tokenizer, or None.
        dataset: a `TokenizedSpeech`, a part of one, or anything else.

    Raises:
        ValueError: another tokenizer made the ids.
    """
    while isinstance(dataset, Subset):
        dataset = cast(object, dataset.dataset)  # pyright: ignore[reportUnknownMemberType] (its items are of any type)
    if tokenizer is None or not isinstance(dataset, TokenizedSpeech) or dataset.tokenizer is None:
        return
    here, there = describe(cast(SemanticTokenizer, tokenizer)), dataset.tokenizer
    for name in ("codebook_size", "unique_consecutive", "fingerprint"):
        if name in here and name in there and here[name] != there[name]:
            raise ValueError(
                f"{dataset.folder} holds ids of another tokenizer than the model's ({name} is {there[name]!r} there and "
                f"{here[name]!r} here): tokenize the audio with the model's tokenizer"
            )


def _check_utterances(utterances: object) -> None:
    """Raises TypeError if `utterances` cannot be iterated over, or is a list of something else."""
    if isinstance(utterances, (str, bytes, Mapping)) or not hasattr(plain(utterances), "__iter__"):
        raise TypeError(
            f"utterances must be a list of Utterance objects, as read_corpus gives, got {shown(cast(object, utterances))}"
        )
    for one in cast("Sequence[object]", utterances) if hasattr(utterances, "__len__") else ():
        if not isinstance(one, Utterance):
            raise TypeError(f"utterances must be Utterance objects, as read_corpus gives, got {shown(one)}")


def _unique(utterances: Iterable[Utterance], done: set[str]) -> Iterator[Utterance]:
    """The utterances that are not in `done`; raises ValueError at an id that comes twice."""
    seen: set[str] = set()
    for utterance in utterances:
        _check_utterances([utterance])
        if utterance.id in seen:
            raise ValueError(f"the id {utterance.id!r} comes twice: rename one of the clips")
        seen.add(utterance.id)
        if utterance.id not in done:
            yield utterance


def _results(utterances: Iterator[Utterance], tokenizer: SemanticTokenizer, workers: int) -> Generator[list[Row]]:
    """Rows of the utterances in their order."""
    if not workers:
        for one in utterances:
            yield _tokenized(tokenizer, [one])
        return
    with closing(in_processes(_tokenized, tokenizer, _batches(utterances), workers)) as results:
        yield from results


def _batches(utterances: Iterator[Utterance]) -> Iterator[list[Utterance]]:
    batch: list[Utterance] = []
    seconds = 0.0
    for utterance in utterances:
        batch.append(utterance)
        seconds += (utterance.num_samples or 0) / (utterance.sample_hz or 1)
        if len(batch) == BATCH_CLIPS or seconds >= BATCH_SECONDS:
            yield batch
            batch, seconds = [], 0.0
    if batch:
        yield batch


def _tokenized(tokenizer: SemanticTokenizer, batch: list[Utterance]) -> list[Row]:
    """A row for each utterance."""
    rows: list[Row] = []
    for one in batch:
        ids, problem, seconds = None, "", 0.0
        try:
            for name, words in (("id", one.id), ("text", one.text), ("speaker", one.speaker)):
                if words is not None:
                    unicode_text(name, words)
            wav = as_tensor(one.audio())
            rate = one.sample_hz or tokenizer.target_sample_hz
            row = tokenize_clips(tokenizer, [wav], rate, speakers=[one.speaker])[0]
            ids, seconds = row.cpu().numpy().astype(np.int32), len(wav) / rate
        except FATAL:
            raise
        except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
            problem = _problem(reason_of(error))
        rows.append((one.id, ids, one.text, one.speaker, seconds, problem))
    return rows


def _problem(reason: str) -> str:
    """A reason in one line of UTF-8."""
    return _printable(" ".join(reason.split()))


def _printable(words: str) -> str:
    return words.encode("utf-8", "backslashreplace").decode()  # file names may hold any bytes


def _resumed(folder: Path) -> tuple[TokenizeReport, set[str]]:
    """A report of the clips in the folder, and their ids."""
    if not speech_shards(folder):
        return TokenizeReport(), set()
    table = read_speech(folder, ["id", "seconds"])
    return TokenizeReport(hours=sum(table["seconds"].to_pylist()) / 3600), set(table["id"].to_pylist())


def _check_same_tokenizer(folder: Path, tokenizer: SemanticTokenizer) -> None:
    """Writes a description of the tokenizer, or raises ValueError if the folder holds ids of another one."""
    own: dict[str, Any] = json.loads(json.dumps(describe(tokenizer)))
    path = folder / TOKENIZER
    if path.is_file():
        there = read_object(path, DESCRIPTION, "restore it, or choose an empty folder")
        differing = sorted(key for key in own.keys() | there.keys() if own.get(key) != there.get(key))
        if differing:
            raise ValueError(
                f"{folder} holds ids of another tokenizer ({differing[0]} is {there.get(differing[0])!r} there and "
                f"{own.get(differing[0])!r} here): choose an empty folder"
            )
    elif speech_shards(folder):
        raise ValueError(f"{folder} does not say which tokenizer made its ids ({TOKENIZER} is missing): choose another")
    else:
        write_whole(path, (json.dumps(own, indent=2) + "\n").encode())
