"""Fast tokenizers of HuggingFace: round trips, a model that carries one, refused input."""

import pytest

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic

TEXTS = ["the quick brown fox jumps over the lazy dog", "voulez-vous du café ?", "съешь ещё этих мягких булок", "你好"]


def test_a_huggingface_tokenizer_travels_with_the_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    tokenizer = HuggingFaceTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=inner))
    ids = tokenizer.encode(TEXTS)
    assert tokenizer.decode(ids) == TEXTS and tokenizer.decode(ids[0]) == TEXTS[:1]
    assert repr(tokenizer) == f"HuggingFaceTokenizer(BPE: {tokenizer.vocab_size} ids)"
    assert int(ids.max()) < tokenizer.vocab_size and int((ids == 0).sum(dim=1).min()) == 0
    model = TextToSemantic(16, source_depth=1, target_depth=1, tokenizer_encode=tokenizer, num_semantic_token_ids=9)
    assert model.num_text_token_ids == tokenizer.vocab_size
    model.save_pretrained(tmp_path)
    again = TextToSemantic.from_pretrained(tmp_path)
    assert again.tokenizer_encode.encode(TEXTS).equal(ids)
    straight = TextToSemantic(
        16, source_depth=1, target_depth=1, tokenizer_encode=tokenizer.tokenizer, num_semantic_token_ids=9
    )
    assert straight.tokenizer_encode.encode(TEXTS).equal(ids) and straight.num_text_token_ids == tokenizer.vocab_size
    with pytest.raises(TypeError, match="no fast tokenizer"):
        HuggingFaceTokenizer(str.split)
    with pytest.raises(TypeError, match="got one string"):
        tokenizer.encode("one")
    with pytest.raises(ValueError, match="texts is empty"):
        tokenizer.encode([])
