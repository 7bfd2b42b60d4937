"""Fitting of `EncoderKmeans`: features of any number of clips through a file on disk, and k-means over them.

In: waveforms `[t]`. Out: centroids `[K, p]`, the map from features `[n, d]` to the space `[n, p]` in which they lie, and the
statistics of each speaker. Memory does not grow with the audio: features stand in a temporary file.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.tokenizers.encoders import SpeechEncoder
from spear_tts_pytorch.tokenizers.mel_fit import FitOptions, minibatch_kmeans
from spear_tts_pytorch.tokenizers.semantic import check_wav, clips_of, reason_of
from spear_tts_pytorch.utils.files import FULL
from spear_tts_pytorch.utils.values import plain, shown

BLOCK = 8192  # rows that are read from the file together
LEAST_SCALE = 1e-5  # dimensions that vary less are not blown up

Array = np.ndarray


@dataclass
class Fitted:
    """The result of fitting; the attributes are arguments of `EncoderKmeans`."""

    kmeans: Tensor
    mean: Tensor
    projection: Tensor
    speaker_stats: dict[str, Tensor]


@dataclass(frozen=True)
class EncoderFitOptions(FitOptions):
    """Options of `EncoderKmeans.fit` that concern k-means, with the same names."""

    pca: int | None


@dataclass
class _Sums:
    """Number, sums and sums of squares of rows `[n, d]`, in float64."""

    count: int = 0
    sums: Any = 0.0
    squares: Any = 0.0

    def add(self, rows: Tensor) -> None:
        wide = rows.double()
        self.count += len(rows)
        self.sums = self.sums + wide.sum(dim=0)
        self.squares = self.squares + wide.square().sum(dim=0)

    def stats(self) -> Tensor:
        """Mean and standard deviation, `[2, d]`, float32."""
        mean = cast("Tensor", self.sums / self.count)
        scale = (self.squares / self.count - mean.square()).clamp(min=0).sqrt()
        return torch.stack([mean, torch.where(scale > LEAST_SCALE, scale, 1.0)]).float()


class _Drawn:
    """Rows `[d]` drawn evenly from all that are added, at most `most`, in a file."""

    def __init__(self, path: Path, dim: int, most: int):
        self.file = open(path, "w+b")
        self.path, self.dim, self.most = path, dim, most
        self.step, self.seen, self.kept = 1, 0, 0
        self.owners: list[Array] = []  # for each part, the number of the speaker of each row

    def add(self, rows: Array, owner: int) -> None:
        chosen = rows[-self.seen % self.step :: self.step]
        self.seen += len(rows)
        self.kept += len(chosen)
        self.file.write(np.ascontiguousarray(chosen, dtype=np.float32).tobytes())
        self.owners.append(np.full(len(chosen), owner, np.int32))
        while self.kept > self.most:
            self._halve()

    def _halve(self) -> None:
        """Keeps every second row."""
        width, kept = 4 * self.dim, 0
        for begin in range(0, self.kept, 2 * BLOCK):
            self.file.seek(begin * width)
            data = np.frombuffer(self.file.read(2 * BLOCK * width), np.float32).reshape(-1, self.dim)[::2]
            self.file.seek(kept * width)
            self.file.write(data.tobytes())
            kept += len(data)
        self.file.truncate(kept * width)
        self.file.seek(0, 2)
        self.owners = [np.concatenate(self.owners)[::2]]
        self.kept, self.step = kept, 2 * self.step

    def blocks(self) -> Iterable[tuple[Array, Array]]:
        """Rows `[m, d]` and the numbers of their speakers `[m]`, block by block."""
        owners = np.concatenate(self.owners)
        self.file.seek(0)
        for begin in range(0, self.kept, BLOCK):
            data = np.frombuffer(self.file.read(BLOCK * 4 * self.dim), np.float32).reshape(-1, self.dim)
            yield data, owners[begin : begin + BLOCK]


@dataclass
class _Collected:
    """Statistics of all frames, by the name of the speaker; "" is everyone."""

    drawn: _Drawn
    names: list[str] = field(default_factory=lambda: [""])
    sums: dict[str, _Sums] = field(default_factory=lambda: {"": _Sums()})
    clips: int = 0
    problems: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, rows: Tensor, speaker: str) -> None:
        rows = rows.cpu()
        if speaker not in self.sums:
            self.names.append(speaker)
            self.sums[speaker] = _Sums()
        for name in {"", speaker}:
            self.sums[name].add(rows)
        self.drawn.add(rows.numpy(), self.names.index(speaker))


def fit_encoder(
    waveforms: Iterable[Any],
    encoder: SpeechEncoder,
    sample_hz: int | None,
    speakers: Sequence[str | None] | None,
    options: EncoderFitOptions,
) -> Fitted:
    """Mini-batch k-means over the features of `waveforms`; arguments as in `EncoderKmeans.fit`."""
    kmeans_class = minibatch_kmeans("EncoderKmeans.fit", extra="hubert")
    if isinstance(waveforms, (str, bytes, Mapping)) or not hasattr(plain(waveforms), "__iter__"):
        raise TypeError(f"waveforms must be a list of waveforms or utterances, got {shown(cast(object, waveforms))}")
    if options.pca is not None and options.pca > encoder.dim:
        raise ValueError(f"pca must be at most {encoder.dim}, the width of the encoder, got {options.pca}")
    with tempfile.TemporaryDirectory(prefix="spear-tts-features-") as folder:
        most = max(options.max_frames, 2 * options.num_clusters)  # of which half may be left
        drawn = _Drawn(Path(folder) / "features", encoder.dim, most)
        try:
            found = _collect(waveforms, encoder, sample_hz, speakers, drawn, options)
            stats = {name: one.stats() for name, one in found.sums.items()}
            by_speaker = stats if speakers is not None else {}
            mean, projection = _standardised(stats[""]) if not by_speaker else _identity(encoder.dim)
            if options.pca is not None:
                projection = projection[:, None] * _whitening(found, by_speaker, mean, projection, options.pca)
            centroids = _clusters(found, by_speaker, mean, projection, kmeans_class, options, Path(folder))
        except OSError as error:
            if error.errno not in FULL:
                raise
            words = f"{error.strerror}; features did not fit into {folder}: make room, name another place by TMPDIR, or"
            raise OSError(error.errno, f"{words} lower max_frames") from error
        finally:
            with suppress(OSError):  # of a full disk
                drawn.file.close()
    return Fitted(centroids, mean, projection, by_speaker)


def applied(rows: Tensor, stats: Tensor | None, mean: Tensor, projection: Tensor) -> Tensor:
    """Features `[n, d]` in the space of the centroids, `[n, p]`.

    Args:
        stats: mean and standard deviation `[2, d]` of their speaker, or None.
        mean: `[d]`, is taken off.
        projection: `[d]`, by which they are multiplied, or a matrix `[d, p]`.
    """
    if stats is not None:
        rows = (rows - stats[0]) / stats[1]
    rows = rows - mean
    return rows * projection if projection.ndim == 1 else rows @ projection


def _collect(
    waveforms: Iterable[Any],
    encoder: SpeechEncoder,
    sample_hz: int | None,
    speakers: Sequence[str | None] | None,
    drawn: _Drawn,
    options: EncoderFitOptions,
) -> _Collected:
    """Writes features of all clips that can be used; warns of the others."""
    found, index = _Collected(drawn), -1
    hidden = None if options.progress else True
    for index, clip in enumerate(tqdm(waveforms, desc="features", unit="clip", disable=hidden, leave=False)):
        if speakers is not None and index >= len(speakers):
            raise ValueError(f"speakers names {len(speakers)} speakers, but there are more clips")
        speaker = (speakers[index] or "") if speakers is not None else ""
        try:
            wav, rate = (clip.audio(), clip.sample_hz) if hasattr(clip, "audio") else (clip, sample_hz)
            wav = check_wav(wav, name=f"waveforms[{index}]", ndim=1)
            clips = list(clips_of(wav, None, rate, encoder.opened.sample_hz, encoder.least_samples))
        except (ValueError, OSError, MemoryError) as error:
            found.problems[str(getattr(clip, "id", index))] = reason_of(error)
            continue
        encoder.taken(clips, lambda _, rows, speaker=speaker: _written(found, rows, speaker))
    if speakers is not None and index + 1 != len(speakers):
        raise ValueError(f"speakers must name one speaker for each of the {index + 1} clips, got {len(speakers)}")
    first = next(iter(found.problems.items()), None)
    said = f"{len(found.problems)} clips cannot be used ({first[0]}: {first[1]})" if first else ""
    if drawn.seen < options.num_clusters:
        raise ValueError(
            f"num_clusters={options.num_clusters} needs at least as many frames, but the waveforms have {drawn.seen}"
            f"{said and '; '}{said}: give more audio or ask for fewer clusters"
        )
    if said:
        warnings.warn(f"{said}: left out", stacklevel=4)  # the caller of EncoderKmeans.fit
    return found


def _written(found: _Collected, rows: Tensor, speaker: str) -> Tensor:
    found.add(rows, speaker)
    return rows[:0]


def _standardised(stats: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `[d]` and factors `[d]` that give features mean 0 and variance 1."""
    return stats[0], 1 / stats[1]


