"""A voice starts from another one: what fits is loaded, what does not begins anew, and both are told."""

import json

import pytest
import torch
import voices

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.starts import copy_units, start_from
from spear_tts_pytorch.recipe.voice import Voice


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A voice that is trained."""
    folder = tmp_path_factory.mktemp("first")
    voices.corpus(folder / "corpus")
    return Voice.new(folder / "voice", folder / "corpus", test=2, changes=voices.TINY, progress=False).run()


def weights(folder):
    return TextToSemantic.from_pretrained(folder).state_dict()


def test_another_voice_goes_on_with_units_and_weights(first, tmp_path, capsys):
    corpus = voices.corpus(tmp_path / "corpus", clips=20, texts=12)
    table = corpus / "metadata.csv"
    table.write_text(table.read_text().replace("one", "éins"))
    changes = {**voices.TINY, "pretrain.lr": 1e-9, "model.dim": 32}
    voice = Voice.new(tmp_path / "voice", corpus, test=2, init=first.folder, changes=changes)
    assert voice.settings.units.init == voice.settings.pretrain.init == "../../" + "/".join(first.folder.parts[-2:])
    voice.units()
    voice.pretrain()
    units = [folder / "units" / "tokenizer" / "tokenizer.safetensors" for folder in (first.folder, voice.folder)]
    assert units[0].read_bytes() == units[1].read_bytes()
    old, new = (weights(folder / "pretrain" / "model") for folder in (first.folder, voice.folder))
    same = {
        name
        for name in new
        if name in old and old[name].shape == new[name].shape and torch.allclose(old[name], new[name], atol=1e-4)
    }
    assert set(new) - same == {"token_emb.text.weight", "to_ctc_logits.weight", "to_ctc_logits.bias"}
    assert "token_emb.text.weight" in capsys.readouterr().out
    figures = json.loads((voice.folder / "pretrain" / "stage.json").read_text())["figures"]["start"]
    assert figures["loaded"] == len(same) and set(figures["anew"]) == set(new) - same


def test_an_alphabet_or_units_of_the_same_size_are_not_taken_for_the_same(first, tmp_path):
    model = TextToSemantic.from_pretrained(first.folder / "model")
    model.save_pretrained(tmp_path / "same")
    assert not start_from(model, str(tmp_path / "same"), tmp_path, "train").anew
    config = tmp_path / "same" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"o"', '"ø"'), encoding="utf-8")
    units = tmp_path / "same" / "semantic_tokenizer" / "tokenizer.json"
    units.write_text(units.read_text() + "\n")
    start = start_from(model, str(tmp_path / "same"), tmp_path, "train")
    assert {"token_emb.text.weight", "token_emb.speech.weight", "to_ctc_logits.weight"} <= set(start.anew)
    assert "another alphabet" in str(start) and len(start.loaded) > 10


def test_a_file_of_weights_gives_its_layers(first, tmp_path):
    model = TextToSemantic.from_pretrained(first.folder / "model")
    torch.save({"model": model.state_dict()}, tmp_path / "old.pt")
    with torch.no_grad():
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        for value in model.parameters():
            value.zero_()
    start = start_from(model, "old.pt", tmp_path, "pretrain")
    assert all(torch.equal(model.state_dict()[name], kept[name]) for name in start.loaded)
    assert "token_emb.text.weight" in start.anew


def test_what_cannot_be_started_from_is_told(first, tmp_path):
    model = TextToSemantic.from_pretrained(first.folder / "model")
    with pytest.raises(FileNotFoundError, match="no model folder"):
        start_from(model, "./nowhere", tmp_path, "pretrain")
    with pytest.raises(FileNotFoundError, match="units.init: .* holds no tokenizer"):
        copy_units(str(tmp_path), tmp_path, tmp_path / "tokenizer")
    small = TextToSemantic(
        16, source_depth=1, target_depth=1, heads=2, dim_head=8, num_text_token_ids=9, num_semantic_token_ids=9
    )
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match=r"pretrain.init: no layer of small fits .*model\.dim"):
        start_from(model, "small", tmp_path, "pretrain")
