"""Whisper's log-mel spectra equal those of transformers, and go back to a waveform."""

import pytest
import torch
from babble import make_clips

from spear_tts_pytorch.tokenizers.whisper_mel import HOP, LEAST_SAMPLES, log_power, mel_to_wav, whisper_mel


def tones(seconds, loudness=0.3):
    time = torch.arange(int(16000 * seconds)) / 16000
    return loudness * (torch.sin(2 * torch.pi * 440 * time) + torch.sin(2 * torch.pi * 3000 * time * (1 + time)))


@pytest.mark.parametrize("samples", [LEAST_SAMPLES, 1600, 8001, 16000])
@pytest.mark.parametrize("loudness", [0.3, 1e-4])
def test_spectra_are_those_of_the_feature_extractor(samples, loudness):
    transformers = pytest.importorskip("transformers")
    wav = tones(1.0, loudness)[:samples] + 0.01 * loudness * torch.randn(
        samples, generator=torch.Generator().manual_seed(0)
    )
    extract = transformers.WhisperFeatureExtractor()
    expected = extract(wav.numpy(), sampling_rate=16000, padding="do_not_pad", return_tensors="pt")["input_features"][
        0
    ].T
    mel = whisper_mel(wav)
    assert mel.shape == (samples // HOP, 80) == expected.shape
    torch.testing.assert_close(mel, expected, atol=1e-4, rtol=0)


def test_power_of_a_band_is_the_exponential_of_its_logarithm():
    loud, soft = (log_power(whisper_mel(tones(0.5, loudness))) for loudness in (0.2, 0.1))
    difference = (loud - soft)[10:-10].max(dim=1).values
    torch.testing.assert_close(difference, torch.full_like(difference, 4.0).log(), atol=1e-2, rtol=0)


def test_a_waveform_comes_back_with_its_spectra():
    mel = whisper_mel(torch.tensor(make_clips()[0]))
    wav = mel_to_wav(mel)
    assert wav.shape == (HOP * len(mel),) and wav.abs().max() <= 1
    assert (whisper_mel(wav) - mel).abs().mean() < 0.1
    assert torch.equal(wav, mel_to_wav(mel)) and not torch.equal(wav, mel_to_wav(mel, seed=1))
