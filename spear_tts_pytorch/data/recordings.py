"""Finds several recordings in one audio file, and the true length of MP3 that does not tell it.

In: a WAV, FLAC, Ogg or MP3 file, or its bytes. Out: the bytes of each recording in it, each readable by libsndfile alone.
Files that were joined byte by byte (`cat a.mp3 b.mp3`) hold several; libsndfile reads only the first. It guesses the
length of an MP3 without a frame count from the first frame, which is wrong if the bit rate varies.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # the mark of a file and the head of its first block, 34 bytes
JOINED_OGG = "Junk after the last page"  # libsndfile's note on pages of a second recording
TAG_SLACK = 4096  # bytes that tags may take beside the length that an MP3 tells
BIT_RATES = {  # kbit/s by (MPEG 1, layer); indices 0 and 15 are no rates
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448, 0),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
BASE_RATES = (44100, 48000, 32000, 0)  # Hz, of MPEG 1


@dataclass(frozen=True)
class AudioFile:
    """An audio file on the disk, or one that is given as its bytes.

    Attributes:
        path: of the file; a name for messages if there are bytes.
        data: its bytes; None if they are on the disk.
    """

    path: Path
    data: bytes | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.path.stat().st_size if self.data is None else len(self.data)

    def open(self) -> BinaryIO:
        """Its contents, to be read."""
        return open(self.path, "rb") if self.data is None else io.BytesIO(self.data)

    def read(self) -> bytes:
        """Its contents as a whole."""
        return self.path.read_bytes() if self.data is None else self.data


@dataclass(frozen=True)
class Frame:
    """The head of an MP3 frame.

    Attributes:
        start: its first byte in the file.
        size: its length in bytes.
        kind: MPEG version, layer and sampling rate in Hz; these are equal in all frames of a recording.
        samples: audio samples of each channel.
        side: bytes between its head and a frame count, if it holds one.
    """

    start: int
    size: int
    kind: tuple[int, int, int]
    samples: int
    side: int


@dataclass(frozen=True)
class Mp3:
    """A recording in an MP3 file: `data[start:end]` and the frames with audio in it.

    Attributes:
        told: number of frames that its first frame tells, None without a count.
    """

    start: int
    end: int
    first: Frame
    told: int | None = None
    sizes: list[int] = field(default_factory=list[int])


def split_wav(source: AudioFile) -> list[bytes] | None:
    """The recordings of a WAV file if it holds several, else None. The whole file is read only then."""
    starts, size = list[int](), source.size
    with source.open() as file:
        start, head = 0, file.read(12)
        while head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            starts.append(start)
            start += 8 + int.from_bytes(head[4:8], "little")
            start += start % 2
            if start + 12 > size:
                break
            file.seek(start)
            head = file.read(12)
    return _slices(source.read(), starts) if len(starts) > 1 else None


def split_flac(data: bytes) -> list[bytes] | None:
    """The recordings of a FLAC file if it holds several, else None."""
    starts = [match.start() for match in FLAC_START.finditer(data)]
    return _slices(data, starts) if len(starts) > 1 else None


def split_ogg(data: bytes) -> list[bytes] | None:
    """The recordings of an Ogg file, which are called links of a chain, if it holds several, else None."""
    starts, position, in_heads = list[int](), data.find(b"OggS"), False
    while 0 <= position <= len(data) - 27:
        is_first = bool(data[position + 5] & 2)  # a stream begins here; streams of one recording begin together
        if is_first and not in_heads:
            starts.append(position)
        in_heads = is_first
        segments = data[position + 26]
        position += 27 + segments + sum(data[position + 27 : position + 27 + segments])
        if data[position : position + 4] != b"OggS":
            position = data.find(b"OggS", position)
    return _slices(data, starts) if len(starts) > 1 else None


def split_mp3(data: bytes, frames: int, slack: int) -> list[bytes] | None:
    """The recordings of an MP3 file, or None if libsndfile reads the file whole.

    Args:
        data: the file.
        frames: number of samples that libsndfile finds.
        slack: number of samples by which this number may be too small.

    Raises:
        ValueError: a recording before the last has fewer frames than it tells.
    """
    found = _mp3_recordings(data)
    if not found:
        return None
    single = len(found) == 1 and (found[0].told or 0) >= len(found[0].sizes)
    if single or (len(found) == 1 and frames + slack >= len(found[0].sizes) * found[0].first.samples):
        return None
    parts: list[bytes] = []
    for number, one in enumerate(found):
        if one.told and one.told > len(one.sizes) and number < len(found) - 1:
            missing = (one.told - len(one.sizes)) * one.first.samples
            raise ValueError(f"{missing} samples of its recording {number + 1}")
        part = data[one.start : one.end]
        parts.append(part if one.told else _with_count(part, one))
    return parts


def tells_length(source: AudioFile, notes: str) -> bool:
    """Whether libsndfile's length of a file can be right, as far as both ends of the file show.

    Args:
        source: WAV, FLAC, Ogg or MP3.
        notes: `extra_info` of libsndfile.
    """
    size = source.size
    with source.open() as file:
        head = file.read(12)
        if "MPEG" not in notes:
            return JOINED_OGG not in notes
        start = _after_tags(head, 0)
        file.seek(start)
        head = file.read(1 << 12)
    first = _frame(head, 0)
    told, length = _counts(head, first) if first else (None, None)
    return bool(told) and length is not None and abs(size - start - length) <= TAG_SLACK


def _slices(data: bytes, starts: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _mp3_recordings(data: bytes) -> list[Mp3]:
    """Walks through all frames. A frame with a count begins a recording, and so do frames beyond the count."""
    found: list[Mp3] = []
    position = _after_tags(data, 0)
    while (frame := _next_frame(data, position, found[-1].first.kind if found else None)) is not None:
        position = frame.start + frame.size
        told, _ = _counts(data, frame)
        full = bool(found) and 0 < (found[-1].told or 0) == len(found[-1].sizes)
        if not found or told is not None or full:
            if found:
                found[-1] = replace(found[-1], end=frame.start)
            found.append(Mp3(frame.start, len(data), frame, told))
        if told is None:
            found[-1].sizes.append(frame.size)
    # Some encoders count one or two frames too few: these frames are no recording of their own.
    return [one for one in found if one.told or len(one.sizes) > (2 if one is not found[0] else 0)]


def _next_frame(data: bytes, position: int, kind: tuple[int, int, int] | None) -> Frame | None:
    """The next frame, past tags and damage; of the given kind, or of any kind behind a tag."""
    if (frame := _frame(data, position)) and frame.kind == kind and position + frame.size <= len(data):
        return frame
    after = _after_tags(data, position)
    at = data.find(b"\xff", after)
    while 0 <= at <= len(data) - 4:
        frame = _frame(data, at)
        # Bytes can look like a frame by chance, hence a second frame or the end of the file must follow.
        if frame and at + frame.size <= len(data):
            follower = _frame(data, _after_tags(data, at + frame.size))
            ends = at + frame.size == len(data) or data[at + frame.size : at + frame.size + 3] in (b"TAG", b"APE")
            if ends or (follower and follower.kind == frame.kind):
                return frame
        at = data.find(b"\xff", at + 1)
    return None


def _after_tags(data: bytes, position: int) -> int:
    """The position behind ID3 tags that begin here."""
    while True:
        if data[position : position + 3] == b"ID3" and len(data) >= position + 10:
            a, b, c, d = data[position + 6 : position + 10]
            position += 10 + (a << 21 | b << 14 | c << 7 | d)
        elif data[position : position + 3] == b"TAG":
            position += 128
        else:
            return position


def _frame(data: bytes, start: int) -> Frame | None:
    """The frame whose head is here, None if there is none."""
    if len(data) < start + 4 or data[start] != 0xFF or data[start + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[start + 1] >> 3 & 3, 4 - (data[start + 1] >> 1 & 3)
    rate, padding = BASE_RATES[data[start + 2] >> 2 & 3], data[start + 2] >> 1 & 1
    if version == 1 or layer == 4 or not rate:
        return None
    bits = 1000 * BIT_RATES[version == 3, layer][data[start + 2] >> 4]
    rate >>= {3: 0, 2: 1, 0: 2}[version]
    if not bits:
        return None
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    size = (12 * bits // rate + padding) * 4 if layer == 1 else samples // 8 * bits // rate + padding
    mono = data[start + 3] >> 6 == 3
    return Frame(start, size, (version, layer, rate), samples, {3: (32, 17)}.get(version, (17, 9))[mono])


def _counts(data: bytes, frame: Frame) -> tuple[int | None, int | None]:
    """Number of frames and of bytes that this frame tells of its recording; None for those that it does not tell."""
    at = frame.start + 4 + frame.side
    if data[at : at + 4] in (b"Xing", b"Info"):
        flags = data[at + 7] if len(data) > at + 16 else 0
        frames = int.from_bytes(data[at + 8 : at + 12], "big") if flags & 1 else 0
        size = int.from_bytes(data[at + 12 : at + 16], "big") if flags & 3 == 3 else None
        return frames, size
    at = frame.start + 36
    if data[at : at + 4] == b"VBRI" and len(data) > at + 18:
        return int.from_bytes(data[at + 14 : at + 18], "big"), int.from_bytes(data[at + 10 : at + 14], "big")
    return None, None


def _with_count(part: bytes, recording: Mp3) -> bytes:
    """A recording behind a frame that tells its number of frames. A count of 0 is replaced, as it tells nothing."""
    start = recording.first.size if recording.told is not None else 0
    head = bytearray(part[:4])
    head[1] |= 1  # without a checksum
    for index in range(1, 15):  # the smallest frame with room for the count
        head[2] = head[2] & 0x0D | index << 4
        frame = _frame(bytes(head), 0)
        if frame and frame.size >= 4 + frame.side + 12:
            count = bytes(frame.side) + b"Xing" + (1).to_bytes(4, "big") + len(recording.sizes).to_bytes(4, "big")
            return (bytes(head) + count).ljust(frame.size, b"\0") + part[start:]
    return part
