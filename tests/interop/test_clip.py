"""CLIP's tokenizer as the text tokenizer (`use_openai_tokenizer`), from the real x-clip."""

import torch

from spear_tts_pytorch import TextToSemantic

TEXTS = ["hello world", "a much longer sentence, with commas"]


def make_model() -> TextToSemantic:
    return TextToSemantic(
        16, source_depth=1, target_depth=1, heads=2, dim_head=8, use_openai_tokenizer=True, num_semantic_token_ids=20
    ).eval()


def test_reads_texts_without_their_padding() -> None:
    model = make_model()
    assert model.num_text_token_ids == 49_408
    ids = model.to_ids(TEXTS, "text", "texts")
    lengths = (ids != 0).sum(dim=-1)
    assert ids.shape == (2, int(lengths.max())) and lengths[0] < lengths[1] < 20
    options = dict(source_type="text", target_type="speech")
    speech = torch.randint(0, 20, (2, 9))
    together, alone = model(TEXTS, speech, **options), model(TEXTS[:1], speech[:1], **options)
    torch.testing.assert_close(together[:1], alone)
    assert model(TEXTS, speech, return_loss=True, **options).isfinite()
    assert model.generate(TEXTS, max_length=5, **options).shape[0] == 2


def test_saves_and_loads(tmp_path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    options = dict(source_type="text", target_type="speech")
    speech = torch.randint(0, 20, (2, 9))
    loaded = TextToSemantic.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(TEXTS, speech, **options), model(TEXTS, speech, **options))
