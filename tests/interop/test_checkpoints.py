"""Checkpoints of SoundStorm and Voicebox that hold the model of release 0.4.8 load with ours inside."""

import os
import subprocess
import sys
from pathlib import Path

import old_model
import parts
import pytest
import torch


@pytest.fixture(scope="session")
def old(tmp_path_factory) -> Path:
    """A folder written by release 0.4.8, in a process of its own."""
    folder = tmp_path_factory.mktemp("old")
    paths = [os.environ["INTEROP_RELEASE_0_4_8"], os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, old_model.__file__, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        cwd=folder,
        check=True,
    )
    return folder


def assert_same_logits(model, expected: dict[str, torch.Tensor]) -> None:
    ours = old_model.logits(model)
    assert len(expected) == 4 and expected.keys() == ours.keys()
    for pair, logits in expected.items():
        torch.testing.assert_close(ours[pair], logits, atol=1e-4, rtol=0, msg=lambda text, pair=pair: f"{pair}: {text}")


def test_soundstorm_loads_strictly_with_our_model(old) -> None:
    storm, expected = parts.soundstorm(parts.text_to_semantic()), torch.load(old / "expected.pt")
    package = storm.load(old / "soundstorm.pt")
    assert "text_to_semantic.target_transformer.layers.0.0.to_q.0.weight" in package["model"]  # an old name
    assert_same_logits(storm.text_to_semantic, expected["soundstorm"])
    torch.testing.assert_close(old_model.soundstorm_loss(storm), expected["soundstorm_loss"], atol=1e-5, rtol=0)
    assert storm.semantic_token_emb is storm.text_to_semantic.semantic_token_emb


def test_voicebox_loads_strictly_with_our_model(old, hubert) -> None:
    """The old model held its wav2vec's weights; ours leaves them out, as they come from the tokenizer's own files."""
    flow, expected = parts.voicebox(parts.text_to_semantic(wav2vec=hubert)), torch.load(old / "expected.pt")
    centers = hubert.cluster_centers.clone()
    package = flow.load(old / "voicebox.pt")
    assert "text_to_semantic.wav2vec.cluster_centers" in package["model"]
    assert_same_logits(flow.text_to_semantic, expected["voicebox"])
    assert torch.equal(hubert.cluster_centers, centers)


def test_soundstorm_with_our_model_saves_and_loads(model, tmp_path) -> None:
    storm, other = parts.soundstorm(model), parts.soundstorm(parts.text_to_semantic())
    torch.save({"model": storm.state_dict()}, tmp_path / "soundstorm.pt")
    other.load(tmp_path / "soundstorm.pt")
    assert_same_logits(other.text_to_semantic, old_model.logits(model))


def test_other_sizes_are_refused(old) -> None:
    storm = parts.soundstorm(parts.text_to_semantic(target_depth=1))
    with pytest.raises(RuntimeError, match="text_to_semantic.target_transformer.layers.1"):
        storm.load(old / "soundstorm.pt")
