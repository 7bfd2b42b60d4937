"""Mel features: the filterbank, the cosine transform and the differences are what their names say."""

import pytest
import torch
from babble import make_clips

from spear_tts_pytorch.tokenizers.mel import (
    MelSettings,
    cosine_transform,
    features_of,
    griffin_lim,
    log_mel,
    mel_filterbank,
    mel_to_linear,
)


@pytest.fixture(scope="module")
def clips():
    return make_clips()


def test_filterbank_covers_every_frequency_once():
    settings = MelSettings(sample_hz=16000, hop=320)
    filters = mel_filterbank(settings)
    inside = torch.linspace(0, 8000, 257)
    inside = (inside > 150) & (inside < 7300)
    # Neighbouring triangles cross: their sum is one wherever two of them are.
    torch.testing.assert_close(filters.sum(dim=1)[inside], torch.ones(int(inside.sum())))


def test_cosine_transform_is_orthonormal():
    basis = cosine_transform(40, 40)
    torch.testing.assert_close(basis.T @ basis, torch.eye(40), atol=1e-5, rtol=0)


def test_a_tone_lights_up_its_band():
    settings = MelSettings(sample_hz=16000, hop=320)
    for hz in (300.0, 1000.0, 4000.0):
        wav = torch.sin(2 * torch.pi * hz * torch.arange(16000) / 16000)
        band = int(log_mel(wav, settings)[20].argmax())
        assert mel_filterbank(settings)[round(hz / 31.25), band] > 0.4


def test_differences_of_a_ramp_are_its_slope():
    settings = MelSettings(sample_hz=16000, hop=320)
    features = features_of(3.0 * torch.arange(12.0)[:, None].expand(-1, 40), settings)
    level, first, second = features[:, 0], features[:, 13], features[:, 26]
    torch.testing.assert_close(first[2:-2], (level[1] - level[0]).expand(8))
    torch.testing.assert_close(second[4:-4], torch.zeros(4), atol=1e-4, rtol=0)


def test_linear_spectra_have_the_mel_bands_they_came_from(clips):
    settings = MelSettings(sample_hz=16000, hop=320)
    spectra = log_mel(torch.tensor(clips[0]), settings)
    power = mel_to_linear(spectra, settings)
    assert (power >= 0).all()
    error = (power @ mel_filterbank(settings) - spectra.exp()).norm(dim=1) / spectra.exp().norm(dim=1)
    assert error.median() < 0.1


def test_griffin_lim_approaches_the_magnitudes(clips):
    window = torch.hann_window(512)
    magnitudes = torch.fft.rfft(torch.tensor(clips[0]).unfold(0, 512, 80) * window).abs()

    def error(iterations):
        wav = griffin_lim(magnitudes, 80, iterations=iterations)
        found = torch.fft.rfft(wav.unfold(0, 512, 80) * window).abs()
        return float((found - magnitudes).norm() / magnitudes.norm())

    assert error(32) < 0.5 * error(1) and error(32) < 0.25
