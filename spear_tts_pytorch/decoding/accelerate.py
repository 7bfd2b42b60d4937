"""Faster decoding on request: weights in fewer bits, and compiled steps.

In: a model, and the options given to `quantize` and `compile`. Out: the `FusedDecoder` that decoding runs. Training, scoring,
encoding and saving use the model's own weights, which stay as they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from threading import RLock
from typing import Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spear_tts_pytorch.decoding.step import DecoderStep, Seq2Seq
from spear_tts_pytorch.nn.fused.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.fused.packed import MANY_STEPS, PRECISIONS, Precision
from spear_tts_pytorch.tokens import Modality
from spear_tts_pytorch.utils.checks import in_evaluation

KEPT_ROWS = 8  # rows that a decoder that is kept is prepared for

State = tuple[torch.device, torch.dtype, tuple[float, ...]]


@dataclass(frozen=True)
class Acceleration:
    """How decoding reads a model's weights, and whether its steps are compiled."""

    precision: Precision = "fp32"
    compiled: bool = False


class Accelerated(Seq2Seq, Protocol):
    """A model that remembers how it is decoded."""

    acceleration: Acceleration


M = TypeVar("M", bound=Accelerated)

# the decoders that are kept, by model and target; not in the models, which are copied and pickled
_decoders: WeakKeyDictionary[Accelerated, dict[Modality, tuple[State, FusedDecoder]]] = WeakKeyDictionary()
_lock = RLock()


def quantize(model: M, precision: Precision = "int8") -> M:
    """From now on, `generate` and its kin read the decoder's weights in fewer bits.

    On CPUs, a step for a few rows spends its time on reading weights. Fewer bits are read in a half or a quarter of the time.
    The logits' weights, norms, attention and the encoder stay as they are, and so does the model: it can be trained and
    saved, and the next call decodes with the weights that it has then. On other devices neither is faster; use
    `model.bfloat16()` there.

    Args:
        precision: "bf16" (bfloat16), "int8" (8 bits and a scale for each output, symmetric, rounded to nearest), or "fp32" to
            undo it. The rounded copy is kept beside the model's weights: a half or a quarter of the decoder's memory.

    Returns:
        The model itself, so that calls can be chained.

    Raises:
        ValueError: another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}")
    _accelerate(model, replace(model.acceleration, precision=precision))
    return model


def compile_steps(model: M, *, batch_sizes: tuple[int, ...] = (1, 2), warm_up: bool = True) -> M:
    """From now on, `generate` and its kin run decoding steps through `torch.compile`, which needs a C++ compiler.

    One graph serves all lengths, and one all numbers of rows above one. Each takes 10 to 30 seconds to make, once for
    a model in a process, and again after `quantize`. Beams, padded sources, guidance and speculation add graphs at
    their first use. It pays for single rows in int8. It keeps a second copy of the weights, laid out for more rows. To
    compile the forward pass for training, use `torch.compile(model)`.

    Args:
        batch_sizes: rows for which graphs are made now: 1, and 2 for all others.
        warm_up: False makes graphs when they are first needed.

    Returns:
        The model itself, so that calls can be chained.

    Raises:
        ValueError: a batch size below 1.
        RuntimeError: there is no compiler, or it failed; the model then decodes as before.
    """
    if any(size < 1 for size in batch_sizes):
        raise ValueError(f"batch_sizes must be at least 1, got {batch_sizes}")
    former = model.acceleration
    _accelerate(model, replace(former, compiled=True))
    text = model.vocabulary["text"]
    unpadded = next(i for i in range(1, 3) if i != text.pad_id)
    try:
        for size in batch_sizes if warm_up else ():
            _warm_up(model, torch.full((size, 2), unpadded))
    except Exception as error:
        _accelerate(model, former)
        raise RuntimeError(
            f"decoding could not be compiled ({str(error).splitlines()[0]}): torch.compile needs a C++ compiler, such "
            "as g++; the model decodes as before"
        ) from error
    return model


@torch.no_grad()
def _warm_up(model: Accelerated, source: Tensor, steps: int = 4) -> None:
    """Runs some steps for text ids `[b, n]` with fixed target ids; the first one reads no ids and is not compiled."""
    context, mask, positions = in_evaluation(model).encode_ids(source.to(model.device), "text")
    step = DecoderStep(model, fused_decoder(model, "speech", rows=len(source), steps=steps), "speech")
    cache = step.new_cache(context, mask, positions.expand(len(source), -1))
    for index in range(steps):
        step(torch.zeros(len(source), min(index, 1), dtype=torch.long, device=model.device), cache)


def fused_decoder(
    model: Accelerated, target_type: Modality, *, rows: int, steps: int, drafts: bool = False
) -> FusedDecoder:
    """The model's decoder as steps run it, with the weights as they are now. An accelerated one is kept until they change.

    Args:
        rows, steps: rows and steps to expect. They decide what pays, not what results.
        drafts: whether the early exit is needed.
    """
    parts = model.target_transformer, model.table(target_type)
    if model.acceleration == Acceleration():
        return FusedDecoder(*parts, model.early_exit if drafts else None, rows=rows, steps=steps)
    with _lock:
        kept = _decoders.setdefault(model, {})
        state = _state(model, target_type)
        if target_type not in kept or kept[target_type][0] != state:
            how = asdict(model.acceleration)
            decoder = FusedDecoder(*parts, model.early_exit, rows=KEPT_ROWS, steps=MANY_STEPS, **how)
            like, former = kept.get(target_type, (state, None))
            if former is not None and former.compiled is not None and like[:2] == state[:2]:
                former.adopt(decoder)  # a stream that runs on it goes on with the new weights
                decoder = former
            kept[target_type] = state, decoder
        return kept[target_type][1]


def _accelerate(model: Accelerated, acceleration: Acceleration) -> None:
    if acceleration != model.acceleration:
        model.acceleration = acceleration
        _decoders.pop(model, None)


def _state(model: Accelerated, target_type: Modality) -> State:
    """Device, type, and numbers that change if a weight that decoding reads changes, or moves within its tensor."""
    modules = [model.target_transformer, model.early_exit or nn.Identity()]
    weights = [model.table(target_type), *(weight for module in modules for weight in module.parameters())]
    numbers = torch.stack([number for weight in weights for number in _checksum(weight.detach())])
    return weights[0].device, weights[0].dtype, tuple(cast("list[float]", numbers.tolist()))


def _checksum(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its sum, and the sums of its rows and columns, weighted by their places."""
    matrix = weight.float().reshape(-1, weight.shape[-1])
    columns, rows = matrix.sum(dim=0), matrix.sum(dim=1)
    ramps = (torch.linspace(1, 2, len(sums), device=sums.device) for sums in (columns, rows))
    of_columns, of_rows = (sums @ ramp for sums, ramp in zip((columns, rows), ramps, strict=True))
    return columns.sum(), of_columns, of_rows
