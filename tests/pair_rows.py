"""Folders of pairs for tests: pairs that follow from their numbers, and three fixed ones."""

import os

import numpy as np
import pytest
import torch

from spear_tts_pytorch.data.pairs import PairWriter

ROWS = [([3, 4, 4, 19], [1, 2]), ([0], []), ([7] * 9, [29, 1, 1])]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def row(number):
    """A pair that follows from its number."""
    draw = np.random.default_rng(number)
    return draw.integers(0, 500, number % 13).tolist(), draw.integers(1, 30, number % 5).tolist()


def fill(folder, rows=40, start=0, **options):
    options = {"num_semantic_token_ids": 500, "num_text_token_ids": 30, "rows_per_shard": 7, **options}
    with PairWriter(folder, **options) as writer:
        for number in range(start, start + rows):
            score = None if number % 10 == 9 else -number / 10
            writer.write(f"u{number}", *row(number), text=f"text {number}", score=score)
    return folder


def as_lists(dataset):
    return [tuple(part.tolist() for part in dataset[i]) for i in range(len(dataset))]


def write_rows(folder, rows=ROWS, **options):
    options = {"num_semantic_token_ids": 20, "num_text_token_ids": 30, **options}
    with PairWriter(folder, **options) as writer:
        for index, (semantic_ids, text_ids) in enumerate(rows):
            writer.write(f"utt{index}", torch.tensor(semantic_ids), text_ids, text="ab", score=-0.5 * index)
