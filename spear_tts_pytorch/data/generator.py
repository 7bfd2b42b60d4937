"""Pseudo-labels: a backtranslating model reads speech, and pairs of semantic and text ids go to a folder.

In: a model, a dataset of waveforms `[t]` or semantic ids `[n]`. Out: Parquet shards in a folder (`pairs.py`).
Runs again where it stopped, item by item. Knows nothing of how text is decoded, nor of training.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import LongTensor, Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import SpeechCollate
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
from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform
from spear_tts_pytorch.tokens import strip

WINDOW_BATCHES = 32  # batches' worth of items that are read, and sorted by length, together
RESERVED = (
    "source",
    "source_type",
    "target_type",
    "source_mask",
    "source_lengths",
    "return_source",
    "return_target_mask",
    "return_scores",
)

Decode = Callable[[LongTensor], list[tuple[Tensor, float]]]
"""Semantic ids `[b, n]` padded with -1 to text ids `[m]` and a score for each row."""


@dataclass
class _Item:
    """One item under way, `speech` being a waveform or ids, then ids."""

    id: str
    speech: Tensor
    text: Tensor | None = None
    score: float | None = None
    truncated: bool = False


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

    Raises:
        ValueError: an empty dataset, or pads that are not the model's.
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
    ):
        super().__init__()
        if len(dataset) == 0:
            raise ValueError("dataset is empty: there is nothing to label")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        audio_pad_id = model.pad_id["speech"] if audio_pad_id is None else audio_pad_id
        if (audio_pad_id, text_pad_id) != (model.pad_id["speech"], model.pad_id["text"]):
            raise ValueError(
                f"audio_pad_id {audio_pad_id} and text_pad_id {text_pad_id} must be the model's, {model.pad_id}"
            )
        self.model, self.dataset, self.folder = model, dataset, Path(folder)
        self.batch_size, self.rows_per_shard, self.progress = batch_size, rows_per_shard, progress
        self.delimiter_id, self.audio_pad_id, self.text_pad_id = delimiter_id, audio_pad_id, text_pad_id
        self.decode = decode
        self.collate = SpeechCollate.for_model(model)

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
            generate_kwargs: for `model.generate`.

        Returns:
            Numbers of items `written`, `skipped` since they were there already, and `empty` ones without any unit.

        Raises:
            ValueError: the folder holds pairs of another model or other options; two items have one id.
        """
        wrong = [name for name in RESERVED if name in generate_kwargs]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be passed on to model.generate: the generator sets it itself")
        options = {"max_length": max_length, "beam_search_decode": beam_search_decode, **generate_kwargs}
        rank, world = _rank_and_world()
        ids = self._ids()
        if rank == 0:
            self._prepare_folder(overwrite)
        _barrier()
        done = {name for path in list_shards(self.folder) for name in read_column(path, "id").to_pylist()}
        self._check_same_speech(ids)
        _barrier()  # nobody writes before everybody has read what is there
        todo = [index for index in range(rank, len(ids), world) if ids[index] not in done]
        counts = {"written": 0, "skipped": len(range(rank, len(ids), world)) - len(todo), "empty": 0}
        with self._writer(rank, options) as writer, self._bar(len(ids), counts["skipped"], rank) as bar:
            for items in self._labelled(todo, ids, options):
                for item in items:
                    counts["written" if item.text is not None else "empty"] += 1
                    if item.text is not None:
                        self._write(writer, item)
                bar.update(len(items) * world)
        if counts["empty"]:
            warnings.warn(f"{counts['empty']} items have no semantic ids (too short?) and were left out", stacklevel=2)
        _barrier()
        if rank == 0:
            update_counts(self.folder)
        return counts

    def _ids(self) -> list[str]:
        ids = getattr(self.dataset, "ids", None)
        ids = [str(i) for i in (range(len(self.dataset)) if ids is None else ids)]
        if len(ids) != len(self.dataset) or len(set(ids)) != len(ids):
            raise ValueError(
                f"dataset.ids must be {len(self.dataset)} different strings, got {len(set(ids))} of {len(ids)}"
            )
        return ids

    def _prepare_folder(self, overwrite: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for path in [*list_shards(self.folder), self.folder / DATASET_NAME]:
                path.unlink(missing_ok=True)

    def _check_same_speech(self, ids: list[str]) -> None:
        """Raises ValueError if the first pair in the folder is of other speech than the dataset's item of that name."""
        shards = [path for path in list_shards(self.folder) if len(read_column(path, "id"))]
        if not shards:
            return
        name, there = (read_column(shards[0], column)[0].as_py() for column in ("id", "semantic_ids"))
        if name not in ids:
            return
        item = _Item(name, self._speech(ids.index(name), name))
        self._tokenize([item])
        if item.speech.tolist() != there:
            raise ValueError(
                f"{self.folder} holds pairs of another dataset: its item {name!r} is other speech. Choose another folder, "
                "give the dataset ids of its own, or remove these pairs by overwrite=True"
            )

    def _writer(self, rank: int, options: dict[str, Any]) -> PairWriter:
        described = {key: _describe(value) for key, value in options.items()}
        described["decode"] = None if self.decode is None else _describe(self.decode)
        try:
            return PairWriter(
                self.folder,
                num_semantic_token_ids=self.model.num_semantic_token_ids,
                num_text_token_ids=self.model.num_text_token_ids,
                unique_consecutive=getattr(self.model.wav2vec, "unique_consecutive", None),
                model_hash=model_hash(self.model),
                options=described,
                rank=rank,
                rows_per_shard=self.rows_per_shard,
            )
        except ValueError as error:
            if not read_metadata(self.folder):
                raise
            raise ValueError(f"{error}, or remove these pairs by overwrite=True") from error

    def _bar(self, total: int, done: int, rank: int) -> tqdm:
        hidden = True if not self.progress or rank != 0 else None
        return tqdm(total=total, initial=done, disable=hidden, desc="labelling", unit="utt")

    def _labelled(self, todo: list[int], ids: list[str], options: dict[str, Any]) -> Iterator[list[_Item]]:
        """Windows of labelled items, in the order of the dataset."""
        size = self.batch_size * WINDOW_BATCHES
        for start in range(0, len(todo), size):
            items = [_Item(ids[index], self._speech(index, ids[index])) for index in todo[start : start + size]]
            for batch in self._batches(items):
                self._tokenize(batch)
            full = [item for item in items if len(item.speech)]
            for batch in self._batches(full):
                self._label(batch, options)
            yield items

    def _speech(self, index: int, id: str) -> Tensor:
        item = self.dataset[index]
        item = item[0] if isinstance(item, (tuple, list)) and len(item) == 1 else item
        if not isinstance(item, Tensor) or item.ndim != 1:
            raise TypeError(
                f"item {id!r} of the dataset must be a waveform [t] or semantic ids [n], got {type(item).__name__}"
            )
        return item

    def _batches(self, items: list[_Item]) -> Iterator[list[_Item]]:
        """Items of like length together, the longest first: what does not fit into memory fails at once."""
        items = sorted(items, key=lambda item: -len(item.speech))
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]

    def _tokenize(self, items: list[_Item]) -> None:
        """Replaces waveforms by semantic ids `[n]`."""
        batch = self.collate([item.speech for item in items])
        if "wave" in batch:
            if self.model.wav2vec is None:
                raise ValueError("dataset gives waveforms, which the model cannot tokenize: pass it wav2vec")
            ids = tokenize_waveform(self.model.wav2vec, batch["wave"].to(self.model.device), batch["wave_lengths"])
        else:
            ids = batch["semantic"]
        for item, row in zip(items, ids.cpu(), strict=True):
            item.speech = strip(row, self.audio_pad_id, None)

    @torch.no_grad()
    def _label(self, items: list[_Item], options: dict[str, Any]) -> None:
        source = self.collate([item.speech for item in items])["semantic"].to(self.model.device)
        if self.decode is not None:
            results = self.decode(source)
            if len(results) != len(items):
                raise ValueError(f"decode must return a result for each of {len(items)} rows, got {len(results)}")
            for item, (text, score) in zip(items, results, strict=True):
                item.text, item.score = strip(torch.as_tensor(text).cpu(), self.text_pad_id, None), float(score)
            return
        texts, scores = self.model.generate(
            source, source_type="speech", target_type="text", return_scores=True, **options
        )
        eos_id = self.model.eos_id["text"] if self.model.autoset_eos_id["text"] else None
        for item, row, score in zip(items, texts.cpu(), scores.tolist(), strict=True):
            item.truncated = eos_id is not None and not bool((row == eos_id).any())
            item.text, item.score = strip(row, self.text_pad_id, eos_id), score

    def _write(self, writer: PairWriter, item: _Item) -> None:
        tokenizer = self.model.text_tokenizer
        text = None if tokenizer is None else tokenizer.decode(item.text)[0]
        source = SOURCE_TRUNCATED if item.truncated else SOURCE_GENERATED
        writer.write(item.id, item.speech, item.text, text=text, score=item.score, source=source)


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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


def _rank_and_world() -> tuple[int, int]:
    active = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if active else (0, 1)


def _barrier() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
