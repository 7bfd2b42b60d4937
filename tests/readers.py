"""A made-up speech that is easy to read, and a small network of a judge, untrained."""

import torch

from spear_tts_pytorch.recipe.evaluate import SemanticASR

K, V = 24, 7  # semantic ids 0..23, text ids 1..6


def made_up_pairs(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Text id t is spoken as 2 to 4 semantic ids of its own four, 4 (t - 1) to 4 t - 1, in order."""
    noise = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        text = torch.randint(1, V, (int(torch.randint(2, 7, (), generator=noise)),), generator=noise)
        sounds = []
        for token in text.tolist():
            kept = torch.randperm(4, generator=noise)[: int(torch.randint(2, 5, (), generator=noise))]
            sounds.append(4 * (token - 1) + kept.sort().values)
        pairs.append((torch.cat(sounds), text))
    return pairs


def small_evaluator(**options) -> SemanticASR:
    torch.manual_seed(0)
    return SemanticASR(K, V, dim=32, depth=1, **options)
