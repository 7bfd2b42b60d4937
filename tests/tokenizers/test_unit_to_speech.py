"""Units to speech: durations, spectra, sound; saved and loaded; what it refuses."""

import json

import pytest
import torch
from babble import HZ, make_clips

from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive, frame_ids
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.unit_to_speech import CONFIG_NAME, TENSORS_NAME, UnitToSpeech

OPTIONS = dict(sample_hz=HZ, steps=8, dim=16, depth=1, batch_size=4, progress=False)


@pytest.fixture(scope="module")
def tokenizer():
    return UniqueConsecutive(MelKmeans.fit(make_clips()[:8], HZ, 16, progress=False))


@pytest.fixture(scope="module")
def made(tokenizer):
    return UnitToSpeech.fit(make_clips()[:8], tokenizer, **OPTIONS)


@pytest.fixture(scope="module")
def ids(tokenizer):
    return tokenizer(torch.tensor(make_clips()[0]))[0]


def test_ids_without_repeats_last_as_long_as_predicted(made, ids):
    times = made.durations(ids[None])[0]
    assert times.shape == ids.shape and int(times.min()) >= 0
    mel = made.log_mel(ids)
    assert mel.shape == (2 * int(times.sum()), 80)
    torch.testing.assert_close(mel, made(ids.repeat_interleave(times)[None])[0])
    assert torch.equal(made.log_mel(ids, times), mel)
    assert len(made.log_mel(ids, torch.ones_like(ids))) == 2 * len(ids)
    padded = torch.nn.functional.pad(ids, (0, 3), value=-1)
    assert torch.equal(made.durations(padded[None])[0], torch.nn.functional.pad(times, (0, 3)))
    assert torch.equal(made.log_mel(padded), mel)


def test_durations_of_several_rows_are_those_of_each(made, ids):
    both = torch.stack([ids, torch.nn.functional.pad(ids[:5], (0, len(ids) - 5), value=-1)])
    found = made.durations(both)
    assert torch.equal(found[0], made.durations(ids[None])[0])
    assert torch.equal(found[1, :5], made.durations(ids[None, :5])[0]) and int(found[1, 5:].sum()) == 0


def test_ids_with_repeats_last_a_frame_each():
    frames = MelKmeans.fit(make_clips()[:8], HZ, 16, progress=False)
    made = UnitToSpeech.fit(make_clips()[:8], frames, **OPTIONS)
    ids = frames(torch.tensor(make_clips()[0]))[0]
    assert len(made.log_mel(ids)) == 2 * len(ids)
    assert made.resynthesize(ids).shape == (320 * len(ids),)


def test_a_tokenizer_with_repeats_and_one_without_teach_the_same():
    frames = MelKmeans.fit(make_clips()[:8], HZ, 16, progress=False)
    rows = frame_ids(UniqueConsecutive(frames), torch.tensor(make_clips()[0]), HZ)
    assert torch.equal(rows[0], frames(torch.tensor(make_clips()[0]))[0])
    one = UnitToSpeech.fit(make_clips()[:8], frames, **OPTIONS)
    other = UnitToSpeech.fit(make_clips()[:8], UniqueConsecutive(frames), **OPTIONS)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_sound_is_of_the_spectra_or_of_a_vocoder(made, ids):
    wav = made.resynthesize(ids)
    assert wav.shape == (160 * len(made.log_mel(ids)),) and made.target_sample_hz == 16000 and wav.abs().max() <= 1
    assert torch.equal(wav, made.resynthesize(ids)) and not torch.equal(wav, made.resynthesize(ids, seed=1))
    other = UnitToSpeech(16, dim=16, depth=1, vocoder=lambda mel: mel.sum(dim=1), vocoder_sample_hz=24000)
    other.load_state_dict(made.state_dict())
    assert other.target_sample_hz == 24000
    assert torch.equal(other.resynthesize(ids), other.log_mel(ids).sum(dim=1))


