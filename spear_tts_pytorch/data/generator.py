"""Pseudo-labels: a backtranslating model reads speech, and pairs of semantic and text ids go to a folder.

In: a model, a dataset of waveforms `[t]` or semantic ids `[n]`. Out: Parquet shards in a folder (`pairs.py`).
Runs again where it stopped, item by item. Knows nothing of how text is decoded, nor of training.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from spear_tts_pytorch.data.labelling import SCORE_DIGITS, Decode, Item, Labeller, read_items
from spear_tts_pytorch.data.pairs import (
    DATASET_NAME,
    SOURCE_GENERATED,
    SOURCE_TRUNCATED,
    PairWriter,
    list_shards,
    read_column,
    read_metadata,
    update_counts,
)
from spear_tts_pytorch.utils.distributed import rank_and_world, wait_for_everyone
from spear_tts_pytorch.utils.files import locked

WINDOW_BATCHES = 32  # batches' worth of items that are read, and sorted by length, together
SHOWN = 5  # items that could not be labelled that a warning names
RESERVED = (
    "source",
    "source_type",
    "target_type",
    "source_mask",
    "source_lengths",
    "return_source",
    "return_target_mask",
    "return_scores",
    "generator",
)


class SemanticToTextDatasetGenerator(nn.Module):
    """Transcribes a dataset of speech into a folder of pairs, which `GeneratedAudioTextDataset` reads.

    Args:
        model: a `TextToSemantic` trained on speech to text.
        dataset: waveforms `[t]` at the tokenizer's rate, or semantic ids `[n]`, bare or in a tuple of one. Items are
            known by `dataset.ids` (unique strings) where it exists, else by their index.
        folder: where pairs are written.
        batch_size: items decoded at once.
        delimiter_id, audio_pad_id, text_pad_id: of the file format up to 0.4.8; pads must be the model's.
        decode: replaces `model.generate`: semantic ids `[b, n]` padded with -1 to a list of (text ids, score).
        rows_per_shard: pairs after which they are safe on disk.
        progress: shows a bar, on terminals.
        batch_tokens: most semantic ids, with padding, that are decoded at once.
        num_workers: processes that read the dataset.
        on_error: "skip" leaves out items that can not be read or labelled, counts and names them, and goes on, unless it
            is so for all items met; "raise" does not.
        n_best_folder: where, of a beam search with `n_best` above 1, the other hypotheses are written, as pairs with the
            ids "{id}#2", "{id}#3" and so on.

    Attributes:
        problems: of the last call, why items were left out, by their id.

    Raises:
        ValueError: an empty dataset, an option out of range, or pads that are not the model's.
    """

    def __init__(
        self,
        model: Any,
        *,
        dataset: Dataset,
        folder: str | Path = "./generated-audio-text-pairs",
        batch_size: int = 4,
        delimiter_id: int = -1,
        audio_pad_id: int | None = None,
        text_pad_id: int = 0,
        decode: Decode | None = None,
        rows_per_shard: int = 1000,
        progress: bool = True,
        batch_tokens: int = 32_768,
        num_workers: int = 0,
        on_error: Literal["skip", "raise"] = "skip",
        n_best_folder: str | Path | None = None,
    ):
        super().__init__()
        if len(dataset) == 0:
            raise ValueError("dataset is empty: there is nothing to label")
        if batch_size < 1 or batch_tokens < 1:
            raise ValueError(f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}")
        if on_error not in ("skip", "raise"):
            raise ValueError(f"on_error must be 'skip' or 'raise', got {on_error!r}")
        audio_pad_id = model.pad_id["speech"] if audio_pad_id is None else audio_pad_id
        if (audio_pad_id, text_pad_id) != (model.pad_id["speech"], model.pad_id["text"]):
            raise ValueError(
                f"audio_pad_id {audio_pad_id} and text_pad_id {text_pad_id} must be the model's, {model.pad_id}"
            )
        self.model, self.dataset, self.folder = model, dataset, Path(folder)
        self.batch_size, self.rows_per_shard, self.progress = batch_size, rows_per_shard, progress
        self.delimiter_id, self.audio_pad_id, self.text_pad_id = delimiter_id, audio_pad_id, text_pad_id
        self.batch_tokens, self.num_workers, self.on_error = batch_tokens, num_workers, on_error
        self.n_best_folder = None if n_best_folder is None else Path(n_best_folder)
        self.decode = decode
        self.problems: dict[str, str] = {}

    def forward(
        self,
        max_length: int = 2048,
        beam_search_decode: bool = True,
        *,
        overwrite: bool = False,
        **generate_kwargs: Any,
    ) -> dict[str, int]:
        """Labels what is not labelled yet.

        Args:
            max_length: of the text, in ids, end-of-sequence included.
            beam_search_decode: beam search, else sampling.
            overwrite: removes the pairs in the folder first.
            generate_kwargs: for `model.generate_many`: strategy, temperature, `seed` and so on.

        Returns:
            Numbers of items `written`, `skipped` since they were there already, `empty` ones without any unit, and
            `failed` ones, which `problems` names. Of this process.

        Raises:
            ValueError: the folder holds pairs of another model or other options; two items have one id.
            RuntimeError: another process writes to the folder.
        """
        wrong = [name for name in RESERVED if name in generate_kwargs]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be passed on to model.generate: the generator sets it itself")
        options = {"max_length": max_length, "beam_search_decode": beam_search_decode, **generate_kwargs}
        if (self.n_best_folder is not None) != (options.get("n_best", 1) > 1):
            raise ValueError("n_best above 1 and n_best_folder go together: the other hypotheses are written there")
        if self.n_best_folder is not None and self.n_best_folder.resolve() == self.folder.resolve():
            raise ValueError(f"n_best_folder must be another than folder, {self.folder}: that is for the best alone")
        rank, world = rank_and_world()
        ids = self._ids()
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder) if rank == 0 else nullcontext():
            labeller = Labeller(self.model, self.batch_size, self.batch_tokens, self.decode, options)
            labeller.check()
            if rank == 0 and overwrite:
                _remove_pairs(self.folder)
            wait_for_everyone()
            done = _ids_in(self.folder)
            self._check_same_speech(ids, labeller)
            wait_for_everyone()  # nobody writes before everybody has read what is there
            own = range(rank, len(ids), world)
            todo = [index for index in own if ids[index] not in done]
            counts = {"written": 0, "skipped": len(own) - len(todo), "empty": 0, "failed": 0}
            others = nullcontext() if self.n_best_folder is None else self._others(rank, options, overwrite)
            with (
                self._writer(self.folder, rank, options) as writer,
                others as others,
                self._bar(len(ids), counts["skipped"] * world, rank) as bar,
            ):
                self._run(todo, ids, labeller, writer, others, bar, counts, world)
            wait_for_everyone()
            if rank == 0:
                for folder in filter(None, (self.folder, self.n_best_folder)):
                    update_counts(folder)
        self._warn(counts)
        return counts

    def _run(
        self,
        todo: list[int],
        ids: list[str],
        labeller: Labeller,
        writer: PairWriter,
        others: PairWriter | None,
        bar: tqdm,
        counts: dict[str, int],
        world: int,
    ) -> None:
        self.problems, hours, met = {}, 0.0, 0
        items = read_items(self.dataset, todo, ids, self.num_workers)
        for window in labeller.windows(items, self.batch_size * WINDOW_BATCHES):
            failed = [item for item in window if item.problem is not None]
            met += len(window)
            hopeless = len(failed) == met and not counts["skipped"]  # not about items but about the model or options
            if failed and (self.on_error == "raise" or hopeless):
                raise failed[0].problem
            if others is not None:
                self._write_others(others, window)
            for item in window:
                if item.problem is not None:
                    counts["failed"] += 1
                    self.problems[item.id] = f"{type(item.problem).__name__}: {item.problem}"
                elif item.text is None:
                    counts["empty"] += 1
                else:
                    counts["written"] += 1
                    self._write(writer, item)
            hours += sum(item.seconds for item in window) * world / 3600
            bar.update(len(window) * world)
            if hours:
                bar.set_postfix_str(f"{hours:.2f} h of audio")

    def _warn(self, counts: dict[str, int]) -> None:
        if counts["empty"]:
            warnings.warn(f"{counts['empty']} items have no semantic ids (too short?) and were left out", stacklevel=3)
        if self.problems:
            named = "; ".join(f"{id!r} ({reason})" for id, reason in list(self.problems.items())[:SHOWN])
            more = f" and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            warnings.warn(
                f"{len(self.problems)} items could not be labelled and were left out: {named}{more}", stacklevel=3
            )

    def _ids(self) -> list[str]:
        ids = getattr(self.dataset, "ids", None)
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        ids = [str(i) for i in (range(len(self.dataset)) if ids is None else ids)]
        if len(ids) != len(self.dataset) or len(set(ids)) != len(ids):
            raise ValueError(
                f"dataset.ids must be {len(self.dataset)} different strings, got {len(set(ids))} of {len(ids)}"
            )
        return ids

    def _check_same_speech(self, ids: list[str], labeller: Labeller) -> None:
        """Raises ValueError if the first pair in the folder is of other speech than the dataset's item of that name."""
        shards = [path for path in list_shards(self.folder) if len(read_column(path, "id"))]
        if not shards:
            return
        name, there = (read_column(shards[0], column)[0].as_py() for column in ("id", "semantic_ids"))
        if name not in ids:
            return
        item = next(read_items(self.dataset, [ids.index(name)], ids))
        if item.problem is None:
            labeller.tokenize([item])
        if item.problem is not None:
            raise item.problem
        if item.speech.tolist() != there:
            raise ValueError(
                f"{self.folder} holds pairs of another dataset: its item {name!r} is other speech. Choose another folder, "
                "give the dataset ids of its own, or remove these pairs by overwrite=True"
            )

    def _others(self, rank: int, options: dict[str, Any], overwrite: bool) -> PairWriter:
        """The writer of the other hypotheses; what a run that was cut off had written of them already, it knows."""
        self.n_best_folder.mkdir(parents=True, exist_ok=True)
        if rank == 0 and overwrite:
            _remove_pairs(self.n_best_folder)
        wait_for_everyone()
        self._others_done = _ids_in(self.n_best_folder)
        wait_for_everyone()
        return self._writer(self.n_best_folder, rank, options)

    def _write_others(self, writer: PairWriter, window: list[Item]) -> None:
        """Written before the best ones of a window, which say that it is done."""
        for item in window:
            for number, other in enumerate(item.others, start=2):
                name = f"{item.id}#{number}"
                if name not in self._others_done:
                    label = dict(text=other.ids, score=round(other.score, SCORE_DIGITS), truncated=other.truncated)
                    self._write(writer, Item(name, item.speech, **label))
        writer.flush()

    def _writer(self, folder: Path, rank: int, options: dict[str, Any]) -> PairWriter:
        described = {key: _describe(value) for key, value in options.items()}
        described["decode"] = None if self.decode is None else _describe(self.decode)
        described["text_tokenizer"] = _tokenizer_hash(self.model.tokenizer_encode)
        try:
            return PairWriter(
                folder,
                num_semantic_token_ids=self.model.num_semantic_token_ids,
                num_text_token_ids=self.model.num_text_token_ids,
                unique_consecutive=getattr(self.model.wav2vec, "unique_consecutive", None),
                model_hash=model_hash(self.model),
                options=described,
                rank=rank,
                rows_per_shard=self.rows_per_shard,
            )
        except ValueError as error:
            if not read_metadata(folder):
                raise
            raise ValueError(f"{error}, or remove these pairs by overwrite=True") from error

    def _bar(self, total: int, done: int, rank: int) -> tqdm:
        hidden = True if not self.progress or rank != 0 else None
        return tqdm(total=total, initial=done, disable=hidden, desc="labelling", unit="utt")

    def _write(self, writer: PairWriter, item: Item) -> None:
        tokenizer = self.model.text_tokenizer
        text = None if tokenizer is None else tokenizer.decode(item.text)[0]
        source = SOURCE_TRUNCATED if item.truncated else SOURCE_GENERATED
        writer.write(item.id, item.speech, item.text, text=text, score=item.score, source=source)


def _ids_in(folder: Path) -> set[str]:
    return {name for path in list_shards(folder) for name in read_column(path, "id").to_pylist()}


def _remove_pairs(folder: Path) -> None:
    for path in [*list_shards(folder), folder / DATASET_NAME]:
        path.unlink(missing_ok=True)


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _tokenizer_hash(tokenizer: Any) -> str | None:
    """What text ids mean, in short; None where the tokenizer cannot say."""
    if not hasattr(tokenizer, "to_dict"):
        return None
    return hashlib.sha256(json.dumps(tokenizer.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _describe(value: Any) -> Any:
    """An option as something that JSON can hold and a later run can compare with."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
