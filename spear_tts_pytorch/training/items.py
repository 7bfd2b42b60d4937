"""The items of a training by their numbers: errors name them, and items that cannot be used are left out if asked.

In: a dataset, and a collate that makes padded tensors of items. Out: collated batches with the `number` `[b]` of each row;
number i in epoch e of n items is `e * n + i`. Whether an item can be used depends on the item alone, so a resumed training
leaves out the same ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spear_tts_pytorch.data.items import item_name
from spear_tts_pytorch.data.loader import Collate, SizedDataset
from spear_tts_pytorch.data.tokenized import FATAL
from spear_tts_pytorch.tokenizers.semantic import ClipError, reason_of

BAD = "bad"  # key of the items of a batch that cannot be used
SHOWN = 5  # most items that a warning names
MOST_TRIED = 1000  # items in a row that cannot be used, before a training gives up
TensorBatch = dict[str, Tensor]
B = TypeVar("B")


@dataclass(frozen=True)
class BadItem:
    """An item that cannot be used.

    Attributes:
        number: of the item.
        reason: words that follow the item's name in a message.
        is_type: whether it is a TypeError, else a ValueError.
    """

    number: int
    reason: str
    is_type: bool = False

    @classmethod
    def of(cls, number: int, error: Exception) -> BadItem:
        """The item that raised an error."""
        if isinstance(error, ClipError):
            return cls(number, error.reason)
        kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        return cls(number, f"cannot be used: {kind}{error}", isinstance(error, TypeError))


class BadRowsError(ValueError):
    """Rows of a batch that cannot be used: the error of each row."""

    def __init__(self, errors: Mapping[int, Exception]):
        super().__init__("; ".join(f"row {row}: {reason_of(error)}" for row, error in errors.items()))
        self.errors = dict(errors)


class Numbered(Dataset[Any]):
    """The items of a dataset with their numbers, which continue through the epochs.

    Args:
        skip: whether an item that raises an error is a `BadItem`.
    """

    def __init__(self, dataset: SizedDataset, skip: bool = False):
        self.dataset, self.skip = dataset, skip

    def __getitem__(self, number: int) -> tuple[int, Any]:
        try:
            return number, self.dataset[number % len(self.dataset)]
        except FATAL:
            raise
        except Exception as error:  # datasets raise errors of any type
            if not self.skip:
                raise
            return number, BadItem.of(number, error)


class NumberedCollate:
    """A collate that adds the `number` `[b]` of each row. Items that cannot be collated stand apart, in a list under `BAD`.

    If there are such, the batch holds the others, perhaps none.

    Args:
        collate: items to a batch.
        size: number of items in the dataset.
        places: index of each item in the user's dataset; None if it is that.
        title: the user's word for the dataset.
    """

    def __init__(self, collate: Collate, size: int, places: Sequence[int] | None = None, title: str = "the dataset"):
        self.collate, self.size, self.places, self.title = collate, size, places, title

    def __call__(self, items: Sequence[tuple[int, Any]]) -> TensorBatch:
        bad = [item for _, item in items if isinstance(item, BadItem)]
        good = [(number, item) for number, item in items if not isinstance(item, BadItem)]
        try:
            batch = self._of(good)
        except Exception as error:  # of a tokenizer of the user's, which may raise any
            found = self._bad(good)
            if not found:  # each can be used, but not together
                raise self.named(error, [number for number, _ in good]) from error
            bad, numbers = bad + found, {one.number for one in found}
            batch = self._of([(number, item) for number, item in good if number not in numbers])
        return batch if not bad else cast(TensorBatch, {**batch, BAD: bad})

    def _of(self, items: Sequence[tuple[int, Any]]) -> TensorBatch:
        batch = self.collate([item for _, item in items]) if items else {}
        return {**batch, "number": torch.tensor([number for number, _ in items], dtype=torch.long)}

    def _bad(self, items: Sequence[tuple[int, Any]]) -> list[BadItem]:
        found: list[BadItem] = []
        for number, item in items:
            try:
                self.collate([item])
            except Exception as error:
                found.append(BadItem.of(number, error))
        return found

    def named(self, error: Exception, numbers: Sequence[int]) -> TypeError | ValueError:
        """An error with the indices of the items that it is about."""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return kind(f"{error} (among items {self.names(numbers)} of {self.title})")

    def names(self, numbers: Sequence[int]) -> list[int]:
        """Indices of these items in the user's dataset."""
        indices = [number % self.size for number in numbers]
        return indices if self.places is None else [int(self.places[index]) for index in indices]


