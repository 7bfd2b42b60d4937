"""A stream of generated ids: pieces of a batch while it is being decoded.

In: the steps of a decoding strategy, each of which can say what it has added. Out: ids `[b, <= chunk]`. Knows nothing of
models or of how ids are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.decoding.loop import DecodeResult
from spear_tts_pytorch.tokens import pad_sequences


class TokenStream(Iterator[Tensor]):
    """Ids `[b, <= chunk]`, int64, padding where a row has ended; put together, those of `generate`.

    Attributes:
        result: the whole `DecodeResult`, once the stream has ended; None before.
        seconds_to_first: from the first request to the first piece; None before.
    """

    def __init__(self, steps: Generator[Any, None, DecodeResult], chunk: int, pad_id: int):
        self._steps, self._chunk, self._pad_id = steps, chunk, pad_id
        self._rows: list[Tensor] | None = None  # what each row has that was not handed out yet
        self._handed_out = 0
        self.result: DecodeResult | None = None
        self.seconds_to_first: float | None = None

    @torch.no_grad()
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
            try:
                step = next(self._steps)
            except StopIteration as stop:
                self.result = stop.value
                break
            new = step.newest_rows()
            self._rows = new if self._rows is None else [torch.cat(pair) for pair in zip(self._rows, new, strict=True)]
            open_rows = [row for row, ended in zip(self._rows, step.have_ended(), strict=True) if not ended]
            if open_rows and min(map(len, open_rows)) >= self._chunk:
                piece = pad_sequences([row[: self._chunk] for row in self._rows], self._pad_id)
                self._rows = [row[self._chunk :] for row in self._rows]
                return piece
        piece = self.result.ids[:, self._handed_out : self._handed_out + self._chunk]
        return piece if piece.shape[1] else None
