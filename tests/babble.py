"""Clips that sound like vowels, made of a seed: speech enough for tokenizers, without files."""

from functools import lru_cache

import numpy as np

HZ = 16000


def babble(seed, seconds=1.5, sample_hz=HZ):
    """Vowel-like sounds of 60 to 200 ms, loud and soft: harmonics of a random pitch under two formants, some noise."""
    rng = np.random.default_rng(seed)
    pieces, total = [], 0
    while total < seconds * sample_hz:
        time = np.arange(int(rng.uniform(0.06, 0.2) * sample_hz)) / sample_hz
        harmonics = np.arange(1, 25) * rng.uniform(90, 150)
        formants = rng.choice([300, 500, 700]), rng.choice([1000, 1600, 2200])
        heights = sum(np.exp(-(((harmonics - formant) / 200) ** 2)) for formant in formants) + 0.01
        sound = (heights[:, None] * np.sin(2 * np.pi * harmonics[:, None] * time)).sum(axis=0)
        pieces.append(10 ** rng.uniform(-3, -1) * sound + 0.0003 * rng.standard_normal(len(time)))
        total += len(time)
    return np.concatenate(pieces)[: int(seconds * sample_hz)].astype(np.float32)


@lru_cache(maxsize=1)
def make_clips():
    """40 clips of 1.5 seconds; not to be changed in place."""
    return [babble(seed) for seed in range(40)]
