"""Phonemes by espeak-ng: ids, back again, other languages, refused input."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

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
    assert repr(tokenizer).startswith(f"PhonemeTokenizer({language!r}, {tokenizer.vocab_size} ids: '")
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
    with pytest.raises(ValueError, match="does not have the language 'xx'"):
        phonemes.PhonemeTokenizer.fit(["a"], "xx")
    tokenizer = phonemes.PhonemeTokenizer.fit(["seven"], "en-us")
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.encode(["thin"])
    with pytest.raises(TypeError, match="list of strings"):
        tokenizer.encode("seven")
    unknown = phonemes.PhonemeTokenizer.fit(["seven"], "en-us", unknown="unk")
    for known in (unknown, tokenizer_from_dict(unknown.to_dict())):
        assert "\N{REPLACEMENT CHARACTER}" in known.decode(known.encode(["thin"]))[0]


@pytest.mark.parametrize(
    ("language", "text", "letters"),
    [
        ("en-us", "the 漢字 sign", "漢字"),  # "Chinese letter"
        ("en-us", "привет", "привет"),  # spelled
        ("en-us", "say νερο", "νερο"),
        ("de", "ひら", "ひら"),
        ("en-us", "the letter ა", "ა"),  # "Georgian a", but words of Georgian are read
        ("ru", "ᠮᠣ", "ᠮᠣ"),  # codes
        ("en-us", "ꪁ", "ꪁ"),  # nothing
        ("ja", "日本", "日本"),
        ("fr-fr", "שלום", "שלום"),  # "Hebrew shin"
    ],
)
def test_letters_that_a_voice_cannot_read_are_named(language, text, letters):
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    with pytest.raises(ValueError, match=f"texts hold '{letters}', which espeak-ng's voice '{language}' cannot read"):
        phonemes.PhonemeTokenizer.fit(["seven", text], language)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en-us", "naïve café, 5 µm, π, 😀, გამარჯობა, नमस्ते"),
        ("ru", "США и iPhone, объём"),
        ("el", "ΔΕΗ νερό"),
        ("bg", "щъркел"),
        ("uk", "їжак"),
        ("ky", "суу"),
        ("grc", "ὕδωρ"),
        ("ko", "한국어 뷁"),
        ("cmn", "你好世界"),
        ("he", "שפה"),
        ("th", "ภาษา"),
        ("am", "አማርኛ"),
    ],
)
def test_letters_that_a_voice_reads_are_not_refused(language, text):
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    assert len(phonemes.phonemize([text], language)[0]) >= 3


def test_a_text_that_is_no_unicode_is_named():
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    with pytest.raises(ValueError, match="texts is no Unicode text"):
        phonemes.phonemize(["a\ud800"], "en-us")


def test_threads_get_the_phonemes_of_their_own_texts():
    phonemes = pytest.importorskip("spear_tts_pytorch.tokenizers.phonemes")
    pytest.importorskip("phonemizer")
    texts = {language: phonemes.phonemize(["hello world", "good bye"], language) for language in ("en-us", "de")}
    jobs = [(language, index) for language in texts for index in range(2)] * 100
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: phonemes.phonemize([["hello world", "good bye"][job[1]]], job[0])[0], jobs))
    assert found == [texts[language][index] for language, index in jobs]