class Items:
    """The items of a dataset in batches.

    Args:
        dataset: of a training, or to validate with.
        collate: items to a batch.
        places: index of each item in the user's dataset; None if `dataset` is that.
        skip: whether items that cannot be used are left out; else they are an error.
        title: the user's word for the dataset.

    Attributes:
        reading, collate: a dataset and a collate for a `DataLoader`.
        skipped: reasons why items were left out, by their index in the user's dataset.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        collate: Collate,
        places: Sequence[int] | None = None,
        *,
        skip: bool = False,
        title: str = "the dataset",
    ):
        self.dataset, self.skip, self.title = dataset, skip, title
        self.reading, self.collate = Numbered(dataset, skip), NumberedCollate(collate, len(dataset), places, title)
        self.skipped: dict[int, str] = {}

    def batch(self, numbers: Sequence[int]) -> TensorBatch:
        """The items of these numbers as a batch."""
        return self.collate([self.reading[number] for number in numbers])

    def prepared(self, batch: TensorBatch, prepare: Callable[[TensorBatch], B]) -> tuple[B, int, bool]:
        """A batch of the items that can be used.

        Args:
            prepare: raises `BadRowsError` for rows that cannot be used. It gets at least one row.

        Returns:
            The result of `prepare`; the number of items left out; whether another item stands in, because none was left.

        Raises:
            TypeError, ValueError: an item cannot be used, and `skip` is False; or no item can be used.
        """
        numbers = _numbers(batch) + [one.number for one in _bad_items(batch)]
        batch = self._usable(batch)
        while len(batch["number"]):
            try:
                return prepare(batch), len(numbers) - len(batch["number"]), False
            except BadRowsError as error:
                batch = self._without(batch, error)
            except (TypeError, ValueError) as error:
                raise self.collate.named(error, _numbers(batch)) from error
        return self._stand_in(prepare, numbers[0]), len(numbers), True

    def _note(self, bad: BadItem) -> None:
        if not self.skip:
            raise (TypeError if bad.is_type else ValueError)(f"{self.name(bad.number)} {bad.reason}")
        index = self.names([bad.number])[0]
        if index not in self.skipped:
            self.skipped[index] = bad.reason
            if len(self.skipped) <= SHOWN:
                warnings.warn(f"{self.name(bad.number)} {bad.reason}: it is left out", stacklevel=2)

    def _usable(self, batch: TensorBatch) -> TensorBatch:
        """The rows of a batch whose items are not known as bad. Notes the items that could not be collated."""
        for one in _bad_items(batch):
            self._note(one)
        rows = [row for row, index in enumerate(self.names(_numbers(batch))) if index not in self.skipped]
        return _rows(batch, rows)

    def _without(self, batch: TensorBatch, error: BadRowsError) -> TensorBatch:
        numbers = _numbers(batch)
        for row, reason in error.errors.items():
            self._note(BadItem.of(numbers[row], reason))
        return self._usable(batch)

    def _stand_in(self, prepare: Callable[[TensorBatch], B], number: int) -> B:
        """The batch of one item, the next behind `number` that can be used."""
        size = len(self.dataset)
        epoch, start = divmod(number, size)
        for step in range(1, min(size, MOST_TRIED) + 1):
            batch = self._usable(self.batch([epoch * size + (start + step) % size]))
            if len(batch["number"]):
                try:
                    return prepare(batch)
                except BadRowsError as error:
                    self._without(batch, error)
        index, reason = next(iter(self.skipped.items()))
        raise ValueError(
            f"no item of {self.title} can be used, of {min(size, MOST_TRIED)} in a row; item {index} {reason}"
        )

    def report(self) -> None:
        """Warns of the items that were left out, if there are more than earlier warnings named."""
        if len(self.skipped) > SHOWN:
            named = ", ".join(map(str, list(self.skipped)[:SHOWN]))
            warnings.warn(f"{len(self.skipped)} items of {self.title} were left out ({named} and others)", stacklevel=2)

    def names(self, numbers: Sequence[int]) -> list[int]:
        """Indices of these items in the user's dataset."""
        return self.collate.names(numbers)

    def name(self, number: int) -> str:
        """An item in words: its index, and its id if the dataset has ids."""
        return item_name(self.dataset, number % len(self.dataset), self.names([number])[0], self.title)


def _bad_items(batch: TensorBatch) -> list[BadItem]:
    return cast("list[BadItem]", batch.get(BAD, []))


def _numbers(batch: TensorBatch) -> list[int]:
    return cast("list[int]", batch["number"].tolist())


def _rows(batch: TensorBatch, rows: list[int]) -> TensorBatch:
    """Some rows of a batch."""
    if len(rows) == len(batch["number"]):
        return {name: value for name, value in batch.items() if name != BAD}
    kept = torch.tensor(rows, dtype=torch.long)
    return {name: value[kept] for name, value in batch.items() if name != BAD}
