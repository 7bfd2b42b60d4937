"""Sources one after the other, in a batch in which the next one takes the slot of each that has ended.

In: rows of checked source ids with numbers. Out: the numbers and the hypotheses, as rows end. How slots are refilled is in
`loop.decode`; here waiting sources are encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spear_tts_pytorch.decoding.accelerate import Accelerated
from spear_tts_pytorch.decoding.generate import begin, decoder_step, strategy_of
from spear_tts_pytorch.decoding.loop import Admitted, Hypothesis, Limits, decode
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.decoding.step import DecoderStep
from spear_tts_pytorch.tokens import Modality, mask_from_lengths, pad_sequences
from spear_tts_pytorch.utils.checks import in_evaluation

Rows = Iterator[tuple[int, Tensor]]  # numbers and source ids [n], without padding


@torch.no_grad()
def generate_each(
    model: Accelerated,
    rows: Rows,
    options: DecodingOptions,
    *,
    slots: int,
    seed: int | Sequence[int],
    prompts: list[Tensor] | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Decodes sources as they come: the number of each and its hypotheses, best first, in the order in which they end.

    Args:
        rows: the longest first: slots are made for these.
        slots: most sources in the batch.
        seed: of the noise, see `sampling.keys_of`.
        prompts: target ids `[n]` that each row begins with, by its number.
    """
    if options.spec_decode:
        yield from _speculate_each(model, rows, options, slots=slots, seed=seed, prompts=prompts)
        return
    limits = Limits.of(model.vocabulary[options.target_type])
    waiting = _Waiting(model, decoder_step(model, options, slots), rows, options, prompts, slots)
    for progress in decode(waiting.step, waiting, strategy_of(options, limits, seed, model.device, prompts), slots):
        yield from progress.finished.items()


def _speculate_each(
    model: Accelerated,
    rows: Rows,
    options: DecodingOptions,
    *,
    slots: int,
    seed: int | Sequence[int],
    prompts: list[Tensor] | None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The same by speculative decoding, batch after batch: rows accept unequally many ids, so no slot is free by itself."""
    while batch := list(islice(rows, slots)):
        numbers = [number for number, _ in batch]
        source = pad_sequences([ids for _, ids in batch], model.vocabulary[options.source_type].pad_id)
        prompt = None if prompts is None else [prompts[number] for number in numbers]
        run = begin(model, source.to(model.device), options, prompt=prompt, seed=seed, numbers=numbers)
        for progress in run.steps:
            yield from progress.finished.items()


class _Waiting:
    """Sources that wait for a slot, encoded some at a time, ahead of their turn."""

    def __init__(
        self,
        model: Accelerated,
        step: DecoderStep,
        rows: Rows,
        options: DecodingOptions,
        prompts: list[Tensor] | None,
        chunk: int,
    ):
        self.model, self.step, self.rows, self.prompts, self.chunk = model, step, rows, prompts, chunk
        self.source_type: Modality = options.source_type
        self.source_pad = model.vocabulary[options.source_type].pad_id
        self.target_pad = model.vocabulary[options.target_type].pad_id
        self.encoded: list[tuple[int, Tensor, Tensor]] = []  # number, encoded source [m, dim], its positions [m]

    def __call__(self, n: int) -> Admitted | None:
        while len(self.encoded) < n and self._encode():
            pass
        if not self.encoded:
            return None
        self.encoded, batch = self.encoded[n:], self.encoded[:n]
        numbers = [number for number, _, _ in batch]
        contexts, positions = [context for _, context, _ in batch], [places for _, _, places in batch]
        context = pad_sequence(contexts, batch_first=True)
        lengths = torch.tensor([len(one) for one in contexts], device=context.device)
        prompt = None
        if self.prompts is not None:
            rows = [self.prompts[number].to(context.device) for number in numbers]
            prompt = pad_sequences(rows, self.target_pad)
        mask = mask_from_lengths(lengths, context.shape[1])
        cache = self.step.new_cache(context, mask, pad_sequence(positions, batch_first=True), prompt)
        nothing = torch.empty(len(numbers), 0, dtype=torch.long, device=context.device)
        return Admitted(numbers, cache, self.step(nothing, cache)[:, -1])

    def _encode(self) -> bool:
        batch = list(islice(self.rows, self.chunk))
        if batch:
            ids = pad_sequences([row for _, row in batch], self.source_pad).to(self.model.device)
            context, mask, positions = in_evaluation(self.model).encode_ids(ids, self.source_type)
            lengths = cast("list[int]", mask.sum(dim=1).tolist())
            for (number, _), encoded, length in zip(batch, context, lengths, strict=True):
                self.encoded.append((number, encoded[:length], positions[0, :length]))
        return bool(batch)
