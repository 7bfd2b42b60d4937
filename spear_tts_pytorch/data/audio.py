"""Audio files to waveforms and back.

In: files that libsndfile reads, by their paths or as bytes. Out: mono float32 arrays `[t]` in -1..1 and their sampling rate
in Hz.
"""

from __future__ import annotations

import io
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
import soxr
from torch import Tensor

from spear_tts_pytorch.data.recordings import AudioFile, split_flac, split_mp3, split_ogg, split_wav, tells_length
from spear_tts_pytorch.tokenizers.semantic import RATES, check_rates, checked_rate
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.values import absolute_path, shown

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
OTHER_SUFFIXES = tuple(  # audio and video that is not read
    ".m4a .m4b .mp4 .mov .aac .webm .mkv .mka .wma .asf .aif .aiff .aifc .caf .au .snd .amr .3gp .ape .wv .tta .spx .oga .mpga "
    ".mp2 .m4v .avi .weba .ac3 .dts .ra .rm .w64 .rf64 .sph .gsm .alac .dsf .mpc".split()
)
SHORT_DATA = re.compile(
    r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE
)  # libsndfile's note on a WAV that ends early
STREAMED = (
    0x7FFF0000  # bytes: programs that write WAV into a pipe give this length or more, since the length is unknown
)
UNKNOWN_LENGTH = 1 << 62  # samples: libsndfile gives more for files that do not tell their length
BLOCK = 1 << 20  # samples of all channels
MOST_SAMPLES = 1 << 26  # in a file of any size: 0.25 GB
MOST_PER_BYTE = 100  # samples of a longer file; speech has below 70, in Opus at 6 kbit/s
MP3_SLACK = 2304  # samples, two frames: decoders find ends that differ by this much


def load_audio(path: str | os.PathLike[str], target_sample_hz: int | None = None) -> tuple[np.ndarray, int]:
    """Reads a file as a mono waveform; channels are averaged. Files joined to one (`cat a.mp3 b.mp3`) are read in full.

    Args:
        path: a file in a format of libsndfile, such as WAV, FLAC, OGG or MP3.
        target_sample_hz: rate in Hz to which the audio is resampled; None keeps its rate.

    Returns:
        float32 `[t]` in -1..1, and its sampling rate in Hz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not audio that libsndfile reads, is empty, is shorter than its header says, has a rate
            outside 1,000 to 768,000 Hz, holds values that are not finite, or joins files of different rates.
    """
    path = _path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"no audio file at {path}")
    return load_recording(
        AudioFile(path), None if target_sample_hz is None else checked_rate("target_sample_hz", target_sample_hz)
    )


def load_recording(path: AudioFile, target_sample_hz: int | None = None) -> tuple[np.ndarray, int]:
    """`load_audio` of a file that may be given as its bytes."""
    try:
        wav, sample_hz = _read(path)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as audio ({getattr(error, 'error_string', error)}): convert it to WAV or FLAC, or remove it"
        ) from error
    if wav.size == 0:
        raise ValueError(f"{path} holds no audio: remove it")
    if not np.isfinite(wav).all():
        raise ValueError(f"{path} holds samples that are NaN or infinite: export it again or remove it")
    if target_sample_hz is None:
        return np.ascontiguousarray(wav), sample_hz
    check_rates(sample_hz, target_sample_hz)
    if wav.size * target_sample_hz / sample_hz > _most_samples(path):
        raise ValueError(
            f"{path} has {wav.size} samples at {sample_hz} Hz, which are too many at {target_sample_hz} Hz: split it, or "
            "remove it if it is silent or damaged"
        )
    return resample(wav, sample_hz, target_sample_hz), target_sample_hz


def load_part(path: str | os.PathLike[str], start: int, end: int) -> np.ndarray:
    """The samples `start` to `end` of a file as a mono waveform, float32 `[end - start]`.

    WAV and FLAC are read from `start` on. Other files are read whole; the last one is kept for the next call.

    Raises:
        FileNotFoundError, ValueError: as `load_audio`; the file has no such samples.
    """
    path = Path(path)
    wav = _stretch(path, start, end) if path.suffix.lower() in (".wav", ".flac") else None
    if wav is None:
        status = path.stat()
        wav = _last_file(path, status.st_size, status.st_mtime_ns)[start:end]
    if len(wav) < end - start:
        raise ValueError(f"{path} has no samples {start} to {end}: it is shorter now; cut it again, or restore it")
    return np.array(wav)  # the kept file stays as it is


