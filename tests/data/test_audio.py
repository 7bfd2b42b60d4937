"""Audio files: what is written is read, rates, channels, refused input."""

import numpy as np
import pytest
import soundfile
import torch

from spear_tts_pytorch.data.audio import load_audio, resample, save_audio


def tone(hz, sample_hz=16000, seconds=0.5):
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_hz)) / sample_hz).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_what_is_saved_is_loaded(tmp_path, suffix):
    wav = 0.5 * tone(440)
    save_audio(tmp_path / f"a.{suffix}", torch.from_numpy(wav), 16000)
    again, sample_hz = load_audio(tmp_path / f"a.{suffix}")
    assert sample_hz == 16000 and again.dtype == np.float32
    np.testing.assert_allclose(again, wav, atol=1 / 32768)


def test_several_channels_become_their_mean(tmp_path):
    both = np.stack([tone(440), np.zeros(8000, dtype=np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[0], tone(440) / 2, atol=1e-6)


def test_loading_at_another_rate_keeps_duration_and_pitch(tmp_path):
    save_audio(tmp_path / "a.wav", tone(1000, 22050), 22050)
    wav, sample_hz = load_audio(tmp_path / "a.wav", target_sample_hz=8000)
    assert sample_hz == 8000 and abs(len(wav) - 4000) <= 1
    assert abs(np.abs(np.fft.rfft(wav)).argmax() * 8000 / len(wav) - 1000) < 4


def test_audio_beyond_full_scale_is_turned_down_not_clipped(tmp_path):
    save_audio(tmp_path / "a.wav", 4 * tone(440), 16000)
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav")[0], tone(440), atol=1e-3)


def test_resampling_to_the_same_rate_changes_nothing():
    wav = tone(440)
    assert np.array_equal(resample(wav, 16000, 16000), wav)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda path: None, FileNotFoundError, "no audio file"),
        (lambda path: path.write_text("not audio"), ValueError, "cannot be read as audio"),
        (lambda path: soundfile.write(path, np.zeros(0), 8000), ValueError, "holds no audio"),
        (lambda path: soundfile.write(path, np.array([0, np.nan]), 8000, subtype="FLOAT"), ValueError, "NaN"),
    ],
)
def test_unreadable_files_are_named(tmp_path, write, error, message):
    path = tmp_path / "clip.wav"
    write(path)
    with pytest.raises(error, match=message) as caught:
        load_audio(path)
    assert "clip.wav" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_rates_that_no_sound_has_are_refused_by_file_and_rate(tmp_path, rate):
    soundfile.write(tmp_path / "clip.wav", tone(440), rate)
    with pytest.raises(ValueError, match=rf"clip\.wav gives {rate} Hz .* repair or remove it"):
        load_audio(tmp_path / "clip.wav", 16000)


@pytest.mark.parametrize("rate", [1000, 8000, 192_000, 768_000])
def test_rates_from_telephones_to_studios_are_taken(tmp_path, rate):
    soundfile.write(tmp_path / "clip.wav", tone(440, rate), rate)
    assert abs(len(load_audio(tmp_path / "clip.wav", 8000)[0]) - 4000) <= 1


CODED = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "opus": dict(format="OGG", subtype="OPUS")}


@pytest.mark.parametrize("suffix", CODED)
@pytest.mark.parametrize("part", ["3 bytes", "within the header", "after the header", "a half", "nine tenths"])
def test_files_that_are_cut_off_are_named(tmp_path, suffix, part):
    if suffix == "mp3" and "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48000), 16000, **CODED[suffix])
    assert abs(len(load_audio(path)[0]) - 48000) < 3, "the whole file is read"
    data = path.read_bytes()
    kept = {"3 bytes": 3, "within the header": 30, "after the header": 60, "a half": len(data) // 2}
    path.write_bytes(data[: kept.get(part, len(data) * 9 // 10)])
    with pytest.raises(ValueError, match=rf"clip\.{suffix} (is cut off|cannot be read|holds no audio)"):
        load_audio(path)


def test_wav_that_was_written_into_a_pipe_is_whole(tmp_path):
    save_audio(tmp_path / "a.wav", tone(440), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        data[40:44] = size.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(data)
        assert len(load_audio(tmp_path / "a.wav")[0]) == 8000


def test_mp3_is_read(tmp_path):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    for channels in (1, 2):
        wav = np.repeat(0.5 * tone(440, 22050)[:, None], channels, axis=1)
        soundfile.write(tmp_path / "a.mp3", wav, 22050)
        again, sample_hz = load_audio(tmp_path / "a.mp3")
        assert sample_hz == 22050 and len(again) == len(wav)
        assert np.abs(again - wav[:, 0])[1000:-1000].max() < 0.02
    assert len(load_audio(tmp_path / "a.mp3", 8000)[0]) == 4000


def test_mp3_that_does_not_say_how_long_it_is_is_read(tmp_path):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48000), 16000)
    data = path.read_bytes()
    counted = max(data.find(b"Xing"), data.find(b"Info"))
    assert counted > 0
    path.write_bytes(data[data.find(data[:2], counted) :][:-1000])
    assert len(load_audio(path)[0]) > 1000


@pytest.mark.parametrize(
    ("path", "wav", "sample_hz", "error", "message"),
    [
        ("missing/a.wav", tone(440), 8000, FileNotFoundError, "create it first"),
        ("a.wav", np.zeros((2, 3)), 8000, ValueError, r"got \[2, 3\]"),
        ("a.wav", np.zeros(0), 8000, ValueError, "t >= 1"),
        ("a.wav", np.array([0, np.inf]), 8000, ValueError, "NaN or infinite"),
        ("a.wav", tone(440), 0, ValueError, "sample_hz must be at least 1000"),
    ],
)
def test_bad_audio_is_not_written(tmp_path, path, wav, sample_hz, error, message):
    with pytest.raises(error, match=message):
        save_audio(tmp_path / path, wav, sample_hz)
    assert not (tmp_path / path).exists()


def test_resample_refuses_batches_and_rates_of_zero():
    with pytest.raises(ValueError, match=r"shape \[t\]"):
        resample(np.zeros((1, 3)), 8000, 16000)
    with pytest.raises(ValueError, match="rates must be 1000 to 768000 Hz, got 8000 and 0"):
        resample(np.zeros(3), 8000, 0)
