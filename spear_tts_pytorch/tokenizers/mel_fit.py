"""Fitting of `MelKmeans`: features of many clips in bounded memory, and k-means over them.

In: waveforms `[t]`. Out: centroids `[K, d]`, and for each cluster its mean spectrum `[K, m]` and mean duration `[K]`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spear_tts_pytorch.tokenizers.mel import MelSettings, features_of, log_mel, nearest, normalized
from spear_tts_pytorch.tokenizers.semantic import check_wav, problem_with, resampled
from spear_tts_pytorch.tokens import remove_repeats
from spear_tts_pytorch.utils.values import plain, settle, shown, switch, whole_number


@dataclass
class Clusters:
    """The result of fitting; the attributes are arguments of `MelKmeans`."""

    centroids: Tensor
    cluster_log_mel: Tensor
    run_lengths: Tensor
    speaker_stats: dict[str, Tensor]


@dataclass(frozen=True)
class FitOptions:
    """Options of `MelKmeans.fit` that concern k-means, with the same names."""

    num_clusters: int
    max_frames: int
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        most = whole_number("max_frames", self.max_frames, 1)
        clusters = whole_number("num_clusters", self.num_clusters, 1)
        if clusters > most:
            raise ValueError(
                f"num_clusters={clusters} needs max_frames of at least as many, got {most}: ask for fewer clusters, or raise "
                "max_frames"
            )
        seed, progress = whole_number("seed", self.seed, 0, 2**32 - 1), switch("progress", self.progress)
        settle(self, {"num_clusters": clusters, "max_frames": most, "seed": seed, "progress": progress})


@dataclass
class _Clip:
    """Features `[n, d]`, log-mel spectra `[n, m]` and speaker of one clip."""

    features: Tensor
    spectra: Tensor
    speaker: str | None


def fit_clusters(
    clips: Iterable[np.ndarray | Tensor],
    sample_hz: int,
    settings: MelSettings,
    options: FitOptions,
    speakers: Sequence[str | None] | None,
    *,
    per_speaker: bool,
) -> Clusters:
    """Mini-batch k-means over the normalised features of `clips`; arguments as in `MelKmeans.fit`."""
    kmeans_class = minibatch_kmeans("fitting MelKmeans", extra="demo")
    rng = np.random.default_rng(options.seed)
    seen = _collect(clips, speakers, sample_hz, settings, options, rng)
    stats = _speaker_stats(seen) if per_speaker else {}
    points = [normalized(clip.features, stats.get(clip.speaker or ""), settings) for clip in seen]
    count, num_clusters = sum(len(rows) for rows in points), options.num_clusters
    if count == 0:
        raise ValueError("clips holds no clip that can be used (silent, too short, not in -1..1): give clips of speech")
    if count < num_clusters:
        raise ValueError(
            f"num_clusters={num_clusters} needs at least as many frames, but the clips give {count}: "
            "give more audio or ask for fewer clusters"
        )
    data = torch.cat(points).numpy()
    if count > options.max_frames:
        data = data[rng.choice(count, options.max_frames, replace=False)]
    kmeans = kmeans_class(num_clusters, batch_size=8192, n_init=3, max_iter=30, random_state=options.seed).fit(data)
    centroids = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    ids = [nearest(rows, centroids) for rows in points]
    return Clusters(centroids, _cluster_spectra(seen, ids, num_clusters), _mean_run_lengths(ids, num_clusters), stats)


def minibatch_kmeans(purpose: str, *, extra: str) -> Any:
    """The class `MiniBatchKMeans` of scikit-learn.

    Raises:
        ImportError: scikit-learn is missing; the message names the purpose and the extra that installs it.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError(f'{purpose} needs scikit-learn: pip install "spear-tts-pytorch[{extra}]"') from error
    return MiniBatchKMeans