def test_saved_and_loaded_it_is_the_same(made, tokenizer, ids, tmp_path):
    made.save(tmp_path)
    loaded = UnitToSpeech.load(tmp_path)
    assert torch.equal(loaded.log_mel(ids), made.log_mel(ids)) and loaded.to_dict() == made.to_dict()
    assert loaded.fits(tokenizer) and not loaded.fits(tokenizer.tokenizer) and not loaded.training
    assert repr(loaded) == repr(made) and "16 ids, dim 16" in repr(loaded)
    new = UnitToSpeech(16, dim=16, depth=1)
    new.save(tmp_path)
    assert UnitToSpeech.load(tmp_path).tokenizer is None


def test_files_that_are_damaged_or_of_others(made, tmp_path):
    with pytest.raises(FileNotFoundError, match=CONFIG_NAME):
        UnitToSpeech.load(tmp_path)
    made.save(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    for change, words in [
        ({"type": "other"}, "upgrade"),
        ({"format_version": 2}, "upgrade"),
        ({"dim": 2**20}, "its sizes are"),
        ({"depth": 2}, "its sizes are"),
        ({"num_ids": "many"}, "num_ids must be"),
        ({"unique_consecutive": 3}, "unique_consecutive must be"),
    ]:
        (tmp_path / CONFIG_NAME).write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=words):
            UnitToSpeech.load(tmp_path)
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    (tmp_path / TENSORS_NAME).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        UnitToSpeech.load(tmp_path)


def test_ids_and_durations_that_cannot_be(made):
    for ids, words in [
        (torch.tensor([16]), "ids holds 16, but speech ids are 0 to 15"),
        (torch.tensor([-2]), "ids holds -2"),
        (torch.tensor([[1]]), r"shape \[n\]"),
        (torch.tensor([-1]), "ids holds no sound"),
    ]:
        with pytest.raises(ValueError, match=words):
            made.log_mel(ids)
    for durations in (torch.tensor([1]), torch.tensor([1, -1])):
        with pytest.raises(ValueError, match="durations must be integers >= 0"):
            made.log_mel(torch.tensor([1, 2]), durations)
    with pytest.raises(ValueError, match="durations must add up"):
        made.log_mel(torch.tensor([1]), torch.tensor([2**40]))
    with pytest.raises(ValueError, match="ids holds no sound"):
        made.log_mel(torch.tensor([1]), torch.tensor([0]))
    with pytest.raises(TypeError, match="ids"):
        made.durations(torch.tensor([[0.5]]))
    with pytest.raises(ValueError, match=r"shape \[b, n\]"):
        made.durations(torch.tensor([1]))
    with pytest.raises(ValueError, match="iterations"):
        made.resynthesize(torch.tensor([1]), iterations=-1)


def test_tokenizers_that_do_not_fit():
    slow = MelKmeans.fit(make_clips()[:8], HZ, 16, hop_seconds=0.03, progress=False)
    with pytest.raises(ValueError, match=r"tokenizer gives 33\.33 frames a second, UnitToSpeech takes 50"):
        UnitToSpeech.fit(make_clips()[:8], slow, **OPTIONS)
    with pytest.raises(TypeError, match="tokenizer must be a semantic tokenizer"):
        UnitToSpeech.fit(make_clips()[:8], 3, **OPTIONS)
    frames = MelKmeans.fit(make_clips()[:8], HZ, 16, progress=False)

    class Mute:
        codebook_size, target_sample_hz, downsample_factor, unique_consecutive = 16, 16000, 320, True

        def __call__(self, wav, **options):
            return frames(wav, **options)

    with pytest.raises(ValueError, match="has no encode_with_durations"):
        frame_ids(Mute(), torch.tensor(make_clips()[0])[None])


@pytest.mark.parametrize("wrong", [{"num_ids": 0}, {"dim": 0}, {"depth": 0}, {"vocoder_sample_hz": 0}])
def test_sizes_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UnitToSpeech(**{"num_ids": 4, **wrong})
