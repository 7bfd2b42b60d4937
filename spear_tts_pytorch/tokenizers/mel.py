"""Mel spectra of waveforms, the features computed from them, and the way back to a waveform.

In: one mono float32 waveform `[t]`. Out: log-mel spectra `[n, m]` and features `[n, d]`, one row per hop; frames
never reach beyond the waveform, so that n = 1 + (t - window) // hop. Back: Griffin-Lim from log-mel spectra.
Clips pass one at a time, so the numbers of a clip cannot depend on other clips of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from spear_tts_pytorch.utils.json_files import field

FEATURES = ("mfcc", "logmel")
MOST_HZ, MOST_MELS = 768_000, 1024
CHUNK_FRAMES = 4096  # frames transformed at once, so that an hour of audio needs little memory
DYNAMIC_RANGE = 1e-7  # bands are raised to 70 dB below the clip's loudest: digital silence has one value
DELTA_WEIGHTS = (0.6, 0.3)  # of first and second differences; the coefficients themselves have the weight 1


@dataclass(frozen=True)
class MelSettings:
    """All numbers on which the features depend.

    Attributes:
        sample_hz: sampling rate in Hz.
        hop: samples between two frames.
        num_mels: number of mel bands.
        f_min, f_max: limits of the bands in Hz.
        num_mfcc: number of cepstral coefficients.
        features: "mfcc" (the coefficients, their first and second differences: d = 3 * num_mfcc) or
            "logmel" (the bands themselves: d = num_mels).

    Raises:
        ValueError: a number out of range.
    """

    sample_hz: int
    hop: int
    num_mels: int = 40
    f_min: float = 50.0
    f_max: float = 8000.0
    num_mfcc: int = 13
    features: str = "mfcc"

    def __post_init__(self) -> None:
        if not 0 < self.sample_hz <= MOST_HZ or not 0 < self.num_mels <= MOST_MELS:
            raise ValueError(
                f"sample_hz must be 1 to {MOST_HZ} and num_mels 1 to {MOST_MELS}, got {self.sample_hz}, {self.num_mels}"
            )
        if self.features not in FEATURES:
            raise ValueError(f"features must be one of {FEATURES}, got {self.features!r}")
        if not 0 < self.hop <= self.window:
            raise ValueError(f"the hop of {self.hop} samples must be between 1 and the window, {self.window} samples")
        if not 0 <= self.f_min < self.f_max <= self.sample_hz / 2:
            raise ValueError(
                f"need 0 <= f_min < f_max <= {self.sample_hz / 2:g} Hz, got f_min={self.f_min:g}, f_max={self.f_max:g}"
            )
        if self.features == "mfcc" and not 1 <= self.num_mfcc <= self.num_mels:
            raise ValueError(f"num_mfcc must be between 1 and num_mels={self.num_mels}, got {self.num_mfcc}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MelSettings:
        """The settings that `dataclasses.asdict` turned into JSON types.

        Raises:
            ValueError: a field is missing, unknown, of another type or out of range.
        """
        kinds: dict[str, type] = {"int": int, "float": float, "str": str}
        unknown = sorted(set(values) - {one.name for one in fields(cls)})
        if unknown:
            raise ValueError(f"settings has the unknown field {unknown[0]!r}")
        given: dict[str, Any] = {one.name: field(values, one.name, kinds[str(one.type)]) for one in fields(cls)}
        return cls(**given)

    @classmethod
    def for_audio(
        cls, sample_hz: int, target_sample_hz: int | None, hop_seconds: float, *, num_mels: int, features: str
    ) -> MelSettings:
        """Settings for audio at `sample_hz` that is resampled to `target_sample_hz`; None keeps its rate."""
        target_hz = sample_hz if target_sample_hz is None else target_sample_hz
        hop, longest = hop_seconds * target_hz, _window_of(target_hz)
        if not 1 <= round(min(max(hop, 0), 2.0 * longest)) <= longest:
            raise ValueError(
                f"hop_seconds must be 1 to {longest} samples (one window), that is {1 / target_hz:g} to "
                f"{longest / target_hz:g} s at {target_hz} Hz, got {hop_seconds}"
            )
        return cls(
            sample_hz=target_hz,
            hop=round(hop),
            num_mels=num_mels,
            f_max=min(sample_hz, target_hz) / 2,  # the audio has no content above half of either rate
            features=features,
        )

    @property
    def window(self) -> int:
        """Samples in one frame: the power of two nearest to 32 ms."""
        return _window_of(self.sample_hz)

    @property
    def dim(self) -> int:
        """Width d of the features."""
        return self.num_mels if self.features == "logmel" else self.num_mfcc * (1 + len(DELTA_WEIGHTS))

    @property
    def weights(self) -> Tensor:
        """Weight of each normalised feature, `[d]`."""
        if self.features == "logmel":
            return torch.ones(self.num_mels, dtype=torch.float32)
        return torch.tensor([1.0, *DELTA_WEIGHTS], dtype=torch.float32).repeat_interleave(self.num_mfcc)


def _window_of(sample_hz: int) -> int:
    return 2 ** round(math.log2(0.032 * sample_hz))


def hz_to_mel(hz: Tensor | float) -> Tensor:
    """Hz to mel by the formula of HTK, float64."""
    return 1127.0 * torch.log1p(torch.as_tensor(hz, dtype=torch.float64) / 700.0)


@lru_cache(maxsize=16)
def mel_filterbank(settings: MelSettings) -> Tensor:
    """Triangles of height 1, evenly spaced in mel from `f_min` to `f_max`: `[window // 2 + 1, num_mels]`.

    Raises:
        ValueError: so many bands that some contain no frequency of the transform.
    """
    bins = torch.linspace(0, settings.sample_hz / 2, settings.window // 2 + 1, dtype=torch.float64)
    low, high = hz_to_mel(settings.f_min), hz_to_mel(settings.f_max)
    edges = torch.linspace(float(low), float(high), settings.num_mels + 2, dtype=torch.float64)
    mels = hz_to_mel(bins)[:, None]
    rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    if (filters.sum(dim=0) == 0).any():
        raise ValueError(
            f"num_mels={settings.num_mels} is too many for {settings.sample_hz} Hz: some bands are empty, use fewer"
        )
    return filters.float()


@lru_cache(maxsize=16)
def cosine_transform(num_mels: int, num_mfcc: int) -> Tensor:
    """The first `num_mfcc` rows of the orthonormal DCT-II, as `[num_mels, num_mfcc]`."""
    position = (torch.arange(num_mels, dtype=torch.float64) + 0.5) * math.pi / num_mels
    basis = torch.cos(position[:, None] * torch.arange(num_mfcc)) * math.sqrt(2 / num_mels)
    basis[:, 0] /= math.sqrt(2)
    return basis.float()


def log_mel(wav: Tensor, settings: MelSettings) -> Tensor:
    """Log power in each mel band of a waveform `[t]`, t >= window: `[n, num_mels]`."""
    window = torch.hann_window(settings.window, dtype=wav.dtype, device=wav.device)
    filters = mel_filterbank(settings).to(wav.device)
    frames = wav.unfold(0, settings.window, settings.hop)  # [n, window], a view
    chunks = torch.split(frames, CHUNK_FRAMES)
    bands: list[Tensor] = [_spectra(chunk * window).abs().square() @ filters for chunk in chunks]
    mel = torch.cat(bands)
    return mel.clamp(min=max(float(mel.max()) * DYNAMIC_RANGE, 1e-30)).log()


def _spectra(frames: Tensor) -> Tensor:
    """Complex spectra `[n, window // 2 + 1]` of frames `[n, window]`."""
    return cast(Tensor, torch.fft.rfft(frames))


def features_of(spectra: Tensor, settings: MelSettings) -> Tensor:
    """Features of the log-mel spectra `[n, num_mels]` of one clip, not yet normalised: `[n, d]`."""
    if settings.features == "logmel":
        return spectra
    parts = [spectra @ cosine_transform(settings.num_mels, settings.num_mfcc).to(spectra.device)]
    for _ in DELTA_WEIGHTS:
        parts.append(_slope(parts[-1]))
    return torch.cat(parts, dim=-1)


def _slope(rows: Tensor) -> Tensor:
    """Slope of a line through each row and its two neighbours on either side, `[n, d]`; the ends are repeated."""
    padded = torch.cat([rows[:1].expand(2, -1), rows, rows[-1:].expand(2, -1)])
    return (2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10


def normalized(features: Tensor, stats: Tensor | None, settings: MelSettings) -> Tensor:
    """Features `[n, d]` shifted to mean 0, scaled to variance 1, and weighted.

    Args:
        stats: mean and standard deviation `[2, d]`; those of `features` itself if None.
    """
    if stats is None:
        stats = torch.stack([features.mean(dim=0), features.std(dim=0, correction=0)])
    return (features - stats[0]) / (stats[1] + 1e-5) * settings.weights.to(features.device)


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """For each of `rows` `[n, d]` the index of the nearest of the `centroids` `[K, d]`: `[n]`."""
    offsets = 0.5 * centroids.square().sum(dim=-1)
    chunks = torch.split(rows, CHUNK_FRAMES) or (rows,)
    return torch.cat([(chunk @ centroids.T - offsets).argmax(dim=-1) for chunk in chunks])


def mel_to_linear(spectra: Tensor, settings: MelSettings, steps: int = 50) -> Tensor:
    """Power spectra `[n, window // 2 + 1]`, at least 0, whose mel bands are closest to the log-mel `[n, num_mels]`."""
    return bands_to_linear(spectra.exp(), mel_filterbank(settings).to(spectra.device), steps)


def bands_to_linear(bands: Tensor, filters: Tensor, steps: int = 50) -> Tensor:
    """Power spectra `[n, f]`, at least 0, whose bands through `filters` `[f, m]` are closest to `bands` `[n, m]`."""
    scale = bands.amax(dim=-1, keepdim=True)
    target = bands / scale
    # Multiplicative updates of non-negative least squares (Lee and Seung, https://papers.nips.cc/paper/1861). The start
    # spreads each band evenly over its triangle: it is smoother than the pseudo-inverse and has no negative values.
    power = (target / filters.sum(dim=0)) @ filters.T
    for _ in range(steps):
        power = power * (target @ filters.T) / ((power @ filters) @ filters.T).clamp(min=1e-12)
    return power * scale


def griffin_lim(magnitudes: Tensor, hop: int, *, iterations: int = 32, momentum: float = 0.9, seed: int = 0) -> Tensor:
    """A waveform `[(m - 1) * hop + window]` whose spectra have the given magnitudes `[m, window // 2 + 1]`.

    Griffin and Lim with the momentum of Perraudin et al. (https://doi.org/10.1109/WASPAA.2013.6701851).
    """
    window = torch.hann_window(2 * (magnitudes.shape[1] - 1), dtype=magnitudes.dtype, device=magnitudes.device)
    generator = torch.Generator().manual_seed(seed)
    angles = (
        2 * math.pi * torch.rand(magnitudes.shape, generator=generator, dtype=magnitudes.dtype).to(magnitudes.device)
    )
    phases = torch.polar(torch.ones_like(angles), angles)
    previous = torch.zeros_like(phases)
    for _ in range(iterations):
        wav = _overlap_add(magnitudes * phases, window, hop)
        spectra = _spectra(wav.unfold(0, window.shape[0], hop) * window)
        phases = spectra + momentum * (spectra - previous)
        phases = phases / phases.abs().clamp(min=1e-12)
        previous = spectra
    return _overlap_add(magnitudes * phases, window, hop)


def _overlap_add(spectra: Tensor, window: Tensor, hop: int) -> Tensor:
    """The waveform whose windowed spectra are closest to `spectra` `[m, bins]` in the least-squares sense."""
    size, count = window.shape[0], spectra.shape[0]
    frames = cast(Tensor, torch.fft.irfft(spectra, n=size)) * window
    both = torch.stack([frames, window.square().expand(count, -1)]).transpose(1, 2)  # [2, size, m]
    length = (count - 1) * hop + size
    wav, weight = F.fold(both, (1, length), (1, size), stride=(1, hop))[:, 0, 0]
    # At both ends a single window is near 0: dividing by it would make these samples huge.
    return wav / weight.clamp(min=0.05)


def spectra_to_wav(spectra: Tensor, hop: int, *, iterations: int = 32, seed: int = 0) -> Tensor:
    """A waveform `[(n - 1) * hop + window]` from linear power spectra `[n, window // 2 + 1]`, one per hop.

    Spectra are interpolated to a quarter of the hop first, because Griffin-Lim needs frames that overlap more.
    """
    fine, window = max(1, hop // 4), 2 * (spectra.shape[1] - 1)
    length = (spectra.shape[0] - 1) * hop + window
    count = 1 + (length - window) // fine
    position = torch.arange(count, dtype=torch.float32, device=spectra.device) * (fine / hop)
    left = position.floor().long().clamp(max=spectra.shape[0] - 1)
    right = (left + 1).clamp(max=spectra.shape[0] - 1)
    mix = (position - left)[:, None].to(spectra.dtype)
    log_power = spectra.clamp(min=1e-20).log()
    magnitudes = (0.5 * torch.lerp(log_power[left], log_power[right], mix)).exp()
    wav = griffin_lim(magnitudes, fine, iterations=iterations, seed=seed)
    return F.pad(wav, (0, length - wav.shape[0]))
