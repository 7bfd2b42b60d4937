"""Speech to ids without a pretrained model: k-means over mel features, fitted on the user's audio.

In: waveforms `[b, t]` with lengths in samples. Out: int64 ids `[b, n]` in `0..K-1`, one per hop (or, with
`unique_consecutive`, without repeats), padded with -1. Back: ids `[n]` to an audible waveform `[t]`.
Each clip is computed by itself: its ids depend neither on padding nor on the other clips of a batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from spear_tts_pytorch.tokenizers.consecutive import without_repeats
from spear_tts_pytorch.tokenizers.mel import (
    FEATURES,
    MOST_MELS,
    MelSettings,
    features_of,
    log_mel,
    mel_to_linear,
    nearest,
    normalized,
    spectra_to_wav,
)
from spear_tts_pytorch.tokenizers.mel_arguments import checked_stats, finite_tensor, names_of_speakers
from spear_tts_pytorch.tokenizers.mel_fit import FitOptions, fit_clusters
from spear_tts_pytorch.tokenizers.semantic import (
    CONFIG_NAME,
    check_wav,
    checked_rate,
    clips_of,
    read_config,
    shown_rates,
)
from spear_tts_pytorch.tokens import SPEECH_PAD_ID, pad_sequences
from spear_tts_pytorch.utils.json_files import field, texts
from spear_tts_pytorch.utils.replacing import replaced, whole
from spear_tts_pytorch.utils.values import given_path, instance, integers, one_of, real_number, switch, whole_number

FORMAT_VERSION = 1
TENSORS_NAME = "tokenizer.safetensors"
MOST_ITERATIONS = 10_000
MOST_FRAMES = 2**22  # of one sound: 23 hours at 50 a second


class MelKmeans:
    """A semantic tokenizer: one id for each hop (20 ms) of audio, the nearest of K centroids of mel features.

    Usually made by `MelKmeans.fit` or `MelKmeans.load`.

    Args:
        centroids: `[K, d]`, float32.
        cluster_log_mel: `[K, num_mels]`, the mean log-mel spectrum of each cluster, not normalised.
        run_lengths: `[K]`, the mean number of frames for which each id lasts.
        settings: sampling rate, hop and features.
        normalize: "clip" takes mean and variance of the features from the clip itself, "speaker" from `speaker_stats`.
        unique_consecutive: whether consecutive repeats of an id are removed.
        speaker_stats: for "speaker", mean and standard deviation `[2, d]` of the features of each speaker, by name.

    Attributes:
        codebook_size: K, ids are `0..K-1`.
        target_sample_hz: sampling rate in Hz of the waveforms that it takes.
        downsample_factor: samples per frame.

    Raises:
        ValueError: tensors of other shapes, or an unknown `normalize`.
    """

    def __init__(
        self,
        centroids: Tensor,
        cluster_log_mel: Tensor,
        run_lengths: Tensor,
        settings: MelSettings,
        *,
        normalize: Literal["clip", "speaker"] = "clip",
        unique_consecutive: bool = False,
        speaker_stats: dict[str, Tensor] | None = None,
    ) -> None:
        settings = instance("settings", settings, MelSettings)
        size = len(finite_tensor("centroids", centroids, (None, settings.dim)))
        finite_tensor("cluster_log_mel", cluster_log_mel, (size, settings.num_mels))
        finite_tensor("run_lengths", run_lengths, (size,))
        speaker_stats = checked_stats(speaker_stats, settings.dim)
        self.centroids = centroids.float()
        self.cluster_log_mel = cluster_log_mel.float()
        self.run_lengths = run_lengths.float()
        self.settings = settings
        self.normalize = one_of("normalize", normalize, ("clip", "speaker"))
        self.unique_consecutive = switch("unique_consecutive", unique_consecutive)
        self.speaker_stats = speaker_stats
        self.codebook_size = size
        self.target_sample_hz = settings.sample_hz
        self.downsample_factor = settings.hop

    @classmethod
    def fit(
        cls,
        clips: Iterable[np.ndarray | Tensor],
        sample_hz: int,
        num_clusters: int = 100,
        *,
        target_sample_hz: int | None = None,
        features: Literal["mfcc", "logmel"] = "mfcc",
        normalize: Literal["clip", "speaker"] = "clip",
        speakers: Sequence[str | None] | None = None,
        unique_consecutive: bool = False,
        hop_seconds: float = 0.02,
        num_mels: int = 40,
        max_frames: int = 400_000,
        seed: int = 0,
        progress: bool = True,
    ) -> MelKmeans:
        """Learns the centroids from audio.

        Args:
            clips: float waveforms `[t]` at `sample_hz`, in -1..1. Clips that are too short, silent, not finite or far
                beyond -1..1 are left out with a warning.
            sample_hz: sampling rate of the clips in Hz.
            num_clusters: K, the number of ids.
            target_sample_hz: rate in Hz to which audio is resampled, here and later; `sample_hz` if None.
            features: "mfcc" (13 coefficients with their first and second differences) or "logmel" (the mel bands).
            normalize: "clip" normalises the features of each clip by its own mean and variance, "speaker" by those of
                its speaker.
            speakers: name of the speaker of each clip, required for `normalize="speaker"`.
            unique_consecutive: whether the tokenizer removes consecutive repeats of an id.
            hop_seconds: time between frames, in seconds.
            num_mels: number of mel bands.
            max_frames: bound on memory, at least `num_clusters`: if the clips have more frames, a random part of them is used.
            seed: fixes the random choices.
            progress: shows a bar, on terminals.

        Raises:
            ImportError: scikit-learn is missing.
            ValueError: fewer usable frames than clusters, or speakers that do not match the clips.
        """
        sample_hz = checked_rate("sample_hz", sample_hz)
        target_sample_hz = None if target_sample_hz is None else checked_rate("target_sample_hz", target_sample_hz)
        one_of("normalize", normalize, ("clip", "speaker"))
        one_of("features", features, FEATURES)
        switch("unique_consecutive", unique_consecutive)
        hop_seconds = real_number("hop_seconds", hop_seconds, above=0)
        num_mels = whole_number("num_mels", num_mels, 1, MOST_MELS)
        options = FitOptions(num_clusters, max_frames, seed, progress)
        speakers = None if speakers is None else names_of_speakers(speakers)
        if normalize == "speaker" and speakers is None:
            raise ValueError('normalize="speaker" needs speakers: the name of the speaker of each clip')
        settings = MelSettings.for_audio(sample_hz, target_sample_hz, hop_seconds, num_mels=num_mels, features=features)
        clusters = fit_clusters(clips, sample_hz, settings, options, speakers, per_speaker=normalize == "speaker")
        return cls(**vars(clusters), settings=settings, normalize=normalize, unique_consecutive=unique_consecutive)

    def __call__(
        self,
        wav: Tensor | np.ndarray,
        lengths: Tensor | None = None,
        input_sample_hz: int | None = None,
        flatten: bool = True,
        *,
        speakers: Sequence[str | None] | None = None,
    ) -> Tensor:
        """Waveforms to ids.

        Args:
            wav: `[b, t]` or `[t]`, floating point, in -1..1.
            lengths: `[b]`, samples of each row that are audio; all of them if None.
            input_sample_hz: rate of `wav` in Hz, `target_sample_hz` if None.
            flatten: has no effect, ids always are `[b, n]`; accepted because other tokenizers have it.
            speakers: name of the speaker of each row, for `normalize="speaker"`. A row of an unknown speaker is
                normalised by itself.

        Returns:
            int64 ids `[b, n]` on the device of `wav`, padded with -1.

        Raises:
            TypeError: `wav` is not floating point.
            ValueError: `wav` has another shape, or a row that is too short, silent, or not finite.
        """
        rows = self._frame_ids(wav, lengths, input_sample_hz, speakers)
        ids = without_repeats(rows)[0] if self.unique_consecutive else pad_sequences(rows, SPEECH_PAD_ID)
        return _to_device_of(wav, ids)

    def encode_with_durations(
        self,
        wav: Tensor | np.ndarray,
        lengths: Tensor | None = None,
        input_sample_hz: int | None = None,
        *,
        speakers: Sequence[str | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ids without repeats `[b, n]`, padded with -1, and their durations in frames `[b, n]`, padded with 0."""
        ids, durations = without_repeats(self._frame_ids(wav, lengths, input_sample_hz, speakers))
        return _to_device_of(wav, ids), _to_device_of(wav, durations)

    def durations(
        self, wav: Tensor | np.ndarray, lengths: Tensor | None = None, input_sample_hz: int | None = None
    ) -> Tensor:
        """Durations in frames of the ids of `encode_with_durations`: int64 `[b, n]`, padded with 0."""
        return self.encode_with_durations(wav, lengths, input_sample_hz)[1]

    def resynthesize(
        self, ids: Tensor, durations: Tensor | None = None, *, iterations: int = 48, seed: int = 0
    ) -> Tensor:
        """Ids to a waveform: the mean spectra of their clusters, with phases by Griffin-Lim.

        Args:
            ids: `[n]`, integers; padding (-1) is left out.
            durations: `[n]`, integers, frames for each id. If None: with `unique_consecutive` the mean durations in the
                clips of `fit`, else one frame each.
            iterations: steps of Griffin-Lim, at most 10,000.
            seed: fixes the phases at its start.

        Returns:
            float32 `[t]` at `target_sample_hz`; its number of frames is the sum of the durations.

        Raises:
            ValueError: an id outside `0..K-1`, no ids, or durations of another shape or below zero.
        """
        iterations = whole_number("iterations", iterations, 0, MOST_ITERATIONS)
        seed = whole_number("seed", seed, 0, 2**63 - 1)
        ids = integers("ids", ids).long().to(self.centroids.device)
        if ids.ndim != 1:
            raise ValueError(f"ids must be integers of the shape [n], got {ids.dtype} {list(ids.shape)}")
        real = ids != SPEECH_PAD_ID
        if durations is not None:
            durations = integers("durations", durations).to(ids.device).long()
            if durations.shape != ids.shape or (durations[real] < 0).any():
                raise ValueError(f"durations must be integers >= 0 of the shape {list(ids.shape)}, one for each id")
            durations = durations[real]
            if float(durations.double().sum()) > MOST_FRAMES:
                raise ValueError(f"durations must add up to at most {MOST_FRAMES} frames: give parts of the ids")
        ids = ids[real].long()
        wrong = ids[(ids < 0) | (ids >= self.codebook_size)]
        if wrong.numel():
            raise ValueError(f"ids holds {int(wrong[0])}, but speech ids are 0 to {self.codebook_size - 1}")
        if durations is None and self.unique_consecutive:
            # Rounding the running total instead of each duration keeps the total length right.
            durations = self.run_lengths[ids].cumsum(0).round().diff(prepend=ids.new_zeros(1)).long()
        if durations is not None:
            ids = ids.repeat_interleave(durations)
        if ids.numel() == 0:
            raise ValueError("ids holds no sound: give at least one id that lasts at least one frame")
        used, frames = cast("tuple[Tensor, Tensor]", torch.unique(ids, return_inverse=True))
        spectra = mel_to_linear(self.cluster_log_mel[used], self.settings)[frames]
        wav = spectra_to_wav(spectra, self.settings.hop, iterations=iterations, seed=seed)
        return wav / wav.abs().amax().clamp(min=1.0)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.safetensors` and `tokenizer.json` into `folder`, both or none. Other files in it stay."""
        tensors = {name: getattr(self, name) for name in ("centroids", "cluster_log_mel", "run_lengths")}
        names = sorted(self.speaker_stats)
        if names:
            tensors["speaker_stats"] = torch.stack([self.speaker_stats[name] for name in names])
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({**self.to_dict(), "speakers": names}, indent=2) + "\n"
        with replaced(folder, (CONFIG_NAME, TENSORS_NAME)) as new:
            (new / TENSORS_NAME).write_bytes(to_bytes(tensors))
            (new / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> MelKmeans:
        """Opens the tokenizer that `save` wrote.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: the files are of another kind of tokenizer, of a later format, or broken.
        """
        folder = whole(given_path("folder", folder), CONFIG_NAME)
        for name in (CONFIG_NAME, TENSORS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no MelKmeans in {folder}: {name} is missing")
        try:
            config = read_config(folder / CONFIG_NAME)
            kind, version = field(config, "type", str), field(config, "format_version", int)
            if kind != "mel_kmeans" or version > FORMAT_VERSION:
                raise ValueError(
                    f"it has the type {kind!r} and the format {version}, this version reads 'mel_kmeans' up to "
                    f"{FORMAT_VERSION}"
                )
            settings = MelSettings.from_dict(field(config, "settings", dict))
            names = texts(config, "speakers")
            normalize, consecutive = field(config, "normalize", str), field(config, "unique_consecutive", bool)
            tensors: dict[str, Any] = from_bytes((folder / TENSORS_NAME).read_bytes())
            stats: list[Tensor] = list(tensors.pop("speaker_stats", ()))
            tokenizer = cls(
                **tensors,
                settings=settings,
                normalize=normalize,
                unique_consecutive=consecutive,
                speaker_stats=dict(zip(names, stats, strict=True)),
            )
            own = tokenizer.to_dict()
            for name in ("codebook_size", "fingerprint"):
                if own[name] != config.get(name):
                    raise ValueError(f"its {name} is {own[name]!r}, not {config.get(name)!r:.60}")
            return tokenizer
        except (ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise ValueError(
                f"{folder / CONFIG_NAME} does not hold a usable MelKmeans ({error}): save or fit it again"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """A description that differs between tokenizers, as JSON types; `fingerprint` stands for the centroids."""
        return {
            "type": "mel_kmeans",
            "format_version": FORMAT_VERSION,
            "codebook_size": self.codebook_size,
            "unique_consecutive": self.unique_consecutive,
            "normalize": self.normalize,
            "settings": asdict(self.settings),
            "fingerprint": self.fingerprint,
        }

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that are equal for equal centroids."""
        return hashlib.sha256(self.centroids.detach().cpu().numpy().tobytes()).hexdigest()[:16]

    def to(self, device: str | torch.device) -> MelKmeans:
        """Moves the tokenizer to `device` and returns it."""
        for name in ("centroids", "cluster_log_mel", "run_lengths"):
            setattr(self, name, getattr(self, name).to(device))
        self.speaker_stats = {name: stats.to(device) for name, stats in self.speaker_stats.items()}
        return self

    def __repr__(self) -> str:
        return (
            f"MelKmeans({shown_rates(self)},\n"
            f"    features={self.settings.features!r}, normalize={self.normalize!r}, "
            f"unique_consecutive={self.unique_consecutive})"
        )

    def _frame_ids(
        self,
        wav: Tensor | np.ndarray,
        lengths: Tensor | None,
        input_sample_hz: int | None,
        speakers: Sequence[str | None] | None,
    ) -> list[Tensor]:
        """One id per frame, `[n_i]` for each row of `wav`."""
        wav = check_wav(wav)
        speakers = None if speakers is None else names_of_speakers(speakers)
        if speakers is not None and len(speakers) != len(wav):
            raise ValueError(f"speakers must name {len(wav)} speakers, one for each row, got {len(speakers)}")
        rows: list[Tensor] = []
        clips = clips_of(wav, lengths, input_sample_hz, self.target_sample_hz, self.settings.window)
        for index, clip in enumerate(clips):
            features = features_of(log_mel(clip.to(self.centroids.device), self.settings), self.settings)
            stats = self.speaker_stats.get(speakers[index] or "") if speakers is not None else None
            rows.append(nearest(normalized(features, stats, self.settings), self.centroids))
        return rows


def _to_device_of(wav: Tensor | np.ndarray, ids: Tensor) -> Tensor:
    return ids.to(wav.device) if isinstance(wav, Tensor) else ids.cpu()
