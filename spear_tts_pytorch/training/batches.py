"""The data of a training run: the part trained on, the part validated on, and how both come in batches.

In: datasets, a collate and batch sizes. Out: an endless iterator of batches from any position on, and the validation
batches of this process. Knows nothing of models.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, random_split

from spear_tts_pytorch.data.loader import (
    BatchSampler,
    BatchStream,
    Collate,
    Draw,
    FixedBatchSampler,
    Position,
    TokenBudgetBatchSampler,
    dataset_lengths,
)
from spear_tts_pytorch.training.signals import SIGNALS


def split_dataset(dataset: Any, valid_dataset: Any, valid_frac: float, seed: int) -> tuple[Any, Any]:
    """The datasets to train and to validate on; the same one twice where nothing is set apart.

    Raises:
        ValueError: one of them is empty, or `valid_frac` out of range.
    """
    if dataset is None or len(dataset) == 0:
        raise ValueError("dataset is missing or empty: give at least one item to train on")
    if not 0 <= valid_frac < 1:
        raise ValueError(f"valid_frac must be at least 0 and below 1, got {valid_frac}")
    if valid_dataset is not None:
        if len(valid_dataset) == 0:
            raise ValueError("valid_dataset is empty: give at least one item, or None")
        return dataset, valid_dataset
    if valid_frac == 0 or len(dataset) == 1:
        return dataset, dataset
    size = max(1, int((1 - valid_frac) * len(dataset)))
    train, valid = random_split(dataset, [size, len(dataset) - size], generator=torch.Generator().manual_seed(seed))
    return train, valid


@dataclass(frozen=True)
class Mixture:
    """Draws the items of an epoch so that `share` of them are of the first kind.

    Of one kind each item comes once; the other kind is repeated, each item as often as any other or once more, which of
    them being drawn anew in each epoch.

    Args:
        first, second: the indices of either kind.
        share: above 0 and below 1.
    """

    first: np.ndarray
    second: np.ndarray
    share: float

    @classmethod
    def of(cls, train: Any, dataset: Any, number: int, share: float) -> Mixture:
        """For the part `train` of a dataset, whose first kind are its first `number` items."""
        if not 0 < share < 1:
            raise ValueError(f"real_share must be above 0 and below 1, got {share}")
        places = np.arange(len(train)) if train is dataset else np.asarray(train.indices)
        kinds = np.flatnonzero(places < number), np.flatnonzero(places >= number)
        if not all(map(len, kinds)):
            raise ValueError(
                "real_share needs pairs of both kinds to train on: give dataset and "
                f"generated_audio_text_dataset_folder (here are {len(kinds[0])} real and {len(kinds[1])} generated)"
            )
        return cls(*kinds, share)

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        total = max(len(self.first) / self.share, len(self.second) / (1 - self.share))
        parts = []
        for items, share in ((self.first, self.share), (self.second, 1 - self.share)):
            whole, rest = divmod(round(total * share), len(items))
            parts += [np.tile(items, whole), rng.choice(items, rest, replace=False)]
        return np.concatenate(parts)


class _Numbered(Dataset):
    """Items with their numbers, which go on through the epochs."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return number, self.dataset[number % len(self.dataset)]


class _NumberedCollate:
    """A collate that keeps the numbers, as `number` `[b]`, and names the items it can not collate."""

    def __init__(self, collate: Collate, places: Sequence[int] | None, size: int):
        self.collate, self.places, self.size = collate, places, size

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, Tensor]:
        numbers, items = zip(*items, strict=True)
        try:
            batch = self.collate(items)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{error} (among items {self.names(numbers)} of the dataset)") from error
        return {**batch, "number": torch.tensor(numbers)}

    def names(self, numbers: Sequence[int]) -> list[int]:
        """Indices in the dataset that the trainer was given."""
        indices = [number % self.size for number in numbers]
        return indices if self.places is None else [int(self.places[index]) for index in indices]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A process group is sent SIGINT or SIGTERM as a whole; without its loaders the trainer could not end its step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def rows_per_process(batch_size: int | None, processes: int) -> int | None:
    """The rows of a batch that each of `processes` takes."""
    if batch_size is not None and batch_size % processes:
        raise ValueError(f"split_batches needs a batch_size that {processes} processes can share, got {batch_size}")
    return None if batch_size is None else batch_size // processes


