"""Audio files to waveforms and back.

In: paths of files that libsndfile reads. Out: mono float32 arrays `[t]` in -1..1 and their sampling rate in Hz.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import soxr
from torch import Tensor

from spear_tts_pytorch.tokenizers.semantic import RATES, check_rates

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SHORT_DATA = re.compile(
    r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE
)  # libsndfile's note on a WAV that ends early
STREAMED = (
    0x7FFF0000  # bytes: programs that write WAV into a pipe give this length or more, since the length is unknown
)
MP3_SLACK = 2304  # samples, two frames: decoders find ends that differ by this much


def load_audio(path: str | os.PathLike[str], target_sample_hz: int | None = None) -> tuple[np.ndarray, int]:
    """Reads a file as a mono waveform; channels are averaged.

    Args:
        path: a file in a format of libsndfile, such as WAV, FLAC, OGG or MP3.
        target_sample_hz: rate in Hz to which the audio is resampled; None keeps its rate.

    Returns:
        float32 `[t]` in -1..1, and its sampling rate in Hz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not audio that libsndfile reads, is empty, is shorter than its header says, has a rate
            outside 1,000 to 768,000 Hz, or holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no audio file at {path}")
    try:
        with _open(path) as file:
            sample_hz = file.samplerate
            if sample_hz not in RATES:
                raise ValueError(
                    f"{path} gives {sample_hz} Hz as its sampling rate, not {RATES[0]} to {RATES[-1]}: repair or remove it"
                )
            frames = file.read(dtype="float32", always_2d=True)  # [t, channels]
            missing = _missing(file, len(frames), path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as audio ({getattr(error, 'error_string', error)}): convert it to WAV or FLAC, or remove it"
        ) from error
    if missing:
        raise ValueError(f"{path} is cut off, {missing} of it is missing: copy it again or remove it")
    wav = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    if wav.size == 0:
        raise ValueError(f"{path} holds no audio: remove it")
    if not np.isfinite(wav).all():
        raise ValueError(f"{path} holds samples that are NaN or infinite: export it again or remove it")
    if target_sample_hz is None:
        return np.ascontiguousarray(wav), sample_hz
    return resample(wav, sample_hz, target_sample_hz), target_sample_hz


def save_audio(path: str | os.PathLike[str], wav: np.ndarray | Tensor, sample_hz: int) -> None:
    """Writes a waveform as 16-bit WAV, or in the format of the ending of `path`. Audio beyond -1..1 is scaled down.

    Args:
        path: the file to write; its folder must exist.
        wav: `[t]`, floating point.
        sample_hz: its sampling rate in Hz.

    Raises:
        FileNotFoundError: the folder does not exist.
        OSError: the file cannot be written.
        ValueError: `wav` is not one-dimensional, is empty, or holds values that are not finite.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} into: create it first")
    wav = wav.detach().cpu().float().numpy() if isinstance(wav, Tensor) else np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1 or wav.size == 0:
        raise ValueError(f"wav must have the shape [t] with t >= 1, got {list(wav.shape)}")
    if not np.isfinite(wav).all():
        raise ValueError("wav holds samples that are NaN or infinite: leave them out before saving")
    check_rates(sample_hz)
    try:
        soundfile.write(path, wav / max(1.0, float(np.abs(wav).max())), sample_hz, subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path} cannot be written ({error}): choose another name or place") from error


def resample(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """A waveform `[t]` at `from_hz` as float32 `[about t * to_hz / from_hz]` at `to_hz`.

    Raises:
        ValueError: `wav` is not one-dimensional or a rate is out of range.
    """
    check_rates(from_hz, to_hz)
    wav = np.asarray(wav, dtype=np.float32)
    if wav.ndim != 1:
        raise ValueError(f"wav must have the shape [t], got {list(wav.shape)}")
    return wav if from_hz == to_hz else soxr.resample(wav, from_hz, to_hz)


def _open(path: Path) -> soundfile.SoundFile:
    """Opens a file whose name may hold any bytes: soundfile takes bytes, but its types do not say so."""
    return soundfile.SoundFile(cast(Any, os.fsencode(path)))


def _missing(file: soundfile.SoundFile, found: int, path: Path) -> str:
    """The amount of audio that the file announces but does not hold, in words; "" if it is complete."""
    note = SHORT_DATA.search(file.extra_info)
    if note and int(note[2]) < int(note[1]) < STREAMED:
        return f"{int(note[1]) - int(note[2])} bytes"
    with open(path, "rb") as raw:
        head = raw.read(1 << 16)
        raw.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = raw.read()
    if file.format == "OGG":  # libsndfile does not notice a missing end, so the last page must be complete
        page = tail[tail.rfind(b"OggS") :]
        return "" if len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]]) else "a part"
    if file.format == "MP3" and b"Xing" not in head and b"Info" not in head:
        return ""  # without a frame count, libsndfile guesses the length from the size of the file
    missing = file.frames - found
    return f"{missing} samples" if missing > (MP3_SLACK if file.format == "MP3" else 0) else ""
