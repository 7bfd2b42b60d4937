"""Calling semantic tokenizers that know nothing of lengths."""

import pytest
import torch
from torch import nn

from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
from spear_tts_pytorch.tokenizers.semantic import describe, tokenize_waveform


class Counter:
    """A tokenizer as other packages make them, without lengths: one id per 100 samples, the number of the frame."""

    codebook_size, target_sample_hz, downsample_factor = 1000, 16000, 100

    def __call__(self, wav, flatten=True, input_sample_hz=None):
        ids = torch.arange(wav.shape[1] // 100).expand(wav.shape[0], -1)
        return ids.flatten() if flatten else ids


class CounterModule(nn.Module):
    def forward(self, wav, flatten=True, input_sample_hz=None):
        return Counter()(wav, flatten)


@pytest.mark.parametrize("foreign", [Counter(), CounterModule()])
def test_tokenizers_without_lengths_are_called_clip_by_clip(foreign):
    ids = tokenize_waveform(foreign, torch.rand(2, 500), torch.tensor([300, 500]), 16000)
    assert ids.tolist() == [[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]]
    assert tokenize_waveform(foreign, torch.rand(2, 500)).shape == (2, 5)
    assert tokenize_waveform(foreign, torch.rand(500)).shape == (1, 5)


def test_tokenizers_that_cannot_describe_themselves_are_told_apart():
    larger = Counter()
    larger.codebook_size = 2000
    for kind in (lambda one: one, UniqueConsecutive):
        one, other = describe(kind(Counter())), describe(kind(larger))
        assert one["type"] == other["type"] == "Counter" and (one["codebook_size"], other["codebook_size"]) == (
            1000,
            2000,
        )
    assert describe(UniqueConsecutive(Counter())) != describe(Counter())
