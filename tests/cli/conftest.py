"""A saved model for the commands."""

import numpy as np
import pytest
import torch

from spear_tts_pytorch import CharacterTokenizer, MelKmeans, TextToSemantic


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny untrained model with both tokenizers, saved as the recipe saves it."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    clips = [0.1 * random.standard_normal(8000).astype(np.float32) for _ in range(4)]
    text = CharacterTokenizer.fit(["three one four"])
    model = TextToSemantic(
        dim=16,
        source_depth=1,
        target_depth=1,
        heads=2,
        dim_head=8,
        num_text_token_ids=text.vocab_size,
        tokenizer_encode=text,
        wav2vec=MelKmeans.fit(clips, sample_hz=8000, num_clusters=32, progress=False),
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder
