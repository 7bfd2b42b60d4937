"""The batches of a training: items in padded batches, and a batch as the arguments of the train wrapper.

In: datasets, a collate, batch sizes. Out: for process `rank` of `world`, the batches of each update and of a validation,
on the device. Waveforms become ids here. Ids are checked, corrupted and counted on the CPU, so that a training step does
not wait for the device.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spear_tts_pytorch.data.loader import (
    BatchSampler,
    BatchStream,
    Collate,
    Draw,
    FixedBatchSampler,
    Indices,
    Position,
    SizedDataset,
    TokenBudgetBatchSampler,
    dataset_lengths,
)
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import Corruption
from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform
from spear_tts_pytorch.tokens import Modality, append_eos, valid_mask
from spear_tts_pytorch.training.mixture import Split
from spear_tts_pytorch.training.options import TrainingOptions
from spear_tts_pytorch.training.signals import SIGNALS
from spear_tts_pytorch.utils.deletion import drop_ids
from spear_tts_pytorch.utils.noise import row_keys

VALID_SEED = 0  # the corruption of a validation set is the same at each validation
TensorBatch = dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of a stage: a train wrapper and how to call it.

    Args:
        wrapper: returns the mean loss per target id, and logits.
        arguments: keyword of the wrapper to the ids that it gets: "semantic", "text", or the "source" and "target" that
            `corruption` makes of "semantic".
        target: modality of the target ids.
        target_ids: the ids that the loss is of, one of the names above.
        source: modality of the source, where the model can generate targets from it; None in pretraining.
        options: further keywords of the wrapper.
        corruption: makes "source" and "target".
        token_dropout: share of "semantic" that is deleted in training.
        logits_of_targets: whether logits are of the target ids; those of CTC are of source positions.
        end: whether end-of-sequence is a target, in vocabularies that have one.
    """

    wrapper: nn.Module
    arguments: Mapping[str, str]
    target: Modality
    target_ids: str
    source: Modality | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    corruption: Corruption | None = None
    token_dropout: float = 0.0
    logits_of_targets: bool = True
    end: bool = True


@dataclass(frozen=True)
class PreparedBatch:
    """A batch as the train wrapper takes it.

    Attributes:
        inputs: keywords of the wrapper; tensors are on the device.
        targets: for validation, the target ids `[b, n]` with ends of sequence, on the device; None if logits are of
            something else.
        weight: target ids, ends of sequence included: the loss is a mean over so many.
        tokens: ids of speech and text before deletion.
        numbers: numbers of the items in the stream of batches.
    """

    inputs: dict[str, Any]
    targets: Tensor | None
    weight: int
    tokens: int
    numbers: list[int]


class Preparation:
    """Makes a `PreparedBatch` of a collated batch.

    Args:
        model: gives vocabularies and, if `wav2vec` is None, the tokenizer of waveforms.
        objective: the loss that the batch is for.
        device: gets the tensors.
        wav2vec: tokenizer of waveforms.
    """

    def __init__(self, model: TextToSemantic, objective: Objective, device: torch.device, wav2vec: Any = None):
        self.model, self.objective, self.device, self.wav2vec = model, objective, device, wav2vec

    @torch.no_grad()
    def ids(self, batch: Mapping[str, Tensor]) -> TensorBatch:
        """The ids of a collated batch on the CPU, `semantic` `[b, n]` and, for pairs, `text` `[b, m]`.

        Raises:
            ValueError: the batch holds waveforms, and there is no tokenizer for them.
        """
        ids = {name: batch[name] for name in ("semantic", "text") if name in batch}
        if "wave" in batch:
            tokenizer = self.model.wav2vec if self.wav2vec is None else self.wav2vec
            if tokenizer is None:
                raise ValueError("the dataset gives waveforms, which the model cannot tokenize: pass it wav2vec")
            wave = batch["wave"].to(self.device, non_blocking=True)
            semantic = tokenize_waveform(tokenizer, wave, batch["wave_lengths"]).cpu()
            ids["semantic"] = self._checked(semantic)
        return ids

    def _checked(self, semantic: Tensor) -> Tensor:
        vocabulary = self.model.vocabulary["speech"]
        if semantic.numel() and int(semantic.max()) >= vocabulary.size:
            raise ValueError(
                f"the tokenizer wav2vec gave the id {int(semantic.max())}, but the model has the speech ids 0 to "
                f"{vocabulary.num_ids - 1}: give it the tokenizer it was made for, or build it with a larger "
                "num_semantic_token_ids"
            )
        if bool((semantic == vocabulary.pad_id).all(dim=-1).any()):
            raise ValueError(
                "the tokenizer wav2vec gave no id for a waveform: leave the item out (too short or silent?)"
            )
        return vocabulary.check(semantic, "ids of the tokenizer wav2vec", empty_rows=False)

    def __call__(self, batch: Mapping[str, Tensor], seed: int, step: int | None, training: bool) -> PreparedBatch:
        """Prepares a collated batch with the `number` `[b]` of each row.

        The noise of a row is a function of seed, step and number. It does not depend on the other rows.

        Args:
            step: of the training; None in validation.
            training: whether the batch is to train on; others come with `targets`.
        """
        objective, ids = self.objective, self.ids(batch)
        keys = row_keys(batch["number"], *(seed,) if step is None else (seed, step))
        pads = {"semantic": self.model.pad_id["speech"], "text": self.model.pad_id["text"]}
        tokens = sum(int(valid_mask(rows, pads[name]).sum()) for name, rows in ids.items())
        vocabulary = self.model.vocabulary[objective.target]
        end = objective.end and vocabulary.autoset_eos
        if objective.corruption is not None:
            ids["source"], ids["target"] = objective.corruption(ids["semantic"], keys)
            vocabulary.check(ids["target"], "target", empty_rows=end)
        if training and objective.token_dropout > 0:
            ids["semantic"] = drop_ids(ids["semantic"], objective.token_dropout, self.model.semantic_pad_id, keys)
        targets = ids[objective.target_ids]
        if end:
            targets = append_eos(targets, vocabulary.eos_id, vocabulary.pad_id)
        arguments = {keyword: self._to_device(ids[name]) for keyword, name in objective.arguments.items()}
        return PreparedBatch(
            inputs={**arguments, "row_keys": self._to_device(keys), "check_ids": False, **objective.options},
            targets=self._to_device(targets) if objective.logits_of_targets and not training else None,
            weight=int(valid_mask(targets, vocabulary.pad_id).sum()),
            tokens=tokens,
            numbers=cast("list[int]", batch["number"].tolist()),
        )

    def _to_device(self, ids: Tensor) -> Tensor:
        return ids.to(self.device, non_blocking=True)


