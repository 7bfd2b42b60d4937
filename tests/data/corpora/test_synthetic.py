"""Synthetic speech: distinct sentences, reproducible sound, all voices, silence when asked for."""

import sys

import numpy as np
import pytest

from spear_tts_pytorch.data.corpora import open_corpus
from spear_tts_pytorch.data.corpora.synthetic import GRAMMAR, VOICES, Voice, espeak_corpus, open_espeak, random_sentence

pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")


@pytest.fixture(scope="module")
def corpus():
    return espeak_corpus(labelled=8, unlabelled=40, test=12, seed=1, progress=False)


def test_slots_have_ten_distinct_words():
    words = [word for slot in GRAMMAR.values() for word in slot.split()]
    assert [len(slot.split()) for slot in GRAMMAR.values()] == [10] * 5
    assert len(set(words)) == len(words)


def test_sentences_do_not_repeat_and_leave_room():
    taken = set()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        random_sentence(rng, taken)
    assert len(taken) == 3000
    assert {word for text in taken for word in text.split()} >= set(GRAMMAR["noun"].split())


def test_parts_share_no_text_and_hold_audible_speech(corpus):
    parts = (corpus.unlabelled, corpus.labelled, corpus.test)
    assert [len(part) for part in parts] == [40, 8, 12]
    every = [utterance for part in parts for utterance in part]
    assert len({utterance.text for utterance in every}) == len({utterance.id for utterance in every}) == 60
    for utterance in every:
        wav = utterance.audio()
        assert wav.dtype == np.float32 and wav.ndim == 1 and len(wav) == utterance.num_samples
        assert 0.8 < utterance.seconds < 4 and 0.05 < np.abs(wav).max() <= 1
        # Espeak's own pauses are cut off: sound starts and ends within 50 ms.
        loud = np.flatnonzero(np.abs(wav) > 0.002)
        assert loud[0] < 0.05 * utterance.sample_hz and loud[-1] > len(wav) - 0.05 * utterance.sample_hz


def test_every_part_is_spread_over_all_voices_and_speeds(corpus):
    for part in (corpus.unlabelled, corpus.labelled, corpus.test):
        assert {utterance.speaker for utterance in part} == {voice.name for voice in VOICES}
    with open_espeak() as espeak:
        slow, fast = (len(espeak.say("anna bought two red chairs", VOICES[0], rate)) for rate in (140, 200))
    assert slow > 1.15 * fast


def test_the_seed_alone_decides_every_sample(corpus):
    with open_espeak() as espeak:
        espeak.say("something else in between", VOICES[1])
    again = espeak_corpus(labelled=8, unlabelled=40, test=12, seed=1, progress=False)
    for one, other in zip(corpus.test + corpus.unlabelled, again.test + again.unlabelled, strict=True):
        assert one.text == other.text
        if sys.platform.startswith("linux"):
            assert np.array_equal(one.audio(), other.audio())
    other = espeak_corpus(labelled=8, unlabelled=40, test=12, seed=2, progress=False)
    assert {u.text for u in other.test} != {u.text for u in corpus.test}


def test_more_labelled_leaves_the_test_and_the_first_labelled_as_they_were(corpus):
    more = open_corpus(None, labelled=10, unlabelled=4, test=12, seed=1, progress=False)
    assert [u.text for u in more.test + more.labelled[:8]] == [u.text for u in corpus.test + corpus.labelled]
    assert np.array_equal(more.test[-1].audio(), corpus.test[-1].audio())


def test_voices_differ():
    with open_espeak() as espeak:
        said = [espeak.say("anna bought two red chairs", voice, 160) for voice in VOICES]
    pitches = [_pitch(wav, espeak.sample_hz) for wav in said]
    assert max(pitches) > 1.4 * min(pitches)


def _pitch(wav, sample_hz):
    """Median of the strongest periodicity between 70 and 350 Hz over frames of 50 ms."""
    size = sample_hz // 20
    found = []
    for start in range(0, len(wav) - size, size):
        frame = wav[start : start + size].astype(np.float64)
        spectrum = np.abs(np.fft.rfft(frame, 2 * size)) ** 2
        correlation = np.fft.irfft(spectrum)[:size]
        low, high = sample_hz // 350, sample_hz // 70
        lag = low + int(correlation[low:high].argmax())
        if correlation[lag] > 0.5 * correlation[0]:
            found.append(sample_hz / lag)
    return np.median(found)


def test_no_progress_bar_when_not_asked_for(capfd):
    espeak_corpus(labelled=1, unlabelled=1, test=1, progress=False)
    espeak_corpus(labelled=1, unlabelled=1, test=1, progress=True)  # not a terminal
    assert capfd.readouterr() == ("", "")


def test_refused_input():
    with pytest.raises(ValueError, match="unlabelled must be at least 1"):
        espeak_corpus(labelled=1, unlabelled=0, test=1)
    with pytest.raises(ValueError, match="at most 30,000"):
        espeak_corpus(labelled=1, unlabelled=200_000, test=1)
    with open_espeak() as espeak:
        with pytest.raises(OSError, match="no voice 'xx-nowhere'"):
            espeak.say("hello", Voice("xx-nowhere", 50, 50, 150))
        with pytest.raises(OSError, match="no sound of ' '"):
            espeak.say(" ", VOICES[0])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'pip install "spear-tts-pytorch\[demo\]"'):
        espeak_corpus(labelled=1, unlabelled=1, test=1, progress=False)