def _collect(
    clips: Iterable[np.ndarray | Tensor],
    speakers: Sequence[str | None] | None,
    sample_hz: int,
    settings: MelSettings,
    options: FitOptions,
    rng: np.random.Generator,
) -> list[_Clip]:
    """Features of a random part of the clips, at most about twice `max_frames` frames."""
    kept: list[_Clip] = []
    frames, share, index, problems = 0, 1.0, -1, dict[int, str]()
    if isinstance(clips, (str, bytes, Mapping)) or not hasattr(plain(clips), "__iter__"):
        raise TypeError(f"clips must be a list of waveforms, got {shown(cast(object, clips))}")
    bar = tqdm(clips, desc="features", unit="clip", disable=None if options.progress else True, leave=False)
    for index, clip in enumerate(bar):
        if speakers is not None and index >= len(speakers):
            raise ValueError(f"speakers names {len(speakers)} speakers, but there are more clips")
        wav = resampled(check_wav(clip, name=f"clips[{index}]", ndim=1)[0].float(), sample_hz, settings.sample_hz)
        if problem := problem_with(wav, settings.window, settings.sample_hz):
            problems[index] = problem
            continue
        if share < 1 and rng.random() > share:
            continue
        spectra = log_mel(wav, settings)
        kept.append(_Clip(features_of(spectra, settings), spectra, speakers[index] if speakers is not None else None))
        frames += len(spectra)
        if frames > 2 * options.max_frames and len(kept) > 1:
            # Half of the kept clips go, and half as many of the clips to come are kept: each clip has the same chance.
            kept = [kept[i] for i in sorted(rng.permutation(len(kept))[: len(kept) // 2])]
            frames, share = sum(len(clip.spectra) for clip in kept), share / 2
    if speakers is not None and index + 1 != len(speakers):
        raise ValueError(f"speakers must name one speaker for each of the {index + 1} clips, got {len(speakers)}")
    if problems:
        first, problem = next(iter(problems.items()))
        warnings.warn(
            f"{len(problems)} of {index + 1} clips were left out: too short, silent, not finite or not in -1..1 (clips "
            f"{', '.join(map(str, list(problems)[:5]))}{' and others' if len(problems) > 5 else ''}; clip {first} {problem})",
            stacklevel=4,  # the caller of MelKmeans.fit
        )
    return kept


def _speaker_stats(clips: list[_Clip]) -> dict[str, Tensor]:
    """Mean and standard deviation of the features of each speaker, `[2, d]`, by name."""
    of_speaker: dict[str, list[Tensor]] = {}
    for clip in clips:
        if clip.speaker:
            of_speaker.setdefault(clip.speaker, []).append(clip.features)
    stats: dict[str, Tensor] = {}
    for name, parts in of_speaker.items():
        rows = torch.cat(parts)
        stats[name] = torch.stack([rows.mean(dim=0), rows.std(dim=0, correction=0)])
    return stats


def _cluster_spectra(clips: list[_Clip], ids: list[Tensor], num_clusters: int) -> Tensor:
    """Mean log-mel spectrum of each cluster, `[K, m]`, after all clips were brought to one loudness."""
    levels = torch.stack([clip.spectra.logsumexp(dim=-1).exp().mean().log() for clip in clips])
    level = levels.mean()
    rows = torch.cat([clip.spectra - own + level for clip, own in zip(clips, levels, strict=True)])
    all_ids = torch.cat(ids)
    sums = rows.new_zeros(num_clusters, rows.shape[1]).index_add_(0, all_ids, rows)
    counts = all_ids.bincount(minlength=num_clusters)[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), rows.mean(dim=0))


def _mean_run_lengths(ids: list[Tensor], num_clusters: int) -> Tensor:
    """Mean duration of each id in frames, `[K]`; 1 for ids that never occur."""
    frames, runs = torch.zeros(2, num_clusters, dtype=torch.float32)
    for row in ids:
        frames += row.bincount(minlength=num_clusters)
        runs += remove_repeats(row)[0].bincount(minlength=num_clusters)
    return torch.where(runs > 0, frames / runs.clamp(min=1), 1.0)