def _stretch(path: Path, start: int, end: int) -> np.ndarray | None:
    """Some samples of a file; None if it can only be read whole."""
    try:
        with soundfile.SoundFile(cast(Any, os.fsencode(path))) as file:
            if not file.seekable() or file.frames >= UNKNOWN_LENGTH or end > file.frames:
                return None
            file.seek(start)
            wav = _mono(file.read(end - start, dtype="float32", always_2d=True))
    except (soundfile.SoundFileError, RuntimeError):
        return None  # `load_audio` says what is wrong, or reads recordings that are joined
    return wav if np.isfinite(wav).all() else None


@lru_cache(maxsize=1)
def _last_file(path: Path, size: int, changed: int) -> np.ndarray:
    return load_audio(path)[0]


def read_header(path: str | os.PathLike[str]) -> tuple[int, int | None]:
    """Sampling rate in Hz and number of samples of a file, None for a number that only reading it tells.

    Raises:
        ValueError: libsndfile cannot read the header, it gives a rate outside 1,000 to 768,000 Hz, or `path` is no file.
    """
    return recording_header(AudioFile(Path(path)))


def recording_header(path: AudioFile) -> tuple[int, int | None]:
    """`read_header` of a file that may be given as its bytes."""
    try:
        if path.data is None and not path.path.is_file():  # a link that leads nowhere, or a pipe, which would never end
            raise RuntimeError("it is not a file")
        parts = split_wav(path)
        with _open(path if parts is None else parts[0]) as file:
            whole = parts is None and file.frames < UNKNOWN_LENGTH and tells_length(path, file.extra_info)
            if file.samplerate not in RATES:
                raise RuntimeError(f"it gives {file.samplerate} Hz as its sampling rate")
            return file.samplerate, file.frames if whole else None
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        reason = getattr(error, "error_string", error)
        raise ValueError(f"{path} cannot be read as audio ({reason}): repair, convert or remove it") from error


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
    path = _path("path", path)
    if not soundfile.check_format(path.suffix[1:], "PCM_16"):
        raise ValueError(f"path must end in .wav, .flac or another format with samples of 16 bits, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} into: create it first")
    sample_hz = checked_rate("sample_hz", sample_hz)
    try:
        wav = wav.detach().cpu().float().numpy() if isinstance(wav, Tensor) else np.asarray(wav, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"wav must be a waveform of floating-point numbers, got {shown(wav)}") from error
    if wav.ndim != 1 or wav.size == 0:
        raise ValueError(f"wav must have the shape [t] with t >= 1, got {list(wav.shape)}")
    if not np.isfinite(wav).all():
        raise ValueError("wav holds samples that are NaN or infinite: leave them out before saving")
    encoded, kind = io.BytesIO(), path.suffix[1:].upper()
    try:
        soundfile.write(encoded, wav / max(1.0, float(np.abs(wav).max())), sample_hz, subtype="PCM_16", format=kind)
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path} cannot be written ({error}): choose another name or place") from error
    write_whole(path, encoded.getvalue())


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


def _path(name: str, value: str | os.PathLike[str]) -> Path:
    absolute_path(name, value)
    return Path(value)


class _Forward(soundfile.SoundFile):
    """A file read from start to end. soundfile seeks after each read; where that is impossible, it gives up."""

    def seekable(self) -> bool:
        return False


def _open(source: AudioFile | bytes) -> soundfile.SoundFile:
    """Opens a file whose name may hold any bytes, or the bytes of one. soundfile's types do not say that it takes bytes."""
    data = source if isinstance(source, bytes) else source.data
    return _Forward(cast(Any, os.fsencode(cast(AudioFile, source).path)) if data is None else io.BytesIO(data))


