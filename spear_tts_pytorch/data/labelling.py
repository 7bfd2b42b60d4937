"""From items of speech to labelled items, a window of them at a time.

In: a dataset of waveforms `[t]` or semantic ids `[n]`, indices into it, a model. Out: `Item`s in that order, with text
ids and scores, or with the reason why there are none: one bad item stops nobody. Knows nothing of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor
from torch.utils.data import DataLoader, Dataset

from spear_tts_pytorch.data.loader import SpeechCollate
from spear_tts_pytorch.tokenizers.semantic import tokenize_clips
from spear_tts_pytorch.tokens import pad_sequences, strip

Decode = Callable[[LongTensor], list[tuple[Tensor, float]]]
"""Semantic ids `[b, n]` padded with -1 to text ids `[m]` and a score for each row."""

SCORE_DIGITS = 4  # what else stands in a batch moves scores by less


@dataclass(eq=False)
class Item:
    """One item under way.

    Attributes:
        id: its name.
        speech: a waveform `[t]` or semantic ids `[n]`, then semantic ids.
        seconds: how long the waveform is; 0 if it was not one.
        text, score, truncated: what the model reads in it.
        others: further hypotheses, best first (`throughput.Generated`).
        problem: why it can not be labelled.
    """

    id: str
    speech: Tensor
    seconds: float = 0.0
    text: Tensor | None = None
    score: float | None = None
    truncated: bool = False
    others: list[Any] = field(default_factory=list)
    problem: Exception | None = None


class _Reading(Dataset):
    """The dataset's items with the errors they raise, so that a worker goes on."""

    def __init__(self, dataset: Dataset, indices: Sequence[int], ids: Sequence[str]):
        self.dataset, self.indices, self.ids = dataset, indices, [ids[index] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Item:
        id = self.ids[place]
        try:
            return Item(id, _speech(self.dataset[self.indices[place]], id))
        except Exception as error:  # datasets raise what they like
            return Item(id, torch.empty(0), problem=error.with_traceback(None))


def _speech(item: Any, id: str) -> Tensor:
    item = item[0] if isinstance(item, (tuple, list)) and len(item) == 1 and not isinstance(item[0], int) else item
    is_row = isinstance(item, list) and all(isinstance(value, (int, float)) for value in item)
    row = torch.as_tensor(item) if is_row or isinstance(item, np.ndarray) else item
    if not isinstance(row, Tensor) or row.ndim != 1:
        got = f"the shape {list(row.shape)}" if isinstance(row, Tensor) else type(item).__name__
        raise TypeError(f"item {id!r} of the dataset must be a waveform [t] or semantic ids [n], got {got}")
    return row


def read_items(dataset: Dataset, indices: Sequence[int], ids: Sequence[str], num_workers: int = 0) -> Iterator[Item]:
    """The items at `indices`, in order, read by `num_workers` processes; what raised has a `problem`."""
    reading = _Reading(dataset, indices, ids)
    if not num_workers:
        yield from (reading[place] for place in range(len(reading)))
        return
    # a generator of its own: loaders draw from the global one otherwise
    yield from DataLoader(reading, batch_size=None, num_workers=num_workers, generator=torch.Generator())


class Labeller:
    """Labels items with a model.

    Args:
        model: a `TextToSemantic` that reads speech.
        batch_size, batch_tokens: most items, and most semantic ids with padding, that are decoded together.
        decode: replaces `model.generate_many`.
        options: for `model.generate_many`.
    """

    def __init__(self, model: Any, batch_size: int, batch_tokens: int, decode: Decode | None, options: dict[str, Any]):
        self.model, self.batch_size, self.batch_tokens = model, batch_size, batch_tokens
        self.decode, self.options = decode, dict(options)
        self.seed = int(self.options.pop("seed", None) or 0)
        self.collate = SpeechCollate.for_model(model)
        self.pad_id = model.pad_id["speech"]

    def check(self) -> None:
        """Raises what is wrong with the options, before any work."""
        types = dict(source_type="speech", target_type="text")
        if self.decode is None:
            self.model.generate_many([], **types, **self.options)
            each = self.model._generate_each(
                iter(()), slots=1, generator=_no_noise, prompts=None, **types, **self.options
            )
            next(each, None)

    def windows(self, items: Iterator[Item], size: int) -> Iterator[list[Item]]:
        """Labelled items, in order, `size` at a time."""
        while window := list(islice(items, size)):
            for batch in self._batches([item for item in window if item.problem is None and len(item.speech)]):
                self.tokenize(batch)
            self._label([item for item in window if item.problem is None and len(item.speech)])
            yield window

    def _batches(self, items: list[Item]) -> Iterator[list[Item]]:
        items = sorted(items, key=lambda item: -len(item.speech))
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]

    def tokenize(self, items: list[Item]) -> None:
        """Replaces waveforms by semantic ids `[n]`; where a batch fails, item by item."""
        try:
            rows = self._to_ids([item.speech for item in items])
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and len(items) == 1:
                raise
            if len(items) == 1:
                items[0].problem = error.with_traceback(None)
                return
            for item in items:
                self.tokenize([item])
            return
        for item, row in zip(items, rows, strict=True):
            if item.speech.is_floating_point():
                item.seconds = len(item.speech) / (getattr(self.model.wav2vec, "target_sample_hz", None) or 16_000)
            item.speech = row

    @torch.no_grad()
    def _to_ids(self, rows: list[Tensor]) -> list[Tensor]:
        if not all(row.is_floating_point() and len(row) for row in rows):
            return [strip(row, self.pad_id, None) for row in self.collate(rows)["semantic"]]
        if self.model.wav2vec is None:
            raise ValueError("dataset gives waveforms, which the model cannot tokenize: pass it wav2vec")
        return [row.cpu() for row in tokenize_clips(self.model.wav2vec, rows, device=self.model.device)]

    def _label(self, items: list[Item]) -> None:
        if self.decode is not None:
            for batch in self._batches(items):
                self._label_otherwise(batch)
        elif items:
            self._label_by_model(items)

    @torch.no_grad()
    def _label_otherwise(self, items: list[Item]) -> None:
        source = pad_sequences([item.speech for item in items], self.pad_id).to(self.model.device)
        results = self.decode(source)
        if len(results) != len(items):
            raise ValueError(f"decode must return a result for each of {len(items)} rows, got {len(results)}")
        for item, (text, score) in zip(items, results, strict=True):
            item.text = strip(torch.as_tensor(text).cpu(), self.model.pad_id["text"], None)
            item.score = round(float(score), SCORE_DIGITS)

    def _label_by_model(self, items: list[Item]) -> None:
        results = self.model.generate_many(
            [item.speech for item in items],
            source_type="speech",
            target_type="text",
            max_tokens=self.batch_tokens,
            max_batch_size=self.batch_size,
            seed=[_seed(self.seed, item.id) for item in items],
            progress=False,
            **self.options,
        )
        for item, result in zip(items, results, strict=True):
            item.text, item.score = result.ids, round(result.score, SCORE_DIGITS)
            item.truncated, item.others = result.truncated, result.others


def _no_noise(number: int) -> torch.Generator:
    return torch.Generator()


def _seed(seed: int, id: str) -> int:
    """Draws for an item depend on the seed and its name: not on its place, nor on which process has it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:7], "big")
