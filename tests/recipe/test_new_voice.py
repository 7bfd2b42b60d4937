"""What may lie in the folder of a new voice: files that the call names, and lists that a killed call has left."""

import pytest
import voices

from spear_tts_pytorch.recipe import Voice


@pytest.fixture
def corpus(tmp_path):
    return voices.corpus(tmp_path / "corpus", clips=12, texts=10)


def test_data_may_lie_in_the_voice_folder(tmp_path):
    folder = tmp_path / "voice"
    corpus = voices.corpus(folder / "recordings", clips=12, texts=10)
    (folder / "test.txt").write_text("clip03\n\nclip01\nclip03\n")
    (folder / "sentences.txt").write_text("one two\n")
    given = {"test": folder / "test.txt", "unpaired_text": [folder / "sentences.txt"], "progress": False}
    voice = Voice.new(folder, corpus, **given)
    assert voice.results.clips.test == ("clip03", "clip01")
    assert (folder / "test.txt").read_text() == "clip03\n\nclip01\nclip03\n"


def test_other_files_are_refused(corpus, tmp_path):
    (tmp_path / "voice").mkdir()
    (tmp_path / "voice" / "notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(notes.md\): give a new or an empty folder"):
        Voice.new(tmp_path / "voice", corpus, progress=False)


def test_lists_that_a_killed_call_has_left_are_taken_if_they_are_the_same(corpus, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    made = Voice.new(one, corpus, test=2, labelled=6, progress=False)
    two.mkdir()
    for name in ("test.txt", "labelled.txt"):
        (two / name).write_bytes((one / name).read_bytes())
    assert Voice.new(two, corpus, test=2, labelled=6, progress=False).settings == made.settings


def test_a_list_of_other_ids_is_not_written_over(corpus, tmp_path):
    path = tmp_path / "voice" / "test.txt"
    path.parent.mkdir()
    path.write_text("clip05\n")
    with pytest.raises(ValueError, match=r"test.txt holds other ids than would be drawn: name it by data.test, or"):
        Voice.new(path.parent, corpus, test=3, progress=False)
    assert path.read_text() == "clip05\n" and list(path.parent.iterdir()) == [path]
    made = Voice.new(path.parent, corpus, changes={"data.test": "test.txt"}, progress=False)
    assert made.results.clips.test == ("clip05",)
