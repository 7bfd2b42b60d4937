"""Folders of speech encoders that are damaged or hostile, the Hub's cache, and pickled weights."""

import functools
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from spear_tts_pytorch.tokenizers.encoder_files import open_encoder
from spear_tts_pytorch.tokenizers.encoders import encoder_of
from spear_tts_pytorch.utils.restricted import RefusedError

transformers = pytest.importorskip("transformers")
import small_encoders  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function from the name of a family to the folder of a small model with random weights."""
    return functools.cache(lambda family: small_encoders.make(family, tmp_path_factory.mktemp(family)))


def test_a_hub_id_is_found_in_the_cache(folders, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commit, repository = "0" * 40, tmp_path / "models--someone--encoder"
    shutil.copytree(folders("mhubert"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert open_encoder("someone/encoder").normalize
    with pytest.raises(FileNotFoundError, match="'someone/other' is no folder here and cannot be had from the Hub"):
        open_encoder("someone/other")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def copied(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def copy(family):
        return shutil.copytree(folders(family), tmp_path / family)

    return copy


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("family", ["hubert", "w2v-bert", "whisper"])
def test_pickled_weights_are_read_without_their_code(copied, folders, family):
    folder = copied(family)
    state = load_file(folder / "model.safetensors")
    os.remove(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    assert encoder_of(open_encoder(folder)).digest == encoder_of(open_encoder(folders(family))).digest
    torch.save({**state, "evil": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(RefusedError, match=r"pytorch_model.bin holds '(posix|nt).mkdir', which is code"):
        open_encoder(folder)
    assert not os.path.exists("ran")


def test_code_in_the_folder_is_not_run(copied):
    folder = copied("whisper")
    (folder / "evil.py").write_text("import os\nos.mkdir('ran')\n")
    change(folder / "config.json", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.EvilConfig"})
    open_encoder(folder)
    change(folder / "config.json", model_type="evil")
    with pytest.raises(ValueError, match="cannot be loaded by transformers"):
        open_encoder(folder)
    assert not os.path.exists("ran")


@pytest.mark.parametrize("family", ["hubert", "mms", "w2v-bert", "whisper"])
def test_weights_that_are_missing_are_named(copied, family):
    folder = copied(family)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.1." in name and name.endswith("weight") and "decoder" not in name)
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"weights lack .*{name.partition('layers.')[2]}"):
        open_encoder(folder, 2)
    open_encoder(folder, 1)  # which does not need it


@pytest.mark.parametrize(
    "family, file, values, message",
    [
        ("hubert", "config.json", dict(hidden_size=2**20, num_attention_heads=1), "cannot be loaded"),
        ("hubert", "config.json", dict(num_hidden_layers=2**19), "too few|asks for"),
        ("whisper", "config.json", dict(encoder_layers=2**19), "too few|asks for"),
        ("whisper", "config.json", dict(max_source_positions=2**20, d_model=2**12), "cannot be loaded"),
        ("whisper", "config.json", dict(vocab_size=2**30), "vocab_size of more than"),
        ("hubert", "config.json", dict(model_type="bert"), "it is a bert, known are hubert"),
        ("hubert", "config.json", dict(quantization_config={"load_in_8bit": True}), "cannot be loaded"),
        ("whisper", "preprocessor_config.json", dict(hop_length=10), "hop_length must be 160, got 10"),
        ("whisper", "preprocessor_config.json", dict(sampling_rate=8000), "sampling_rate must be 16000"),
        ("w2v-bert", "preprocessor_config.json", dict(stride=4), "stride must be 2, got 4"),
        ("hubert", "preprocessor_config.json", dict(sampling_rate=1), "sampling_rate must be between"),
        ("hubert", "preprocessor_config.json", dict(do_normalize="yes"), "do_normalize must be true or false"),
    ],
)
def test_configurations_that_ask_for_much_or_for_something_else_are_refused(copied, family, file, values, message):
    folder = copied(family)
    change(folder / file, **values)
    with pytest.raises(ValueError, match=message):
        open_encoder(folder)


@pytest.mark.parametrize(
    "kind, config, message",
    [
        ("Wav2Vec2BertModel", dict(small_encoders.SIZES, feature_projection_input_dim=161), "must be even, got 161"),
        (
            "WhisperModel",
            dict(small_encoders.WHISPER, max_source_positions=28),
            "max_source_positions must be at least 29",
        ),
    ],
)
def test_an_encoder_whose_sizes_fit_no_audio_is_refused(tmp_path, kind, config, message):
    config_class = getattr(transformers, kind.replace("Model", "Config"))
    getattr(transformers, kind)(config_class(**config)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        encoder_of(open_encoder(tmp_path))
