"""Mel features: the filterbank, the cosine transform and the differences are what their names say."""

import torch

from spear_tts_pytorch.tokenizers.mel import MelSettings, cosine_transform, features_of, log_mel, mel_filterbank


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
