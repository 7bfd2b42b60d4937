"""Batches: which items stand together, and how items become padded tensors.

In: datasets of semantic ids `[n]`, waveforms `[t]` or pairs. Out: dictionaries of tensors: `semantic` `[b, n]` padded with
-1 (or `wave` `[b, t]` and `wave_lengths` `[b]`), and `text` `[b, m]` padded with 0. The order of batches is a pure function
of seed and epoch. So a place in it is two numbers, and each process can work out the whole of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import Self

from spear_tts_pytorch.tokens import INTEGER_DTYPES, Modality, check_ids, pad_sequences, strip
from spear_tts_pytorch.utils.values import as_tensor

if TYPE_CHECKING:
    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

WINDOW_BATCHES = 64  # a window of so many batches' items is sorted by length
LENGTH_JITTER = 0.04  # relative noise on lengths before sorting, so that an item has other batch mates in each epoch


@runtime_checkable
class SizedDataset(Protocol):
    """A dataset with a known number of items: a list, a `torch.utils.data.Dataset` with a length, and so on."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Indices = npt.NDArray[np.int64]
Draw = Callable[[np.random.Generator], Indices]


class BatchSampler(Sampler[list[int]]):
    """Lists of indices. `batches(epoch)` is a pure function; iterating goes through the epoch that was set last.

    Args:
        num_items: items of the dataset, at least 1.
        seed: of the order.
        shuffle: whether the order is random.
        draw: chooses the indices `[n]` of an epoch, where an epoch is not each index once; needs `shuffle`.
    """

    def __init__(self, num_items: int, seed: int = 0, shuffle: bool = True, draw: Draw | None = None):
        if num_items < 1:
            raise ValueError("the dataset is empty: give at least one item")
        self.num_items, self.seed, self.shuffle, self.draw = num_items, seed, shuffle, draw
        self.epoch = 0
        self._plans: dict[int, list[list[int]]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that iterating goes through."""
        self.epoch = epoch

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch in order. They hold each index once, or as often as `draw` chose it."""
        if epoch not in self._plans:
            self._plans = {key: plan for key, plan in self._plans.items() if key == epoch - 1}
            self._plans[epoch] = self._plan(np.random.default_rng([self.seed, epoch]))
        return self._plans[epoch]

    def _plan(self, rng: np.random.Generator) -> list[list[int]]:
        raise NotImplementedError

    def _order(self, rng: np.random.Generator) -> Indices:
        if not self.shuffle:
            return np.arange(self.num_items)
        return rng.permutation(np.arange(self.num_items) if self.draw is None else self.draw(rng))

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches(self.epoch))

    def __len__(self) -> int:
        return len(self.batches(self.epoch))


class FixedBatchSampler(BatchSampler):
    """Batches of `batch_size` items.

    Args:
        drop_last: whether to leave out the last batch of an epoch if it is smaller than the others.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        draw: Draw | None = None,
        drop_last: bool = False,
    ):
        super().__init__(num_items, seed, shuffle, draw)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self.drop_last = batch_size, drop_last

    def _plan(self, rng: np.random.Generator) -> list[list[int]]:
        order = cast("list[int]", self._order(rng).tolist())
        plan = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        if self.drop_last and len(plan) > 1 and len(plan[-1]) < self.batch_size:
            plan.pop()
        return plan


class TokenBudgetBatchSampler(BatchSampler):
    """Batches of items of similar length. A padded batch holds at most `batch_tokens` ids.

    Args:
        lengths: ids of each item, `[items]`, or `[items, k]` for items of k parts that are padded separately.
        batch_tokens: bound of rows times the longest length, summed over parts. An item above it makes a batch alone.
        max_rows: most items in a batch.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Indices,
        batch_tokens: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        draw: Draw | None = None,
        max_rows: int | None = None,
    ):
        lengths = np.asarray(lengths, dtype=np.int64)
        super().__init__(len(lengths), seed, shuffle, draw)
        if batch_tokens < 1 or (max_rows is not None and max_rows < 1):
            raise ValueError(f"batch_tokens and max_rows must be at least 1, got {batch_tokens} and {max_rows}")
        self.lengths = lengths[:, None] if lengths.ndim == 1 else lengths
        self.batch_tokens, self.max_rows = batch_tokens, max_rows or len(lengths)

    def _plan(self, rng: np.random.Generator) -> list[list[int]]:
        order = self._order(rng)
        totals = self.lengths[order].sum(axis=1).astype(np.float64)
        if self.shuffle:
            totals *= 1 + rng.uniform(-LENGTH_JITTER, LENGTH_JITTER, size=len(order))
        rows = max(1, min(self.max_rows, int(self.batch_tokens / max(1.0, float(totals.mean())))))
        size = rows * WINDOW_BATCHES
        # Every other window runs from long to short, so a batch across a border holds items of similar length.
        parts: list[Indices] = []
        for number, start in enumerate(range(0, len(order), size)):
            ranks = np.argsort(totals[start : start + size], kind="stable")
            parts.append(order[start : start + size][ranks if number % 2 == 0 else ranks[::-1]])
        plan = self._cut(np.concatenate(parts))
        if self.shuffle:
            plan = [plan[int(i)] for i in rng.permutation(len(plan))]
        return plan

    def _cut(self, order: Indices) -> list[list[int]]:
        plan: list[list[int]] = []
        batch: list[int] = []
        longest: list[int] = [0] * self.lengths.shape[1]
        indices = cast("list[int]", order.tolist())
        items = cast("list[list[int]]", self.lengths[order].tolist())
        for index, item in zip(indices, items, strict=True):
            grown = [max(pair) for pair in zip(longest, item, strict=True)]
            full = (len(batch) + 1) * sum(grown) > self.batch_tokens or len(batch) == self.max_rows
            if batch and full:
                plan.append(batch)
                batch, grown = [], item
            batch.append(index)
            longest = grown
        plan.append(batch)
        return plan


