"""Which files of a folder are clips: links, kinds of audio that are not read, texts beside audio."""

import os
import shutil
import sys
import threading

import numpy as np
import pytest
import soundfile

from spear_tts_pytorch.data.corpora import read_ljspeech
from spear_tts_pytorch.data.corpora.clip_files import AudioIndex
from spear_tts_pytorch.data.corpora.readers import read_corpus

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 800), 8000)
    path.with_suffix(".txt").write_text(path.stem)
    return path


@needs_links
def test_linked_folders_are_read_once(tmp_path):
    folder, store = tmp_path / "corpus", tmp_path / "store"
    sound(folder / "s1" / "a.wav")
    sound(store / "s2" / "deep" / "b.wav")
    (folder / "s2").symlink_to(store / "s2")
    (folder / "latest").symlink_to(folder / "s1")  # the same clips under another name
    (folder / "s1" / "loop").symlink_to(folder)
    (store / "s2" / "up").symlink_to(store)
    assert [(one.id, one.text) for one in read_corpus(folder)] == [("s1/a", "a"), ("s2/deep/b", "b")]
    (tmp_path / "link").symlink_to(folder)
    assert len(list(read_corpus(tmp_path / "link"))) == 2


@needs_links
def test_linked_speakers_of_librispeech_are_read(tmp_path):
    for speaker, folder in (("10", tmp_path / "corpus"), ("20", tmp_path / "store")):
        chapter = sound(folder / speaker / "1" / f"{speaker}-1-0000.flac").parent
        (chapter / f"{speaker}-1-0000.txt").unlink()
        (chapter / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 HELLO {speaker}\n")
    (tmp_path / "corpus" / "20").symlink_to(tmp_path / "store" / "20")
    found = read_corpus(tmp_path / "corpus")
    assert [(one.id, one.text) for one in found] == [("10-1-0000", "HELLO 10"), ("20-1-0000", "HELLO 20")]


@needs_links
def test_audio_whose_link_leads_nowhere_is_named(tmp_path):
    sound(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to(tmp_path / "gone.wav")
    (tmp_path / "b.txt").write_text("b")
    good, bad = read_corpus(tmp_path)
    assert good.id == "a" and bad.id == "b"
    with pytest.raises(FileNotFoundError, match=r"no audio file at .*b\.wav"):
        bad.audio()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_no_clip(tmp_path):
    sound(tmp_path / "wavs" / "a.wav")
    os.mkfifo(tmp_path / "wavs" / "b.wav")
    (tmp_path / "metadata.csv").write_text("a|one\n")
    found = []
    reader = threading.Thread(target=lambda: found.extend(read_ljspeech(tmp_path)), daemon=True)
    reader.start()
    reader.join(20)
    assert [one.id for one in found] == ["a"]


OTHERS = (".aac", ".aiff", ".m4a", ".webm", ".WMA")


@pytest.mark.parametrize("layout", ["folder", "metadata.csv", "train.txt", "trans.txt", "validated.tsv"])
def test_audio_of_other_kinds_is_named(tmp_path, layout):
    place = tmp_path / {"metadata.csv": "wavs", "validated.tsv": "clips"}.get(layout, ".")
    sound(place / "a.wav").with_suffix(".txt").unlink()
    for ending in OTHERS:
        (place / f"b{ending}").write_bytes(b"")
    tables = {"metadata.csv": "a|one\n", "train.txt": "a|one\n", "trans.txt": "a one\n"}
    if layout == "validated.tsv":
        (tmp_path / layout).write_text("path\tsentence\na.wav\tone\n")
    elif layout != "folder":
        (tmp_path / ("x.trans.txt" if layout == "trans.txt" else layout)).write_text(tables[layout])
    with pytest.warns(
        UserWarning, match=r"5 audio files end in \.aac, \.aiff, \.m4a, \.webm, \.wma, which is not read"
    ):
        assert [one.id for one in read_corpus(tmp_path)] == ["a"]
    (place / "a.wav").unlink()
    if layout == "folder":
        with pytest.raises(FileNotFoundError, match=r"holds no audio .*, but 5 files of other kinds \(b.WMA, b.aac, "):
            read_corpus(tmp_path)


@pytest.mark.parametrize("ending", [".lab", ".TXT", ".txt", ".LAB"])
def test_texts_beside_audio_have_one_of_several_endings(tmp_path, ending):
    sound(tmp_path / "a.wav").with_suffix(".txt").unlink()
    (tmp_path / f"a{ending}").write_text("hello\n")
    assert [(one.id, one.text) for one in read_corpus(tmp_path)] == [("a", "hello")]
    (tmp_path / f"gone{ending}").write_text("hello\n")
    with pytest.warns(UserWarning, match=r"1 texts have no audio \(gone\)"):
        read_corpus(tmp_path)


def test_labels_with_times_are_no_texts(tmp_path):
    sound(tmp_path / "a.wav").with_suffix(".txt").unlink()
    (tmp_path / "a.lab").write_text("0 1500000 sil\n1500000 2000000 ah\n")
    with pytest.warns(UserWarning, match=r"1 files hold times of labels, not a text: not read \(a.lab\)"):
        assert [one.text for one in read_corpus(tmp_path)] == [None]


def test_names_find_their_file_only_if_folders_agree(tmp_path):
    files = [sound(tmp_path / name) for name in ("s1/a.wav", "s1/b.wav", "s2/a.wav")]
    shutil.copy(files[1], tmp_path / "s1" / "b.flac")
    index = AudioIndex([*files, tmp_path / "s1" / "b.flac"], tmp_path)
    for name in ("s1/a", "s1\\a.wav", "./s1/a.mp3", f"{tmp_path}/s1/a.wav", "/elsewhere/s1/a.wav"):
        assert index.find(name) == files[0], name
    assert index.find("b.wav") == files[1] and index.find("s1/b.flac") == tmp_path / "s1" / "b.flac"
    for name in ("a", "s3/a", "b", "s2/b.wav", "", "/", "x"):
        assert index.find(name) is None, name
