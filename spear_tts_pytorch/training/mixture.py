"""Which items a training uses: the part to validate on, and the shares of real and of generated pairs.

In: datasets and shares. Out: the datasets to train and to validate on, and the indices of an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.utils.data import Dataset, random_split

from spear_tts_pytorch.data.loader import Indices, SizedDataset
from spear_tts_pytorch.utils.values import number_of_items, real_number


@dataclass(frozen=True)
class Split:
    """The datasets of a training.

    Attributes:
        train, valid: to train and to validate on; the same dataset twice if no item is set apart.
        places, valid_places: index of each item of `train` and of `valid` in the user's dataset; None if they are that
            dataset, or another one.
    """

    train: SizedDataset
    valid: SizedDataset
    places: Sequence[int] | None = None
    valid_places: Sequence[int] | None = None


def split_dataset(
    dataset: SizedDataset | None, valid_dataset: SizedDataset | None, valid_frac: float, seed: int
) -> Split:
    """Sets apart the items to validate on: `valid_dataset`, or a random share of `dataset`.

    Raises:
        ValueError: a dataset is missing or empty.
    """
    if dataset is None or number_of_items("dataset", dataset) == 0:
        raise ValueError("dataset is missing or empty: give at least one item to train on")
    if valid_dataset is not None:
        if number_of_items("valid_dataset", valid_dataset) == 0:
            raise ValueError("valid_dataset is empty: give at least one item, or None")
        return Split(dataset, valid_dataset)
    size = max(1, int((1 - valid_frac) * len(dataset)))
    if size == len(dataset):
        return Split(dataset, dataset)
    generator = torch.Generator().manual_seed(seed)
    whole = cast("Dataset[object]", dataset)
    train, valid = random_split(whole, [size, len(dataset) - size], generator=generator)
    return Split(train, valid, train.indices, valid.indices)


@dataclass(frozen=True)
class Mixture:
    """Draws the items of an epoch so that `share` of them are of the first kind.

    Each item of one kind comes once. The other kind is repeated: each of its items comes equally often or once more. Each
    epoch draws anew which items come once more.

    Args:
        first, second: the indices `[n]` of each kind.
        share: above 0 and below 1.
    """

    first: Indices
    second: Indices
    share: float

    @classmethod
    def of(cls, split: Split, number: int, share: float) -> Mixture:
        """For the part to train on of a dataset whose first `number` items are of the first kind."""
        share = real_number("real_share", share, above=0, below=1, also=" or None")
        places = np.arange(len(split.train)) if split.places is None else np.asarray(split.places)
        kinds = np.flatnonzero(places < number), np.flatnonzero(places >= number)
        if not all(map(len, kinds)):
            raise ValueError(
                "real_share needs pairs of both kinds to train on: give dataset and "
                f"generated_audio_text_dataset_folder (here are {len(kinds[0])} real and {len(kinds[1])} generated)"
            )
        return cls(*kinds, share)

    def __call__(self, rng: np.random.Generator) -> Indices:
        """The indices `[n]` of an epoch, in no particular order."""
        total = max(len(self.first) / self.share, len(self.second) / (1 - self.share))
        parts: list[Indices] = []
        for items, share in ((self.first, self.share), (self.second, 1 - self.share)):
            whole, rest = divmod(round(total * share), len(items))
            parts += [np.tile(items, whole), rng.choice(items, rest, replace=False)]
        return np.concatenate(parts)
