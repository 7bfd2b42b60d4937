"""A saved model for the commands."""

import pytest
import small

from spear_tts_pytorch import CharacterTokenizer, MelKmeans


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny untrained model with both tokenizers, saved as the recipe saves it."""
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    model = small.make_model(
        num_text_token_ids=None,
        num_semantic_token_ids=None,
        tokenizer_encode=CharacterTokenizer.fit(["three one four"]),
        wav2vec=MelKmeans.fit(small.make_clips([8000] * 4), sample_hz=8000, num_clusters=32, progress=False),
    )
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder
