"""Utterances and corpora: what is loaded when, what is left out, what is shown."""

import numpy as np
import pytest

from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts, minutes, without_bad_audio

RATE = 8000


def utterance(name, wav, num_samples=None, loaded=None):
    def load():
        if loaded is not None:
            loaded.append(name)
        return wav

    return Utterance(name, "text", None, RATE, load, num_samples)


def noise(seconds):
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)


def test_durations_load_audio_only_if_they_must():
    loaded = []
    clips = [utterance("a", noise(6), 6 * RATE, loaded), utterance("b", noise(12), None, loaded)]
    assert minutes(clips) == pytest.approx(0.3) and minutes(clips) == pytest.approx(0.3)
    assert loaded == ["b"]


def test_repr_says_clips_and_minutes_without_loading_audio():
    loaded = []
    known = [utterance(f"k{index}", None, 30 * RATE, loaded) for index in range(4)]
    corpus = Corpus("mine", known, [known[0], utterance("u", None, None, loaded)], known[:1])
    assert repr(corpus) == (
        "Corpus('mine': 4 unlabelled clips (2.0 minutes), "
        "2 labelled clips (0.5 minutes and 1 clips of unknown length), 1 test clips (0.5 minutes))"
    )
    assert not loaded


def test_bad_audio_is_named_and_left_out():
    good, silent, short = (
        utterance("good", noise(1)),
        utterance("silent", np.zeros(RATE)),
        utterance("short", noise(0.05)),
    )
    with pytest.warns(UserWarning, match=r"mine: 2 clips cannot be used \(silent, short\); silent is silent"):
        corpus = without_bad_audio(Corpus("mine", [good, silent], [good, short], [good]))
    assert (corpus.unlabelled, corpus.labelled, corpus.test) == ([good], [good], [good])
    with pytest.raises(ValueError, match="no clip is left to train on or to test with"):
        without_bad_audio(Corpus("mine", [good], [silent], [good]))


def test_counts_below_one_are_named():
    check_counts(labelled=1)
    with pytest.raises(ValueError, match="test must be at least 1, got 0"):
        check_counts(labelled=1, test=0)
