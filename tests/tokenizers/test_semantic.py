"""One way to call any semantic tokenizer: on a padded batch, on clips of uneven lengths; descriptions."""

import pytest
import torch
from torch import nn

from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
from spear_tts_pytorch.tokenizers.semantic import describe, tokenize_clips, tokenize_waveform


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


@pytest.mark.parametrize("foreign", [Counter(), CounterModule()])
def test_clips_of_uneven_lengths_become_rows_without_padding(foreign):
    rows = tokenize_clips(foreign, [torch.rand(300), torch.rand(500).double()], 16000, device=torch.device("cpu"))
    assert [row.tolist() for row in rows] == [[0, 1, 2], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "clips is empty: give at least one waveform"),
        ([torch.rand(300), torch.rand(0)], r"clips\[1\] must have the shape \[t\] and hold samples, got \[0\]"),
        ([torch.rand(2, 300)], r"clips\[0\] must have the shape \[t\] and hold samples, got \[2, 300\]"),
        ([torch.full((300,), torch.nan)], "NaN or infinite"),
    ],
)
def test_bad_clips_are_refused(clips, message):
    with pytest.raises(ValueError, match=message):
        tokenize_clips(Counter(), clips)


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
