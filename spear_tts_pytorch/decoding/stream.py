"""A stream of generated ids: pieces of a batch while it is being decoded.

In: the progress of a decoding strategy. Out: ids `[b, <= chunk]`, which put together are those of `generate`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from typing_extensions import Unpack

from spear_tts_pytorch.decoding.accelerate import Accelerated
from spear_tts_pytorch.decoding.generate import Run, begin
from spear_tts_pytorch.decoding.loop import DecodeResult, Hypothesis, Limits
from spear_tts_pytorch.decoding.options import SamplingKeywords, options_of, with_options
from spear_tts_pytorch.decoding.sampling import seed_of
from spear_tts_pytorch.tokens import Batch, pad_sequences
from spear_tts_pytorch.utils.values import MOST_INTEGER, whole_number


@with_options(SamplingKeywords)
@torch.no_grad()
def generate_stream(
    model: Accelerated,
    source: Batch,
    *,
    chunk: int = 1,
    source_mask: Tensor | None = None,
    source_lengths: Tensor | None = None,
    prompt: Batch | None = None,
    generator: torch.Generator | None = None,
    **options: Unpack[SamplingKeywords],
) -> TokenStream:
    """`generate`, in pieces: an iterator over ids `[b, <= chunk]` as they are accepted.

    Put together, the pieces are what `generate` returns with the same arguments and generator. Afterwards, `result`
    holds the scores, and `seconds_to_first` the time until the first piece. Beam search has no ids before its end.

    Args:
        chunk: most ids of a row in a piece.
        source, source_mask, source_lengths, prompt, generator, options: as in `generate`.

    Raises:
        ValueError, TypeError: as `generate`, at the call; a chunk below 1.
    """
    how = options_of("generate_stream", SamplingKeywords, options)
    how.check(model)
    chunk = whole_number("chunk", chunk, 1, MOST_INTEGER)
    source = model.source_ids(source, how.source_type, source_mask, source_lengths)
    run = begin(model, source, how, prompt=prompt, seed=seed_of(generator))
    return TokenStream(run, len(source), chunk, how.max_length, Limits.of(model.vocabulary[how.target_type]))


class TokenStream(Iterator[Tensor]):
    """Ids `[b, <= chunk]`, int64, padding where a row has ended; put together, those of `generate`.

    Attributes:
        result: the whole `DecodeResult`, once the stream has ended; None before.
        seconds_to_first: from the first request to the first piece, in seconds; None before.
    """

    def __init__(self, run: Run, rows: int, chunk: int, max_length: int, limits: Limits):
        self._run, self._chunk, self._max_length, self._limits = run, chunk, max_length, limits
        self._rows: list[list[Tensor]] = [[] for _ in range(rows)]  # ids of each row, in the parts that they came in
        self._lengths, self._open = [0] * rows, [True] * rows
        self._handed_out = 0
        self._found: dict[int, list[Hypothesis]] = {}
        self.result: DecodeResult | None = None
        self.seconds_to_first: float | None = None

    def __next__(self) -> Tensor:
        started = time.perf_counter()
        piece = self._piece()
        if piece is None:
            raise StopIteration
        if self.seconds_to_first is None:
            self.seconds_to_first = time.perf_counter() - started
        self._handed_out += piece.shape[1]
        return piece

    def _piece(self) -> Tensor | None:
        """The next columns of the batch: those that every row that goes on has."""
        while self.result is None:
            progress = next(self._run.steps, None)
            if progress is None:
                self.result = self._run.result(self._found)
                break
            self._found.update(progress.finished)
            self._take(progress.gained())
            open_lengths = [length for length, is_open in zip(self._lengths, self._open, strict=True) if is_open]
            if open_lengths and min(open_lengths) >= self._handed_out + self._chunk:
                return pad_sequences([self._cut(row) for row in range(len(self._rows))], self._limits.pad_id)
        piece = self.result.ids[:, self._handed_out : self._handed_out + self._chunk]
        return piece if piece.shape[1] else None

    def _take(self, gained: dict[int, Tensor]) -> None:
        """Adds new ids to their rows; reads the device once."""
        last = torch.stack([ids[-1] for ids in gained.values()]) if gained else torch.empty(0)
        for (row, ids), newest in zip(gained.items(), cast("list[int]", last.tolist()), strict=True):
            self._rows[row].append(ids)
            self._lengths[row] += len(ids)
            ended = self._limits.eos_id is not None and newest == self._limits.eos_id
            self._open[row] = not ended and self._lengths[row] < self._max_length

    def _cut(self, row: int) -> Tensor:
        """The ids of a row in the columns of the next piece; the ids before them are forgotten."""
        ids = torch.cat(self._rows[row])
        self._rows[row] = [ids[self._chunk :]]
        return ids[: self._chunk]