def _identity(dim: int) -> tuple[Tensor, Tensor]:
    """Mean and factors for features that are normalised by speaker already."""
    return torch.zeros(dim), torch.ones(dim)


def _blocks(found: _Collected, by_speaker: dict[str, Tensor], mean: Tensor, projection: Tensor) -> Iterable[Tensor]:
    """The drawn rows in the space of the centroids, block by block, each speaker's by its own statistics."""
    for data, owners in found.drawn.blocks():
        rows = torch.tensor(data)
        if by_speaker:
            of_rows = torch.stack([by_speaker[name] for name in found.names])[
                torch.from_numpy(owners).long()
            ]  # [m, 2, d]
            rows = (rows - of_rows[:, 0]) / of_rows[:, 1]
        yield applied(rows, None, mean, projection)


def _whitening(found: _Collected, by_speaker: dict[str, Tensor], mean: Tensor, projection: Tensor, dims: int) -> Tensor:
    """The first principal components of the standardised rows, scaled to variance 1: `[d, dims]`."""
    products, count = torch.zeros(len(mean), len(mean), dtype=torch.float64), 0
    for rows in _blocks(found, by_speaker, mean, projection):
        wide = rows.double()
        products += wide.T @ wide
        count += len(rows)
    values, vectors = cast("tuple[Tensor, Tensor]", torch.linalg.eigh(products / count))  # in rising order
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    signs = torch.sign(vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)))  # the same on all machines
    return (vectors * signs / values.clamp(min=LEAST_SCALE).sqrt()).float()


def _clusters(
    found: _Collected,
    by_speaker: dict[str, Tensor],
    mean: Tensor,
    projection: Tensor,
    kmeans_class: Any,
    options: EncoderFitOptions,
    folder: Path,
) -> Tensor:
    """Centroids `[K, p]` of the drawn rows."""
    path = folder / "projected"
    dims = projection.shape[-1]
    with open(path, "wb") as file:
        for rows in _blocks(found, by_speaker, mean, projection):
            file.write(rows.numpy().tobytes())
    data = np.memmap(path, np.float32, "r", shape=(found.drawn.kept, dims))
    # One start from a part: a third of the time of three starts, and 0.3 % farther from the frames (1,000 clusters).
    size = {"batch_size": 10_000, "n_init": 1, "init_size": max(10_000, 10 * options.num_clusters)}
    kmeans = kmeans_class(options.num_clusters, **size, compute_labels=False, random_state=options.seed).fit(data)
    centroids = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
    del data  # Windows removes no file that is mapped
    return centroids
