"""Generation for sources one after the other, in a batch in which the next takes the place of each that has ended.

In: rows of checked source ids with numbers. Out: the numbers and what was generated, as rows end. `ContinuousMixin` asks
the model for its encoder and its decoding steps (`generation.py`); how slots are refilled is `decoding/refill.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.beam import Hypothesis
from spear_tts_pytorch.decoding.loop import forbidden, restriction
from spear_tts_pytorch.decoding.refill import Admitted, BeamSearch, Sampling, decode_many
from spear_tts_pytorch.decoding.sampling import top_k
from spear_tts_pytorch.decoding.step import DecoderStep
from spear_tts_pytorch.tokens import Modality, mask_from_lengths, pad_sequences, strip
from spear_tts_pytorch.utils.checks import evaluating

Rows = Iterator[tuple[int, Tensor]]  # a number and source ids [n], without padding


class ContinuousMixin:
    """What `generate_many` is made of."""

    @torch.no_grad()
    def _generate_each(
        self,
        rows: Rows,
        *,
        slots: int,
        generator: Callable[[int], torch.Generator],
        prompts: list[Tensor] | None,
        source_type: Modality,
        target_type: Modality,
        temperature: float = 1.0,
        filter_logits_fn: Callable[..., Tensor] | None = top_k,
        filter_fn_kwargs: dict[str, Any] | None = None,
        max_length: int = 2048,
        beam_search_decode: bool = False,
        beam_size: int = 4,
        length_penalty: float = 0.0,
        cond_scale: float = 1.0,
        n_best: int = 1,
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """The number of each row and its hypotheses, best first, in the order in which they end.

        Args:
            rows: the longest first: places are made for these.
            slots: most sources in the batch at a time.
            generator: of a row's noise, by its number.
            prompts: target ids `[n]` that each row begins with, by its number.

        Other arguments, and errors, as in `generate`.
        """
        beam = (beam_size, n_best, length_penalty) if beam_search_decode else None
        self._check_generate(source_type, target_type, cond_scale, max_length, temperature, beam)
        limits = self._limits(target_type, max_length)
        common = {name: limits[name] for name in ("eos_id", "max_length", "device")}
        forbid = forbidden(limits["forbid_ids"], self.device)
        if beam_search_decode:
            begin = partial(
                BeamSearch,
                beam_size=beam_size,
                n_best=n_best,
                length_penalty=length_penalty,
                temperature=temperature,
                forbid=forbid,
                **common,
            )
        else:
            restrict = restriction(forbid, filter_logits_fn if temperature > 0 else None, dict(filter_fn_kwargs or {}))
            begin = partial(Sampling, generator=generator, restrict=restrict, temperature=temperature, **common)
        width = slots * (beam_size if beam_search_decode else 1)
        with evaluating(self):
            step = DecoderStep(self, target_type, cond_scale, rows=width, steps=max_length)
            waiting = _Waiting(self, step, rows, source_type, target_type, prompts, slots)
            yield from decode_many(step, waiting, begin, slots)

    def _speculate_each(
        self,
        rows: Rows,
        *,
        slots: int,
        generator: Callable[[int], torch.Generator],
        prompts: list[Tensor] | None,
        target_type: Modality,
        n_best: int = 1,
        **options: Any,
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """The same by speculative decoding, batch after batch: rows that accept unequally far leave none to refill."""
        vocabulary = self.vocabulary[target_type]
        while batch := list(islice(rows, slots)):
            numbers = [number for number, _ in batch]
            prompt = None if prompts is None else pad_sequences([prompts[i] for i in numbers], vocabulary.pad_id)
            result = self.generate(
                [ids for _, ids in batch],
                target_type=target_type,
                prompt=prompt,
                generator=generator(numbers[0]),
                spec_decode=True,
                return_result=True,
                **options,
            )
            found = zip(numbers, result.ids, result.scores.tolist(), result.truncated.tolist(), strict=True)
            for number, ids, score, truncated in found:
                yield number, [Hypothesis(strip(ids, vocabulary.pad_id, None), score, truncated)]


class _Waiting:
    """Sources that wait for a place, encoded some at a time, ahead of their turn."""

    def __init__(
        self,
        model: Any,
        step: DecoderStep,
        rows: Rows,
        source_type: Modality,
        target_type: Modality,
        prompts: list[Tensor] | None,
        chunk: int,
    ):
        self.model, self.step, self.rows, self.prompts, self.chunk = model, step, rows, prompts, chunk
        self.source_pad, self.target_pad = model.pad_id[source_type], model.pad_id[target_type]
        self.source_type = source_type
        self.encoded: list[tuple[int, Tensor, Tensor]] = []  # number, encoded source [m, dim], its positions [m]

    def __call__(self, n: int) -> Admitted | None:
        while len(self.encoded) < n and self._encode():
            pass
        if not self.encoded:
            return None
        self.encoded, batch = self.encoded[n:], self.encoded[:n]
        numbers, contexts, positions = (list(column) for column in zip(*batch, strict=True))
        context = torch.nn.utils.rnn.pad_sequence(contexts, batch_first=True)
        lengths = torch.tensor([len(one) for one in contexts], device=context.device)
        prompt = None
        if self.prompts is not None:
            rows = [self.prompts[number].to(context.device) for number in numbers]
            prompt = pad_sequences(rows, self.target_pad)
        places = torch.nn.utils.rnn.pad_sequence(positions, batch_first=True)
        cache = self.step.new_cache(context, mask_from_lengths(lengths, context.shape[1]), places, prompt)
        nothing = torch.empty(len(numbers), 0, dtype=torch.long, device=context.device)
        return Admitted(numbers, cache, self.step(nothing, cache)[:, -1])

    def _encode(self) -> bool:
        batch = list(islice(self.rows, self.chunk))
        if batch:
            ids = pad_sequences([row for _, row in batch], self.source_pad).to(self.model.device)
            context, mask, positions = self.model.encode_ids(ids, self.source_type)
            for (number, _), encoded, length in zip(batch, context, mask.sum(dim=1).tolist(), strict=True):
                self.encoded.append((number, encoded[:length], positions[0, :length]))
        return bool(batch)