def _read(path: AudioFile) -> tuple[np.ndarray, int]:
    """All audio of a file, mono float32 `[t]`, and its rate in Hz."""
    most = _most_samples(path)
    sample_hz = None
    parts = split_wav(path)  # libsndfile does not open joined WAV
    if parts is None:
        with _open(path) as file:
            sample_hz = _rate_of(file, path)
            parts = _parts(file, path)
            if parts is None:
                frames = _frames_of(file, most, path)
                with path.open() as raw:
                    _check_whole(file, len(frames), raw, path)
                return _mono(frames), sample_hz
    wavs: list[np.ndarray] = []
    for part in parts:
        with _open(part) as file:
            sample_hz = _rate_of(file, path) if sample_hz is None else sample_hz
            if _rate_of(file, path) != sample_hz:
                raise ValueError(
                    f"{path} joins recordings of {sample_hz} and {file.samplerate} Hz: split it or convert it to WAV"
                )
            frames = _frames_of(file, most, path)
            most -= frames.size
            _check_whole(file, len(frames), io.BytesIO(part), path)
            wavs.append(_mono(frames))
    return np.concatenate(wavs), sample_hz or 0


def _most_samples(path: AudioFile) -> int:
    """Number of samples in a file that is not hostile."""
    return max(MOST_SAMPLES, MOST_PER_BYTE * path.size)


def _parts(file: soundfile.SoundFile, path: AudioFile) -> list[bytes] | None:
    """The recordings in the file, or None if libsndfile reads the file whole."""
    if file.format == "FLAC":
        return split_flac(path.read())
    if file.format == "OGG":
        return split_ogg(path.read())
    if file.format == "MP3":
        try:
            return split_mp3(path.read(), file.frames, MP3_SLACK)
        except ValueError as error:
            raise ValueError(_cut(path, str(error))) from error
    return None


def _rate_of(file: soundfile.SoundFile, path: AudioFile) -> int:
    if file.samplerate not in RATES:
        raise ValueError(
            f"{path} gives {file.samplerate} Hz as its sampling rate, not {RATES[0]} to {RATES[-1]}: repair or remove it"
        )
    return file.samplerate


def _frames_of(file: soundfile.SoundFile, most: int, path: AudioFile) -> np.ndarray:
    """All of a file, float32 `[t, channels]`. In blocks if the length is unknown, as in FLAC from a stream.

    Raises:
        ValueError: there are more than `most` samples.
    """
    if file.frames < UNKNOWN_LENGTH and file.frames * file.channels <= most:
        return file.read(file.frames, dtype="float32", always_2d=True)
    length = max(1, BLOCK // file.channels)
    blocks = [file.read(length, dtype="float32", always_2d=True)]
    while len(blocks[-1]) == length and sum(block.size for block in blocks) <= most:
        blocks.append(file.read(length, dtype="float32", always_2d=True))
    if sum(block.size for block in blocks) > most:
        reason = f"unpacks to more than {most} samples, too many for its {path.size} bytes"
        raise ValueError(f"{path} {reason}: split it, or remove it if it is silent or damaged")
    return np.concatenate(blocks)


def _mono(frames: np.ndarray) -> np.ndarray:
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)


def _check_whole(file: soundfile.SoundFile, found: int, raw: BinaryIO, path: AudioFile) -> None:
    """Raises ValueError if `found` samples are less than the file announces; `raw` gives its bytes."""
    if missing := _missing(file, found, raw):
        raise ValueError(_cut(path, missing))


def _cut(path: AudioFile, missing: str) -> str:
    return f"{path} is cut off, {missing} of it is missing: copy it again or remove it"


def _missing(file: soundfile.SoundFile, found: int, raw: BinaryIO) -> str:
    """The amount of audio that the file announces but does not hold, in words; "" if it is complete."""
    note = SHORT_DATA.search(file.extra_info)
    if note and int(note[2]) < int(note[1]) < STREAMED:
        return f"{int(note[1]) - int(note[2])} bytes"
    head = raw.read(1 << 16)
    raw.seek(max(0, raw.seek(0, os.SEEK_END) - (1 << 16)))
    tail = raw.read()
    if file.format == "OGG":  # libsndfile does not notice a missing end, so the last page must be complete
        page = tail[tail.rfind(b"OggS") :]
        return "" if len(page) >= 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]]) else "a part"
    if file.format == "MP3" and b"Xing" not in head and b"Info" not in head:
        return ""  # without a frame count, libsndfile guesses the length from the size of the file
    if file.frames >= UNKNOWN_LENGTH:
        return ""
    missing = file.frames - found
    return f"{missing} samples" if missing > (MP3_SLACK if file.format == "MP3" else 0) else ""
