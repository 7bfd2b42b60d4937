"""MelKmeans: ids independent of padding, rates and loudness, durations, files, sound that says the same again."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from babble import HZ, babble, make_clips
from torch import nn

from spear_tts_pytorch.data.corpora import fsdd_corpus, read_ljspeech
from spear_tts_pytorch.tokenizers.mel import (
    log_mel,
)
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, load_semantic_tokenizer, tokenize_waveform
from spear_tts_pytorch.tokens import pad_sequences


def coloured(clip):
    """The same clip through a fixed filter, as another microphone would: bass is taken away."""
    return np.convolve(clip, [1.0, -0.95], mode="same").astype(np.float32)


@pytest.fixture(scope="module")
def clips():
    return make_clips()


@pytest.fixture(scope="module")
def tokenizer(clips):
    return MelKmeans.fit(clips, HZ, 20, progress=False)


def unique(tokenizer):
    again = copy.copy(tokenizer)
    again.unique_consecutive = True
    return again


def test_attributes_and_protocol(tokenizer):
    assert (tokenizer.codebook_size, tokenizer.target_sample_hz, tokenizer.downsample_factor) == (20, 16000, 320)
    assert isinstance(tokenizer, SemanticTokenizer) and not isinstance(tokenizer, nn.Module)


def test_repr_says_clusters_rates_and_options(tokenizer):
    first, second = repr(tokenizer).splitlines()
    assert first == f"MelKmeans({tokenizer.codebook_size} clusters, {tokenizer.target_sample_hz} Hz, 50 ids per second,"
    assert second == "    features='mfcc', normalize='clip', unique_consecutive=False)"


def test_one_id_per_hop_and_all_ids_in_use(tokenizer, clips):
    ids = tokenizer(torch.tensor(clips[0]))
    assert ids.dtype == torch.long and ids.shape == (1, 1 + (len(clips[0]) - 512) // 320)
    seen = torch.cat([tokenizer(torch.tensor(clip))[0] for clip in clips])
    assert seen.unique().tolist() == list(range(20))


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("input_hz", [None, 22050, 8000])
@pytest.mark.parametrize("filling", [0.0, 0.3, float("nan")])
def test_padding_changes_nothing(tokenizer, repeats, input_hz, filling):
    tokenizer = tokenizer if repeats else unique(tokenizer)
    rows = [torch.tensor(babble(100 + i, seconds, input_hz or HZ)) for i, seconds in enumerate((0.6, 1.9, 0.06, 1.0))]
    batch = torch.full((len(rows), max(len(row) for row in rows) + 777), filling)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    together = tokenizer(batch, lengths=torch.tensor([len(row) for row in rows]), input_sample_hz=input_hz)
    alone = [tokenizer(row, input_sample_hz=input_hz)[0] for row in rows]
    assert together.equal(pad_sequences(alone, -1))
    assert len({len(row) for row in alone}) > 1


def test_later_audio_only_changes_frames_that_hear_it():
    # Statistics are fixed by the speaker, so what is left is framing and differences: two frames on either side, twice.
    clips = [babble(seed) for seed in range(10)]
    tokenizer = MelKmeans.fit(clips, HZ, 20, normalize="speaker", speakers=["a"] * 10, progress=False)
    wav = torch.tensor(babble(50))
    wav[0] = 2.0  # the loudest spot, so that the floor is the same for both
    changed = wav.clone()
    changed[12000:] = torch.tensor(babble(51))[12000:]
    before, after = (tokenizer(w, speakers=["a"])[0] for w in (wav, changed))
    first = 1 + (12000 - 512) // 320 - 4
    assert before[:first].equal(after[:first]) and not before[first:].equal(after[first:])


def test_loudness_and_numpy_and_dtype_do_not_matter(tokenizer, clips):
    wav = torch.tensor(clips[3])
    ids = tokenizer(wav)
    assert ids.equal(tokenizer(clips[3])) and ids.equal(tokenizer(wav.double()))
    assert (ids == tokenizer(0.1 * wav)).float().mean() > 0.98


def test_the_default_dtype_does_not_matter(tokenizer, clips):
    wav, ids = torch.from_numpy(clips[0]), torch.arange(20)
    want = tokenizer(wav), tokenizer.resynthesize(ids, iterations=2)
    torch.set_default_dtype(torch.float64)
    try:
        for one in (tokenizer, MelKmeans.fit(clips, HZ, 20, progress=False)):
            assert torch.equal(one(wav), want[0])
            assert torch.equal(one.resynthesize(ids, iterations=2), want[1])
    finally:
        torch.set_default_dtype(torch.float32)


def test_other_rates_give_nearly_the_same_ids(tokenizer):
    from spear_tts_pytorch.data.audio import resample

    wav = resample(babble(7, sample_hz=48000), 48000, 16000)
    ids = tokenizer(wav)[0]
    other = tokenizer(resample(wav, 16000, 44100), input_sample_hz=44100)[0]
    n = min(len(ids), len(other))
    assert abs(len(ids) - len(other)) <= 1
    assert (ids[:n] == other[:n]).float().mean() > 0.9


def test_chunks_do_not_show(tokenizer, clips, monkeypatch):
    from spear_tts_pytorch.tokenizers import mel

    wav = torch.tensor(np.concatenate(clips[:4]))
    whole = tokenizer(wav)
    monkeypatch.setattr(mel, "CHUNK_FRAMES", 37)
    assert (tokenizer(wav) == whole).float().mean() > 0.99


@pytest.mark.parametrize("features", ["mfcc", "logmel"])
@pytest.mark.parametrize("target", [8000, 16000, 22050])
def test_features_and_rates(features, target):
    clips = [babble(seed, sample_hz=8000) for seed in range(8)]
    tokenizer = MelKmeans.fit(clips, 8000, 12, target_sample_hz=target, features=features, progress=False)
    assert tokenizer.downsample_factor == round(0.02 * target) and tokenizer.settings.f_max == 4000
    ids = tokenizer(torch.tensor(clips[0]), input_sample_hz=8000)
    assert ids.unique().numel() > 4
    assert torch.isfinite(tokenizer.resynthesize(ids[0])).all()


def test_speaker_statistics_undo_what_a_speaker_does_to_the_sound(clips):
    """A fixed filter on the voice adds a constant to its log spectra, which only its own statistics take out."""
    train = clips[:20] + [coloured(clip) for clip in clips[20:]]
    names = ["plain"] * 20 + ["coloured"] * 20
    tokenizer = MelKmeans.fit(train, HZ, 20, normalize="speaker", speakers=names, progress=False)
    wav = clips[5]
    ids = tokenizer(wav, speakers=["plain"])
    right = (tokenizer(coloured(wav), speakers=["coloured"]) == ids).float().mean()
    wrong = (tokenizer(coloured(wav), speakers=["plain"]) == ids).float().mean()
    assert right > wrong + 0.1
    assert tokenizer(wav, speakers=["nobody"]).equal(tokenizer(wav))
    both = tokenizer(torch.tensor(np.stack([wav, wav])), speakers=["plain", None])
    assert both[:1].equal(ids) and both[1:].equal(tokenizer(wav))


def test_without_repeats_and_durations(tokenizer, clips):
    batch, lengths = torch.tensor(np.stack(clips[:3])), torch.tensor([24000, 9000, 512])
    full = tokenizer(batch, lengths)
    ids, durations = tokenizer.encode_with_durations(batch, lengths)
    assert ids.equal(unique(tokenizer)(batch, lengths)) and durations.equal(tokenizer.durations(batch, lengths))
    for row, (short, times) in zip(full, zip(ids, durations, strict=True), strict=True):
        real = short != -1
        assert short[real].repeat_interleave(times[real]).equal(row[row != -1])
        assert (short[real][1:] != short[real][:-1]).all() and (times[~real] == 0).all()


def test_resynthesis_says_the_same_ids_again(tokenizer, clips):
    ids = tokenizer(clips[2])[0]
    wav = tokenizer.resynthesize(ids)
    assert wav.dtype == torch.float32 and wav.shape[0] == (len(ids) - 1) * 320 + 512 and wav.abs().max() <= 1
    again = tokenizer(wav)[0]
    assert again.shape == ids.shape and (again == ids).float().mean() > 0.6
    # Chance, measured rather than supposed: the ids of other clips at the same places.
    chance = max((tokenizer(clips[other])[0] == ids).float().mean() for other in range(3, 13))
    assert (again == ids).float().mean() > 2 * chance


def test_resynthesis_follows_the_energy(tokenizer, clips):
    wav = torch.tensor(clips[4])
    said = tokenizer.resynthesize(tokenizer(wav)[0])
    energies = [log_mel(w, tokenizer.settings).logsumexp(dim=-1) for w in (wav, said)]
    assert np.corrcoef(torch.stack(energies).numpy())[0, 1] > 0.7


def test_resynthesis_durations(tokenizer, clips):
    ids, durations = tokenizer.encode_with_durations(clips[2])
    full = tokenizer(clips[2])[0]
    assert tokenizer.resynthesize(ids[0], durations[0]).equal(tokenizer.resynthesize(full))
    assert tokenizer.resynthesize(ids[0]).shape[0] == (ids.shape[1] - 1) * 320 + 512
    learned = unique(tokenizer).resynthesize(ids[0])
    expected = float(tokenizer.run_lengths[ids[0]].sum())
    assert abs(1 + (len(learned) - 512) / 320 - expected) <= 1
    padded = torch.cat([ids[0], torch.tensor([-1, -1])])
    assert unique(tokenizer).resynthesize(padded).equal(learned)


@pytest.mark.parametrize(
    ("ids", "durations", "message"),
    [
        (torch.tensor([3, 20]), None, "ids holds 20, but speech ids are 0 to 19"),
        (torch.tensor([-2]), None, "ids holds -2"),
        (torch.tensor([-1]), None, "holds no sound"),
        (torch.tensor([[1]]), None, r"shape \[n\]"),
        (torch.tensor([1, 2]), torch.tensor([2**60, 2**60]), "durations must add up to at most 4194304"),
        (torch.tensor([1, 2]), torch.tensor([1]), r"durations .* shape \[2\]"),
        (torch.tensor([1]), torch.tensor([-1]), "durations must be integers >= 0"),
        (torch.tensor([1]), torch.tensor([0]), "holds no sound"),
    ],
)
def test_resynthesis_refuses(tokenizer, ids, durations, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.resynthesize(ids, durations)


def test_saved_and_loaded(tmp_path, clips):
    train, names = [*clips[:20], *map(coloured, clips[20:])], ["ä"] * 20 + ["b"] * 20
    made = MelKmeans.fit(train, HZ, 15, normalize="speaker", speakers=names, unique_consecutive=True, progress=False)
    made.save(tmp_path / "t")
    made.save(tmp_path / "t")  # over itself
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["tokenizer.json", "tokenizer.safetensors"]
    loaded = load_semantic_tokenizer(tmp_path / "t")
    assert isinstance(loaded, MelKmeans) and loaded.to_dict() == made.to_dict()
    for other in (loaded, pickle.loads(pickle.dumps(made)), copy.deepcopy(made).to("cpu")):
        ids = made(clips[0], speakers=["b"])
        assert other(clips[0], speakers=["b"]).equal(ids) and not other(clips[0], speakers=["ä"]).equal(ids)
        assert other.resynthesize(ids[0]).equal(made.resynthesize(ids[0]))


def test_broken_files_are_named(tmp_path, tokenizer):
    with pytest.raises(FileNotFoundError, match="tokenizer.json is missing"):
        load_semantic_tokenizer(tmp_path)
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer.json").read_text())
    for change, message in (
        ({"type": "hubert"}, "type 'hubert'"),
        ({"format_version": 99}, "format 99"),
        ({"settings": {}}, "usable MelKmeans"),
        ({"settings": {**config["settings"], "num_mels": 30}}, "cluster_log_mel must have the shape"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            load_semantic_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="not a tokenizer configuration"):
        load_semantic_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    changed = copy.deepcopy(tokenizer)
    changed.centroids += 1
    changed.save(tmp_path / "other")
    (tmp_path / "tokenizer.safetensors").write_bytes((tmp_path / "other" / "tokenizer.safetensors").read_bytes())
    with pytest.raises(ValueError, match="its fingerprint is"):  # the files of two tokenizers
        MelKmeans.load(tmp_path)
    (tmp_path / "tokenizer.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="usable MelKmeans"):
        MelKmeans.load(tmp_path)


GOOD = torch.tensor(babble(1))


@pytest.mark.parametrize(
    ("wav", "options", "error", "message"),
    [
        (torch.zeros(2, 16000), {}, ValueError, "row 0 of wav is silent .all 16000 samples are 0"),
        (torch.stack([GOOD, 0 * GOOD]), {}, ValueError, "row 1 of wav is silent"),
        (torch.stack([GOOD, GOOD]), {"lengths": torch.tensor([24000, 511])}, ValueError, "row 1 .* 511 samples, fewer"),
        (GOOD[:100], {}, ValueError, "100 samples, fewer than one window of 512 .32 ms at 16000 Hz."),
        (GOOD * float("nan"), {}, ValueError, "NaN or infinite"),
        (torch.zeros(16000, dtype=torch.int16), {}, TypeError, "torch.int16: divide 16-bit samples by 32768"),
        ([0.0, 1.0], {}, TypeError, "got list"),
        (torch.rand(1, 1, 16000), {}, ValueError, r"\[b, t\] or \[t\].*got \[1, 1, 16000\]"),
        (torch.rand(0, 16000), {}, ValueError, r"got \[0, 16000\]"),
        (GOOD, {"lengths": torch.tensor([24001])}, ValueError, "between 1 and 24000 .* got 24001"),
        (GOOD, {"lengths": torch.tensor([0])}, ValueError, "got 0"),
        (GOOD, {"lengths": torch.tensor([1, 2])}, ValueError, r"shape \[1\]"),
        (GOOD, {"lengths": torch.tensor([2.0])}, ValueError, "must be integers"),
        (GOOD, {"input_sample_hz": -1}, ValueError, "input_sample_hz must be at least 1000"),
        (GOOD, {"speakers": ["a", "b"]}, ValueError, "speakers must name 1 speakers"),
    ],
)
def test_bad_waveforms_are_refused(tokenizer, wav, options, error, message):
    with pytest.raises(error, match=message) as caught:
        tokenizer(wav, **options)
    assert "\n" not in str(caught.value)


def test_tokenizers_with_lengths_are_called_once(tokenizer, clips):
    batch, lengths = torch.tensor(np.stack(clips[:2])), torch.tensor([24000, 9000])
    assert tokenize_waveform(tokenizer, batch, lengths).equal(tokenizer(batch, lengths))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdd", "asterisk_en"])
def test_real_speech(corpora, name):
    """Resynthesised speech follows the energy of the original and is tokenized the same again, far above chance."""
    if name == "fsdd":
        every = fsdd_corpus(corpora / "fsdd", labelled=1, unlabelled=300, test=20, seed=0)
        train, test = every.unlabelled, every.test
    else:
        every = [u for u in read_ljspeech(corpora / "asterisk_en") if 1 < u.seconds < 8]
        train, test = every[20:200], every[:20]
    tokenizer = MelKmeans.fit((u.audio() for u in train), 8000, 100, target_sample_hz=8000, progress=False)
    correlations, agreement, chance, previous = [], [], [], None
    for utterance in test:
        wav = torch.tensor(utterance.audio())
        ids = tokenizer(wav)[0]
        said = tokenizer.resynthesize(ids)
        energies = [log_mel(w, tokenizer.settings).logsumexp(dim=-1) for w in (wav, said)]
        correlations.append(np.corrcoef(torch.stack(energies).numpy())[0, 1])
        agreement.append(float((tokenizer(said)[0] == ids).float().mean()))
        if previous is not None:
            n = min(len(previous), len(ids))
            chance.append(float((previous[:n] == ids[:n]).float().mean()))
        previous = ids
    assert np.mean(correlations) > 0.8
    assert np.mean(agreement) > 0.5 and np.mean(agreement) > 5 * np.mean(chance)
