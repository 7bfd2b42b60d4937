"""A decoder small enough to enumerate: fixed conditional logits, a cache that holds nothing but the ids themselves."""

from __future__ import annotations

import torch
from torch import Tensor


class FakeCache:
    """Row i holds the source it belongs to and the ids seen so far."""

    def __init__(self, sources: int):
        self.sources = torch.arange(sources)
        self.ids = torch.empty(sources, 0, dtype=torch.long)
        self.selections: list[list[int]] = []

    def select(self, rows: Tensor) -> None:
        self.selections.append(rows.tolist())
        self.sources, self.ids = self.sources[rows], self.ids[rows]


class FakeStep:
    """Logits that depend on the source, the position and the last two ids."""

    def __init__(self, vocabulary: int = 4, length: int = 5, sources: int = 3, seed: int = 0, sharpness: float = 1.5):
        noise = torch.Generator().manual_seed(seed)
        shape = (sources, length, vocabulary + 1, vocabulary + 1, vocabulary)
        self.table = sharpness * torch.randn(shape, generator=noise)
        self.vocabulary, self.rows_seen = vocabulary, []

    def __call__(self, ids: Tensor, cache: FakeCache) -> Tensor:
        assert len(ids) == len(cache.ids), "one id per row of the cache"
        cache.ids = torch.cat((cache.ids, ids), dim=1)
        self.rows_seen.append(len(ids))
        return self.logits(cache.sources, cache.ids)[:, None]

    def logits(self, sources: Tensor, ids: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(ids, (2, 0), value=self.vocabulary)
        return self.table[sources, ids.shape[1], padded[:, -2], padded[:, -1]]

    def after(self, source: int, string: tuple[int, ...]) -> Tensor:
        """Log-probabilities of the next id, `[v]`."""
        return self.logits(torch.tensor([source]), torch.tensor([string], dtype=torch.long))[0].log_softmax(-1)

    def strings(self, source: int, eos_id: int | None, max_length: int) -> dict[tuple[int, ...], float]:
        """Every string that ends in `eos_id` or is cut at `max_length`, with its log-probability."""
        found, live = {}, {(): 0.0}
        for length in range(1, max_length + 1):
            grown = {}
            for string, total in live.items():
                log_probs = self.after(source, string).tolist()
                grown |= {(*string, token): total + p for token, p in enumerate(log_probs)}
            ended = {string: p for string, p in grown.items() if string[-1] == eos_id or length == max_length}
            live = {string: p for string, p in grown.items() if string not in ended}
            found |= ended
        return found
