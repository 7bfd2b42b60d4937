"""The words of a transcript go to the clips in which they are said."""

import pytest
import small
import torch

from spear_tts_pytorch.recipe.aligning import align, read_aligned, write_aligned
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer

TEXT = "one two three four five six seven eight nine ten"


class Hearing(torch.nn.Module):
    """Speech ids are those of the characters said, 0 for silence; the log-probabilities say so, with some noise."""

    semantic_pad_id, text_pad_id = -1, 0

    def __init__(self, vocab_size, noise):
        super().__init__()
        self.vocab_size, self.noise = vocab_size, noise

    def ctc_logits(self, semantic_ids):
        generator = torch.Generator().manual_seed(len(semantic_ids))
        lengths = (semantic_ids >= 0).sum(-1) + 1
        ids = torch.cat([semantic_ids.clamp(min=0), torch.zeros(len(semantic_ids), 1, dtype=torch.long)], dim=1)
        logits = self.noise * torch.randn(*ids.shape, self.vocab_size, generator=generator)
        return (logits + 4 * torch.nn.functional.one_hot(ids, self.vocab_size)).log_softmax(-1), lengths


def heard(characters, text):
    """Speech ids of a text: each character, then two of silence."""
    ids = characters.encode([text])[0]
    return torch.stack([ids, torch.zeros_like(ids), torch.zeros_like(ids)], dim=1).flatten()


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_each_clip_gets_its_words(noise):
    characters = CharacterTokenizer.fit([TEXT])
    parts = ["one two", "", "three four five six", "seven", "eight nine ten"]

    speech = [heard(characters, part) if part else torch.zeros(9, dtype=torch.long) for part in parts]
    reader = CTCBacktranslator(Hearing(characters.vocab_size, noise))
    found = align(reader, speech, TEXT, lambda text: characters.encode([text])[0])
    assert [text for text, _ in found] == parts
    assert all(score < 0 for text, score in found if text) and found[1] == ("", 0)


@pytest.mark.parametrize(
    ("cut", "texts"), [(["one tw", "o three"], ["one two", "three"]), (["one t", "wo three"], ["one", "two three"])]
)
def test_a_word_that_is_cut_goes_to_the_clip_with_most_of_it(cut, texts):
    characters = CharacterTokenizer.fit([TEXT])
    reader = CTCBacktranslator(Hearing(characters.vocab_size, 0.0))
    speech = [heard(characters, part) for part in cut]
    found = align(reader, speech, "one two three", lambda text: characters.encode([text])[0])
    assert [text for text, _ in found] == texts


def test_a_transcript_of_no_clips_is_refused():
    with pytest.raises(ValueError, match="none of its clips can be used"):
        align(CTCBacktranslator(small.make_model(ctc=True)), [], "one", lambda _: torch.ones(3, dtype=torch.long))


def test_texts_are_kept(tmp_path):
    assert read_aligned(tmp_path) == {}
    write_aligned(tmp_path, {"a": "één"})
    assert read_aligned(tmp_path) == {"a": "één"}
    (tmp_path / "aligned.json").write_text('{"a": 3}')
    with pytest.raises(ValueError, match="aligned.json"):
        read_aligned(tmp_path)
