"""Validation: loss and accuracy over the whole validation set, and error rates of generated ids.

In: the validation batches of all processes. Out: a record with the mean loss per target id, and more. All processes
validate together, each its own batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from spear_tts_pytorch.data.loader import Collate
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokens import Modality, strip, valid_mask
from spear_tts_pytorch.training.batches import TrainingBatches
from spear_tts_pytorch.training.processes import is_fully_sharded, read_sums
from spear_tts_pytorch.training.settings import label_smoothing
from spear_tts_pytorch.utils.checks import evaluating
from spear_tts_pytorch.utils.metrics import character_errors, token_errors

NAMES: Mapping[Modality, str] = {"speech": "semantic", "text": "text"}  # of ids in batches


class Validation:
    """Validates a model. Collective: every process calls `measure`.

    Args:
        accelerator: of the processes.
        model: the model in the train wrapper.
        wrapper: the prepared train wrapper.
        batches: the batches, and how they are prepared.
        collate: items to a batch, for generated ids.
        generate: items for which ids are generated.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: TextToSemantic,
        wrapper: nn.Module,
        batches: TrainingBatches,
        collate: Collate,
        generate: int = 0,
    ):
        self.accelerator, self.model, self.batches, self.collate = accelerator, model, batches, collate
        self.wrapper: nn.Module = accelerator.unwrap_model(wrapper)
        self.generate, self.objective = generate, batches.prepare.objective

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """A record of the whole validation set and all processes.

        Returns:
            `valid_loss`, the mean loss per target id without label smoothing; `accuracy`, the share of target ids with the
            highest logit (where logits are of targets); and with `generate` an error rate in percent.
        """
        losses: list[Tensor] = []
        right: list[Tensor] = []
        weights: list[int] = []
        with evaluating(self.wrapper), label_smoothing(self.model, 0.0):
            for batch, own in self.batches.validation():
                loss, logits = self.wrapper(**batch.inputs)
                if own:
                    losses.append(loss)
                    weights.append(batch.weight)
                    right.append(self._right(logits, batch.targets))
        sums = torch.zeros(3, dtype=torch.float64)  # loss times weight, weight, right ids
        for loss, weight, count in zip(_read(losses), weights, _read(right), strict=True):
            sums += torch.tensor([loss * weight, weight, count], dtype=torch.float64)
        loss_sum, weight, count = read_sums(self.accelerator, sums.float())
        record: dict[str, Any] = {"valid_loss": loss_sum / weight}
        if self.objective.logits_of_targets:
            record["accuracy"] = count / weight
        if self.generate:
            record.update(self._generated_errors())
        return record

    def _right(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        """How many target ids `[b, n]` have the highest of logits `[b, n, v]`; 0 without targets."""
        if targets is None:
            return torch.zeros((), device=logits.device)
        valid = valid_mask(targets, self.model.pad_id[self.objective.target])
        return ((logits.argmax(dim=-1) == targets) & valid).sum()

    def _generated_errors(self) -> dict[str, float]:
        """The error rate in percent of ids that are generated greedily for the first validation items."""
        source, target = self.objective.source, self.objective.target
        assert source is not None, "check_generation refuses this"
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        valid, tokenizer = self.batches.split.valid, self.model.text_tokenizer if target == "text" else None
        sums = torch.zeros(2)  # errors, ids or characters
        for index in range(rank, min(self.generate, len(valid)), world):
            ids = self.batches.valid_ids(index)
            if ids is None:
                continue
            wanted = ids[NAMES[target]]
            longest = 2 * wanted.shape[1] + 10
            types: dict[str, Any] = {"source_type": source, "target_type": target}
            made = cast(Tensor, self.model.generate(ids[NAMES[source]], **types, temperature=0.0, max_length=longest))
            rows = [strip(row[0].cpu(), self.model.pad_id[target], self.model.eos_id[target]) for row in (made, wanted)]
            if tokenizer is None:
                errors, lengths = token_errors(rows[:1], rows[1:])
            else:
                errors, lengths = character_errors(*(tokenizer.decode(row) for row in rows))
            sums += torch.tensor([sum(errors), sum(lengths)])
        errors, length = read_sums(self.accelerator, sums)
        return {"token_error_rate" if tokenizer is None else "character_error_rate": 100 * errors / max(1.0, length)}


def check_generation(
    items: int, source: Modality | None, target: Modality, model: TextToSemantic, accelerator: Accelerator
) -> None:
    """Raises ValueError if a validation cannot generate ids for so many items, ImportError if a package is missing."""
    if items and source is None:
        raise ValueError("valid_generate needs pairs: pretraining has nothing to generate from, set it to 0")
    if items and target == "text" and model.text_tokenizer is not None:
        character_errors([""], [""])  # an ImportError now, not after the first updates
    if items and is_fully_sharded(accelerator):
        raise ValueError("valid_generate needs whole weights, which fully sharded training has not: set it to 0")


def _read(values: list[Tensor]) -> list[float]:
    """Numbers on the device, all read at once."""
    return cast("list[float]", torch.stack(values).tolist()) if values else []
