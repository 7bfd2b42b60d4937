"""HuBERT and k-means: the published numbers, any batch, any of the file formats, long audio."""

import gc
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.data.corpora import Utterance
from spear_tts_pytorch.data.tokenized import tokenize_corpus
from spear_tts_pytorch.tokenizers import encoders, hubert
from spear_tts_pytorch.tokenizers.fairseq_hubert import read_fairseq_hubert
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, load_semantic_tokenizer
from spear_tts_pytorch.utils.restricted import RefusedError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def files(fixtures):
    return fixtures / "hubert_tiny"


@pytest.fixture(scope="module")
def expected(files):
    return load_file(files / "expected.safetensors")


@pytest.fixture(scope="module")
def tokenizer(files):
    return hubert.HubertWithKmeans(files / "hubert_tiny.pt", files / "hubert_tiny_L2_km20.bin", output_layer=2)


def test_features_and_ids_are_the_recorded_ones(tokenizer, expected):
    assert isinstance(tokenizer, SemanticTokenizer) and tokenizer.codebook_size == 20
    assert (tokenizer.downsample_factor, tokenizer.window) == (320, 400)
    waves = next(value for name, value in expected.items() if "wave" in name)
    features = next(value for name, value in expected.items() if "feature" in name or "layer" in name)
    ids = next(value for name, value in expected.items() if "token" in name)
    found = torch.stack(tokenizer.features(waves))
    torch.testing.assert_close(found, features.reshape(found.shape), atol=1e-4, rtol=1e-4)
    assert torch.equal(tokenizer(waves), ids.reshape(len(waves), -1).long())


def test_repr_says_layer_clusters_and_rates(tokenizer):
    assert repr(tokenizer) == "HubertWithKmeans(layer 2 of HubertModel: 20 clusters, 16000 Hz, 50 ids per second)"


