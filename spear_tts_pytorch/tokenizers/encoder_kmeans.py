"""Speech to the nearest of K centroids in a layer of a public speech encoder, 50 ids per second.

In: waveforms `[b, t]` with lengths in samples. Out: int64 ids `[b, n]` in `0..K-1`, padded with -1. A clip has the same ids in
a batch as alone; long clips pass in overlapping windows.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from spear_tts_pytorch.tokenizers.encoder_files import open_encoder, save_encoder
from spear_tts_pytorch.tokenizers.encoder_fit import EncoderFitOptions, applied, fit_encoder
from spear_tts_pytorch.tokenizers.encoders import SpeechEncoder, encoder_of
from spear_tts_pytorch.tokenizers.fairseq_hubert import read_centroids
from spear_tts_pytorch.tokenizers.mel import nearest
from spear_tts_pytorch.tokenizers.mel_arguments import checked_stats, finite_tensor, names_of_speakers
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
from spear_tts_pytorch.utils.values import absolute_path, given_path, whole_number
from spear_tts_pytorch.utils.weight_files import read_shapes

FORMAT_VERSION = 1
KIND, TENSORS_NAME, ENCODER = "encoder_kmeans", "tokenizer.safetensors", "encoder"


class EncoderKmeans(nn.Module):
    """A semantic tokenizer: one id for each 20 ms of audio, the nearest centroid of a layer of a speech encoder.

    Usually made by `EncoderKmeans.fit` or `EncoderKmeans.load`.

    Args:
        encoder: a folder of `transformers` or a Hub id of HuBERT (mHuBERT-147 too), WavLM, wav2vec 2.0 (XLS-R and MMS too),
            UniSpeech, w2v-BERT 2.0 or Whisper; or a fairseq file of HuBERT. No code in it is run.
        kmeans: centroids `[K, p]`, a tensor, or a file of them as `HubertWithKmeans` takes it.
        layer: number of the layer whose output is clustered, from 1: `hidden_states[layer]` of `transformers`. None is half of
            all layers, rounded up: 6 of HuBERT base, 12 of w2v-BERT 2.0, 2 of Whisper tiny.
        mean: `[d]`, taken off the features; None is 0.
        projection: `[d]`, factors of the features, or a matrix `[d, p]`, such as of a PCA; None is 1.
        speaker_stats: mean and standard deviation `[2, d]` of the features of each speaker, by name, for normalisation by
            speaker; those of "" are for speakers that are not known. None normalises by nothing.

    Attributes:
        codebook_size: K, ids are `0..K-1`.
        target_sample_hz: sampling rate in Hz of the audio that the encoder was trained on, 16,000.
        downsample_factor: samples per id, 320.
        layer: number of the layer.

    Raises:
        ImportError: transformers is missing.
        FileNotFoundError: there is no such file or folder, or the Hub cannot be reached.
        ValueError: files are damaged, hold code, or are of another kind of model; tensors do not fit; a layer that the
            encoder does not have.
    """

    centroids: Tensor
    mean: Tensor
    projection: Tensor

    def __init__(
        self,
        encoder: str | os.PathLike[str] | SpeechEncoder,
        kmeans: str | os.PathLike[str] | Tensor,
        layer: int | None = None,
        *,
        mean: Tensor | None = None,
        projection: Tensor | None = None,
        speaker_stats: dict[str, Tensor] | None = None,
    ):
        super().__init__()
        if not isinstance(kmeans, Tensor):
            kmeans = read_centroids(absolute_path("kmeans", kmeans))
        self.encoder = opened_encoder(encoder, layer)
        dim = self.encoder.dim
        mean = torch.zeros(dim) if mean is None else finite_tensor("mean", mean, (dim,))
        projection = torch.ones(dim) if projection is None else projection
        finite_tensor("projection", projection, (dim, None) if projection.ndim == 2 else (dim,))
        centroids = finite_tensor("kmeans", kmeans, (None, projection.shape[-1]))
        self.register_buffer("centroids", centroids.float())
        self.register_buffer("mean", mean.float())
        self.register_buffer("projection", projection.float())
        self.speaker_stats = {name: one.float() for name, one in checked_stats(speaker_stats, dim).items()}
        if self.speaker_stats and "" not in self.speaker_stats:
            raise ValueError('speaker_stats must have statistics for the name "", for speakers that are not known')
        self.requires_grad_(False).eval()

    @classmethod
    def fit(
        cls,
        waveforms: Iterable[Any],
        encoder: str | os.PathLike[str] | SpeechEncoder,
        *,
        layer: int | None = None,
        num_clusters: int = 500,
        sample_hz: int | None = None,
        speakers: Sequence[str | None] | None = None,
        pca: int | None = None,
        max_frames: int = 1_000_000,
        device: str | torch.device | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> EncoderKmeans:
        """Learns the centroids from audio, by scikit-learn's mini-batch k-means over standardised features.

        Args:
            waveforms: float waveforms `[t]` in -1..1, or utterances of a corpus (`data/corpora`). Clips that cannot be used
                are left out with a warning. They may be more than memory holds: features are kept in temporary files, of
                8 d bytes a frame (300 KB for a second of 768 features); `TMPDIR` says where.
            encoder: as in the constructor.
            layer: as in the constructor.
            num_clusters: K, the number of ids.
            sample_hz: sampling rate in Hz of waveforms; that of the encoder if None. Utterances have their own.
            speakers: name of the speaker of each clip, None where unknown: features are normalised by speaker.
            pca: number of principal components that are kept and whitened; None clusters the features themselves.
            max_frames: bound on time and disk, at least `num_clusters`: of more frames, and more than `2 num_clusters`, evenly
                spaced ones are used.
            device: where the encoder runs, such as "cuda"; None leaves it where it is.
            seed: fixes the random choices.
            progress: shows a bar, on terminals.

        Raises:
            ImportError: transformers or scikit-learn is missing.
            FileNotFoundError, ValueError: as in the constructor; also fewer frames than clusters, or speakers that do not
                match the clips.
        """
        width = None if pca is None else whole_number("pca", pca, 1)
        options = EncoderFitOptions(num_clusters, max_frames, seed, progress, width)
        sample_hz = None if sample_hz is None else checked_rate("sample_hz", sample_hz)
        speakers = None if speakers is None else names_of_speakers(speakers)
        opened = opened_encoder(encoder, layer)
        if device is not None:
            opened.to(device)
        with torch.no_grad():
            fitted = fit_encoder(waveforms, opened, sample_hz, speakers, options)
        return cls(opened, **vars(fitted)).to(opened.device)

    @property
    def codebook_size(self) -> int:
        return self.centroids.shape[0]

    @property
    def target_sample_hz(self) -> int:
        return self.encoder.opened.sample_hz

    @property
    def downsample_factor(self) -> int:
        return self.encoder.hop

    @property
    def layer(self) -> int:
        return self.encoder.opened.layer

    @torch.no_grad()
    def forward(
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
            speakers: name of the speaker of each row, for normalisation by speaker. A row of an unknown speaker is
                normalised by the statistics of all speakers together.

        Returns:
            int64 ids `[b, n]` on the device of `wav`, padded with -1.

        Raises:
            TypeError: `wav` is not floating point.
            ValueError: another shape; a row that is too short, silent, or not finite; another number of speakers.
        """
        checked = check_wav(wav)
        names = [None] * len(checked) if speakers is None else names_of_speakers(speakers)
        if len(names) != len(checked):
            raise ValueError(f"speakers must name {len(checked)} speakers, one for each row, got {len(names)}")
        unknown = self.speaker_stats.get("")
        stats = [self.speaker_stats.get(name or "", unknown) for name in names]
        stats = [None if one is None else one.to(self.centroids.device) for one in stats]

        def id_of(index: int, rows: Tensor) -> Tensor:
            return nearest(applied(rows, stats[index], self.mean, self.projection), self.centroids)

        rows = self.encoder.taken(self._clips(checked, lengths, input_sample_hz), id_of)
        ids = pad_sequences(rows, SPEECH_PAD_ID)
        return ids.to(wav.device) if isinstance(wav, Tensor) else ids.cpu()

    @torch.no_grad()
    def features(
        self, wav: Tensor | np.ndarray, lengths: Tensor | None = None, input_sample_hz: int | None = None
    ) -> list[Tensor]:
        """The layer's output: float32 `[n, d]` for each row of `wav`. Arguments and errors as the call."""
        clips = self._clips(check_wav(wav), lengths, input_sample_hz)
        return self.encoder.taken(clips, lambda _, found: found.clone())

    def _clips(self, wav: Tensor, lengths: Tensor | None, input_sample_hz: int | None) -> list[Tensor]:
        return list(clips_of(wav, lengths, input_sample_hz, self.target_sample_hz, self.encoder.least_samples))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the encoder (up to `layer`), `tokenizer.safetensors` and `tokenizer.json` into `folder`, all or none.

        Other files in it stay.
        """
        names = sorted(self.speaker_stats)
        tensors = {"centroids": self.centroids, "mean": self.mean, "projection": self.projection}
        if names:
            tensors["speaker_stats"] = torch.stack([self.speaker_stats[name] for name in names])
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        with replaced(folder, (CONFIG_NAME, TENSORS_NAME, ENCODER)) as new:
            save_encoder(self.encoder.model, new / ENCODER)
            (new / TENSORS_NAME).write_bytes(to_bytes(tensors))
            text = json.dumps({**self.to_dict(), "speakers": names}, indent=2) + "\n"
            (new / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> EncoderKmeans:
        """Opens the tokenizer that `save` wrote.

        Raises:
            ImportError: transformers is missing.
            FileNotFoundError: a file is missing.
            ValueError: the files are of another kind of tokenizer, of a later format, or damaged.
        """
        folder = whole(given_path("folder", folder), CONFIG_NAME)
        if not (folder / TENSORS_NAME).is_file():
            raise FileNotFoundError(f"no EncoderKmeans in {folder}: {TENSORS_NAME} is missing")
        config = read_config(folder / CONFIG_NAME)
        try:
            kind, version = field(config, "type", str), field(config, "format_version", int, 0)
            if kind != KIND or version > FORMAT_VERSION:
                raise ValueError(f"it has the type {kind!r:.60} and the format {version}: upgrade the package")
            layer, depth = field(config, "layer", int), field(config, "depth", int)
            opened = open_encoder((folder / ENCODER).absolute(), layer, depth=depth)  # "units/encoder" may be a Hub id
            sample_hz = checked_rate("target_sample_hz", field(config, "target_sample_hz", int))
            opened = replace(opened, sample_hz=sample_hz, normalize=field(config, "normalize", bool))
            read_shapes(folder / TENSORS_NAME)
            tensors = from_bytes((folder / TENSORS_NAME).read_bytes())
            stats = dict(zip(texts(config, "speakers"), tensors.pop("speaker_stats", ()), strict=True))
            others = cast("dict[str, Any]", {name: tensors[name] for name in ("mean", "projection")})
            tokenizer = cls(encoder_of(opened), tensors["centroids"], **others, speaker_stats=stats)
            own = tokenizer.to_dict()
            for name in ("codebook_size", "fingerprint"):
                if own[name] != config.get(name):
                    raise ValueError(f"its {name} is {own[name]!r}, not {config.get(name)!r:.60}")
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"{folder / CONFIG_NAME} does not hold a usable EncoderKmeans ({error}): save or fit it again"
            ) from error
        return tokenizer

    def to_dict(self) -> dict[str, Any]:
        """A description that differs between tokenizers, as JSON types; `fingerprint` stands for all weights."""
        opened = self.encoder.opened
        return {
            "type": KIND,
            "format_version": FORMAT_VERSION,
            "codebook_size": self.codebook_size,
            "unique_consecutive": False,
            "target_sample_hz": self.target_sample_hz,
            "encoder": opened.kind,
            "layer": opened.layer,
            "depth": opened.depth,
            "normalize": self.encoder.normalize,
            "pca": self.projection.shape[1] if self.projection.ndim == 2 else None,
            "by_speaker": bool(self.speaker_stats),
            "fingerprint": self.fingerprint,
        }

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that are equal for equal weights of encoder and clusters."""
        found = hashlib.sha256(self.encoder.digest)
        for tensor in (self.centroids, self.mean, self.projection):
            found.update(tensor.cpu().contiguous().numpy().tobytes())
        for name, stats in sorted(self.speaker_stats.items()):
            found.update(name.encode() + stats.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def __repr__(self) -> str:
        source = f"layer {self.layer} of {self.encoder.opened.depth} of {type(self.encoder.model).__name__}"
        return f"EncoderKmeans({source}: {shown_rates(self)})"


def opened_encoder(encoder: str | os.PathLike[str] | SpeechEncoder, layer: int | None) -> SpeechEncoder:
    """The encoder at a path or Hub id, up to a layer; or one that is open already.

    Raises:
        ValueError: `layer` is not that of an open encoder. For others see `open_encoder`.
    """
    layer = None if layer is None else whole_number("layer", layer, 1)
    if isinstance(encoder, SpeechEncoder):
        if layer not in (None, encoder.opened.layer):
            raise ValueError(
                f"layer {layer} is not the layer of the open encoder, {encoder.opened.layer}: open it again"
            )
        return encoder
    absolute_path("encoder", encoder)
    return encoder_of(open_encoder(encoder, layer))
