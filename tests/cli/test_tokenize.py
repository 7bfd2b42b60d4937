"""`spear-tts tokenize`: with a tokenizer that is given, fitted, or found in the output folder."""

import numpy as np
import pytest
import soundfile

from spear_tts_pytorch.cli import main
from spear_tts_pytorch.data.tokenized import TokenizedSpeech
from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans

pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
RATE = 8000
RANDOM = np.random.default_rng(0)
CLIPS = [RANDOM.normal(0, 0.1, 1600 + 400 * index).astype(np.float32) for index in range(12)]


@pytest.fixture
def corpus(tmp_path):
    """A folder of clips, one of them silent."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for index, clip in enumerate([*CLIPS, np.zeros(1600)]):
        soundfile.write(folder / f"clip{index:02d}.wav", clip, RATE)
    return folder


def test_tokenizers_given_fitted_and_found(corpus, tmp_path, capsys):
    tokenizer = MelKmeans.fit(CLIPS, RATE, 16, progress=False)
    tokenizer.save(tmp_path / "tokenizer")
    assert main(["tokenize", str(corpus), str(tmp_path / "a"), "--tokenizer", str(tmp_path / "tokenizer")]) == 0
    assert "12 clips" in capsys.readouterr().out
    assert main(["tokenize", str(corpus), str(tmp_path / "b"), "--clusters", "12", "--unique"]) == 0
    assert "1 left out" in capsys.readouterr().out
    speech = TokenizedSpeech(tmp_path / "b")
    assert max(int(speech[i].max()) for i in range(len(speech))) <= 11
    assert all(bool((speech[i].diff() != 0).all()) for i in range(len(speech)))
    again = ["tokenize", str(corpus), str(tmp_path / "b")]
    for options in ([], ["--clusters", "12"], ["--unique"]):
        assert main([*again, *options]) == 0
    capsys.readouterr()
    assert main([*again, "--clusters", "13"]) == 2
    assert "--clusters 13: the tokenizer in" in capsys.readouterr().err
    for options in (["--unique"], ["--clusters", "12"]):
        assert main([*again[:2], str(tmp_path / "c"), "--tokenizer", str(tmp_path / "tokenizer"), *options]) == 2
        assert f"error: {options[0]}" in capsys.readouterr().err
    assert main(["tokenize", str(tmp_path / "none"), str(tmp_path / "c")]) == 2


def test_a_run_that_was_killed_while_it_saved_the_tokenizer_can_be_repeated(corpus, tmp_path):
    left = tmp_path / "out" / "tokenizer" / f"..tokenizer.json.complete.{'0' * 32}.tmp"
    left.mkdir(parents=True)
    (left / "tokenizer.safetensors").write_bytes(b"half")
    assert main(["tokenize", str(corpus), str(tmp_path / "out"), "--clusters", "12"]) == 0
    assert len(TokenizedSpeech(tmp_path / "out")) == 12 and not left.exists()
