"""Fitting of `MelKmeans`: features of many clips in bounded memory, and k-means over them.

In: one-dimensional waveforms. Out: centroids, and for each cluster its mean spectrum and how long it lasts.
Knows nothing of batches, files or models.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spear_tts_pytorch.tokenizers.mel import MelSettings, features_of, log_mel, nearest, normalized
from spear_tts_pytorch.tokenizers.semantic import check_wav, problem_with, resampled


@dataclass
class Clusters:
    """What was learned: see the arguments of `MelKmeans` of the same names."""

    centroids: Tensor
    cluster_log_mel: Tensor
    run_lengths: Tensor
    speaker_stats: dict[str, Tensor]


@dataclass
class _Clip:
    """Features `[n, d]`, log-mel spectra `[n, m]` and speaker of one clip."""

    features: Tensor
    spectra: Tensor
    speaker: str | None


def fit_clusters(
    clips: Iterable[np.ndarray | Tensor],
    sample_hz: int,
    num_clusters: int,
    settings: MelSettings,
    *,
    speakers: Sequence[str | None] | None,
    per_speaker: bool,
    max_frames: int,
    seed: int,
    progress: bool,
) -> Clusters:
    """Mini-batch k-means over the normalised features of `clips`; arguments as in `MelKmeans.fit`."""
    kmeans_class = _minibatch_kmeans()
    rng = np.random.default_rng(seed)
    seen = _collect(clips, speakers, sample_hz, settings, max_frames, rng, progress)
    stats = _speaker_stats(seen) if per_speaker else {}
    points = [normalized(clip.features, stats.get(clip.speaker or ""), settings) for clip in seen]
    count = sum(len(rows) for rows in points)
    if count < num_clusters:
        raise ValueError(
            f"num_clusters={num_clusters} needs at least as many frames, but the clips give {count}: "
            "give more audio or ask for fewer clusters"
        )
    data = torch.cat(points).numpy()
    if count > max_frames:
        data = data[rng.choice(count, max_frames, replace=False)]
    kmeans = kmeans_class(num_clusters, batch_size=8192, n_init=3, max_iter=30, random_state=seed).fit(data)
    centroids = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    ids = [nearest(rows, centroids) for rows in points]
    return Clusters(centroids, _cluster_spectra(seen, ids, num_clusters), _mean_run_lengths(ids, num_clusters), stats)


def _minibatch_kmeans() -> Any:
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError('fitting MelKmeans needs scikit-learn: pip install "spear-tts-pytorch[demo]"') from error
    return MiniBatchKMeans


def _collect(
    clips: Iterable[np.ndarray | Tensor],
    speakers: Sequence[str | None] | None,
    sample_hz: int,
    settings: MelSettings,
    max_frames: int,
    rng: np.random.Generator,
    progress: bool,
) -> list[_Clip]:
    """Features of a random part of the clips, of at most about twice `max_frames` frames."""
    kept: list[_Clip] = []
    frames, share, skipped, index = 0, 1.0, 0, -1
    bar = tqdm(clips, desc="features", unit="clip", disable=None if progress else True, leave=False)
    for index, clip in enumerate(bar):
        if speakers is not None and index >= len(speakers):
            raise ValueError(f"speakers names {len(speakers)} speakers, but there are more clips than that")
        wav = resampled(check_wav(clip, name="each clip", ndim=1)[0].float(), sample_hz, settings.sample_hz)
        if problem_with(wav, settings.window, settings.sample_hz):
            skipped += 1
            continue
        if share < 1 and rng.random() > share:
            continue
        spectra = log_mel(wav, settings)
        kept.append(_Clip(features_of(spectra, settings), spectra, speakers[index] if speakers is not None else None))
        frames += len(spectra)
        if frames > 2 * max_frames and len(kept) > 1:
            # Half of what is kept goes, and of the clips to come half as many stay: uniform over all clips.
            kept = [kept[i] for i in sorted(rng.permutation(len(kept))[: len(kept) // 2])]
            frames, share = sum(len(clip.spectra) for clip in kept), share / 2
    if speakers is not None and index + 1 != len(speakers):
        raise ValueError(f"speakers must name one speaker for each of the {index + 1} clips, got {len(speakers)}")
    if skipped:
        warnings.warn(
            f"{skipped} of {index + 1} clips were left out: too short, silent, not finite or not in -1..1",
            stacklevel=4,
        )
    return kept


def _speaker_stats(clips: list[_Clip]) -> dict[str, Tensor]:
    """Mean and standard deviation of each speaker's features, `[2, d]`."""
    of_speaker: dict[str, list[Tensor]] = {}
    for clip in clips:
        if clip.speaker:
            of_speaker.setdefault(clip.speaker, []).append(clip.features)
    stats = {}
    for name, parts in of_speaker.items():
        rows = torch.cat(parts)
        stats[name] = torch.stack([rows.mean(dim=0), rows.std(dim=0, correction=0)])
    return stats


def _cluster_spectra(clips: list[_Clip], ids: list[Tensor], num_clusters: int) -> Tensor:
    """Mean log-mel spectrum of each cluster, `[K, m]`, had every clip been equally loud."""
    levels = torch.stack([clip.spectra.logsumexp(dim=-1).exp().mean().log() for clip in clips])
    level = levels.mean()
    rows = torch.cat([clip.spectra - own + level for clip, own in zip(clips, levels, strict=True)])
    all_ids = torch.cat(ids)
    sums = torch.zeros(num_clusters, rows.shape[1]).index_add_(0, all_ids, rows)
    counts = all_ids.bincount(minlength=num_clusters)[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), rows.mean(dim=0))


def _mean_run_lengths(ids: list[Tensor], num_clusters: int) -> Tensor:
    """For how many frames each id lasts on average, `[K]`; one for ids that never occur."""
    frames, runs = torch.zeros(num_clusters), torch.zeros(num_clusters)
    for row in ids:
        frames += row.bincount(minlength=num_clusters)
        runs += row.unique_consecutive().bincount(minlength=num_clusters)
    return torch.where(runs > 0, frames / runs.clamp(min=1), 1.0)
