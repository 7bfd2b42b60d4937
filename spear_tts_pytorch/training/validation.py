"""Validation: loss and accuracy over the whole validation set, error rates of what is generated, and the best model.

`ValidationMixin` asks the trainer for its batches, `run_step`, `prepare`, `targets` and records. All processes validate
together, each its own batches. Knows nothing of what is being learned.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor

from spear_tts_pytorch.tokens import strip, valid_mask
from spear_tts_pytorch.utils.checks import evaluating
from spear_tts_pytorch.utils.metrics import character_errors, token_errors
from spear_tts_pytorch.utils.noise import row_keys

VALID_SEED = 0  # corruption of the validation set is the same at every check


class ValidationMixin:
    """Validating, for `Trainer`."""

    def _check_validation(self) -> None:
        if self.valid_generate < 0:
            raise ValueError(f"valid_generate must be at least 0, got {self.valid_generate}")
        if self.valid_generate and self.source is None:
            raise ValueError("valid_generate needs pairs: pretraining has nothing to generate from, set it to 0")
        if self.valid_generate and self.target == "text" and self.model.text_tokenizer is not None:
            character_errors([""], [""])  # says so now if its package is missing
        if self.valid_generate and self.accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError("valid_generate needs whole weights, which fully sharded training has not: set it to 0")

    def _valid_batches(self) -> Any:
        """The batches to validate on with their weights, 0 for those that are another process's; prepared."""
        for number, batch in enumerate(self.batches.valid_dl):
            keys = row_keys(batch.pop("number"), VALID_SEED)
            batch = self.prepare({**batch, "row_keys": keys})
            yield batch, self._weight(batch) if number < self.batches.valid_count else 0.0

    @torch.no_grad()
    def validate(self) -> float:
        """The mean loss per target id, without label smoothing, over the whole validation set and all processes.

        Recorded with `accuracy`, the share of target ids that are the likeliest given those before (where logits are of
        targets), and with `valid_generate` the error rate of generated ids, or of characters, in percent. Where the loss
        is the lowest so far, the model goes to `best/`. Collective.
        """
        wrapper = self.accelerator.unwrap_model(self.train_wrapper)
        sums = torch.zeros(4, dtype=torch.float64)  # loss times weight, weight, right ids, ids
        with evaluating(wrapper), self._smoothing(0.0):
            for batch, weight in self._valid_batches():
                loss, logits = self.run_step(wrapper, batch)
                if weight:
                    counts = _right(logits, self.targets(batch), self.model.pad_id[self.target])
                    sums += torch.tensor([float(loss) * weight, weight, *counts], dtype=torch.float64)
        loss_sum, weight, right, ids = self._sum(sums.float()).tolist()
        record = {"step": self._step, "valid_loss": loss_sum / weight}
        if ids:
            record["accuracy"] = right / ids
        if self.valid_generate:
            record.update(self._generated_errors())
        self._record_valid(record)
        return record["valid_loss"]

    def _record_valid(self, record: dict[str, Any]) -> None:
        loss = record["valid_loss"]
        is_best = math.isfinite(loss) and (self.best_valid_loss is None or loss < self.best_valid_loss)
        if is_best:
            self.best_valid_loss, self.best_step = loss, self._step
            self._save_best()
        elif self.best_valid_loss is not None:
            self.print(
                f"step {self._step}: validation loss {loss:.4f} is not below the {self.best_valid_loss:.4f} of step "
                f"{self.best_step}, whose model stays the best"
            )
        self._record({**record, "best": is_best, "best_step": self.best_step})
        numbers = {key: value for key, value in record.items() if key != "step"}
        self.accelerator.log(numbers, step=self._step)
        self._last_valid = self._step

    def _generated_errors(self) -> dict[str, float]:
        """The error rate, in percent, of what is generated greedily for the first `valid_generate` validation items."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = range(rank, min(self.valid_generate, len(self.valid_ds)), world)
        sums, tokenizer = torch.zeros(2), self.model.text_tokenizer if self.target == "text" else None
        for index in mine:
            batch = self.prepare(self.collate([self.valid_ds[index]]))
            wanted = batch[_NAMES[self.target]]
            made = self.model.generate(
                batch[_NAMES[self.source]],
                source_type=self.source,
                target_type=self.target,
                temperature=0.0,
                max_length=2 * wanted.shape[1] + 10,
            )
            rows = [
                strip(ids[0], self.model.pad_id[self.target], self.model.eos_id[self.target]) for ids in (made, wanted)
            ]
            if tokenizer is None:
                errors, lengths = token_errors(rows[:1], rows[1:])
            else:
                errors, lengths = character_errors(*(tokenizer.decode(row) for row in rows))
            sums += torch.tensor([sum(errors), sum(lengths)])
        errors, length = self._sum(sums).tolist()
        return {"token_error_rate" if tokenizer is None else "character_error_rate": 100 * errors / max(1.0, length)}


_NAMES = {"speech": "semantic", "text": "text"}


def _right(logits: Tensor, targets: Tensor | None, pad_id: int) -> tuple[float, float]:
    """How many of the target ids `[b, n]` are the likeliest of logits `[b, n, v]`, and how many there are."""
    if targets is None:
        return 0.0, 0.0
    valid = valid_mask(targets, pad_id)
    return float(((logits.argmax(dim=-1) == targets) & valid).sum()), float(valid.sum())
