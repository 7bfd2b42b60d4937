"""Text tokenizers: round trips in several scripts, the token contract, dictionaries, refused input."""

import json
import unicodedata

import pytest
import torch

from spear_tts_pytorch.tokenizers.text import (
    ByteTokenizer,
    CharacterTokenizer,
    TextTokenizer,
    normalize_text,
    tokenizer_from_dict,
)

TEXTS = [
    "three one four",
    "Where is the library? It's 3 o'clock.",
    "où est le café ?",
    "Dès Noël, où un zéphyr haï me vêt de glaçons würmiens, l'œuf s'échappe…",
    "Съешь ещё этих мягких французских булок",
    "今天天气很好，我们去公园吧。",
    "今日は良い天気です",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "a 🙂 b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_round_trip_in_any_script(text):
    tokenizer = CharacterTokenizer.fit(TEXTS)
    assert tokenizer.decode(tokenizer.encode([text])) == [normalize_text(text)]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_round_trip_in_any_script(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer([text])) == [normalize_text(text)]


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer.fit(TEXTS), ByteTokenizer()])
def test_ids_keep_the_token_contract(tokenizer):
    ids = tokenizer.encode(["three", "", "a 🙂 b"])
    assert isinstance(tokenizer, TextTokenizer)
    assert ids.dtype == torch.long
    assert (ids != 0).sum(dim=1).tolist() == [5, 0, len(tokenizer.encode(["a 🙂 b"])[0])]
    assert 0 <= int(ids.min()) and int(ids.max()) < tokenizer.vocab_size
    for row in ids:  # padding only on the right
        real = row != 0
        assert real.sum() == 0 or real[: int(real.nonzero().max()) + 1].all()


def test_every_symbol_has_its_own_id_from_one():
    tokenizer = CharacterTokenizer(["b", "a"])
    assert tokenizer.encode(["ba"]).tolist() == [[1, 2]]
    assert tokenizer.vocab_size == 3


def test_decode_leaves_out_padding_and_end_of_sequence_and_refuses_ids_beyond_them():
    tokenizer = CharacterTokenizer("ab")
    assert tokenizer.decode(torch.tensor([[1, 2, 3, 0], [-1, 2, 3, 1]])) == ["ab", "ba"]
    assert tokenizer.decode(torch.tensor([1, 1], dtype=torch.int32)) == ["aa"]
    assert tokenizer.decode(torch.zeros(0, dtype=torch.long)) == [""]
    for one, ids in ((tokenizer, [[1, 0], [2, 99]]), (ByteTokenizer(), [98, 999])):
        with pytest.raises(
            ValueError, match=f"ids holds {'99' if one is tokenizer else '999'}, but.*{one.vocab_size} ids"
        ):
            one.decode(torch.tensor(ids))
    assert ByteTokenizer().decode(torch.tensor([98, 257, 0])) == ["a"]


def test_normalize_composes_lowers_and_joins_white_space():
    assert normalize_text("  Cafe\u0301\t\nÀ  ") == "café à"
    # Lower case can decompose: the capital dotted I becomes two code points, which must not differ by history.
    assert normalize_text("İ") == normalize_text(normalize_text("İ"))


def test_decomposed_text_gives_the_ids_of_composed_text():
    tokenizer = CharacterTokenizer.fit(["café"])
    assert tokenizer.encode([unicodedata.normalize("NFD", "CAFÉ")]).equal(tokenizer.encode(["café"]))


def test_without_normalization_capitals_are_kept():
    tokenizer = CharacterTokenizer.fit(["Ab "], normalize=False)
    assert tokenizer.decode(tokenizer.encode(["A b"])) == ["A b"]


def test_unknown_characters_are_named_with_their_text():
    tokenizer = CharacterTokenizer.fit(["one two"])
    with pytest.raises(ValueError, match=r"'one x2'.*'2', 'x'.*respell") as caught:
        tokenizer.encode(["one", "one x2"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", TEXTS)
def test_no_character_is_dropped_silently(text):
    tokenizer = CharacterTokenizer.fit(["one two"], unknown="unk")
    wanted = "".join(c if c in set("one tw") else "\ufffd" for c in normalize_text(text))
    assert tokenizer.decode(tokenizer.encode([text])) == [wanted]
    with pytest.raises(ValueError, match="vocabulary"):
        CharacterTokenizer.fit(["one two"]).encode([text])


def test_unknown_characters_as_unk():
    tokenizer = CharacterTokenizer.fit(["ab"], unknown="unk")
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode(["azb"]).tolist() == [[1, 3, 2]]
    assert tokenizer.decode(torch.tensor([[1, 3, 2]])) == ["a\ufffdb"]


@pytest.mark.parametrize(
    "tokenizer",
    [CharacterTokenizer.fit(TEXTS), CharacterTokenizer("ab", unknown="unk", normalize=False), ByteTokenizer(False)],
)
def test_dictionary_round_trip(tokenizer):
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer and hash(again) == hash(tokenizer)
    assert again.encode(["ab"]).equal(tokenizer.encode(["ab"]))


def test_broken_utf8_decodes_to_the_replacement_character():
    assert ByteTokenizer().decode(torch.tensor([0xC3 + 1])) == ["\ufffd"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: CharacterTokenizer([]), ValueError, "symbols is empty"),
        (lambda: CharacterTokenizer(["ab"]), ValueError, "single characters, got 'ab'"),
        (lambda: CharacterTokenizer("aba"), ValueError, "more than once: 'a'"),
        (lambda: CharacterTokenizer([1]), TypeError, "strings of one character, got 1"),
        (lambda: CharacterTokenizer("a", unknown="skip"), ValueError, "unknown must be"),
        (lambda: CharacterTokenizer.fit(["", " "]), ValueError, "no characters"),
        (lambda: CharacterTokenizer.fit("abc"), TypeError, "list of strings"),
        (lambda: CharacterTokenizer("abc").encode("abc"), TypeError, r"write \['abc'\]"),
        (lambda: CharacterTokenizer("abc").encode([]), ValueError, "at least one text"),
        (lambda: CharacterTokenizer("abc").encode([3]), TypeError, r"texts\[0\] is 3"),
        (lambda: ByteTokenizer().encode("abc"), TypeError, "list of strings"),
        (lambda: ByteTokenizer().decode(torch.zeros(1, 1, 1).long()), ValueError, r"\[b, n\] or \[n\]"),
        (lambda: tokenizer_from_dict({"type": "bpe"}), ValueError, "'bpe'.*'bytes', 'characters'"),
        (lambda: CharacterTokenizer.from_dict({"type": "bytes"}), ValueError, "expected 'characters'"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
