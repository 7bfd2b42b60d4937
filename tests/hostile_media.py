"""Hostile Parquet and sound files of at most 1 MB: much in few bytes, and false lengths. Each is a name and its bytes."""

import io
import struct

import numpy as np
import soundfile

from spear_tts_pytorch.data.arrow import arrow, parquet


def parquet_file(table, edit=lambda data: data):
    file = io.BytesIO()
    parquet().write_table(table, file, compression="zstd")
    return edit(file.getvalue())


def one_row(length, ids="semantic_ids"):
    """A table of pairs with one row of many equal ids."""
    pa = arrow()
    rows = {
        name: pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array([1], pa.int32()))
        for name in ("semantic_ids", "text_ids")
    }
    values = pa.array(np.ones(length, np.int32))
    rows[ids] = pa.ListArray.from_arrays(pa.array([0, length], pa.int32()), values)
    text = pa.array(["a"])
    return pa.table(
        {
            "id": text,
            **rows,
            "text": text,
            "score": pa.array([1.0], pa.float32()),
            "source": text,
            "speaker": text,
            "seconds": pa.array([1.0]),
        }
    )


def varint(number):
    found = bytearray()
    while True:
        number, low = number >> 7, number & 127
        found.append(low | (128 if number else 0))
        if not number:
            return bytes(found)


def understated(length):
    """Writes into the end of a Parquet file that its columns hold 1 value instead of `length`."""
    many = varint(2 * length)
    one = bytes([0x82] + [0x80] * (len(many) - 2) + [0])  # 1, as long as the other

    def edit(data):
        size = int.from_bytes(data[-8:-4], "little")
        end = data[-8 - size :]
        assert many in end
        return data[: -8 - size] + end.replace(many, one)

    return edit


def shards():
    pa = arrow()
    yield "row", parquet_file(one_row(18_000_000))
    yield "row, understated", parquet_file(one_row(18_000_000), understated(18_000_000))
    whole = parquet_file(one_row(10))
    for name, place in {"end": -4, "length": -8, "magic": 0}.items():
        damaged = bytearray(whole)
        damaged[place : (place + 4) or None] = b"\xff\xff\xff\x7f"
        yield name, bytes(damaged)
    yield "pages", whole.replace(b"\x15\x00\x15", b"\x15\xfe\x15")
    yield "text", b"no Parquet"
    yield "empty", b""
    yield "ends", b"PAR1" + b"\x15" * 1000 + struct.pack("<I", 900) + b"PAR1"
    long = pa.array(["a" * 18_000_000])
    yield "long text", parquet_file(one_row(10).set_column(0, "id", long))
    yield "other columns", parquet_file(pa.table({"a": [1]}))
    yield "other types", parquet_file(one_row(10).set_column(1, "semantic_ids", pa.array(["a"])))


def wav(channels=1, rate=8000, bits=16, data=b"\1\0" * 4000, kind=1, told=None):
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels % 65_536, rate, (rate * block) % 2**32, block % 65_536, bits)
    told = len(data) if told is None else told
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", told) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def sound(format_, wav_, rate, subtype=None):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, subtype, format=format_) as made:
        for start in range(0, len(wav_), 2**16):  # libsndfile's Ogg writer ends the process for longer ones
            made.write(wav_[start : start + 2**16])
    return file.getvalue()


def recordings():
    yield "channels.wav", wav(channels=65_535, bits=8)
    yield "many channels.wav", wav(channels=1024, bits=8, data=b"\1" * 10**6)
    yield "rate.wav", wav(rate=2**32 - 1)
    yield "slow.wav", wav(rate=1)
    yield "told.wav", wav(told=0x7FFE_FFFF)
    yield "adpcm.wav", wav(kind=2, bits=4, data=b"\0" * 10**6)
    yield "gsm.wav", wav(kind=49, bits=0, data=b"\xd0" * 10**6)
    yield "parts.wav", (b"RIFF\4\0\0\0WAVE") * 80_000
    yield "one part.wav", b"RIFF\0\0\0\0WAVE" * 80_000
    flac = sound("FLAC", np.zeros(2**25, np.int16), 1000)
    yield "silence.flac", flac
    told = bytearray(flac[:100_000])
    told[21:26] = bytes([told[21] | 15]) + b"\xff" * 4
    yield "told.flac", bytes(told)
    told[21:26] = bytes([told[21] & 0xF0]) + b"\0" * 4
    yield "untold.flac", bytes(told)
    yield "parts.flac", (b"fLaC\0\0\0\x22" + b"\0" * 34) * 20_000
    ogg = sound("OGG", np.zeros(2**22, np.float32), 8000, "VORBIS")
    yield "silence.ogg", ogg[: 10**6]
    yield "pages.ogg", (b"OggS\0\2" + b"\0" * 20 + b"\0") * 35_000
    mp3 = sound("MP3", np.zeros(8000, np.float32), 8000)
    yield "ones.mp3", mp3[:500] + b"\xff" * 999_000
    yield "tags.mp3", mp3 + b"ID3\4\0\0\0\0\0\0" * 99_000
    yield "tags first.mp3", b"ID3\4\0\0\0\0\0\0" * 99_000 + mp3
    yield "frames.mp3", (mp3[:4] + b"\0" * 20) * 40_000
    place = mp3.find(b"Info") if b"Info" in mp3 else mp3.find(b"Xing")
    told = bytearray(mp3)
    told[place + 8 : place + 12] = b"\xff" * 4
    yield "told.mp3", bytes(told)
    for ending in ("wav", "flac", "ogg", "mp3", "opus"):
        yield f"zeros.{ending}", b"\0" * 10**6
        yield f"text.{ending}", b"no audio" * 100
