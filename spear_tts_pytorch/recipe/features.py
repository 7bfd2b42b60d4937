"""Features of clips by several layers of a speech encoder, kept in a file, for a reader that learns from them.

In: utterances and an encoder. Out: `Features`, whose rows `[n, d]` are read from the file when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.tokenizers.encoder_files import open_encoder
from spear_tts_pytorch.tokenizers.encoders import SpeechEncoder, encoder_of
from spear_tts_pytorch.tokenizers.semantic import clips_of
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import read_object

DTYPE = np.float16  # features of an encoder lie within a few hundreds
UNUSABLE = (ValueError, OSError)  # of a clip: the stage `units` has reported it


def layers_above(layer: int, depth: int) -> tuple[int, ...]:
    """The layers that a reader hears: that of the units, the last one, and the one in between."""
    return tuple(sorted({layer, round((layer + depth) / 2), depth}))


def open_layers(encoder: str | Path, layer: int | None) -> SpeechEncoder:
    """An encoder with all its layers, which gives the features of `layers_above`.

    Args:
        encoder: a folder of `transformers`, or a Hub id.
        layer: of the units; None is half of all layers, rounded up.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `open_encoder`.
    """
    first = open_encoder(encoder, layer)
    layers = layers_above(first.layer, first.depth)
    whole = encoder_of(first if first.layer == first.depth else open_encoder(encoder, first.depth))
    whole.also = layers[:-1]
    return whole.to("cuda") if torch.cuda.is_available() else whole


def clip_features(one: Utterance, encoder: SpeechEncoder) -> Tensor:
    """The features `[n, d]` of a clip, float32, on the CPU.

    Raises:
        ValueError, OSError: the clip cannot be used.
    """
    wav = torch.as_tensor(np.asarray(one.audio()))[None]
    clips = list(clips_of(wav, None, one.sample_hz, encoder.opened.sample_hz, encoder.least_samples))
    with torch.no_grad():
        return encoder.taken(clips, lambda _, rows: rows.cpu())[0]


class Features:
    """Features of clips in a file of float16.

    Args:
        path: of the file; its index lies beside it.

    Attributes:
        places: first row and number of rows of each clip, by id.
        dim: width d.
    """

    def __init__(self, path: Path):
        index = read_object(_index(path), "an index of features", f"remove {path}")
        self.dim: int = index["dim"]
        self.places: Mapping[str, tuple[int, int]] = {id_: (first, count) for id_, first, count in index["clips"]}
        self._rows: Any = np.memmap(path, DTYPE, "r").reshape(-1, self.dim) if self.places else np.zeros((0, self.dim))

    def __repr__(self) -> str:
        return f"Features({len(self.places)} clips, {len(self._rows):,} rows of {self.dim})"

    def __contains__(self, id_: str) -> bool:
        return id_ in self.places

    def __getitem__(self, id_: str) -> Tensor:
        """The features `[n, d]` of a clip, float32."""
        first, count = self.places[id_]
        return torch.from_numpy(self._rows[first : first + count].astype(np.float32))

    def stats(self, ids: Sequence[str]) -> Tensor:
        """Mean and standard deviation `[2, d]` over the clips `ids`."""
        total, squares, count = torch.zeros(self.dim).double(), torch.zeros(self.dim).double(), 0
        for id_ in ids:
            rows = self[id_].double()
            total, squares, count = total + rows.sum(0), squares + rows.square().sum(0), count + len(rows)
        mean = total / max(1, count)
        return torch.stack([mean, (squares / max(1, count) - mean.square()).clamp(min=1e-6).sqrt()]).float()


def extract(utterances: Sequence[Utterance], encoder: SpeechEncoder, path: Path, progress: bool = True) -> Features:
    """Writes the features of utterances into a file, which holds them all or is written anew.

    Args:
        utterances: ids must be unique; clips that cannot be used are left out.
        encoder: as `open_layers` gives it.
        path: of the file. It takes 2 d bytes for each 20 ms: 415 MB an hour for three layers of 384.
        progress: shows a bar, on terminals.
    """
    if _index(path).is_file():
        return Features(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clips: list[tuple[str, int, int]] = []
    dim, written = encoder.dim * (1 + len(encoder.also)), 0
    hidden = None if progress else True
    with path.open("wb") as file:
        for one in tqdm(utterances, desc="features", unit="clip", disable=hidden, leave=False):
            try:
                rows = clip_features(one, encoder).numpy().astype(DTYPE)
            except UNUSABLE:
                continue
            file.write(rows.tobytes())
            clips.append((one.id, written, len(rows)))
            written += len(rows)
    write_whole(_index(path), json.dumps({"dim": dim, "clips": clips}).encode())
    return Features(path)


def _index(path: Path) -> Path:
    return path.with_suffix(".json")