def padding_share(lengths: Sequence[int] | Indices, batches: Sequence[Sequence[int]]) -> float:
    """The share of padding, 0 to 1, in padded batches of items of these lengths, `[items]` or `[items, parts]`."""
    lengths = np.asarray(lengths)
    lengths = lengths[:, None] if lengths.ndim == 1 else lengths
    padded = sum(len(batch) * int(lengths[batch].max(axis=0).sum()) for batch in batches)
    useful = sum(int(lengths[batch].sum()) for batch in batches)
    return 1 - useful / max(padded, 1)


@dataclass(frozen=True)
class Position:
    """A place in the stream of batches: `batch` batches of epoch `epoch` were used."""

    epoch: int = 0
    batch: int = 0

    def advance(self, sampler: BatchSampler, count: int) -> Position:
        """The place after `count` more batches."""
        epoch, batch = self.epoch, self.batch + count
        while batch >= (size := len(sampler.batches(epoch))):
            epoch, batch = epoch + 1, batch - size
        return Position(epoch, batch)


class BatchStream:
    """One process's part of the endless stream of batches from `start` on: every `world`-th batch, beginning with `rank`.

    Index i in epoch e has the number `e * num_items + i`. The processes together use every batch once. The next epoch
    follows at once, so the batches of an epoch need not divide evenly among processes.
    """

    def __init__(self, sampler: BatchSampler, start: Position, rank: int = 0, world: int = 1):
        self.sampler, self.start, self.rank, self.world = sampler, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        epoch, first, skip = self.start.epoch, self.start.batch, self.rank
        while True:
            for batch in self.sampler.batches(epoch)[first:]:
                if skip == 0:
                    yield [epoch * self.sampler.num_items + index for index in batch]
                skip = self.world - 1 if skip == 0 else skip - 1
            epoch, first = epoch + 1, 0


