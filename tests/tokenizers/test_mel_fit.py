"""Fitting MelKmeans: seeds, much audio, loudness, clips that cannot be used, refused options."""

import warnings

import numpy as np
import pytest
import torch
from babble import HZ, make_clips

from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans


@pytest.fixture(scope="module")
def clips():
    return make_clips()


@pytest.fixture(scope="module")
def tokenizer(clips):
    return MelKmeans.fit(clips, HZ, 20, progress=False)


def test_fitting_is_reproducible_and_seeded(clips, tokenizer):
    again = MelKmeans.fit(iter(clips), HZ, 20, progress=False)
    assert again.fingerprint == tokenizer.fingerprint
    assert MelKmeans.fit(clips, HZ, 20, seed=1, progress=False).fingerprint != tokenizer.fingerprint


def test_fitting_on_part_of_much_audio(clips):
    part = MelKmeans.fit((clips[i % 40] for i in range(200)), HZ, 10, max_frames=500, progress=False)
    assert part(torch.tensor(clips[0]))[0].unique().numel() > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 0}, "num_clusters must be at least 1"),
        ({"num_clusters": 10_000}, "num_clusters=10000 needs at least as many frames, but the clips give"),
        ({"num_clusters": 10**6}, "num_clusters=1000000 needs max_frames of at least as many, got 400000"),
        ({"clips": [np.zeros(8000, np.float32)]}, "clips holds no clip that can be used .silent"),
        ({"normalize": "speaker"}, "needs speakers"),
        ({"normalize": "speaker", "speakers": ["a"] * 3}, "3 speakers, but there are more clips"),
        ({"normalize": "speaker", "speakers": ["a"] * 99}, "each of the 40 clips, got 99"),
        ({"normalize": "corpus"}, "normalize must be"),
        ({"features": "fbank"}, "features must be one of"),
        ({"num_mels": 300}, "num_mels=300 is too many"),
        ({"hop_seconds": 0.5}, "hop_seconds must be 1 to 512 samples"),
    ],
)
def test_bad_fits_are_refused(clips, options, message):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("ignore")
        MelKmeans.fit(**{"clips": clips, "sample_hz": HZ, "num_clusters": 5, "progress": False, **options})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda wav: [(wav * 32767).astype(np.int16)],
            r"clips\[0\] must be .*got int16: divide 16-bit samples by 32768",
        ),
        (lambda wav: wav, r"the samples of one: give \[waveform\]"),
        (lambda wav: torch.from_numpy(wav), r"the samples of one: give \[waveform\]"),
        (lambda wav: wav.tolist(), r"the samples of one: give \[waveform\]"),
    ],
)
def test_clips_of_another_kind_are_refused_with_a_remedy_that_helps(clips, wrong, message):
    with pytest.raises(TypeError, match=message):
        MelKmeans.fit(wrong(clips[0]), HZ, 5, progress=False)


def test_unusable_clips_are_left_out_with_a_warning(clips, tokenizer):
    with pytest.warns(UserWarning, match="3 of 43 clips were left out"):
        made = MelKmeans.fit(
            [*clips, np.zeros(8000, np.float32), clips[0][:99], clips[0] * np.nan], HZ, 20, progress=False
        )
    assert made.fingerprint == tokenizer.fingerprint
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no clip that can be used"):
        MelKmeans.fit([np.zeros(8000, np.float32)], HZ, 5, progress=False)


def test_a_missing_package_is_named_with_its_remedy(clips, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'pip install "spear-tts-pytorch\[demo\]"'):
        MelKmeans.fit(clips, HZ, 5, progress=False)


def test_cluster_spectra_do_not_depend_on_how_loud_each_clip_is(tokenizer, clips):
    gains = np.random.default_rng(0).uniform(0.1, 4, len(clips)).astype(np.float32)
    other = MelKmeans.fit([g * clip for g, clip in zip(gains, clips, strict=True)], HZ, 20, progress=False)
    shift = other.cluster_log_mel - tokenizer.cluster_log_mel
    torch.testing.assert_close(shift, shift.mean().expand_as(shift), atol=0.05, rtol=0)


def test_run_lengths_are_those_of_the_training_audio(tokenizer, clips):
    ids, durations = tokenizer.encode_with_durations(torch.tensor(np.stack(clips)))
    expected = torch.stack([durations[ids == cluster].float().mean() for cluster in range(20)])
    torch.testing.assert_close(tokenizer.run_lengths, expected)
