"""Reads manifests of cuts of lhotse, whose recipes prepare about a hundred public corpora. Needs the extra `lhotse`.

In: a manifest such as `cuts.jsonl.gz`. Out: `Utterance`s.
"""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from spear_tts_pytorch.data.corpora.clip_files import check_unique
from spear_tts_pytorch.data.corpora.corpus import Utterance

SUFFIXES = (".jsonl", ".jsonl.gz")
SOURCES = ("file", "memory")  # others run a command or fetch from elsewhere


def is_cuts(name: str) -> bool:
    """Whether the ending of a file name is one of a manifest."""
    return name.lower().endswith(SUFFIXES)


def read_lhotse(path: str | os.PathLike[str]) -> list[Utterance]:
    """Reads a manifest of cuts. The supervisions of a cut are joined to its text; a cut without one has the text None.

    A cut with several supervisions is trimmed to them, and each becomes a clip.

    Args:
        path: of a `.jsonl` or `.jsonl.gz` that `CutSet.to_file` wrote. Relative paths of audio are relative to the working
            directory, as lhotse has it.

    Raises:
        ImportError: lhotse is not installed.
        FileNotFoundError: there is no such file.
        ValueError: no manifest of cuts, cuts without recordings, two cuts of one id, or audio that only running a command or
            the network gives.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no manifest {path}: give the cuts.jsonl.gz that a recipe of lhotse wrote")
    try:
        lhotse: Any = import_module("lhotse")
    except ImportError as error:
        raise ImportError(
            "manifests of cuts need lhotse: pip install 'spear-tts-pytorch[lhotse]', or lhotse"
        ) from error
    try:
        cuts = [part for cut in lhotse.CutSet.from_jsonl(path) for part in _trimmed(cut)]
        has_audio = [cut.has_recording for cut in cuts]
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a manifest of cuts ({type(error).__name__}: {error}): write it by CutSet.to_file"
        ) from error
    if not all(has_audio):
        raise ValueError(
            f"{path}: the cut {cuts[has_audio.index(False)].id!r} has no recording: give a manifest of audio"
        )
    check_unique([cut.id for cut in cuts], str(path))
    found = [_utterance(cut, path) for cut in cuts]
    if not found:
        raise ValueError(f"{path} holds no cuts: give another manifest")
    return found


def _trimmed(cut: Any) -> list[Any]:
    """A cut, or its parts if it has several supervisions."""
    return list(cut.trim_to_supervisions(keep_overlapping=False)) if len(cut.supervisions) > 1 else [cut]


def _utterance(cut: Any, path: Path) -> Utterance:
    mixed = [track.cut for track in getattr(cut, "tracks", ())]  # parts of silence have no recording
    recordings = [one.recording for one in mixed or [cut] if hasattr(one, "recording")]
    sources = [source for one in recordings for source in one.sources]
    for source in sources:
        if source.type not in SOURCES:
            raise ValueError(
                f"{path}: the audio of the cut {cut.id!r} is of the kind {source.type!r}, which is not read: save it into "
                "files, for example by CutSet.save_audios"
            )
    text = " ".join(one.text.strip() for one in cut.supervisions if one.text and one.text.strip())
    speakers = {one.speaker for one in cut.supervisions if one.speaker}
    is_file = not mixed and len(sources) == 1 and sources[0].type == "file"
    return Utterance(
        cut.id,
        text or None,
        speakers.pop() if len(speakers) == 1 else None,
        int(cut.sampling_rate),
        partial(_audio, cut),
        int(cut.num_samples),
        Path(sources[0].source) if is_file and _is_whole(cut) else None,
    )


def _is_whole(cut: Any) -> bool:
    """Whether a cut is its recording as it is: not a part of it, a channel of several, or changed on loading."""
    one = cut.recording
    return cut.num_samples == one.num_samples and one.num_channels == 1 and not one.transforms


def _audio(cut: Any) -> np.ndarray:
    samples = np.asarray(cut.load_audio(), dtype=np.float32)
    return samples if samples.ndim == 1 else samples.mean(axis=0)
