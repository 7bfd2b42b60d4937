"""Units of speech encoders: `hidden_states` of transformers, any batch, any family, files that are not to be trusted."""

import functools
import json
import os
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
from babble import babble
from full_disk import full_disk
from safetensors.torch import load_file

from spear_tts_pytorch.data.corpora import Utterance
from spear_tts_pytorch.data.tokenized import TokenizedSpeech, tokenize_corpus
from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive
from spear_tts_pytorch.tokenizers.encoder_files import open_encoder
from spear_tts_pytorch.tokenizers.encoder_kmeans import EncoderKmeans
from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, load_semantic_tokenizer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
import small_encoders  # noqa: E402
from small_encoders import DEPTH, DIM, FAMILIES  # noqa: E402

K = 12
QUICK = ("hubert", "mhubert", "wavlm", "mms", "w2v-bert", "whisper")


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


FAMILIES_AND_LAYERS = [(family, 2) if family in QUICK else slow(family, 2) for family in FAMILIES]
FAMILIES_AND_LAYERS += [(one, DEPTH) if one in ("mms", "whisper") else slow(one, DEPTH) for one in FAMILIES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function from the name of a family to the folder of a small model with random weights."""
    return functools.cache(lambda family: small_encoders.make(family, tmp_path_factory.mktemp(family)))


def hidden_states(folder, wav):
    """All `hidden_states` `[n, d]` of a clip `[t]`, by the model and the feature extractor that transformers chooses."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    if hasattr(model, "decoder"):
        return whisper_states(model, extractor, wav)
    with torch.no_grad():
        inputs = extractor(wav.numpy(), sampling_rate=16000, return_tensors="pt")
        states = model(**inputs, output_hidden_states=True).hidden_states
    mask = inputs.get("attention_mask", torch.ones(1, states[0].shape[1]))[0, : states[0].shape[1]].bool()
    return [state[0][mask] if mask.shape[0] == state.shape[1] else state[0] for state in states]


def whisper_states(model, extractor, wav):
    """The encoder on the clip and half a second of silence; its places are cut to as many frames."""
    wav = torch.cat([wav, torch.zeros(8000)]).numpy()
    mel = extractor(wav, sampling_rate=16000, padding="do_not_pad", return_tensors="pt")["input_features"]
    mel = mel[:, :, : mel.shape[2] // 2 * 2]
    encoder, places = model.encoder, mel.shape[2] // 2
    encoder.config.max_source_positions = encoder.max_source_positions = places
    weights = encoder.embed_positions.weight[:places].detach()
    encoder.embed_positions = torch.nn.Embedding.from_pretrained(weights)
    with torch.no_grad():
        states = encoder(mel, output_hidden_states=True).hidden_states
    return [state[0][: (len(wav) - 8000) // 320] for state in states]


def clips(*seconds):
    return [torch.from_numpy(babble(seed, one)) for seed, one in enumerate(seconds)]


def nearest(features, tokenizer):
    """The nearest centroid by its definition."""
    points = (features - tokenizer.mean) * tokenizer.projection
    return torch.cdist(points.double(), tokenizer.centroids.double()).argmin(dim=-1)


def agrees(found, expected):
    """Whether two rows of ids are equal but for ties that rounding decides."""
    return found.shape == expected.shape and float((found == expected).float().mean()) > 0.98


def fitted(folder, **options):
    return EncoderKmeans.fit(clips(1.5, 1.0, 2.0), folder, **{"num_clusters": K, "progress": False, **options})


@pytest.fixture(scope="module")
def shared(folders):
    """A function from a family and a layer to a tokenizer, which tests leave as it is."""
    return functools.cache(lambda family, layer=None: fitted(folders(family), layer=layer))


@pytest.mark.parametrize("family, layer", FAMILIES_AND_LAYERS)
def test_ids_are_those_of_transformers(folders, shared, family, layer):
    tokenizer = shared(family, layer)
    assert isinstance(tokenizer, SemanticTokenizer) and tokenizer.codebook_size == K
    assert (tokenizer.target_sample_hz, tokenizer.downsample_factor) == (16000, 320)
    for wav in clips(1.23, 0.71):
        expected = hidden_states(folders(family), wav)[layer]
        torch.testing.assert_close(tokenizer.features(wav)[0], expected, atol=2e-4, rtol=1e-3)
        ids = tokenizer(wav)[0]
        assert agrees(ids, nearest(expected, tokenizer)) and len(ids.unique()) > 2


@pytest.mark.parametrize("family", [family if family in QUICK else slow(family) for family in FAMILIES])
def test_a_clip_has_the_features_in_a_batch_that_it_has_alone(shared, family):
    tokenizer = shared(family, 2)
    waves = clips(1.0, 0.3, 2.1, 0.47)
    lengths = torch.tensor([len(wav) for wav in waves])
    padded = torch.full((len(waves), int(lengths.max())), 0.7)  # padding may hold anything
    for row, wav in zip(padded, waves, strict=True):
        row[: len(wav)] = wav
    together, ids = tokenizer.features(padded, lengths), tokenizer(padded, lengths)
    for row, features, wav in zip(ids, together, waves, strict=True):
        torch.testing.assert_close(features, tokenizer.features(wav)[0], atol=2e-4, rtol=1e-3)
        alone = tokenizer(wav)[0]
        assert agrees(row[: len(alone)], alone) and bool((row[len(alone) :] == -1).all())


@pytest.mark.parametrize("family, layer", FAMILIES_AND_LAYERS)
def test_saved_loaded_and_in_other_processes_it_is_the_same(shared, family, layer, tmp_path):
    tokenizer, wav = shared(family, layer), clips(1.1)[0]
    tokenizer.save(tmp_path / "units")
    for again in (load_semantic_tokenizer(tmp_path / "units"), pickle.loads(pickle.dumps(tokenizer))):
        assert torch.equal(again(wav), tokenizer(wav)) and again.to_dict() == tokenizer.to_dict()
        assert repr(again) == repr(tokenizer)


def test_only_the_layers_that_are_used_are_kept(shared, tmp_path):
    shared("whisper", 1).save(tmp_path)
    names = load_file(tmp_path / "encoder" / "model.safetensors")
    assert {name.split(".")[1] for name in names if name.startswith("layers.")} == {"0"}
    assert not any(name.startswith(("decoder", "layer_norm")) for name in names)


def test_the_layer_is_half_of_all_rounded_up(folders):
    assert [open_encoder(folders(family)).layer for family in ("whisper", "hubert", "w2v-bert")] == [2, 2, 2]


@pytest.mark.parametrize("family", ["hubert", "w2v-bert", "whisper"])
def test_long_clips_pass_in_windows(shared, family, monkeypatch):
    tokenizer, (wav,) = shared(family, 2), clips(8.0)
    whole = tokenizer(wav)[0]
    for name, value in (("window_frames", 120), ("overlap", 30), ("batch_frames", 300)):
        monkeypatch.setattr(tokenizer.encoder, name, value)
    cut = tokenizer(wav)[0]
    assert cut.shape == whole.shape
    if family == "w2v-bert":  # whose spectra are normalised over the clip
        assert float((cut == whole).float().mean()) > 0.5
    else:
        middle = wav[60 * 320 : 180 * 320 + (80 if family == "hubert" else 0)]  # the second window
        assert agrees(cut[90:150], tokenizer(middle)[0, 30:90])
    both = tokenizer(torch.stack([wav, wav.flip(0)]), torch.tensor([len(wav), 40_000]))
    assert agrees(both[0], cut) and agrees(both[1, both[1] >= 0], tokenizer(wav.flip(0)[:40_000])[0])


def test_whisper_takes_clips_of_thirty_seconds_and_more(shared):
    tokenizer = shared("whisper", 2)
    for seconds in (29.5, 29.99, 30, 31):
        assert tokenizer(clips(seconds)[0]).shape == (1, int(seconds * 50))


def test_audio_of_other_types_and_rates_is_taken(shared):
    tokenizer, (wav,) = shared("whisper", 2), clips(1.0)
    assert torch.equal(tokenizer(wav.double()), tokenizer(wav)) and torch.equal(tokenizer(wav.numpy()), tokenizer(wav))
    low = torch.from_numpy(babble(0, 1.0, 8000))
    assert tokenizer(low, input_sample_hz=8000).shape == (1, 50)


def test_principal_components_are_whitened(folders):
    tokenizer = fitted(folders("hubert"), pca=5)
    assert tokenizer.projection.shape == (DIM, 5) and tokenizer.centroids.shape == (K, 5)
    features = torch.cat([tokenizer.features(wav)[0] for wav in clips(1.5, 1.0, 2.0)])
    points = (features - tokenizer.mean) @ tokenizer.projection
    torch.testing.assert_close(torch.cov(points.T, correction=0), torch.eye(5), atol=2e-2, rtol=0)


def test_features_are_standardised(shared):
    tokenizer = shared("hubert", 2)
    features = torch.cat([tokenizer.features(wav)[0] for wav in clips(1.5, 1.0, 2.0)])
    points = (features - tokenizer.mean) * tokenizer.projection
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(DIM), atol=1e-3, rtol=0)
    torch.testing.assert_close(points.std(dim=0, correction=0), torch.ones(DIM), atol=1e-3, rtol=0)


def test_features_are_normalised_by_speaker(folders, tmp_path):
    waves = clips(1.5, 1.5, 1.5)
    fit = dict(num_clusters=K, progress=False, speakers=["ann", "bob", None])
    tokenizer = EncoderKmeans.fit(waves, folders("hubert"), **fit)
    assert sorted(tokenizer.speaker_stats) == ["", "ann", "bob"]
    ann = tokenizer.features(waves[0])[0]
    torch.testing.assert_close(tokenizer.speaker_stats["ann"][0], ann.mean(dim=0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokenizer.speaker_stats["ann"][1], ann.std(dim=0, correction=0), atol=1e-4, rtol=1e-3)
    points = (ann - ann.mean(dim=0)) / ann.std(dim=0, correction=0)
    as_ann = tokenizer(waves[0], speakers=["ann"])[0]
    assert agrees(as_ann, torch.cdist(points, tokenizer.centroids).argmin(dim=-1))
    assert torch.equal(tokenizer(waves[0], speakers=["eve"]), tokenizer(waves[0]))
    assert not torch.equal(tokenizer(waves[0])[0], as_ann)
    tokenizer.save(tmp_path / "units")
    assert torch.equal(EncoderKmeans.load(tmp_path / "units")(waves[0], speakers=["ann"])[0], as_ann)
    clip = Utterance("a", None, "ann", 16000, lambda: waves[0].numpy())
    for number, (units, ids) in enumerate(
        [(tokenizer, as_ann), (UniqueConsecutive(tokenizer), torch.unique_consecutive(as_ann))]
    ):
        tokenize_corpus([clip], units, tmp_path / str(number), progress=False)
        assert torch.equal(TokenizedSpeech(tmp_path / str(number))[0], ids)
    with pytest.raises(ValueError, match="speakers must name 1 speakers"):
        tokenizer(waves[0], speakers=["ann", "bob"])
    with pytest.raises(ValueError, match="one speaker for each of the 3 clips, got 4"):
        EncoderKmeans.fit(waves, folders("hubert"), **{**fit, "speakers": ["ann"] * 4})


def test_published_centroids_fit(folders, tmp_path):
    np.save(tmp_path / "km.npy", np.random.default_rng(0).normal(size=(K, DIM)).astype(np.float32))
    tokenizer = EncoderKmeans(folders("hubert"), tmp_path / "km.npy", layer=2)
    same = HubertWithKmeans(folders("hubert"), tmp_path / "km.npy", output_layer=2)
    wav = clips(1.0)[0]
    assert torch.equal(tokenizer(wav), same(wav))
    np.save(tmp_path / "other.npy", np.ones((K, DIM + 1), np.float32))
    with pytest.raises(ValueError, match=r"kmeans must have the shape \[K, 16\], got \[12, 17\]"):
        EncoderKmeans(folders("hubert"), tmp_path / "other.npy", layer=2)


@pytest.mark.parametrize("family", ["hubert-large", "wavlm-large"])
def test_hubert_with_kmeans_of_a_large_model_is_saved_and_loaded(folders, family, tmp_path):
    tokenizer, wav = HubertWithKmeans(folders(family), output_layer=2), clips(1.0)[0]
    tokenizer.save(tmp_path)
    again = HubertWithKmeans.load(tmp_path)
    assert (
        torch.equal(again.features(wav)[0], tokenizer.features(wav)[0]) and again.fingerprint == tokenizer.fingerprint
    )


def test_a_corpus_has_the_units_of_one_encoder(shared, tmp_path):
    clip = Utterance("a", None, None, 16000, lambda: babble(0, 1.0))
    tokenize_corpus([clip], shared("hubert", 2), tmp_path, progress=False)
    with pytest.raises(ValueError, match="ids of another tokenizer"):
        tokenize_corpus([clip], shared("mhubert", 2), tmp_path, progress=False)


def test_clips_that_cannot_be_used_are_left_out(folders):
    bad = [torch.zeros(16000), torch.full((16000,), torch.nan), clips(1.0)[0][:100]]
    with pytest.warns(UserWarning, match=r"3 clips cannot be used \(0: is silent .*: left out"):
        tokenizer = EncoderKmeans.fit([*bad, *clips(1.5, 1.0)], folders("whisper"), num_clusters=K, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = EncoderKmeans.fit(clips(1.5, 1.0), folders("whisper"), num_clusters=K, progress=False)
    assert same.fingerprint == tokenizer.fingerprint
    with pytest.raises(
        ValueError, match=r"num_clusters=12 needs at least as many frames, but the waveforms have 0; 3 cl"
    ):
        EncoderKmeans.fit(bad, folders("whisper"), num_clusters=K, progress=False)


def test_few_frames_are_drawn_for_many_clusters(folders):
    tokenizer = fitted(folders("whisper"), num_clusters=100, max_frames=100)  # of 225
    assert tokenizer.codebook_size == 100


def test_a_full_disk_has_a_remedy(folders):
    with full_disk(1_000), pytest.raises(OSError, match="features did not fit into .*TMPDIR"):
        fitted(folders("whisper"))


@pytest.mark.parametrize("family, least", [("hubert", 400), ("w2v-bert", 560), ("whisper", 320)])
def test_the_shortest_clip_has_one_id(shared, family, least):
    tokenizer, wav = shared(family, 2), clips(1.0)[0]
    assert tokenizer(wav[:least]).shape == (1, 1)
    with pytest.raises(ValueError, match=f"row 0 of wav has {least - 1} samples"):
        tokenizer(wav[: least - 1])


def test_bad_arguments_are_named(folders, shared, tmp_path):
    hubert, waves = folders("hubert"), clips(1.0)
    for layer in (0, DEPTH + 1):
        with pytest.raises(ValueError, match="layer must be"):
            EncoderKmeans.fit(waves, hubert, layer=layer, progress=False)
    with pytest.raises(ValueError, match="pca must be at most 16"):
        EncoderKmeans.fit(waves, hubert, pca=17, num_clusters=K, progress=False)
    with pytest.raises(TypeError, match="waveforms must be a list"):
        EncoderKmeans.fit("clip.wav", hubert, progress=False)
    with pytest.raises(FileNotFoundError, match="encoder '.*none' is no file, no folder and no Hub id"):
        EncoderKmeans.fit(waves, str(tmp_path / "none"), progress=False)
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        EncoderKmeans.fit(waves, tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds samples that are NaN"):
        shared("hubert", 2)(torch.full((1, 16000), torch.nan))
    open_one = shared("hubert", 2).encoder
    with pytest.raises(ValueError, match="layer 1 is not the layer of the open encoder, 2"):
        EncoderKmeans.fit(waves, open_one, layer=1, progress=False)
    assert fitted(open_one).fingerprint == shared("hubert", 2).fingerprint


@pytest.mark.parametrize(
    "values", [dict(layer=1), dict(depth=9), dict(codebook_size=3), dict(speakers=["a"]), dict(type="x")]
)
def test_a_saved_tokenizer_whose_description_was_changed_is_refused(shared, tmp_path, values):
    shared("whisper", DEPTH).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(ValueError, match="does not hold a usable EncoderKmeans"):
        EncoderKmeans.load(tmp_path)


def test_a_saved_tokenizer_that_lost_a_file_is_refused(shared, tmp_path):
    shared("whisper", 2).save(tmp_path)
    (tmp_path / "tokenizer.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer.safetensors is missing"):
        EncoderKmeans.load(tmp_path)


@pytest.mark.parametrize("kind", [EncoderKmeans, HubertWithKmeans])
def test_a_saved_tokenizer_that_lost_its_encoder_asks_no_hub(folders, shared, tmp_path, monkeypatch, kind):
    saved = shared("hubert", 2) if kind is EncoderKmeans else HubertWithKmeans(folders("hubert"), output_layer=2)
    saved.save(tmp_path / "units")
    shutil.rmtree(tmp_path / "units" / "encoder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="units/encoder' is no file, no folder and no Hub id"):
        kind.load("units")


@pytest.fixture(scope="module")
def whisper_tiny():
    folder = os.environ.get("SPEAR_TTS_WHISPER", "")
    if not folder:
        pytest.skip(
            "SPEAR_TTS_WHISPER is not set: it names the folder of Whisper tiny.en in the format of transformers"
        )
    return folder


@pytest.mark.slow
def test_whisper_tiny_has_the_ids_of_transformers(whisper_tiny, corpora):
    from spear_tts_pytorch.data.audio import load_audio

    files = sorted((corpora / "asterisk_en" / "wavs").iterdir())[:12]
    waves = [torch.from_numpy(load_audio(path, 16000)[0]) for path in files]
    tokenizer = EncoderKmeans.fit(waves, whisper_tiny, num_clusters=100, progress=False)
    assert tokenizer.layer == 2
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    ids = tokenizer(padded, torch.tensor([len(wav) for wav in waves]))
    for row, wav in zip(ids, waves, strict=True):
        expected = nearest(hidden_states(whisper_tiny, wav)[2], tokenizer)
        assert torch.equal(tokenizer(wav)[0], expected) and torch.equal(row[row >= 0], expected)