def test_a_huggingface_save_gives_the_same(tokenizer, files, expected, tmp_path):
    waves = next(value for name, value in expected.items() if "wave" in name)
    model, _ = read_fairseq_hubert(files / "hubert_tiny.pt")
    model.save_pretrained(tmp_path / "hf")
    same = hubert.HubertWithKmeans(tmp_path / "hf", files / "hubert_tiny_L2_km20.bin", output_layer=2)
    assert torch.equal(same(waves), tokenizer(waves))
    with torch.no_grad():  # what is cut off changes nothing
        whole = model(waves, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(torch.stack(tokenizer.features(waves)), whole, atol=1e-5, rtol=1e-5)


def test_a_huggingface_folder_whose_weights_lack_some_is_refused(files, tmp_path):
    model, _ = read_fairseq_hubert(files / "hubert_tiny.pt")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("attention.k_proj.weight"))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"weights lack {name}"):
        hubert.HubertWithKmeans(tmp_path, output_layer=2)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_pickled_weights_of_a_huggingface_folder_that_hold_code_are_refused(tokenizer, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, _ = read_fairseq_hubert(files / "hubert_tiny.pt")
    model.save_pretrained("hf")
    state = load_file("hf/model.safetensors")
    os.remove("hf/model.safetensors")
    kmeans = files / "hubert_tiny_L2_km20.bin"
    torch.save(state, "hf/pytorch_model.bin")
    same = hubert.HubertWithKmeans("hf", kmeans, output_layer=2)
    assert same.fingerprint == tokenizer.fingerprint
    torch.save({**state, "evil": Evil()}, "hf/pytorch_model.bin")
    with pytest.raises(RefusedError, match=r"pytorch_model.bin holds '(posix|nt).mkdir', which is code"):
        hubert.HubertWithKmeans("hf", kmeans, output_layer=2)
    with open("hf/pytorch_model.bin", "wb") as file:
        pickle.dump(Evil(), file)
    with pytest.raises(ValueError, match="pytorch_model.bin") as caught:
        hubert.HubertWithKmeans("hf", kmeans, output_layer=2)
    assert "weights_only" not in str(caught.value) and not os.path.exists("ran")
    with open("hf/model.safetensors", "wb") as file:
        file.write(b"damaged")
    with pytest.raises(ValueError, match="'hf' cannot be loaded by transformers"):
        hubert.HubertWithKmeans("hf", kmeans, output_layer=2)


def test_one_without_centroids_is_saved_and_loaded(files, expected, tmp_path):
    bare = hubert.HubertWithKmeans(files / "hubert_tiny.pt", output_layer=2)
    bare.save(tmp_path)
    again = load_semantic_tokenizer(tmp_path)
    waves = next(value for name, value in expected.items() if "wave" in name)
    assert again.codebook_size == 0 and again.fingerprint == bare.fingerprint
    assert torch.equal(torch.stack(again.features(waves)), torch.stack(bare.features(waves)))


def test_saved_and_loaded(tokenizer, expected, tmp_path):
    waves = next(value for name, value in expected.items() if "wave" in name)
    tokenizer.save(tmp_path)
    again = load_semantic_tokenizer(tmp_path)
    assert torch.equal(again(waves), tokenizer(waves)) and again.to_dict() == tokenizer.to_dict()


def test_processes_get_it_whole(tokenizer, expected):
    waves = next(value for name, value in expected.items() if "wave" in name)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(again(waves), tokenizer(waves)) and again.to_dict() == tokenizer.to_dict()


def test_the_fingerprint_is_of_encoder_and_centroids(tokenizer, files, tmp_path):
    kmeans = files / "hubert_tiny_L2_km20.bin"
    model, _ = read_fairseq_hubert(files / "hubert_tiny.pt")
    model.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        model.encoder.layers[1].final_layer_norm.bias[0] += 1e-3
    model.save_pretrained(tmp_path / "other")
    same, other = (hubert.HubertWithKmeans(tmp_path / name, kmeans, output_layer=2) for name in ("same", "other"))
    assert same.fingerprint == tokenizer.fingerprint != other.fingerprint
    before = other.fingerprint
    other.centroids = other.centroids + 1
    assert other.fingerprint != before
    clip = Utterance("a", None, None, 16000, lambda: np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32))
    tokenize_corpus([clip], tokenizer, tmp_path / "ids", progress=False)
    tokenize_corpus([clip], same, tmp_path / "ids", progress=False)
    other.centroids = tokenizer.centroids
    with pytest.raises(ValueError, match="ids of another tokenizer .fingerprint"):
        tokenize_corpus([clip], other, tmp_path / "ids", progress=False)


def real_clips(corpora, number):
    files = sorted((corpora / "ljspeech_mini" / "wavs").iterdir())[: number // 2]
    files += sorted((corpora / "asterisk_en" / "wavs").iterdir())[: number - len(files)]
    return [torch.from_numpy(load_audio(path, 16000)[0]) for path in files]


@pytest.mark.slow
def test_clips_have_the_ids_in_a_batch_that_they_have_alone(tokenizer, corpora):
    clips = real_clips(corpora, 64)
    for start in range(0, 64, 8):
        batch = clips[start : start + 8]
        lengths = torch.tensor([len(clip) for clip in batch])
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        ids = tokenizer(padded, lengths)
        for row, clip in zip(ids, batch, strict=True):
            alone = tokenizer(clip)[0]
            assert torch.equal(row[row >= 0], alone) and bool((row[len(alone) :] == -1).all())


def test_long_clips_pass_in_windows(tokenizer, corpora, monkeypatch):
    clip = torch.cat(real_clips(corpora, 4))
    whole = tokenizer(clip)[0]
    monkeypatch.setattr(tokenizer.encoder, "window_frames", 300)
    monkeypatch.setattr(tokenizer.encoder, "overlap", 60)
    monkeypatch.setattr(tokenizer.encoder, "batch_frames", 700)
    cut = tokenizer(clip)[0]
    assert cut.shape == whole.shape and (cut == whole).float().mean() > 0.7
    both = tokenizer(
        torch.nn.utils.rnn.pad_sequence([clip, clip[:50_000]], batch_first=True), torch.tensor([len(clip), 50_000])
    )
    assert torch.equal(both[0], cut) and torch.equal(both[1, :156], tokenizer(clip[:50_000])[0])


@pytest.mark.slow
def test_features_of_windows_go_once_their_ids_are_known(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer.encoder, "window_frames", 100)
    monkeypatch.setattr(tokenizer.encoder, "overlap", 10)
    monkeypatch.setattr(tokenizer.encoder, "batch_frames", 100)
    dim, alive = tokenizer.centroids.shape[1], []

    def count(*_):
        found = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gc.get_objects() if kind(x)}
        alive.append(sum(found.values()))

    def kind(x):
        return type(x) is torch.Tensor and x.ndim in (2, 3) and x.shape[-1] == dim

    gc.collect()
    gc.freeze()  # the collector lists only what is made from here on
    handle = tokenizer.model.encoder.register_forward_pre_hook(count)
    try:
        tokenizer(torch.randn(320 * 2000, generator=torch.Generator().manual_seed(0)))
    finally:
        handle.remove()
        gc.unfreeze()
    assert len(alive) > 20 and alive[-1] <= alive[1] + 2 * 4 * 100 * dim


