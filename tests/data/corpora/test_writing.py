"""A corpus that is written is read again as it was, or is refused before a file is written."""

import numpy as np
import pytest

from spear_tts_pytorch.data.corpora import Corpus, Utterance, write_corpus
from spear_tts_pytorch.data.corpora.readers import read_corpus

HZ = 8000
TEXTS = {"a": "one|two", "b.c": 'with "quotes"', "#d": "bars | here", "e f": None, "é": "two  \n lines"}


def corpus(texts):
    """A corpus whose test has the first clip, and whose labelled clips are the others."""
    rng = np.random.default_rng(0)
    wavs = {id_: 0.1 * rng.standard_normal(HZ).astype(np.float32) for id_ in texts}
    test, *labelled = [Utterance(id_, text, None, HZ, lambda id_=id_: wavs[id_], HZ) for id_, text in texts.items()]
    return Corpus("made", [], labelled, [test])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_corpus_is_read_as_it_was_written(tmp_path):
    given = corpus(TEXTS)
    write_corpus(given, tmp_path / "corpus")
    found = {one.id: one for one in read_corpus(tmp_path / "corpus")}
    assert {id_: one.text for id_, one in found.items()} == {
        id_: None if text is None else " ".join(text.split()) for id_, text in TEXTS.items()
    }
    for one in (*given.test, *given.labelled):
        assert np.allclose(found[one.id].audio(), one.audio(), atol=1e-4)
    assert (tmp_path / "corpus" / "test.txt").read_text() == "a\n"


@pytest.mark.parametrize("id_", ["../../a", "a/b", "a|b", " a", "a\n", ".a", ""])
def test_ids_that_cannot_be_names_of_files_are_refused(tmp_path, id_):
    with pytest.raises(ValueError, match="cannot be the name of a file: rename"):
        write_corpus(corpus({"x": "one", id_: "two"}), tmp_path / "corpus")
    assert not list(tmp_path.iterdir())
