"""A saved model is whole at all times: kills, full disks, other files beside it, tokenizers that come and go."""

import json
import os
import random
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
import torch
from full_disk import full_disk
from pair_rows import needs_fork
from small import Frames, make_model

from spear_tts_pytorch import CharacterTokenizer, MelKmeans, TextToSemantic
from spear_tts_pytorch.model import saving

KILLS = int(os.environ.get("SPEAR_TTS_KILLS", "5"))  # at random times


def make_old_and_new():
    """Models of two widths. The first has tokenizers of texts and waveforms, the second has none."""
    clips = [0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(seed)).numpy() for seed in range(4)]
    tokenizer = MelKmeans.fit(clips, 8000, 5, progress=False)
    texts = {"tokenizer_encode": CharacterTokenizer("abc"), "num_text_token_ids": None}
    old = make_model(dim=256, wav2vec=tokenizer, num_semantic_token_ids=None, **texts)
    return old, make_model(dim=128, seed=1)


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("beside", [False, True])
def test_kills_leave_the_old_or_the_new_model(tmp_path, beside):
    folder = tmp_path / "model"
    models = make_old_and_new()
    models[0].save_pretrained(folder)
    if beside:
        (folder / "notes").mkdir()
        (folder / "notes" / "a.txt").write_text("mine")
        (folder / "README.md").write_text("edited")
    draw = random.Random(0)
    for _ in range(KILLS):
        process = os.fork()
        while process == 0:
            for model in reversed(models):
                model.save_pretrained(folder)
        time.sleep(draw.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        found = TextToSemantic.from_pretrained(folder)
        own = models[0] if found.dim == 256 else models[1]
        assert same_weights(found, own) and found.arguments == own.arguments
        assert (found.wav2vec is None) == (own.wav2vec is None)
        assert (found.tokenizer_encode is None) == (own.tokenizer_encode is None)
    make_model().save_pretrained(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name for path in folder.iterdir()} - {"notes"} == {"model.safetensors", "config.json", "README.md"}
    if beside:
        assert (folder / "notes" / "a.txt").read_text() == "mine" and (folder / "README.md").read_text() == "edited"


def same_weights(one, other):
    state = other.state_dict()
    return all(torch.equal(value, state[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("beside", [False, True])
def test_a_full_disk_leaves_the_former_model(tmp_path, monkeypatch, beside):
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    if beside:
        (folder / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        make_model(seed=1).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("most", [100, 100_000])
def test_files_that_may_not_grow_leave_the_former_model(tmp_path, beside, most):
    """The system refuses to write, in the weights or before them, as on a full disk."""
    folder = tmp_path / "model"
    old, new = make_old_and_new()
    old.save_pretrained(folder)
    if beside:
        (folder / "notes.txt").write_text("mine")
    before = {path.name for path in folder.iterdir()}
    with full_disk(most), pytest.raises(OSError, match="too large"):
        new.save_pretrained(folder)
    assert same_weights(TextToSemantic.from_pretrained(folder), old)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name for path in folder.iterdir()} == before


def test_files_beside_a_model_and_an_edited_card_stay(tmp_path):
    for name in ("alone", "beside"):
        folder = tmp_path / name
        make_model().save_pretrained(folder)
        (folder / "README.md").write_text("edited")
        if name == "beside":
            (folder / "notes").mkdir()
            (folder / "notes" / "a.txt").write_text("mine")
        make_model(seed=1).save_pretrained(folder)
        assert (folder / "README.md").read_text() == "edited"
        assert name == "alone" or (folder / "notes" / "a.txt").read_text() == "mine"
        loaded = TextToSemantic.from_pretrained(folder)
        assert all(
            torch.equal(value, make_model(seed=1).state_dict()[key]) for key, value in loaded.state_dict().items()
        )


def test_the_working_folder_and_a_link_to_a_folder_stay(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for seed in (0, 1):
        make_model(seed=seed).save_pretrained(".")
        make_model(seed=seed).save_pretrained(tmp_path / "link")
    assert Path.cwd() == tmp_path / "here" and (tmp_path / "link").is_symlink()
    TextToSemantic.from_pretrained(".")


class Kept(Frames):
    """Frames that can be saved."""

    def save(self, folder):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "tokenizer.json").write_text(json.dumps({"type": "kept"}))


@pytest.mark.parametrize("beside", [False, True])
def test_a_tokenizer_of_an_earlier_model_does_not_survive(tmp_path, monkeypatch, beside):
    from spear_tts_pytorch.tokenizers import semantic

    monkeypatch.setitem(semantic._loaders, "kept", lambda folder: Kept(160, 20))
    folder = tmp_path / "model"
    size = Kept(160, 20).codebook_size
    texts = CharacterTokenizer("ab")
    with_both = make_model(
        wav2vec=Kept(160, 20), num_semantic_token_ids=None, tokenizer_encode=texts, num_text_token_ids=None
    )
    with_both.save_pretrained(folder)
    if beside:
        (folder / "notes.txt").write_text("mine")
    assert isinstance(TextToSemantic.from_pretrained(folder).wav2vec, Kept)
    make_model(num_semantic_token_ids=size - 1).save_pretrained(folder)
    loaded = TextToSemantic.from_pretrained(folder)
    assert loaded.wav2vec is None and loaded.tokenizer_encode is None
    assert not (folder / "semantic_tokenizer").exists()


def test_tokenizers_that_cannot_be_saved_are_named(tmp_path):
    model = make_model(wav2vec=Frames(160, 20), num_semantic_token_ids=None, tokenizer_encode=lambda texts: texts)
    with pytest.warns(UserWarning) as found:
        model.save_pretrained(tmp_path / "model")
    said = sorted(str(one.message) for one in found if "is not saved" in str(one.message))
    assert len(said) == 2 and said[0].startswith("tokenizer_encode") and said[1].startswith("wav2vec, Frames")
    assert all("from_pretrained" in one for one in said)


def test_files_are_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        make_model().save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o644} and len(modes) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="files have no mode there")
def test_weights_that_may_not_be_read_are_not_called_damaged(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.chmod(0)
    if os.access(weights, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PermissionError, match="model.safetensors"):
        TextToSemantic.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod."])
def test_weights_of_wrapped_models_are_loaded(tmp_path, prefix):
    model, other = make_model(), make_model(seed=1)
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "a.pt")
    other.load(tmp_path / "a.pt")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_configuration_of_release_0_5_0_opens(tmp_path):
    """That release wrote neither `format_version` nor `semantic_tokenizer`, and its library_version is 0.5.0."""
    model, _ = make_old_and_new()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["format_version"], config["semantic_tokenizer"]
    path.write_text(json.dumps({**config, "library_version": "0.5.0"}))
    found = TextToSemantic.from_pretrained(tmp_path)
    assert same_weights(found, model) and found.arguments == model.arguments
    assert found.wav2vec is not None and found.tokenizer_encode == model.tokenizer_encode
    path.write_text(json.dumps({**config, "format_version": 2}))
    with pytest.raises(ValueError, match="config.json is not .*semantic_tokenizer is missing"):
        TextToSemantic.from_pretrained(tmp_path)