class _Numbered(Dataset[Any]):
    """The items of a dataset with their numbers, which continue through the epochs."""

    def __init__(self, dataset: SizedDataset):
        self.dataset = dataset

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return number, self.dataset[number % len(self.dataset)]


class _NumberedCollate:
    """A collate that adds the `number` `[b]` of each row, and names the items in its errors."""

    def __init__(self, collate: Collate, places: Sequence[int] | None, size: int):
        self.collate, self.places, self.size = collate, places, size

    def __call__(self, items: Sequence[tuple[int, Any]]) -> TensorBatch:
        numbers = [number for number, _ in items]
        try:
            batch = self.collate([item for _, item in items])
        except (TypeError, ValueError) as error:
            raise self.named(error, numbers) from error
        return {**batch, "number": torch.tensor(numbers)}

    def named(self, error: TypeError | ValueError, numbers: Sequence[int]) -> TypeError | ValueError:
        """An error with the indices of the items that it is about."""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return kind(f"{error} (among items {self.names(numbers)} of the dataset)")

    def names(self, numbers: Sequence[int]) -> list[int]:
        """Indices of these items in the user's dataset."""
        indices = [number % self.size for number in numbers]
        return indices if self.places is None else [int(self.places[index]) for index in indices]


def _ignore_signals(worker: int) -> None:
    """Lets a process that loads data ignore SIGINT and SIGTERM, which a process group gets as a whole.

    The trainer ends these processes itself. Without them it could not end its step.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def rows_per_process(batch_size: int | None, processes: int) -> int | None:
    """The rows of a batch of `batch_size` for each of `processes`."""
    if batch_size is not None and batch_size % processes:
        raise ValueError(f"split_batches needs a batch_size that {processes} processes can share, got {batch_size}")
    return None if batch_size is None else batch_size // processes


@dataclass(frozen=True)
class BatchSizes:
    """How items become batches.

    Args:
        batch_size: items in a batch of one process; with `batch_tokens`, the most items.
        batch_tokens: ids in a batch of one process, padding included.
        drop_last: whether to leave out the last, smaller batch of an epoch.
        seed: of the order and of corruption.
        samples_per_token: samples of a waveform that count as one id.
        num_workers: processes that load data.
    """

    batch_size: int | None = None
    batch_tokens: int | None = None
    drop_last: bool = False
    seed: int = 0
    samples_per_token: int = 1
    num_workers: int = 0

    @classmethod
    def of(cls, options: TrainingOptions, samples_per_token: int | None, processes: int) -> BatchSizes:
        """The sizes that the options of a training ask for, with so many processes; by default an id is 320 samples."""
        return cls(
            batch_size=rows_per_process(options.batch_size, processes if options.split_batches else 1),
            batch_tokens=options.batch_tokens,
            drop_last=options.drop_last,
            seed=options.seed or 0,
            samples_per_token=int(samples_per_token or 320),
            num_workers=options.num_workers,
        )


class TrainingBatches:
    """The batches for process `rank` of `world`.

    Args:
        split: the datasets to train and to validate on.
        collate: items to a batch.
        prepare: a batch to the arguments of the train wrapper.
        sizes: items or ids in a batch.
        draw: chooses the items of an epoch, see `BatchSampler`.

    Attributes:
        sampler: the batches of each epoch, of all processes.
        dl, valid_dl: the loaders of both datasets; `dl` is None before the first `begin`.
        dl_iter: an endless iterator over `dl`; None outside training.
        valid_count: this process's own validation batches. All processes have equally many; the others repeat the first.
    """

    def __init__(
        self,
        split: Split,
        collate: Collate,
        prepare: Preparation,
        sizes: BatchSizes,
        rank: int = 0,
        world: int = 1,
        *,
        draw: Draw | None = None,
    ):
        self.split, self.prepare, self.sizes, self.rank, self.world = split, prepare, sizes, rank, world
        self._collate = _NumberedCollate(collate, split.places, len(split.train))
        self.sampler = self._sampler(split.train, shuffle=True, draw=draw)
        plan = self._sampler(split.valid, shuffle=False).batches(0)
        own = plan[rank::world]
        self.valid_count = len(own)
        own = own + plan[:1] * (-(-len(plan) // world) - len(own))
        self._valid_collate = _NumberedCollate(collate, None, len(split.valid))
        self.valid_dl = self._loader(split.valid, own, self._valid_collate, Position())
        self.dl: DataLoader[Any] | None = None
        self.dl_iter: Iterator[TensorBatch] | None = None

    def _sampler(self, dataset: SizedDataset, shuffle: bool, draw: Draw | None = None) -> BatchSampler:
        sizes, order = self.sizes, dict[str, Any](seed=self.sizes.seed, shuffle=shuffle, draw=draw)
        if sizes.batch_tokens is not None:
            lengths = dataset_lengths(dataset, sizes.samples_per_token)
            if shuffle:
                self._warn_of_long_items(lengths.sum(axis=1), sizes.batch_tokens)
            return TokenBudgetBatchSampler(lengths, sizes.batch_tokens, max_rows=sizes.batch_size, **order)
        if sizes.batch_size is None:
            raise ValueError("batch_size or batch_tokens must be given")
        return FixedBatchSampler(len(dataset), sizes.batch_size, drop_last=sizes.drop_last and shuffle, **order)

    def _warn_of_long_items(self, lengths: Indices, batch_tokens: int) -> None:
        longer = np.flatnonzero(lengths > batch_tokens).tolist()
        if longer:
            named = ", ".join(f"item {self.names([i])[0]} ({lengths[i]} ids)" for i in longer[:5])
            warnings.warn(
                f"{len(longer)} of {len(lengths)} items are longer than batch_tokens={batch_tokens} and make batches of "
                f"their own: {named}{' and others' if len(longer) > 5 else ''}. Raise batch_tokens, or leave them out",
                stacklevel=8,  # the line that makes the trainer
            )

    def names(self, numbers: Sequence[int]) -> list[int]:
        """Indices of items with these numbers in the user's dataset."""
        return self._collate.names(numbers)

    def _loader(
        self, dataset: SizedDataset, batches: Iterable[list[int]], collate: _NumberedCollate, start: Position
    ) -> DataLoader[Any]:
        # A loader without a generator draws from torch's global one, and a resumed run would differ.
        seeds = np.random.SeedSequence([self.sizes.seed, self.rank, start.epoch, start.batch]).generate_state(1)
        return DataLoader(
            _Numbered(dataset),
            batch_sampler=batches,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(int(seeds[0])),
            num_workers=self.sizes.num_workers,
            worker_init_fn=_ignore_signals,
            pin_memory=self.prepare.device.type == "cuda",
        )

    def begin(self, start: Position) -> None:
        """Sets the stream of batches to a place.

        With `num_workers`, random draws of a dataset depend on the place where the stream begins.
        """
        stream = BatchStream(self.sampler, start, self.rank, self.world)
        self.dl = self._loader(self.split.train, stream, self._collate, start)
        self.dl_iter = iter(self.dl)

    def end(self) -> None:
        """Ends the processes that load data."""
        self.dl_iter = None

    def take(self, count: int, step: int) -> list[PreparedBatch]:
        """The next `count` batches of the stream, prepared for the update number `step`."""
        if self.dl_iter is None:
            raise RuntimeError("the stream of batches has no place: call begin first")
        return [self._prepared(next(self.dl_iter), step) for _ in range(count)]

    def validation(self) -> Iterator[tuple[PreparedBatch, bool]]:
        """The prepared batches of a validation, and whether each is this process's own."""
        for number, batch in enumerate(self.valid_dl):
            yield self._prepared(batch, None), number < self.valid_count

    def first_valid(self) -> PreparedBatch:
        """The first validation item alone, with the corruption of validations."""
        batch = self._valid_collate([(0, self.split.valid[0])])
        return self._prepared(batch, None)

    def _prepared(self, batch: TensorBatch, step: int | None) -> PreparedBatch:
        """Prepares a batch of the update `step`, or of a validation if it is None; errors name the items."""
        valid = step is None
        try:
            return self.prepare(batch, VALID_SEED if valid else self.sizes.seed, step, training=not valid)
        except (TypeError, ValueError) as error:
            collate = self._valid_collate if valid else self._collate
            raise collate.named(error, cast("list[int]", batch["number"].tolist())) from error
