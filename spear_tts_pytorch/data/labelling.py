"""Labels items of speech with text ids, a window of items at a time.

In: a dataset of waveforms `[t]` or semantic ids `[n]`, indices into it, a model. Out: `Item`s in that order, each with a
label or with the error that left it without one. An error in one item does not stop the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spear_tts_pytorch.data.loader import SizedDataset, SpeechCollate
from spear_tts_pytorch.data.tokenized import FATAL
from spear_tts_pytorch.decoding.batching import Generated, decode_many
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokenizers.semantic import tokenize_clips
from spear_tts_pytorch.tokens import pad_sequences, strip
from spear_tts_pytorch.utils.values import as_tensor, unicode_text
from spear_tts_pytorch.utils.workers import loading

Decode = Callable[[Tensor], list[tuple[Tensor, float]]]
"""Semantic ids `[b, n]`, padded with -1, to text ids `[m]` and a score for each row; higher is surer."""

SCORE_DIGITS = 4  # other items of a batch change scores by less than this


@dataclass(eq=False)
class Label:
    """The text of an item as the model reads it.

    Attributes:
        text: ids `[m]`, without padding and end-of-sequence.
        score: higher is surer.
        truncated: whether the text was cut at its maximal length.
        others: further hypotheses of a beam search, best first.
    """

    text: Tensor
    score: float
    truncated: bool = False
    others: list[Generated] = field(default_factory=list[Generated])

    @classmethod
    def of(cls, found: Generated) -> Label:
        """A hypothesis as a label."""
        return cls(found.ids, round(found.score, SCORE_DIGITS), found.truncated, found.others)


@dataclass(eq=False)
class Item:
    """An item of the dataset on its way to a label.

    Attributes:
        id: its name.
        speech: a waveform `[t]` or semantic ids `[n]`; semantic ids after `Labeller.tokenize`.
        seconds: duration of the waveform; 0 if the dataset gave ids.
        label: None before it is labelled, and for an item without semantic ids.
        problem: the error that leaves it without a label.
    """

    id: str
    speech: Tensor
    seconds: float = 0.0
    label: Label | None = None
    problem: Exception | None = None


class _Reading(Dataset[Item]):
    """The dataset's items; an item that raised an error holds it, so that workers continue."""

    def __init__(self, dataset: SizedDataset, indices: Sequence[int], ids: Sequence[str]):
        self.dataset, self.indices, self.ids = dataset, indices, [ids[index] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Item:
        id = self.ids[place]
        try:
            unicode_text("the item's name", id)
            return Item(id, _speech(self.dataset[self.indices[place]], id))
        except Exception as error:  # datasets raise errors of any type
            return Item(id, torch.empty(0), problem=error.with_traceback(None))


def _speech(item: Any, id: str) -> Tensor:
    """An item of the dataset as a tensor; raises TypeError if it is neither a waveform nor ids."""
    values = cast("Sequence[Any]", item) if isinstance(item, (tuple, list)) else None
    if values is not None and len(values) == 1 and not isinstance(values[0], int):
        item = values[0]
    is_row = isinstance(item, list) and all(isinstance(value, (int, float)) for value in cast("list[Any]", item))
    row = cast(Any, as_tensor(item) if is_row or isinstance(item, np.ndarray) else item)
    if not isinstance(row, Tensor) or row.ndim != 1:
        got = f"the shape {list(row.shape)}" if isinstance(row, Tensor) else type(cast(object, item)).__name__
        raise TypeError(f"item {id!r} of the dataset must be a waveform [t] or semantic ids [n], got {got}")
    return row


def read_items(
    dataset: SizedDataset, indices: Sequence[int], ids: Sequence[str], num_workers: int = 0
) -> Iterator[Item]:
    """Reads the items at `indices`, in this order, with `num_workers` processes (0: this one).

    Args:
        ids: names of all items of the dataset.

    Raises:
        ChildProcessError: a process was killed, or none could start.
    """
    reading = _Reading(dataset, indices, ids)
    if not num_workers:
        yield from (reading[place] for place in range(len(reading)))
        return
    with loading(num_workers):
        # a generator of its own, because loaders otherwise draw from the global one
        yield from DataLoader(reading, batch_size=None, num_workers=num_workers, generator=torch.Generator())


class Labeller:
    """Labels items with a model.

    Args:
        model: a `TextToSemantic` trained on speech to text.
        batch_size: most items that are decoded together.
        batch_tokens: most semantic ids, with padding, that are decoded together.
        how: options with which the model decodes, or a function that decodes instead of it.
        seed: fixes the draws of sampling.

    Raises:
        ValueError: options that this model cannot do.
    """

    def __init__(
        self, model: TextToSemantic, batch_size: int, batch_tokens: int, how: DecodingOptions | Decode, seed: int = 0
    ):
        if isinstance(how, DecodingOptions):
            how.check(model)
        self.model, self.batch_size, self.batch_tokens = model, batch_size, batch_tokens
        self.how, self.seed = how, seed
        self.collate = SpeechCollate.for_model(model)
        self.pad_id = model.pad_id["speech"]

    def windows(self, items: Iterator[Item], size: int) -> Iterator[list[Item]]:
        """Yields labelled items, in order, `size` at a time."""
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
        """Replaces waveforms by semantic ids `[n]`. An item that cannot be tokenized holds the error."""
        _each(self._tokenize, items)

    def _tokenize(self, items: list[Item]) -> None:
        rows = self._to_ids([item.speech for item in items])
        for item, row in zip(items, rows, strict=True):
            if item.speech.is_floating_point():
                item.seconds = len(item.speech) / (getattr(self.model.wav2vec, "target_sample_hz", None) or 16_000)
            item.speech = row

    @torch.no_grad()
    def _to_ids(self, rows: list[Tensor]) -> list[Tensor]:
        """Waveforms `[t]` or ids `[n]` as checked ids `[n]` on the CPU."""
        if not all(row.is_floating_point() and len(row) for row in rows):
            return [strip(row, self.pad_id, None) for row in self.collate(rows)["semantic"]]
        if self.model.wav2vec is None:
            raise ValueError("dataset gives waveforms, which the model cannot tokenize: pass it wav2vec")
        return [row.cpu() for row in tokenize_clips(self.model.wav2vec, rows, device=self.model.device)]

    def _label(self, items: list[Item]) -> None:
        if not isinstance(self.how, DecodingOptions):
            for batch in self._batches(items):
                _each(self._label_by_function, batch)
        elif items:
            _each(self._label_by_model, items)

    @torch.no_grad()
    def _label_by_function(self, items: list[Item]) -> None:
        decode = cast(Decode, self.how)
        source = pad_sequences([item.speech for item in items], self.pad_id).to(self.model.device)  # [b, n]
        results = decode(source)
        if len(results) != len(items):
            raise ValueError(f"decode must return a result for each of {len(items)} rows, got {len(results)}")
        labels: list[Label] = []
        for text, score in results:
            ids = strip(as_tensor(text).cpu(), self.model.pad_id["text"], None)
            labels.append(Label(ids, round(float(score), SCORE_DIGITS)))
        for item, label in zip(items, labels, strict=True):
            item.label = label

    def _label_by_model(self, items: list[Item]) -> None:
        results = decode_many(
            self.model,
            [item.speech for item in items],
            cast(DecodingOptions, self.how),
            max_tokens=self.batch_tokens,
            max_batch_size=self.batch_size,
            seed=[_seed(self.seed, item.id) for item in items],
            progress=False,
        )
        for item, result in zip(items, results, strict=True):
            item.label = None if result is None else Label.of(result)


def _each(work: Callable[[list[Item]], None], items: list[Item]) -> None:
    """Does some work on items. If that fails, does it on both halves, down to the item that fails, which holds the error.

    Raises:
        torch.OutOfMemoryError: a GPU has too little memory for one item. Other errors of a GPU are raised at once.
    """
    try:
        return work(items)
    except Exception as error:  # of a function of the user's, which may raise any
        if isinstance(error, FATAL) and (len(items) == 1 or not isinstance(error, torch.OutOfMemoryError)):
            raise
        if len(items) == 1:
            items[0].problem = error.with_traceback(None)
            return
    for half in (items[: len(items) // 2], items[len(items) // 2 :]):
        _each(work, half)


def _seed(seed: int, id: str) -> int:
    """A seed for an item, made of the seed and its name: its draws depend neither on its place nor on the process."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id}".encode()).digest()[:7], "big")
