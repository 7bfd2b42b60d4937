"""The data of a training run: the part trained on, the part validated on, and how both come in batches.

In: datasets, a collate and batch sizes. Out: an endless iterator of batches from any position on, and the validation
batches of this process. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, random_split

from spear_tts_pytorch.data.loader import (
    BatchSampler,
    BatchStream,
    Collate,
    FixedBatchSampler,
    Position,
    TokenBudgetBatchSampler,
    dataset_lengths,
)


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
        samples_per_token: how many samples of a waveform count as an id.

    Attributes:
        dl, valid_dl: the loaders; `dl` is there once `iterate` was called.
    """

    def __init__(
        self,
        train: Any,
        valid: Any,
        collate: Collate,
        *,
        batch_size: int | None,
        batch_tokens: int | None,
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
        self.samples_per_token = samples_per_token
        self._options: dict[str, Any] = dict(collate_fn=collate, num_workers=num_workers, pin_memory=pin_memory)
        self.sampler = self._sampler(train, shuffle=True)
        own = self._sampler(valid, shuffle=False).batches(0)[rank::world]
        self.valid_dl = self._loader(valid, own)
        self.dl: DataLoader | None = None

    def _sampler(self, dataset: Any, shuffle: bool) -> BatchSampler:
        if self.batch_tokens is None:
            drop_last = self.drop_last and shuffle
            return FixedBatchSampler(
                len(dataset), self.batch_size, seed=self.seed, shuffle=shuffle, drop_last=drop_last
            )
        lengths = dataset_lengths(dataset, self.samples_per_token)
        return TokenBudgetBatchSampler(
            lengths, self.batch_tokens, seed=self.seed, shuffle=shuffle, max_rows=self.batch_size
        )

    def _loader(self, dataset: Any, batches: Any) -> DataLoader:
        # A generator of its own: loaders draw from torch's global one otherwise, and resuming would differ.
        return DataLoader(dataset, batch_sampler=batches, generator=torch.Generator(), **self._options)

    def iterate(self, start: Position) -> Iterator[dict[str, Tensor]]:
        """Batches of this process from `start` on, without end."""
        self.dl = self._loader(self.train, BatchStream(self.sampler, start, self.rank, self.world))
        return iter(self.dl)
