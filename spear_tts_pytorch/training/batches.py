"""The batches of a training: items in padded batches, and a batch as the arguments of the train wrapper.

In: datasets, a collate, batch sizes. Out: for process `rank` of `world`, the batches of each update and of a validation,
on the device. Waveforms become ids here. Ids are checked, corrupted and counted on the CPU, so that a training step does
not wait for the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from spear_tts_pytorch.data.items import dataset_lengths
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
)
from spear_tts_pytorch.data.tokenized import FATAL, check_made_by
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import Corruption
from spear_tts_pytorch.tokenizers.semantic import ClipError, tokenize_waveform
from spear_tts_pytorch.tokens import Modality, append_eos, valid_mask
from spear_tts_pytorch.training.items import BadRowsError, Items, TensorBatch
from spear_tts_pytorch.training.mixture import Split
from spear_tts_pytorch.training.options import TrainingOptions
from spear_tts_pytorch.utils.deletion import drop_ids
from spear_tts_pytorch.utils.noise import row_keys
from spear_tts_pytorch.utils.workers import ignore_signals, loading

VALID_SEED = 0  # the corruption of a validation set is the same at each validation


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
        left_out: number of further items that could not be used.
        stands_in: whether no item of the batch could be used, and this is another one.
    """

    inputs: dict[str, Any]
    targets: Tensor | None
    weight: int
    tokens: int
    numbers: list[int]
    left_out: int = 0
    stands_in: bool = False


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

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of waveforms, None if there is none."""
        return self.model.wav2vec if self.wav2vec is None else self.wav2vec

    @torch.no_grad()
    def ids(self, batch: Mapping[str, Tensor]) -> TensorBatch:
        """The ids of a collated batch on the CPU, `semantic` `[b, n]` and, for pairs, `text` `[b, m]`.

        Raises:
            BadRowsError: waveforms that cannot be tokenized.
            ValueError: the batch holds waveforms, and there is no tokenizer for them.
        """
        ids = {name: batch[name] for name in ("semantic", "text") if name in batch}
        if "wave" in batch:
            if self.tokenizer is None:
                raise ValueError("the dataset gives waveforms, which the model cannot tokenize: pass it wav2vec")
            wave = batch["wave"].to(self.device, non_blocking=True)
            ids["semantic"] = self._checked(_tokenized(self.tokenizer, wave, batch["wave_lengths"]).cpu())
        return ids

    def _checked(self, semantic: Tensor) -> Tensor:
        vocabulary = self.model.vocabulary["speech"]
        if semantic.numel() and int(semantic.max()) >= vocabulary.size:
            raise ValueError(
                f"the tokenizer wav2vec gave the id {int(semantic.max())}, but the model has the speech ids 0 to "
                f"{vocabulary.num_ids - 1}: give it the tokenizer it was made for, or build it with a larger "
                "num_semantic_token_ids"
            )
        empty = (semantic == vocabulary.pad_id).all(dim=-1).nonzero()[:, 0]
        if len(empty):
            reason = "is a waveform without ids (too short or silent?): leave the item out"
            raise BadRowsError({row: ClipError(row, reason) for row in cast("list[int]", empty.tolist())})
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


def _tokenized(tokenizer: Any, wave: Tensor, lengths: Tensor) -> Tensor:
    """Ids `[b, n]` of waveforms `[b, t]`. If that fails, each row is tried alone.

    Raises:
        BadRowsError: rows that fail alone.
    """
    try:
        return tokenize_waveform(tokenizer, wave, lengths)
    except FATAL:
        raise
    except (TypeError, ValueError, RuntimeError):
        errors: dict[int, Exception] = {}
        for row, end in enumerate(cast("list[int]", lengths.tolist())):
            try:
                tokenize_waveform(tokenizer, wave[row, :end])
            except (TypeError, ValueError, RuntimeError) as error:
                errors[row] = error
        if not errors:
            raise
        raise BadRowsError(errors) from next(iter(errors.values()))


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
        skip: whether items that cannot be used are left out; else they are an error.
    """

    batch_size: int | None = None
    batch_tokens: int | None = None
    drop_last: bool = False
    seed: int = 0
    samples_per_token: int = 1
    num_workers: int = 0
    skip: bool = False

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
            skip=options.on_error == "skip",
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
        items, valid_items: the items to train and to validate on; `skipped` of both names those that were left out.
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
        for dataset in (split.train, split.valid):
            check_made_by(prepare.tokenizer, dataset)
        valid_title = "the dataset" if split.valid_places is not None or split.valid is split.train else "valid_dataset"
        self.items = Items(split.train, collate, split.places, skip=sizes.skip)
        self.valid_items = Items(split.valid, collate, split.valid_places, skip=sizes.skip, title=valid_title)
        self.sampler = self._sampler(split.train, shuffle=True, draw=draw)
        plan = self._sampler(split.valid, shuffle=False).batches(0)
        own = plan[rank::world]
        self.valid_count = len(own)
        own = own + plan[:1] * (-(-len(plan) // world) - len(own))
        self.valid_dl = self._loader(self.valid_items, own, Position())
        self.dl: DataLoader[Any] | None = None
        self.dl_iter: Iterator[TensorBatch] | None = None

    def _sampler(self, dataset: SizedDataset, shuffle: bool, draw: Draw | None = None) -> BatchSampler:
        sizes, order = self.sizes, dict[str, Any](seed=self.sizes.seed, shuffle=shuffle, draw=draw)
        if sizes.batch_tokens is not None:
            lengths = dataset_lengths(dataset, sizes.samples_per_token, skip=sizes.skip)
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
        return self.items.names(numbers)

    def _loader(self, items: Items, batches: Iterable[list[int]], start: Position) -> DataLoader[Any]:
        # A loader without a generator draws from torch's global one, and a resumed run would differ.
        seeds = np.random.SeedSequence([self.sizes.seed, self.rank, start.epoch, start.batch]).generate_state(1)
        return DataLoader(
            items.reading,
            batch_sampler=batches,
            collate_fn=items.collate,
            generator=torch.Generator().manual_seed(int(seeds[0])),
            num_workers=self.sizes.num_workers,
            worker_init_fn=ignore_signals,
            pin_memory=self.prepare.device.type == "cuda",
        )

    def begin(self, start: Position) -> None:
        """Sets the stream of batches to a place.

        With `num_workers`, random draws of a dataset depend on the place where the stream begins.
        """
        stream = BatchStream(self.sampler, start, self.rank, self.world)
        self.dl = self._loader(self.items, stream, start)
        self.dl_iter = iter(self.dl)

    def end(self) -> None:
        """Ends the processes that load data, and says how many items were left out."""
        self.dl_iter = None
        self.items.report()
        self.valid_items.report()

    def take(self, count: int, step: int) -> list[PreparedBatch]:
        """The next `count` batches of the stream, prepared for the update number `step`.

        Raises:
            ChildProcessError: a process that loads data was killed.
            TypeError, ValueError: an item cannot be used (unless these are skipped); the message names it.
        """
        if self.dl_iter is None:
            raise RuntimeError("the stream of batches has no place: call begin first")
        with loading(self.sizes.num_workers):
            return [self._prepared(next(self.dl_iter), step) for _ in range(count)]

    def validation(self) -> Iterator[tuple[PreparedBatch, bool]]:
        """The prepared batches of a validation, and whether each is this process's own. Errors as `take`."""
        with loading(self.sizes.num_workers):
            for number, batch in enumerate(self.valid_dl):
                prepared = self._prepared(batch, None)
                yield prepared, number < self.valid_count and not prepared.stands_in

    def first_valid(self) -> PreparedBatch:
        """The first validation item alone, with the corruption of validations."""
        return self._prepared(self.valid_items.batch([0]), None)

    def valid_ids(self, index: int) -> TensorBatch | None:
        """The ids of a validation item, as a batch of one; None if it is left out."""
        ids, _, stands_in = self.valid_items.prepared(self.valid_items.batch([index]), self.prepare.ids)
        return None if stands_in else ids

    def _prepared(self, batch: TensorBatch, step: int | None) -> PreparedBatch:
        """Prepares a batch of the update `step`, or of a validation if it is None; errors name the items."""
        items, seed = (self.valid_items, VALID_SEED) if step is None else (self.items, self.sizes.seed)
        prepared, left_out, stands_in = items.prepared(
            batch, lambda batch: self.prepare(batch, seed, step, training=step is not None)
        )
        return replace(prepared, left_out=left_out, stands_in=stands_in)
