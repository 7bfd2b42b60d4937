"""Speech to the nearest of K centroids in a layer of HuBERT, WavLM or wav2vec 2.0, 50 ids per second.

In: waveforms `[b, t]` with lengths in samples. Out: int64 ids `[b, n]` in `0..K-1`, padded with -1. The convolutions see
each clip without padding, and attention is masked. So a clip has the same ids in a batch as alone. Long clips pass in
overlapping windows.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from tqdm.auto import tqdm

from spear_tts_pytorch.tokenizers.encoder_files import open_encoder, save_encoder
from spear_tts_pytorch.tokenizers.encoders import WaveformEncoder
from spear_tts_pytorch.tokenizers.fairseq_hubert import read_centroids
from spear_tts_pytorch.tokenizers.mel import nearest
from spear_tts_pytorch.tokenizers.mel_fit import minibatch_kmeans
from spear_tts_pytorch.tokenizers.semantic import (
    CONFIG_NAME,
    check_wav,
    checked_rate,
    clips_of,
    read_config,
    reason_of,
    shown_rates,
)
from spear_tts_pytorch.tokens import SPEECH_PAD_ID, pad_sequences
from spear_tts_pytorch.utils.json_files import field
from spear_tts_pytorch.utils.replacing import replaced, whole
from spear_tts_pytorch.utils.values import absolute_path, given_path, plain, shown, switch, whole_number

CENTROIDS, ENCODER = "centroids.safetensors", "encoder"
FRAMES_TO_FIT = 1_000_000
FORMAT_VERSION = 1


class HubertWithKmeans(nn.Module):
    """A semantic tokenizer: one id for each 20 ms of audio, the nearest centroid of a layer's output (arXiv 2106.07447).

    Args:
        checkpoint_path: a fairseq file (`hubert_base_ls960.pt`), or a folder or Hub id of a HuBERT, WavLM or wav2vec 2.0
            in `transformers`.
        kmeans_path: centroids `[K, d]`: scikit-learn's k-means in joblib (`*_km500.bin`), `.npy`, `.npz` or
            `.safetensors`; None to learn them with `fit_kmeans`.
        target_sample_hz: sampling rate in Hz of the audio that the model was trained on.
        seq_len_multiple_of: each clip is cut to a multiple of this many samples; None does not cut.
        output_layer: number of the layer whose output is clustered, from 1; HuBERT base with 500 clusters uses 9.

    Attributes:
        codebook_size: K, ids are `0..K-1`; 0 without centroids.
        downsample_factor: samples per id, 320.

    Raises:
        ImportError: transformers is missing.
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, holds code, or does not fit the other; a number is out of range.
    """

    centroids: Tensor

    def __init__(
        self,
        checkpoint_path: str | os.PathLike[str],
        kmeans_path: str | os.PathLike[str] | None = None,
        target_sample_hz: int = 16000,
        seq_len_multiple_of: int | None = None,
        output_layer: int = 9,
    ):
        super().__init__()
        multiple = seq_len_multiple_of
        self.target_sample_hz = checked_rate("target_sample_hz", target_sample_hz)
        self.seq_len_multiple_of = None if multiple is None else whole_number("seq_len_multiple_of", multiple, 1)
        self.output_layer = output_layer = whole_number("output_layer", output_layer, 1)
        for name, path in (("checkpoint_path", checkpoint_path), ("kmeans_path", kmeans_path)):
            if not (path is None and name == "kmeans_path"):
                absolute_path(name, path)
        self.encoder = WaveformEncoder(
            open_encoder(
                *(checkpoint_path, output_layer),
                name="checkpoint_path",
                layer_name="output_layer",
                kinds=None,
            )
        )
        self.downsample_factor = self.encoder.hop
        dim = self.encoder.dim
        self.register_buffer("centroids", torch.empty(0, dim))
        if kmeans_path is not None:
            centroids = read_centroids(Path(kmeans_path))
            if centroids.shape[1] != dim:
                raise ValueError(
                    f"{kmeans_path} has centroids of {centroids.shape[1]} features, {checkpoint_path} has {dim}: they belong "
                    "to different models, give files that belong together"
                )
            self.centroids = centroids
        self.requires_grad_(False).eval()

    @property
    def codebook_size(self) -> int:
        return self.centroids.shape[0]

    @property
    def model(self) -> Any:
        """The model of `transformers`, cut after `output_layer`."""
        return self.encoder.model

    @property
    def normalize(self) -> bool:
        """Whether waveforms are brought to mean 0 and variance 1."""
        return self.encoder.normalize

    @property
    def window(self) -> int:
        """Samples on which one id of the convolutions depends: the fewest of a clip."""
        return self.encoder.least_samples

    @torch.no_grad()
    def forward(
        self,
        wav_input: Tensor | np.ndarray,
        lengths: Tensor | None = None,
        input_sample_hz: int | None = None,
        flatten: bool = True,
    ) -> Tensor:
        """Waveforms to ids.

        Args:
            wav_input: `[b, t]` or `[t]`, floating point, in -1..1.
            lengths: `[b]`, samples of each row that are audio; all of them if None.
            input_sample_hz: rate of `wav_input` in Hz, `target_sample_hz` if None.
            flatten: has no effect, ids always are `[b, n]`; accepted because other tokenizers have it.

        Returns:
            int64 ids `[b, n]` on the device of `wav_input`, padded with -1.

        Raises:
            TypeError: `wav_input` is not floating point.
            ValueError: no centroids yet; another shape; a row that is too short, silent, or not finite.
        """
        if self.codebook_size == 0:
            raise ValueError("this tokenizer has no centroids: give kmeans_path, or fit them with fit_kmeans")
        wav = check_wav(wav_input, name="wav_input")
        clips = self._clips(wav, lengths, input_sample_hz, "wav_input")
        rows = self.encoder.taken(clips, lambda _, found: nearest(found, self.centroids))
        ids = pad_sequences(rows, SPEECH_PAD_ID)
        return ids.to(wav_input.device) if isinstance(wav_input, Tensor) else ids.cpu()

    @torch.no_grad()
    def features(
        self, wav: Tensor | np.ndarray, lengths: Tensor | None = None, input_sample_hz: int | None = None
    ) -> list[Tensor]:
        """The layer's output, which is clustered: float32 `[n, d]` for each row of `wav`. Arguments and errors as the call."""
        return self.encoder.taken(self._clips(wav, lengths, input_sample_hz), lambda _, found: found.clone())

    @torch.no_grad()
    def fit_kmeans(
        self,
        dataset: Iterable[Any],
        num_clusters: int = 500,
        layer: int | None = None,
        *,
        sample_hz: int | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> HubertWithKmeans:
        """Learns centroids from the user's audio by scikit-learn's mini-batch k-means; returns the tokenizer itself.

        Args:
            dataset: waveforms `[t]`, or utterances of a corpus (`data/corpora`). Clips that cannot be used are left out
                with a warning. Only the first million frames (5.5 hours) are used: shuffle longer corpora.
            num_clusters: K, the number of ids.
            layer: None or the tokenizer's `output_layer`; the layers above it were removed.
            sample_hz: sampling rate of waveforms in Hz, `target_sample_hz` if None.
            seed: fixes the random choices of k-means.
            progress: shows a bar, on terminals.

        Raises:
            ImportError: scikit-learn is missing.
            ValueError: another layer, or fewer frames than clusters.
        """
        kmeans_class = minibatch_kmeans("fit_kmeans", extra="hubert")
        num_clusters, seed = whole_number("num_clusters", num_clusters, 1), whole_number("seed", seed, 0, 2**32 - 1)
        sample_hz = None if sample_hz is None else checked_rate("sample_hz", sample_hz)
        if isinstance(dataset, (str, bytes, Mapping)) or not hasattr(plain(dataset), "__iter__"):
            raise TypeError(f"dataset must be a list of waveforms or utterances, got {shown(cast(object, dataset))}")
        if layer is not None and whole_number("layer", layer) != self.output_layer:
            raise ValueError(
                f"layer {layer} is not the output_layer of this tokenizer: make one with output_layer={layer}"
            )
        found: list[np.ndarray] = []
        total, problems = 0, list[str]()
        hidden = None if switch("progress", progress) else True
        bar = tqdm(dataset, desc="features", unit="clip", disable=hidden, leave=False)
        for index, clip in enumerate(bar):
            try:
                wav, rate = (clip.audio(), clip.sample_hz) if hasattr(clip, "audio") else (clip, sample_hz)
                wav = check_wav(wav, name=f"dataset[{index}]", ndim=1)
                found.append(self.features(wav, None, rate)[0].cpu().numpy())
            except (ValueError, OSError, MemoryError) as error:
                problems.append(f"{getattr(clip, 'id', index)}: {reason_of(error)}")
                continue
            total += len(found[-1])
            if total >= FRAMES_TO_FIT:
                break
        said = f"{len(problems)} clips cannot be used ({problems[0]})" if problems else ""
        if total < num_clusters:
            raise ValueError(
                f"num_clusters={num_clusters} asked for, but the dataset has {total} frames{said and '; '}{said}"
            )
        if problems:
            warnings.warn(f"{said}: left out", stacklevel=2)
        kmeans = kmeans_class(num_clusters, batch_size=10_000, n_init=3, random_state=seed).fit(np.concatenate(found))
        self.centroids = torch.from_numpy(kmeans.cluster_centers_).float().to(self.centroids.device)
        return self

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the encoder (up to `output_layer`), the centroids and `tokenizer.json` into `folder`, all or none.

        Other files in it stay.
        """
        with replaced(folder, (CONFIG_NAME, CENTROIDS, ENCODER)) as new:
            save_encoder(self.model, new / ENCODER)
            (new / CENTROIDS).write_bytes(to_bytes({"centroids": self.centroids.cpu().contiguous()}))
            (new / CONFIG_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> HubertWithKmeans:
        """Opens the tokenizer that `save` wrote. Errors as the constructor."""
        folder = whole(given_path("folder", folder), CONFIG_NAME)
        config = read_config(folder / CONFIG_NAME)
        try:
            kind, version = field(config, "type", str), field(config, "format_version", int, 0)
            kinds = {"target_sample_hz": int, "seq_len_multiple_of": (int, type(None)), "output_layer": int}
            options: dict[str, Any] = {name: field(config, name, kinds[name]) for name in kinds}
            size, normalize = field(config, "codebook_size", int), field(config, "normalize", bool)
            if kind != "hubert_kmeans" or version > FORMAT_VERSION:
                raise ValueError(f"it has the type {kind!r:.60} and the format {version}: upgrade the package")
            encoder = (folder / ENCODER).absolute()  # "units/encoder" may be a Hub id
            tokenizer = cls(encoder, folder / CENTROIDS if size else None, **options)
            if tokenizer.codebook_size != size:
                raise ValueError(f"its codebook_size is {tokenizer.codebook_size}, not {size}")
        except ValueError as error:
            raise ValueError(
                f"{folder / CONFIG_NAME} is not the configuration of a HubertWithKmeans ({error}): save the tokenizer again"
            ) from error
        tokenizer.encoder.normalize = normalize
        return tokenizer

    def to_dict(self) -> dict[str, Any]:
        """A description that differs between tokenizers, as JSON types; `fingerprint` stands for the weights."""
        return {
            "type": "hubert_kmeans",
            "format_version": FORMAT_VERSION,
            "codebook_size": self.codebook_size,
            "unique_consecutive": False,
            "target_sample_hz": self.target_sample_hz,
            "seq_len_multiple_of": self.seq_len_multiple_of,
            "output_layer": self.output_layer,
            "normalize": self.normalize,
            "fingerprint": self.fingerprint,
        }

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that are equal for equal weights of the encoder and equal centroids."""
        return hashlib.sha256(self.encoder.digest + self.centroids.cpu().numpy().tobytes()).hexdigest()[:16]

    def __repr__(self) -> str:
        source = f"layer {self.output_layer} of {type(self.model).__name__}"
        return f"HubertWithKmeans({source}: {shown_rates(self)})"

    def _clips(
        self, wav: Tensor | np.ndarray, lengths: Tensor | None, input_sample_hz: int | None, name: str = "wav"
    ) -> list[Tensor]:
        rates = input_sample_hz, self.target_sample_hz
        return list(clips_of(wav, lengths, *rates, self.window, self.seq_len_multiple_of or 1, name))
