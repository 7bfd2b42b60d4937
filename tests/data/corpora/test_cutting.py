"""Long recordings are cut where nobody speaks, every word stays whole, and the clips' audio is the recording's."""

import numpy as np
import pytest

from spear_tts_pytorch.data.audio import load_audio, load_part, save_audio
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.corpora.cutting import between, cut_at_silences, join_passages, part_of, silent_cuts
from spear_tts_pytorch.data.corpora.layouts import file_utterance
from spear_tts_pytorch.data.corpora.transcripts import Passage

HZ = 8000


def recording(words, noise=1e-3, seed=0):
    """Noise with bursts, where `words` are (start, end) in seconds."""
    rng = np.random.default_rng(seed)
    wav = noise * rng.standard_normal(round((words[-1][1] + 1) * HZ))
    for start, end in words:
        wav[round(start * HZ) : round(end * HZ)] += 0.3 * rng.standard_normal(round(end * HZ) - round(start * HZ))
    return wav.astype(np.float32)


def phrases(count, seed):
    rng, words, time = np.random.default_rng(seed), [], 0.5
    for _ in range(count):
        length = rng.uniform(0.3, 6)
        words.append((time, time + length))
        time += length + rng.choice([0.1, 0.4, 0.7, 3.0])
    return words


@pytest.mark.parametrize("seed", range(3))
def test_clips_hold_whole_phrases_and_little_silence(seed):
    words = phrases(60, seed)
    clips = cut_at_silences(recording(words), HZ, 2, 15)
    assert all(0 < end - start <= 15 + 1e-6 for start, end in clips)
    assert all(a[1] <= b[0] for a, b in zip(clips[:-1], clips[1:], strict=True))
    for start, end in words:
        within = [clip for clip in clips if clip[0] - 0.05 <= start and end <= clip[1] + 0.05]
        joined = any(0 < b[0] - a[1] < 0.2 for a, b in zip(words[:-1], words[1:], strict=True) if start in (a[0], b[0]))
        assert within or joined, (start, end)
    spoken = sum(end - start for start, end in words)
    assert sum(end - start for start, end in clips) < 1.3 * spoken


def test_speech_without_a_pause_is_cut_where_it_is_quietest():
    wav = recording([(0.5, 30.5)])
    wav[round(12 * HZ) : round(12.1 * HZ)] *= 0.2
    cuts = cut_at_silences(wav, HZ, 2, 15)
    assert any(abs(end - 12.05) < 0.1 for _, end in cuts)
    assert all(end - start <= 15 for start, end in cuts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sample_hz", [6350, 8000, 15950, 22050])
def test_a_passage_without_a_silence_is_covered_by_clips_within_the_limits(seed, sample_hz):
    """Music, hum or a fluent speaker. Also rates of which no frame has a whole number of samples."""
    rng = np.random.default_rng(seed)
    wav = 0.3 * rng.standard_normal(round(rng.uniform(15.5, 70) * sample_hz))
    wav *= (1, 0, 2.5 + np.sin(np.arange(len(wav)) / sample_hz), np.linspace(0.3, 1, len(wav)))[seed]
    seconds = len(wav) / sample_hz
    for longest in (15, 7.5):
        clips = cut_at_silences(wav.astype(np.float32), sample_hz, 2, longest)
        assert clips[0][0] == 0 and seconds - 0.02 < clips[-1][1] <= seconds + 1e-6
        assert all(a[1] == b[0] for a, b in zip(clips[:-1], clips[1:], strict=True))
        assert all(1.98 <= end - start <= longest + 1e-6 for start, end in clips)


@pytest.mark.parametrize("sample_hz", [11025, 22050, 44100])
def test_cuts_of_long_recordings_do_not_drift(sample_hz):
    wav = 1e-3 * np.random.default_rng(0).standard_normal(200 * sample_hz).astype(np.float32)
    for second in range(0, 200, 10):
        wav[second * sample_hz : (second + 5) * sample_hz] *= 300
    found = cut_at_silences(wav, sample_hz)
    assert np.allclose([start for start, _ in found], np.maximum(0, np.arange(0, 200, 10) - 0.1), atol=0.05)


def test_a_part_may_end_with_its_recording():
    """Ends in a table have three decimals, and may be a few samples behind the last one."""
    wav = np.ones(22050 + 7, dtype=np.float32)
    one = Utterance("a", None, None, 22050, lambda: wav, len(wav))
    clip = part_of(one, (0.5, round(one.seconds + 2e-4, 3)))
    assert clip.num_samples == len(clip.audio()) == len(wav) - 11025
    with pytest.raises(ValueError, match=r"a has 1\.00 s, no part from 2\.00 s to 3\.00 s"):
        part_of(one, (2.0, 3.0))


@pytest.mark.parametrize("wav", [np.zeros(0, np.float32), np.zeros(HZ, np.float32), np.ones(50, np.float32)])
def test_nothing_to_cut(wav):
    assert len(cut_at_silences(wav, HZ)) <= 1


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_part_of_a_file_is_that_part_of_its_samples(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    save_audio(path.with_suffix(".wav"), recording(phrases(5, 0)), HZ)
    if suffix != ".wav":
        import soundfile

        soundfile.write(path, load_audio(path.with_suffix(".wav"))[0], HZ)
    whole = load_audio(path)[0]
    load_part(path, 1000, 9000)[:] = 7  # each call returns samples of its own
    assert np.array_equal(load_part(path, 1000, 9000), whole[1000:9000])
    one = file_utterance("long", None, None, path)
    clip = part_of(one, (0.5, 1.5), "words")
    assert (clip.id, clip.text, clip.num_samples) == ("long-0000050-0000150", "words", HZ)
    assert np.array_equal(clip.audio(), whole[4000:12000])
    with pytest.raises(ValueError, match="no samples"):
        load_part(path, len(whole) - 10, len(whole) + 10)


def test_stretches_between_passages_are_cut_too():
    wav = recording([(0.5, 3.0), (5.0, 8.0), (12.0, 15.0)])
    one = Utterance("a", None, None, HZ, lambda: wav, len(wav))
    passages = [Passage(4.8, 8.2, "told")]
    free = between(passages, one.seconds, 2.0)
    assert free == [(0.0, 4.8), (8.2, one.seconds)]
    spans = silent_cuts(one, 2, 15, free)
    assert [(round(a), round(b)) for a, b in spans] == [(0, 3), (12, 15)]


def test_words_are_joined_up_to_a_pause_a_full_stop_or_the_longest_clip():
    words = [Passage(i * 0.5, i * 0.5 + 0.45, f"w{i}") for i in range(8)]
    words[2] = Passage(1.0, 1.45, "w2.")
    words.append(Passage(5.0, 5.5, "late"))
    assert [one.text for one in join_passages(words, 2.0)] == ["w0 w1 w2.", "w3 w4 w5 w6", "w7", "late"]
