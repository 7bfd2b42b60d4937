"""Faster decoding on request: weights in fewer bits, and compiled steps.

`AccelerationMixin` asks the model for its decoder, embeddings and early exit, and hands decoding a `FusedDecoder`.
Training, scoring, encoding and saving use the model's own weights, which stay as they are.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from spear_tts_pytorch.nn.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.packed import MANY_STEPS, PRECISIONS, Precision
from spear_tts_pytorch.tokens import Modality

KEPT_ROWS = 8  # what a decoder that is kept is prepared for
MOST_GRAPHS = 64

# the decoders that are kept, by model and target; not in the models, which are copied and pickled
_decoders: WeakKeyDictionary[nn.Module, dict[str, tuple[tuple, FusedDecoder]]] = WeakKeyDictionary()


class AccelerationMixin:
    """`quantize` and `compile`, for `TextToSemantic`."""

    _acceleration: dict[str, Any] = {}

    def quantize(self, precision: Precision = "int8") -> Any:
        """From now on, `generate` and its kin read the decoder's weights in fewer bits.

        Products with weights are what decoding spends its time on, and reading the weights is what they spend it on:
        half or a quarter of the bytes is up to twice or four times the speed. Norms, attention and the encoder stay as
        they are, and so does the model: it can be trained and saved, and what it learns is decoded with.

        Args:
            precision: "bf16" (bfloat16), "int8" (8 bits and a scale for each output, symmetric, rounded to nearest), or
                "fp32", which is as if nothing had been asked. The rounded copy takes a half or a quarter of the
                decoder's memory beside it.

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

        One graph serves all lengths, and one all numbers of rows above one; each takes 10 to 30 seconds to make, once in
        a process. Pays most for few rows in int8. What a graph is made for first (guidance, padding, speculation) adds
        one at its first use. To compile the forward pass for training, use `torch.compile(model)`.

        Args:
            batch_sizes: rows for which graphs are made now: 1, and 2 for all others.
            warm_up: False makes graphs when they are first needed.

        Returns:
            The model itself, so that calls can be chained.

        Raises:
            ValueError: a batch size below 1.
        """
        if any(size < 1 for size in batch_sizes):
            raise ValueError(f"batch_sizes must be at least 1, got {batch_sizes}")
        # a graph for one row and one for more, with and without masks, for decoding, drafting and verifying
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        self._accelerate(compiled=True)
        if warm_up:
            unpadded = next(i for i in range(1, 3) if i != self.text_pad_id)
            for size in batch_sizes:
                source = torch.full((size, 2), unpadded)
                self.generate(source, source_type="text", target_type="speech", max_length=4, temperature=0)
        return self

    def fused_decoder(self, target_type: Modality, rows: int, steps: int) -> FusedDecoder:
        """The decoder as steps run it, with the weights as they are now; once accelerated, it is kept until they change."""
        parts = self.target_transformer, self.token_emb[target_type].weight, self.early_exit
        if not self._acceleration:
            return FusedDecoder(*parts, rows=rows, steps=steps)
        kept = _decoders.setdefault(self, {})
        former = kept.get(target_type)
        state = self._decoder_state(target_type)
        if former is None or former[0] != state:
            decoder = FusedDecoder(*parts, rows=KEPT_ROWS, steps=MANY_STEPS, **self._acceleration)
            if former is not None:
                former[1].adopt(decoder)
                decoder = former[1]
            kept[target_type] = former = state, decoder
        return former[1]

    def _accelerate(self, **options: Any) -> None:
        options = {**self._acceleration, **options}
        self._acceleration = {name: value for name, value in options.items() if value not in ("fp32", False)}
        _decoders.pop(self, None)

    def _decoder_state(self, target_type: Modality) -> tuple:
        """Changes when a weight that decoding reads does, in whatever way: reading them all takes a step's time."""
        modules = [self.target_transformer, self.token_emb[target_type], self.early_exit or nn.Identity()]
        weights = [weight.detach() for module in modules for weight in module.parameters()]
        sums = torch.stack([weight.sum(dtype=torch.float64) for weight in weights])
        return weights[0].device, weights[0].dtype, tuple(sums.tolist())