class TrainingBatches:
    """Batches for process `rank` of `world`.

    Args:
        train, valid: datasets.
        collate: items to a batch.
        batch_size: items per batch and process.
        batch_tokens: ids per batch and process instead; `batch_size` is then the most items.
        seed: of the order.
        places: where the items of `train` are in the dataset that messages name them by; None if they are it.
        draw: chooses the items of an epoch, see `BatchSampler`.
        samples_per_token: how many samples of a waveform count as an id.

    Attributes:
        dl, valid_dl: the loaders; `dl` is there once `iterate` was called. Every process has as many batches to
            validate on; of this process's, the first `valid_count` are its own and others' come after.
    """

    def __init__(
        self,
        train: Any,
        valid: Any,
        collate: Collate,
        *,
        batch_size: int | None,
        batch_tokens: int | None,
        places: Sequence[int] | None = None,
        draw: Draw | None = None,
        drop_last: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        samples_per_token: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        if batch_size is None and batch_tokens is None:
            raise ValueError("batch_size or batch_tokens must be given")
        self.train, self.valid, self.rank, self.world = train, valid, rank, world
        self.batch_size, self.batch_tokens, self.drop_last, self.seed = batch_size, batch_tokens, drop_last, seed
        self.samples_per_token, self.places = samples_per_token, places
        self._options: dict[str, Any] = dict(num_workers=num_workers, pin_memory=pin_memory)
        self._collate = _NumberedCollate(collate, places, len(train))
        self.sampler = self._sampler(train, shuffle=True, draw=draw)
        plan = self._sampler(valid, shuffle=False).batches(0)
        own = plan[rank::world]
        self.valid_count = len(own)
        own = own + plan[:1] * (-(-len(plan) // world) - len(own))
        self.valid_dl = self._loader(valid, own, _NumberedCollate(collate, None, len(valid)), Position())
        self.dl: DataLoader | None = None

    def _sampler(self, dataset: Any, shuffle: bool, draw: Draw | None = None) -> BatchSampler:
        options: dict[str, Any] = dict(seed=self.seed, shuffle=shuffle, draw=draw)
        if self.batch_tokens is None:
            drop_last = self.drop_last and shuffle
            return FixedBatchSampler(len(dataset), self.batch_size, drop_last=drop_last, **options)
        lengths = dataset_lengths(dataset, self.samples_per_token)
        if shuffle:
            self._warn_of_long_items(lengths.sum(axis=1))
        return TokenBudgetBatchSampler(lengths, self.batch_tokens, max_rows=self.batch_size, **options)

    def _warn_of_long_items(self, lengths: np.ndarray) -> None:
        longer = np.flatnonzero(lengths > self.batch_tokens)
        if len(longer):
            names = self.names(longer[:5].tolist())
            named = ", ".join(f"item {name} ({lengths[i]} ids)" for name, i in zip(names, longer, strict=False))
            warnings.warn(
                f"{len(longer)} of {len(lengths)} items are longer than batch_tokens={self.batch_tokens} and make batches of "
                f"their own: {named}{' and others' if len(longer) > 5 else ''}. Raise batch_tokens, or leave them out",
                stacklevel=5,
            )

    def names(self, numbers: Sequence[int]) -> list[int]:
        """Where items of these numbers are in the dataset that the trainer was given."""
        return self._collate.names(numbers)

    def _loader(self, dataset: Any, batches: Any, collate: _NumberedCollate, start: Position) -> DataLoader:
        # A generator of its own: loaders draw from torch's global one otherwise, and resuming would differ.
        draws = np.random.SeedSequence([self.seed, self.rank, start.epoch, start.batch]).generate_state(1)[0]
        own: dict[str, Any] = dict(collate_fn=collate, generator=torch.Generator().manual_seed(int(draws)))
        return DataLoader(
            _Numbered(dataset),
            batch_sampler=batches,
            worker_init_fn=_leave_signals_to_the_trainer,
            **own,
            **self._options,
        )

    def iterate(self, start: Position) -> Iterator[dict[str, Tensor]]:
        """Batches of this process from `start` on, without end.

        What a dataset draws at random in `num_workers` processes depends on where the batches begin.
        """
        stream = BatchStream(self.sampler, start, self.rank, self.world)
        self.dl = self._loader(self.train, stream, self._collate, start)
        return iter(self.dl)
