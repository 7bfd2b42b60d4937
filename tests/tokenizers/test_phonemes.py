"""Phonemes and the tokenizers of HuggingFace: ids, back again, and travelling with a model."""

import json

import pytest

from spear_tts_pytorch import TextToSemantic
from spear_tts_pytorch.tokenizers.text import tokenizer_from_dict

SENTENCES = {
    "en-us": "Alice sees seven red cars.",
    "fr-fr": "Où est l'été, s'il vous plaît ?",
    "ru": "Съешь ещё этих мягких французских булок.",
    "cmn": "你好,世界。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_phonemes_of_a_language_and_back(language):
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    texts = [SENTENCES[language], "", SENTENCES[language].split()[0]]
    tokenizer = phonemes.PhonemeTokenizer.fit(texts, language)
    ids = tokenizer.encode(texts)
    spoken = phonemes.phonemize(texts, language)
    assert tokenizer.decode(ids) == spoken and spoken[1] == "" and len(spoken[0]) > 5
    assert spoken[2] == phonemes.phonemize(texts[2:], language)[0] != ""
    assert not set("".join(spoken)) & set("ˈˌ,?!。"), "without stress and punctuation"
    assert ids.max() < tokenizer.vocab_size and ids[1].eq(0).all()
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.encode(texts).equal(ids)


def test_words_of_another_language_leave_no_marks():
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    for text, language in (("le weekend shopping", "fr-fr"), ("Он купил iPhone", "ru"), ("你好 hello", "cmn")):
        assert not set(phonemes.phonemize([text], language)[0]) & set("()")


def test_bad_phoneme_arguments_are_named():
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    with pytest.raises(ValueError, match="does not know the language 'xx'"):
        phonemes.PhonemeTokenizer.fit(["a"], "xx")
    tokenizer = phonemes.PhonemeTokenizer.fit(["seven"], "en-us")
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.encode(["thin"])
    with pytest.raises(TypeError, match="list of strings"):
        tokenizer.encode("seven")
    unknown = phonemes.PhonemeTokenizer.fit(["seven"], "en-us", unknown="unk")
    for known in (unknown, tokenizer_from_dict(unknown.to_dict())):
        assert "\N{REPLACEMENT CHARACTER}" in known.decode(known.encode(["thin"]))[0]


def test_a_huggingface_tokenizer_travels_with_the_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(SENTENCES.values(), trainer)
    tokenizer = HuggingFaceTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=inner))
    texts = list(SENTENCES.values())
    ids = tokenizer.encode(texts)
    assert tokenizer.decode(ids) == texts
    assert int(ids.max()) < tokenizer.vocab_size and int((ids == 0).sum(dim=1).min()) == 0
    model = TextToSemantic(16, source_depth=1, target_depth=1, tokenizer_encode=tokenizer, num_semantic_token_ids=9)
    assert model.num_text_token_ids == tokenizer.vocab_size
    model.save_pretrained(tmp_path)
    again = TextToSemantic.from_pretrained(tmp_path)
    assert again.tokenizer_encode.encode(texts).equal(ids)
    straight = TextToSemantic(
        16, source_depth=1, target_depth=1, tokenizer_encode=tokenizer.tokenizer, num_semantic_token_ids=9
    )
    assert straight.tokenizer_encode.encode(texts).equal(ids) and straight.num_text_token_ids == tokenizer.vocab_size
    with pytest.raises(TypeError, match="no fast tokenizer"):
        HuggingFaceTokenizer(str.split)
