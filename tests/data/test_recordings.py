"""Audio files that hold several recordings, or do not tell their length: all of the sound is read."""

import numpy as np
import pytest
import soundfile

from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.data.corpora import file_utterance
from spear_tts_pytorch.data.recordings import AudioFile, split_flac, split_mp3, split_ogg, split_wav

RATE = 24000
CODED = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "opus": dict(format="OGG", subtype="OPUS")}


def swell(seconds, hz=440):
    """A tone whose loudness changes, so that variable bit rates vary."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).normal(0, 0.3, len(time))
    return (0.4 * (np.sin(2 * np.pi * hz * time) + noise * (time > seconds / 2))).astype(np.float32)


def write(path, wav, rate=RATE, **options):
    soundfile.write(path, wav, rate, **{**CODED[path.suffix[1:]], **options})
    return path.read_bytes()


@pytest.mark.parametrize("suffix", CODED)
@pytest.mark.parametrize("number", [2, 3])
def test_joined_files_are_read_in_full(tmp_path, suffix, number):
    path, parts, alone = tmp_path / f"a.{suffix}", [], []
    for index in range(number):
        parts.append(write(path, swell(0.5 + 0.25 * index, hz=300 * (index + 1))))
        alone.append(load_audio(path)[0])
    path.write_bytes(b"".join(parts))
    joined, rate = load_audio(path)
    assert rate == RATE
    np.testing.assert_array_equal(joined, np.concatenate(alone))
    if suffix != "flac":  # a header of FLAC cannot show that more follows
        assert file_utterance("a", None, None, path).seconds == pytest.approx(len(joined) / RATE)


@pytest.mark.parametrize("suffix", CODED)
def test_one_recording_is_left_to_libsndfile(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    data = write(path, swell(1.0))
    split = {
        "wav": lambda: split_wav(AudioFile(path)),
        "flac": lambda: split_flac(data),
        "mp3": lambda: split_mp3(data, 24000, 0),
    }
    assert split.get(suffix, lambda: split_ogg(data))() is None
    utterance = file_utterance("a", None, None, path)
    assert utterance.num_samples == len(utterance.audio()), "the header is believed"


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3"])
def test_a_joined_file_that_is_cut_off_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    data = write(path, swell(1.0))
    path.write_bytes(data + data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=rf"a\.{suffix} (is cut off|cannot be read)"):
        load_audio(path)


def test_the_first_of_joined_mp3_files_may_not_be_cut_off_either(tmp_path):
    data = write(tmp_path / "a.mp3", swell(1.0))
    (tmp_path / "a.mp3").write_bytes(data[: len(data) // 2] + bytes(2000) + data)
    with pytest.raises(ValueError, match=r"a\.mp3 is cut off, \d+ samples of its recording 1 of it is missing"):
        load_audio(tmp_path / "a.mp3")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_joined_files_of_different_rates_are_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(write(path, swell(0.5)) + write(path, swell(0.5), rate=16000))
    with pytest.raises(ValueError, match=r"a\.\w+ joins recordings of 24000 and 16000 Hz: split it or convert it"):
        load_audio(path)


def without_count(data):
    """An MP3 without its first frame, which holds the count (MPEG 2, layer 3)."""
    rates = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]
    size = 72 * rates[data[2] >> 4] * 1000 // RATE + (data[2] >> 1 & 1)
    assert data[size] == 0xFF and (b"Xing" in data[:size] or b"Info" in data[:size])
    return data[size:]


@pytest.mark.parametrize(("mode", "level"), [("VARIABLE", 0.3), ("VARIABLE", 0.0), ("CONSTANT", 0.5)])
@pytest.mark.parametrize("tag", [b"", b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)])
def test_mp3_without_a_count_is_read_to_its_end(tmp_path, mode, level, tag):
    path, wav = tmp_path / "a.mp3", swell(3.0)
    data = write(path, wav, bitrate_mode=mode, compression_level=level)
    path.write_bytes(tag + without_count(data) + (b"TAG" + bytes(125) if tag else b""))
    found, _ = load_audio(path)
    assert 0 <= len(found) - len(wav) <= 4 * 576, "the encoder's silence at both ends stays"
    spans = [found[start : start + len(wav)] for start in range(len(found) - len(wav) + 1)]
    assert max(float(np.corrcoef(span[::7], wav[::7])[0, 1]) for span in spans) > 0.9, "the sound is that of the file"
    assert file_utterance("a", None, None, path).seconds == pytest.approx(len(found) / RATE)


def test_mp3_files_without_counts_are_joined(tmp_path):
    data = write(tmp_path / "a.mp3", swell(1.0))
    (tmp_path / "a.mp3").write_bytes(data + without_count(data) + data)
    assert 0 <= len(load_audio(tmp_path / "a.mp3")[0]) - 3 * RATE <= 4 * 576


def test_flac_of_unknown_length_is_read(tmp_path):
    path = tmp_path / "a.flac"
    data = bytearray(write(path, swell(3.0)))
    wav = load_audio(path)[0]
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_array_equal(load_audio(path)[0], wav)
    assert file_utterance("a", None, None, path).seconds == 3.0


@pytest.mark.parametrize("subtype", ["GSM610", "NMS_ADPCM_16", "G721_32"])
def test_wav_in_which_one_cannot_seek_is_read(tmp_path, subtype):
    wav = swell(2.0)[:16000]
    soundfile.write(tmp_path / "a.wav", wav, 8000, subtype=subtype)
    found, rate = load_audio(tmp_path / "a.wav")
    assert rate == 8000 and 0 <= len(found) - 16000 < 640


@pytest.mark.parametrize("is_known", [True, False])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch, is_known):
    monkeypatch.setattr("spear_tts_pytorch.data.audio.MOST_SAMPLES", 1 << 20)
    path = tmp_path / "a.flac"
    data = bytearray(write(path, np.zeros(3 << 20, dtype=np.float32)))
    if not is_known:
        data[21] &= 0xF0
        data[22:26] = bytes(4)
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.flac unpacks to more than 1048576 samples, too many for its \d+ bytes"):
        load_audio(path)


def test_random_bytes_in_the_middle_do_not_stop_the_walk(tmp_path):
    data = write(tmp_path / "a.mp3", swell(1.0))
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    found = split_mp3(data + noise + data, RATE, 2304)
    assert found is not None and len(found) == 2