@pytest.mark.parametrize("frames", [1, 1500, 1501, 2700, 2701, 10_000, 123_457])
def test_windows_use_every_frame_once(frames):
    found = encoders.windows_of(frames)
    used = [frame for begin, end, first, last in found for frame in range(first, last)]
    assert used == list(range(frames))
    assert all(begin <= first < last <= end <= begin + encoders.WINDOW for begin, end, first, last in found)


def test_bad_arguments_are_named(files, tmp_path, expected):
    checkpoint, kmeans = files / "hubert_tiny.pt", files / "hubert_tiny_L2_km20.bin"
    with pytest.raises(FileNotFoundError, match="no k-means file"):
        hubert.HubertWithKmeans(checkpoint, tmp_path / "none.bin", output_layer=2)
    with pytest.raises(FileNotFoundError, match="no file, no folder and no Hub id"):
        hubert.HubertWithKmeans(tmp_path / "none.pt", kmeans)
    with pytest.raises(ValueError, match="output_layer must be between 1 and 3"):
        hubert.HubertWithKmeans(checkpoint, kmeans)
    np.save(tmp_path / "other.npy", np.ones((4, 7), np.float32))
    with pytest.raises(ValueError, match="centroids of 7 features"):
        hubert.HubertWithKmeans(checkpoint, tmp_path / "other.npy", output_layer=2)
    shutil.copy(checkpoint, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut.pt is damaged"):
        hubert.HubertWithKmeans(tmp_path / "cut.pt", kmeans, output_layer=2)
    bare = hubert.HubertWithKmeans(checkpoint, output_layer=2)
    with pytest.raises(ValueError, match="has no centroids"):
        bare(torch.randn(1, 800))
    with pytest.raises(ValueError, match="row 0 of wav has 399 samples"):
        bare.features(torch.randn(1, 399))


def test_a_codebook_of_ones_own(files, corpora):
    pytest.importorskip("sklearn")
    own = hubert.HubertWithKmeans(files / "hubert_tiny.pt", output_layer=2)
    clips = real_clips(corpora, 6)
    assert own.fit_kmeans(clips, 12, progress=False) is own and own.codebook_size == 12
    assert len(own(clips[0]).unique()) > 3
    before = own.fingerprint
    broken = Utterance("broken", None, None, 16000, lambda: load_audio(files / "hubert_tiny.pt")[0])
    bad = [torch.zeros(16000), 1e6 * clips[0], clips[0][:100], torch.full((16000,), torch.nan), broken]
    with pytest.warns(UserWarning, match=r"5 clips cannot be used \(0: is silent .*: left out"):
        own.fit_kmeans([*bad, *clips], 12, progress=False)
    assert own.fingerprint == before
    with pytest.raises(ValueError, match=r"has 0 frames; 5 clips cannot be used \(0: is silent"):
        own.fit_kmeans(bad, 12, progress=False)
    with pytest.raises(ValueError, match="layer 1 is not the output_layer"):
        own.fit_kmeans(clips, 12, 1)
