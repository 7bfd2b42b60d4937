"""Faster decoding on request: weights in fewer bits, and compiled steps.

`AccelerationMixin` asks the model for its decoder, embeddings and early exit, and hands decoding a `FusedDecoder`.
Training, scoring, encoding and saving use the model's own weights, which stay as they are.
"""

from __future__ import annotations

from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spear_tts_pytorch.nn.fused.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.fused.packed import MANY_STEPS, PRECISIONS, Precision
from spear_tts_pytorch.tokens import Modality
from spear_tts_pytorch.utils.checks import evaluating

KEPT_ROWS = 8  # what a decoder that is kept is prepared for

# the decoders that are kept, by model and target; not in the models, which are copied and pickled
_decoders: WeakKeyDictionary[nn.Module, dict[str, tuple[tuple, FusedDecoder]]] = WeakKeyDictionary()
_lock = RLock()


class AccelerationMixin:
    """`quantize` and `compile`, for `TextToSemantic`."""

    _acceleration: dict[str, Any] = {}

    def quantize(self, precision: Precision = "int8") -> Any:
        """From now on, `generate` and its kin read the decoder's weights in fewer bits.

        On CPUs, reading weights is what decoding of a few rows spends its time on, and they are read in a half or a
        quarter of it. The logits' weights, norms, attention and the encoder stay as they are, and so does the model: it
        can be trained and saved, and what it learns is decoded with, from the next call on. On other devices
        neither is faster; `model.bfloat16()` is, there.

        Args:
            precision: "bf16" (bfloat16), "int8" (8 bits and a scale for each output, symmetric, rounded to nearest), or
                "fp32", which is as if nothing had been asked. The rounded copy is kept beside the model's weights: a
                half or a quarter of the decoder's memory.

        Returns:
            The model itself, so that calls can be chained.

        Raises:
            ValueError: another precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, got {precision!r}")
        self._accelerate(precision=precision)
        return self

    def compile(self, *, batch_sizes: tuple[int, ...] = (1, 2), warm_up: bool = True) -> Any:
        """From now on, `generate` and its kin run decoding steps through `torch.compile`, which needs a C++ compiler.

        One graph serves all lengths, and one all numbers of rows above one; each takes 10 to 30 seconds to make, once for
        a model in a process, and again after `quantize`. Beams, padded sources, guidance and speculation add theirs at
        their first use. Pays for single rows in int8; beside the weights it keeps a copy laid out for more rows. To
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
        former = self._acceleration
        self._accelerate(compiled=True)
        unpadded = next(i for i in range(1, 3) if i != self.text_pad_id)
        try:
            for size in batch_sizes if warm_up else ():
                self._warm_up(torch.full((size, 2), unpadded))
        except Exception as error:
            self._acceleration = former
            _decoders.pop(self, None)
            raise RuntimeError(
                f"decoding could not be compiled ({str(error).splitlines()[0]}): torch.compile needs a C++ compiler, such "
                "as g++; the model decodes as before"
            ) from error
        return self

    @torch.no_grad()
    def _warm_up(self, source: Tensor, steps: int = 4) -> None:
        """Decoding steps for text ids `[b, n]`, whatever the model would say; the first reads no ids and is not compiled."""
        with evaluating(self):
            step, cache = self._begin(self.source_ids(source, "text", None, None), "text", "speech", max_length=steps)
            for index in range(steps):
                step(torch.zeros(len(source), min(index, 1), dtype=torch.long, device=self.device), cache)

    def fused_decoder(self, target_type: Modality, rows: int, steps: int, drafts: bool = False) -> FusedDecoder:
        """The decoder as steps run it, with the weights as they are now; once accelerated, it is kept until they change."""
        parts = self.target_transformer, self.token_emb[target_type].weight
        if not self._acceleration:
            return FusedDecoder(*parts, self.early_exit if drafts else None, rows=rows, steps=steps)
        with _lock:
            kept = _decoders.setdefault(self, {})
            state = self._decoder_state(target_type)
            if target_type not in kept or kept[target_type][0] != state:
                options = dict(rows=KEPT_ROWS, steps=MANY_STEPS, **self._acceleration)
                decoder = FusedDecoder(*parts, self.early_exit, **options)
                like, former = kept.get(target_type, (state, None))
                if former is not None and former.compiled is not None and like[:2] == state[:2]:
                    former.adopt(decoder)  # a stream that it is decoding goes on with the new weights
                    decoder = former
                kept[target_type] = state, decoder
            return kept[target_type][1]

    def _accelerate(self, **options: Any) -> None:
        options = {**self._acceleration, **options}
        options = {name: value for name, value in options.items() if value not in ("fp32", False)}
        if options != self._acceleration:
            self._acceleration = options
            _decoders.pop(self, None)

    def _decoder_state(self, target_type: Modality) -> tuple:
        """Device, type, and numbers that change when a weight that decoding reads does, or moves within its tensor."""
        modules = [self.target_transformer, self.token_emb[target_type], self.early_exit or nn.Identity()]
        weights = [weight.detach() for module in modules for weight in module.parameters()]
        numbers = torch.stack([number for weight in weights for number in _checksum(weight)])
        return weights[0].device, weights[0].dtype, tuple(numbers.tolist())


def _checksum(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its sum, and the sums of its rows and columns weighed by where they stand."""
    matrix = weight.float().reshape(-1, weight.shape[-1])
    columns, rows = matrix.sum(dim=0), matrix.sum(dim=1)
    ramps = (torch.linspace(1, 2, len(sums), device=sums.device) for sums in (columns, rows))
    return columns.sum(), *(sums @ ramp for sums, ramp in zip((columns, rows), ramps, strict=True))
