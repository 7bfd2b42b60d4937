"""The training script of examples/ runs in two processes that `accelerate launch` starts; the other one starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small
import torch

from spear_tts_pytorch.data.corpora.readers import read_corpus
from spear_tts_pytorch.data.tokenized import tokenize_corpus
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ids(tmp_path):
    """What `spear-tts tokenize` leaves of seven clips, of which one has no text."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    texts = ["one", "two", "one two", "three", "three one", "two two", None]
    waves = small.make_clips(range(4_000, 7_500, 500))
    clips = [(wave, 8_000, *([text, None] if text else [])) for wave, text in zip(waves, texts, strict=True)]
    tokenizer = MelKmeans.fit([clip[0] for clip in clips], sample_hz=8_000, num_clusters=16, progress=False)
    folder = tmp_path / "ids"
    tokenize_corpus(read_corpus(clips), tokenizer, folder, progress=False)
    tokenizer.save(folder / "tokenizer")
    return folder


def run(command):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_train_and_save_a_model(ids, tmp_path):
    output = tmp_path / "out"
    script = [str(ROOT / "examples" / "train.py"), str(ids), "--output", str(output), "--dim", "64", "--depth", "1"]
    script += ["--batch-tokens", "100", "--pretrain-steps", "3"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    run([*launch, "--main_process_port", "0", *script, "--steps", "2"])
    for stage, step in (("pretraining", 3), ("text-to-speech", 2)):
        state = torch.load(output / stage / "checkpoints" / f"step-{step}" / "trainer.pt", weights_only=True)
        assert len(state["rng"]) == 2  # one for each process
    model = TextToSemantic.from_pretrained(output / "model")
    assert model.generate(["one two"], source_type="text", target_type="speech", max_length=5).shape[0] == 1


@pytest.mark.slow
def test_the_recipe_script_starts():
    run([sys.executable, str(ROOT / "examples" / "own_corpus.py"), "--help"])
