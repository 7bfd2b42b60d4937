"""Log-mel spectra as the published Whisper models take them, and the way back to a waveform.

In: one mono float32 waveform `[t]` at 16 kHz. Out: log-mel spectra `[n, 80]`, n = t // 160: one each 10 ms, centred there.
A value is (4 + the decimal logarithm of the power) / 4, at most 2 below the clip's highest. Back: Griffin-Lim.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.tokenizers.mel import bands_to_linear, spectra_to_wav

SAMPLE_HZ, WINDOW, HOP, BANDS = 16_000, 400, 160, 80
MEL_HZ = SAMPLE_HZ // HOP
LEAST_SAMPLES = WINDOW // 2 + 1  # of a clip, which is mirrored at its ends
QUIETEST = 1e-10  # power of a band
RANGE = 2.0  # between the highest and the lowest value of a clip: 8 decades of power
LINEAR_HZ, MEL_OF_HZ, PER_NEPER = 1000.0, 3 / 200, 27 / math.log(6.4)  # mel: linear up to 1 kHz, then logarithmic


def whisper_mel(wav: Tensor) -> Tensor:
    """The log-mel spectra of a waveform `[t]`, t > 200, equal to those of `WhisperFeatureExtractor`: `[t // 160, 80]`."""
    options: dict[str, Any] = {"window": torch.hann_window(WINDOW).to(wav), "return_complex": True}
    power = torch.stft(wav, WINDOW, HOP, **options)[:, :-1].abs().square()  # [201, n]
    mel = ((power.T @ whisper_filters().to(wav)).clamp(min=QUIETEST).log10() + 4) / 4
    return mel.clamp(min=float(mel.max()) - RANGE)


def log_power(mel: Tensor) -> Tensor:
    """The natural logarithm of the power in each band of `[n, 80]`."""
    return (4 * mel - 4) * math.log(10)


def mel_to_wav(mel: Tensor, *, iterations: int = 32, seed: int = 0) -> Tensor:
    """A waveform `[160 n]` within -1..1 whose log-mel spectra are about `mel` `[n, 80]`, by Griffin-Lim."""
    power = bands_to_linear(log_power(mel).exp(), whisper_filters().to(mel))
    wav = spectra_to_wav(power, HOP, iterations=iterations, seed=seed)
    ahead = WINDOW // 2  # the first spectrum is centred at the first sample
    wav = F.pad(wav, (0, ahead))[ahead : ahead + HOP * len(mel)]
    return wav / wav.abs().amax().clamp(min=1.0)


@lru_cache(maxsize=1)
def whisper_filters() -> Tensor:
    """Triangles of area 1 in Hz, evenly spaced up to 8 kHz on the mel scale of Slaney's Auditory Toolbox: `[201, 80]`."""
    break_mel = LINEAR_HZ * MEL_OF_HZ
    highest = break_mel + PER_NEPER * math.log(SAMPLE_HZ / 2 / LINEAR_HZ)
    mels = torch.linspace(0, highest, BANDS + 2, dtype=torch.float64)
    edges = torch.where(mels < break_mel, mels / MEL_OF_HZ, LINEAR_HZ * ((mels - break_mel) / PER_NEPER).exp())
    bins = torch.linspace(0, SAMPLE_HZ / 2, WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])).float()
