"""Training of a reader until it reads held-out clips no better: validation, early stopping, checkpoints.

In: a reader and pairs of semantic ids `[n]` and text ids `[m]`. Out: the reader with its best weights, and its curve. An
interrupted training goes on from its checkpoint and ends as an uninterrupted one.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from spear_tts_pytorch.data.loader import TokenBudgetBatchSampler
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import parse_object
from spear_tts_pytorch.utils.metrics import token_error_rate

WARMUP = 200  # updates at most, in which the learning rate rises
FALL = 0.25  # share of all updates in which the learning rate falls to zero
VALIDATIONS = 20  # of the longest training
UNREAD = 90.0  # percent: a reader by CTC says next to nothing for some hundred updates, in which no gain means nothing


class Reader(Protocol):
    """What is trained: a module that reads semantic ids."""

    @property
    def module(self) -> nn.Module:
        """The module with the weights."""
        ...

    def loss(self, semantic: Sequence[Tensor], text: Sequence[Tensor]) -> Tensor:
        """The loss of pairs, nats per text id; with dropout and masks in training mode."""
        ...

    def transcribe(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Text ids of rows of semantic ids."""
        ...


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a training.

    Attributes:
        steps: most updates.
        batch_tokens: semantic ids in a batch, padding included.
        lr: highest learning rate. It rises, stays, and falls to zero in the last updates.
        patience: validations without a gain after which the learning rate falls and the training ends.
        seed: of batches, masks and dropout.
        save_every: updates between two checkpoints.
        progress: shows a bar, on terminals.
    """

    steps: int = 300
    batch_tokens: int = 1250
    lr: float = 2e-3
    patience: int = 4
    seed: int = 0
    save_every: int = 200
    progress: bool = True

    @property
    def every(self) -> int:
        """Updates between two validations."""
        return max(1, math.ceil(self.steps / VALIDATIONS))


class FitKeywords(TypedDict, total=False):
    """The options of `FitOptions` as keywords."""

    steps: int
    batch_tokens: int
    lr: float
    patience: int
    seed: int
    save_every: int
    progress: bool


@dataclass
class Fit:
    """A training, finished or under way.

    Attributes:
        losses: of each update, nats per text id.
        curve: of each validation its "step", the mean "loss" since the one before, "valid_loss" in nats per text id, and
            "valid_error", the error rate of the text ids in percent.
        best_step, best_error: the validation whose weights are kept; -1 and None without held-out pairs.
        best_loss: the lowest "valid_loss".
        gained_at: the last validation at which the error rate or the loss was the lowest so far.
        falls_at: the update at which the learning rate began to fall.
        ends_at: the last update.
        converged: whether validations without a gain ended the training, not the number of updates.
    """

    losses: list[float] = field(default_factory=list[float])
    curve: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    best_step: int = -1
    best_error: float | None = None
    best_loss: float | None = None
    gained_at: int = 0
    falls_at: int = -1
    ends_at: int = -1
    converged: bool = False

    @property
    def step(self) -> int:
        """Updates so far."""
        return len(self.losses)

    def rate(self, warmup: int) -> float:
        """The learning rate of the next update, as a share of the highest one."""
        rising = min(1.0, (self.step + 1) / max(1, warmup))
        return rising * min(1.0, (self.ends_at - self.step) / max(1, self.ends_at - self.falls_at))


def fit(
    reader: Reader,
    pairs: Sequence[tuple[Tensor, Tensor]],
    valid: Sequence[tuple[Tensor, Tensor]],
    options: FitOptions,
    checkpoint: Path | None = None,
) -> Fit:
    """Trains a reader in place. It keeps the weights of the lowest error rate in held-out pairs, or the last ones.

    The caller's random state is left as it was.

    Args:
        reader: is trained.
        pairs: semantic ids and text ids, without padding and end-of-sequence.
        valid: pairs to validate on; none leaves validation out.
        options: of the training.
        checkpoint: the file of checkpoints; a training that it holds goes on. The caller removes it. None writes none.
    """
    training = _Training(reader, options)
    if checkpoint is not None and checkpoint.is_file():
        training.restore(checkpoint)
    lengths = [len(semantic) for semantic, _ in pairs]
    sampler = TokenBudgetBatchSampler(lengths, options.batch_tokens, seed=options.seed)
    devices = list({one.device for one in reader.module.parameters() if one.device.type == "cuda"})
    done, bar = training.done, tqdm(total=options.steps, desc="judge", disable=None if options.progress else True)
    with torch.random.fork_rng(devices), bar:
        bar.update(done.step)
        for number, batch in enumerate(_batches(sampler, options.steps)):
            if number < done.step:
                continue
            if done.step >= done.ends_at:
                break
            loss = training.update([pairs[index] for index in batch])
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if valid and (done.step % options.every == 0 or done.step == done.ends_at):
                training.validate(valid)
            if checkpoint is not None and done.step % options.save_every == 0:
                training.save(checkpoint)
    training.finish()
    return done


def _batches(sampler: TokenBudgetBatchSampler, count: int) -> list[list[int]]:
    """The batches of all updates: one epoch after the other."""
    found: list[list[int]] = []
    epoch = 0
    while len(found) < count:
        found += sampler.batches(epoch)
        epoch += 1
    return found[:count]


class _Training:
    """A training under way: the reader, its optimizer, its best weights so far."""

    def __init__(self, reader: Reader, options: FitOptions):
        self.reader, self.module, self.options = reader, reader.module, options
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.best: dict[str, Tensor] = {}
        self.done = Fit(falls_at=options.steps - round(FALL * options.steps), ends_at=options.steps)

    def update(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
        """One update. Its random numbers depend on the seed and its number alone, so it can be made again."""
        torch.manual_seed((self.options.seed << 32) + self.done.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.lr * self.done.rate(min(WARMUP, self.options.steps // 10))
        self.module.train()
        loss = self.reader.loss([semantic for semantic, _ in pairs], [text for _, text in pairs])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType] (torch's own)
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.done.losses.append(loss.item())
        return self.done.losses[-1]

    @torch.no_grad()
    def validate(self, valid: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Reads held-out pairs, keeps the weights if they are the best, and sees whether there is still a gain."""
        done, options = self.done, self.options
        semantic, text = [one for one, _ in valid], [one for _, one in valid]
        self.module.eval()
        loss = sum(
            float(self.reader.loss(semantic[start : start + 16], text[start : start + 16]))
            * len(text[start : start + 16])
            for start in range(0, len(valid), 16)
        )
        error = token_error_rate(self.reader.transcribe(semantic), text)
        before = done.curve[-1]["step"] if done.curve else 0
        mean = sum(done.losses[before:]) / max(1, done.step - before)
        loss, error = round(loss / len(valid), 5), round(error, 3)
        done.curve.append({"step": done.step, "loss": round(mean, 5), "valid_loss": loss, "valid_error": error})
        if done.best_error is None or error < done.best_error:
            done.best_error, done.best_step, done.gained_at = error, done.step, done.step
            self.best = copy.deepcopy(self.module.state_dict())
        if done.best_loss is None or loss < done.best_loss:
            done.best_loss, done.gained_at = loss, done.step
        waited = done.step - done.gained_at if done.best_error < UNREAD else 0
        if done.step < done.falls_at and waited >= options.patience * options.every:
            fall = math.ceil(done.step * FALL / (1 - FALL))
            done.falls_at, done.ends_at = done.step, min(options.steps, done.step + fall)
            done.converged = True

    def finish(self) -> None:
        """Loads the best weights."""
        if self.best:
            self.module.load_state_dict(self.best)
        self.module.eval()

    def save(self, path: Path) -> None:
        """Writes a checkpoint."""
        tensors = {f"now.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.module.named_parameters():
            tensors |= {f"optimizer.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        held = {name: value.detach().cpu().clone() for name, value in tensors.items()}
        options = asdict(replace(self.options, progress=False, save_every=0))
        state = json.dumps({"options": options, "done": asdict(self.done)})
        write_whole(path, save(held, metadata={"state": state}))

    def restore(self, path: Path) -> None:
        """Goes back to a checkpoint.

        Raises:
            ValueError: it is damaged, or of another training.
        """
        remedy = f"remove {path}, and the training begins anew"
        try:
            opened: Any = safe_open(path, framework="pt")
            with opened as file:
                state = parse_object(file.metadata()["state"])
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
            if state["options"] != asdict(replace(self.options, progress=False, save_every=0)):
                raise ValueError("it is of a training with other options")
            self.module.load_state_dict(_part(tensors, "now."))
            self.best = _part(tensors, "best.")
            for name, parameter in self.module.named_parameters():
                values = _part(tensors, f"optimizer.{name}.")
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in values.items()
                }
            self.done = Fit(**state["done"])
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no checkpoint of this training ({error}): {remedy}") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
