"""A drafting decoder small enough to enumerate: fixed logits of drafts and model, and a cache that checks itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

EOS, PAD, VOCABULARY = 4, -1, 5
START = VOCABULARY  # what stands for "nothing yet" in a table
WEIGHTS = torch.randint(1, 2**40, (400,), generator=torch.Generator().manual_seed(0))  # of positions, for hashes


class DraftingCache:
    """Per row: its source, the ids at its positions, and for each position a hash of all ids up to there.

    The hashes are what keys and values are to a real model: made once from the position before, never looked at again.
    """

    def __init__(self, sources: Tensor):
        self.sources, self.rows = sources, torch.arange(len(sources))
        self.ids = torch.full((len(sources), 8), START)
        self.hashes = torch.zeros(len(sources), 8, dtype=torch.long)
        self.held = torch.zeros(len(sources), dtype=torch.long)
        self.unverified, self.unequal, self.widths = 0, False, [len(sources)]

    @property
    def lengths(self) -> list[int]:
        return self.held.tolist()

    def append(self, ids: Tensor) -> None:
        """One position per row, ids `[r]`."""
        if int(self.held.max()) + 1 >= self.ids.shape[1]:
            self.ids, self.hashes = pad(self.ids, (0, 32), value=START), pad(self.hashes, (0, 32))
        row = torch.arange(len(ids))
        before = torch.where(self.held > 0, self.hashes[row, (self.held - 1).clamp_min(0)], 0)
        self.ids[row, self.held], self.hashes[row, self.held] = ids, before + (ids + 1) * WEIGHTS[self.held]
        self.held, self.unverified = self.held + 1, self.unverified + 1

    def check(self) -> None:
        """Recomputes all hashes from the ids."""
        length = int(self.held.max())
        hashes = ((self.ids[:, :length] + 1) * WEIGHTS[:length]).cumsum(dim=1)
        assert ((hashes == self.hashes[:, :length]) | (torch.arange(length) >= self.held[:, None])).all()

    def truncate(self, lengths: list[int]) -> None:
        assert self.unverified == 0, "truncated before what was drafted was verified"
        new = torch.tensor(lengths)
        assert new.shape == self.held.shape and (new >= 1).all() and (new <= self.held).all()
        self.held = new
        self.unequal |= bool((new != new[0]).any())

    def select(self, rows: Tensor) -> None:
        assert self.unverified == 0
        for name in ("sources", "rows", "ids", "hashes", "held"):
            setattr(self, name, getattr(self, name)[rows])
        self.widths.append(len(rows))


class DraftingStep:
    """Logits from tables: by source, position and the last two ids. `noise` is how far drafts are off the model."""

    def __init__(self, sources: int = 1, length: int = 3, noise: float = 1.0, seed: int = 0, sharpness: float = 1.0):
        generator = torch.Generator().manual_seed(seed)
        shape = (sources, length, VOCABULARY + 1, VOCABULARY + 1, VOCABULARY)
        self.model, difference = (torch.randn(shape, generator=generator) for _ in range(2))
        self.model, self.drafts_of_cycle = sharpness * self.model, []
        self.drafts = self.model + noise * difference

    def new_cache(self, rows: int) -> DraftingCache:
        """Row i belongs to source `i % sources`."""
        return DraftingCache(torch.arange(rows) % len(self.model))

    def look_up(self, table: Tensor, cache: DraftingCache, back: int) -> Tensor:
        """Logits behind the position that lies `back` before each row's last."""
        at, row = cache.held - 1 - back, torch.arange(len(cache.held))
        previous = torch.where(at > 0, cache.ids[row, (at - 1).clamp_min(0)], START)
        return table[cache.sources, at.clamp_max(table.shape[1] - 1), previous, cache.ids[row, at]]

    def draft(self, ids: Tensor, cache: DraftingCache, head: bool = True) -> Tensor:
        assert len(ids) == len(cache.held), "one row of ids per row of the cache"
        columns = list(ids.unbind(dim=1))
        if int(cache.held.max()) == 0:
            columns = [torch.full_like(cache.held, START), *columns]
        assert columns, "nothing to draft from"
        logits = []
        for column in columns:
            cache.append(column)
            logits.append(self.look_up(self.drafts, cache, 0))
        return torch.stack(logits, dim=1)

    def verify(self, cache: DraftingCache) -> Tensor:
        assert cache.unverified > 0, "nothing to verify"
        cache.check()
        self.drafts_of_cycle.append(cache.unverified - 1)
        count, cache.unverified = cache.unverified, 0
        return torch.stack([self.look_up(self.model, cache, back) for back in reversed(range(count))], dim=1)

    def plain(self, ids: Tensor, cache: DraftingCache) -> Tensor:
        """The same model for `sample_ids`."""
        self.draft(ids, cache)
        return self.verify(cache)