class Collate:
    """Makes a batch of items and checks the ids in it.

    Args:
        num_semantic_token_ids: K; speech ids are `0..K-1`.
        num_text_token_ids: V; text ids are `1..V-1`.
        eos_id: end-of-sequence by modality, as `model.eos_id`; removed from items that carry it.
        pad_id: padding by modality, as `model.pad_id`.
        tokenizer_encode: texts to ids `[b, m]`, for items with texts.
    """

    def __init__(
        self,
        num_semantic_token_ids: int,
        num_text_token_ids: int,
        *,
        eos_id: Mapping[Any, int],
        pad_id: Mapping[Any, int],
        tokenizer_encode: Callable[[list[str]], Tensor] | None = None,
    ):
        self.num_ids: dict[Modality, int] = {"speech": num_semantic_token_ids, "text": num_text_token_ids}
        self.eos_id: dict[Modality, int] = dict(eos_id)
        self.pad_id: dict[Modality, int] = dict(pad_id)
        self.tokenizer_encode = tokenizer_encode

    @classmethod
    def for_model(cls, model: TextToSemantic) -> Self:
        """A collate with the vocabularies and the text tokenizer of a model."""
        return cls(
            model.num_semantic_token_ids,
            model.num_text_token_ids,
            eos_id=model.eos_id,
            pad_id=model.pad_id,
            tokenizer_encode=model.tokenizer_encode,
        )

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _speech(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """Batches rows of semantic ids `[n]`, or of waveforms `[t]`."""
        rows = [as_tensor(row) for row in rows]
        wrong = [row for row in rows if row.ndim != 1 or (row.dtype not in INTEGER_DTYPES and not is_wave(row))]
        if wrong:
            raise TypeError(
                "speech must be semantic ids [n], integers, or a waveform [t], floating point; "
                f"got {wrong[0].dtype} {list(wrong[0].shape)}"
            )
        waves = [row for row in rows if is_wave(row)]
        if waves and len(waves) < len(rows):
            raise TypeError("a batch holds both waveforms and semantic ids: give the dataset one kind")
        if not waves:
            return {"semantic": self.ids(rows, "speech", "semantic ids")}
        lengths = torch.tensor([len(row) for row in waves])
        wave = torch.zeros(len(waves), int(lengths.max()))
        for padded, row in zip(wave, waves, strict=True):
            padded[: len(row)] = row
        return {"wave": wave, "wave_lengths": lengths}

    def _text(self, rows: Sequence[Any]) -> Tensor:
        """Batches rows of text ids `[m]` and texts; a batch may hold both, from generated and from real pairs."""
        places = [place for place, row in enumerate(rows) if isinstance(row, str)]
        if places:
            if self.tokenizer_encode is None:
                raise ValueError("the dataset gives texts, which the model cannot encode: pass it tokenizer_encode")
            rows = list(rows)
            for place, ids in zip(places, self.tokenizer_encode([rows[place] for place in places]), strict=True):
                rows[place] = ids
        return self.ids([as_tensor(row) for row in rows], "text", "text ids")

    def ids(self, rows: Sequence[Tensor], modality: Modality, name: str) -> Tensor:
        """Rows of ids `[n]` as one checked batch `[b, n]`, without ends of sequence.

        Raises:
            TypeError: a row is not a row of integers.
            ValueError: a row without ids, or an id out of range.
        """
        for row in rows:
            if row.ndim != 1 or (len(row) and row.dtype not in INTEGER_DTYPES):
                raise TypeError(f"{name} must be integers [n], got {row.dtype} {list(row.shape)}")
        pad_id = self.pad_id[modality]
        batch = pad_sequences([strip(row, pad_id, self.eos_id[modality]) for row in rows], pad_id)
        return check_ids(
            batch,
            name=f"{name} (items are semantic ids first, text ids second)",
            num_ids=self.num_ids[modality],
            pad_id=pad_id,
            modality=modality,
            empty_rows=False,
        )


class SpeechCollate(Collate):
    """Batches of speech. An item is semantic ids `[n]` or a waveform `[t]`, bare or in a tuple of one."""

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        rows = [item[0] if is_tuple(item) and len(item) == 1 else item for item in items]
        if any(is_tuple(row) and not is_row(row) for row in rows):
            raise TypeError("an item of speech must be one tensor, semantic ids [n] or a waveform [t], not a pair")
        return self._speech(rows)


class PairCollate(Collate):
    """Batches of pairs. An item is `(semantic ids [n] | waveform [t], text ids [m] | str)`."""

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        for item in items:
            if not is_tuple(item) or len(item) != 2:
                raise TypeError(f"an item must be a pair (semantic ids or waveform, text ids or str), got {type(item)}")
            if isinstance(item[0], str):
                raise TypeError("an item starts with text: the order is (semantic ids or waveform, text ids or str)")
            if item[0] is None or item[1] is None:
                what = "text" if item[1] is None else "speech"
                raise TypeError(f"its {what} is None: leave the item out, or give its {what}")
        return {**self._speech([item[0] for item in items]), "text": self._text([item[1] for item in items])}


def is_wave(row: Tensor) -> bool:
    """Whether a row is a waveform, not ids; a row without values is neither."""
    return row.is_floating_point() and len(row) > 0


def is_tuple(item: Any) -> bool:
    """Whether an item may have several parts."""
    return isinstance(item, (tuple, list))


def is_row(row: Sequence[Any]) -> bool:
    """Whether a sequence is one row of numbers."""
    return all(isinstance(value, Real) for value in row)
