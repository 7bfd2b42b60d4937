"""Corpora: how folders are read and refused, and that splits are what they promise."""

import unicodedata

import numpy as np
import pytest

from spear_tts_pytorch.data.audio import save_audio
from spear_tts_pytorch.data.corpora import (
    DIGITS,
    fsdd_corpus,
    ljspeech_corpus,
    minutes,
    open_corpus,
    read_ljspeech,
)


def write_corpus(folder, rows, audio=None, sample_hz=8000):
    """`rows` as they stand in metadata.csv, a short noise for each id in `audio` (default: first columns)."""
    (folder / "wavs").mkdir(parents=True)
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    rng = np.random.default_rng(0)
    for name in [row.split("|")[0] for row in rows] if audio is None else audio:
        save_audio(folder / "wavs" / f"{name}.wav", rng.uniform(-0.1, 0.1, 400), sample_hz)
    return folder


def write_fsdd(folder, speakers=("bo", "al"), indices=(0, 4, 5, 6), digits=range(10), sample_hz=8000):
    """Recordings that hold a constant from which digit and index can be read back."""
    (folder / "recordings").mkdir(parents=True)
    for speaker in speakers:
        for digit in digits:
            for index in indices:
                path = folder / "recordings" / f"{digit}_{speaker}_{index}.wav"
                save_audio(path, np.full(100, (10 * digit + index + 1) / 200), sample_hz)
    return folder


def heard(utterance):
    """(digit, index) of each recording in a string made from `write_fsdd`."""
    wav = utterance.audio()
    edges = np.flatnonzero(np.diff(wav, prepend=0)) if len(wav) else []
    values = [round(float(wav[edge]) * 200) - 1 for edge in edges if wav[edge] != 0]
    return [divmod(value, 10) for value in values]


def texts(utterances):
    return {utterance.text for utterance in utterances}


def test_reads_rows_in_order_with_the_normalised_text(tmp_path):
    folder = write_corpus(tmp_path / "c", ["b|Dr. X|Doctor X", "a|Plain", "c|Kept|"])
    found = read_ljspeech(folder)
    assert [(u.id, u.text, u.sample_hz, u.num_samples) for u in found] == [
        ("b", "Doctor X", 8000, 400),
        ("a", "Plain", 8000, 400),
        ("c", "Kept", 8000, 400),
    ]
    assert found[0].audio().shape == (400,) and found[0].audio().dtype == np.float32
    assert minutes(found) == pytest.approx(1200 / 8000 / 60)


def test_tolerates_byte_order_mark_crlf_blank_lines_and_tabs(tmp_path):
    folder = write_corpus(tmp_path / "c", [], audio=["a", "ü"])
    (folder / "metadata.csv").write_bytes("\ufeffa|one\r\n\r\n  \r\nü\ttwo\r\n".encode())
    assert [(u.id, u.text) for u in read_ljspeech(folder)] == [("a", "one"), ("ü", "two")]


@pytest.mark.parametrize(
    ("rows", "audio", "message"),
    [
        (["a|one", "b|two", "c|three"], ["a"], r"2 rows of metadata.csv have no audio in wavs/ \(b, c\): add"),
        (["a|one"], ["a", "b"], r"1 audio files in wavs/ have no row in metadata.csv \(b.wav\): add"),
        ([f"{i}|x" for i in range(9)], [], r"9 rows .* \(0, 1, 2, \.\.\.\)"),
        (["a|one", "a|two"], ["a"], r"1 rows repeat an id \(a\)"),
        (["a|one", "b"], ["a", "b"], "line 2 is not"),
        (["a|one", "b||"], ["a", "b"], "line 2 is not"),
        ([""], [], "has no rows"),
    ],
)
def test_mismatches_are_named_in_one_line(tmp_path, rows, audio, message):
    folder = write_corpus(tmp_path / "c", rows, audio)
    with pytest.raises(ValueError, match=message) as caught:
        read_ljspeech(folder)
    assert "\n" not in str(caught.value)


def test_not_strict_leaves_out_rows_and_keeps_audio_that_do_not_match(tmp_path):
    folder = write_corpus(tmp_path / "c", ["a|one", "b|two"], ["a", "c"])
    with pytest.warns(UserWarning) as said:
        found = read_ljspeech(folder, strict=False)
    assert [(u.id, u.text) for u in found] == [("a", "one"), ("c", None)]
    messages = " ".join(str(one.message) for one in said)
    assert r"1 rows of metadata.csv have no audio in wavs/ (b): left out" in messages
    assert r"1 audio files in wavs/ have no row in metadata.csv (c.wav): without text" in messages


def test_not_strict_takes_an_empty_text_for_none(tmp_path):
    folder = write_corpus(tmp_path / "c", ["a|one", "b|", "c||"], ["a", "b", "c"])
    with pytest.warns(UserWarning, match=r"2 rows of metadata.csv are empty \(b, c\): without text"):
        found = read_ljspeech(folder, strict=False)
    assert [(u.id, u.text) for u in found] == [("a", "one"), ("b", None), ("c", None)]
    (folder / "metadata.csv").write_text("a|\nb|\nc|\n")
    with pytest.warns(UserWarning, match="without text"):
        assert [u.text for u in read_ljspeech(folder, strict=False)] == [None] * 3
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no clip has a text"):
        ljspeech_corpus(folder, labelled=1, strict=False)
    (folder / "metadata.csv").write_text("x|y\n")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no row of metadata.csv has audio"):
        read_ljspeech(folder, strict=False)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_ids_match_with_an_ending_or_letters_composed_otherwise(tmp_path, form):
    folder = write_corpus(tmp_path / "c", [], audio=[unicodedata.normalize(form, "é1"), "b.c"])
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "é1")
    (folder / "metadata.csv").write_text(f"{other}.wav|one\nb.c.WAV|two\n", encoding="utf-8")
    assert [(u.id, u.text) for u in read_ljspeech(folder)] == [("\u00e91", "one"), ("b.c", "two")]


def test_audio_beside_metadata_is_read_without_hidden_files(tmp_path):
    folder = write_corpus(tmp_path / "c", ["a|one", "b|two"])
    for path in (folder / "wavs").iterdir():
        path.rename(folder / path.name)
    (folder / "wavs").rmdir()
    (folder / "._a.wav").write_bytes(b"left by macOS")
    assert [(u.id, u.text) for u in read_ljspeech(folder)] == [("a", "one"), ("b", "two")]


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no corpus folder .*nowhere"):
        read_ljspeech(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="metadata.csv is missing"):
        read_ljspeech(tmp_path)
    (tmp_path / "metadata.csv").write_text("a|one")
    with pytest.raises(FileNotFoundError, match="wavs is missing"):
        read_ljspeech(tmp_path)


def test_broken_audio_and_encoding_are_named(tmp_path):
    folder = write_corpus(tmp_path / "c", ["a|one"])
    (folder / "wavs" / "a.wav").write_text("no audio")
    with pytest.raises(ValueError, match="a.wav cannot be read"):
        read_ljspeech(folder)
    (folder / "metadata.csv").write_bytes(b"a|\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_ljspeech(folder)


@pytest.fixture
def repetitive(tmp_path):
    """200 clips of 120 texts, some differing in case only."""
    rows = [f"clip{i:03d}|{'Text' if i % 2 else 'text'} {i % 120}" for i in range(200)]
    return write_corpus(tmp_path / "c", rows)


@pytest.mark.parametrize("seed", range(4))
def test_split_is_disjoint_and_complete(repetitive, seed):
    corpus = ljspeech_corpus(repetitive, labelled=15, seed=seed)
    parts = (corpus.unlabelled, corpus.labelled, corpus.test)
    ids = [u.id for part in parts for u in part]
    assert len(ids) == len(set(ids)) == 200
    assert len(corpus.labelled) == 15 and 10 <= len(corpus.test) <= 20
    held_out = {text.lower() for text in texts(corpus.test)}
    assert not held_out & {text.lower() for text in texts(corpus.labelled) | texts(corpus.unlabelled)}


def test_split_depends_on_the_seed_alone_and_more_labels_include_fewer(repetitive):
    first, second = (ljspeech_corpus(repetitive, labelled=15, seed=3) for _ in range(2))
    assert [u.id for u in first.labelled + first.test] == [u.id for u in second.labelled + second.test]
    other = ljspeech_corpus(repetitive, labelled=15, seed=4)
    assert [u.id for u in other.test] != [u.id for u in first.test]
    more = ljspeech_corpus(repetitive, labelled=40, seed=3)
    assert [u.id for u in more.labelled[:15]] == [u.id for u in first.labelled]
    assert [u.id for u in more.test] == [u.id for u in first.test]


def test_more_labelled_than_there_are(repetitive):
    with pytest.raises(ValueError, match="labelled=500.*has 200 clips.*or fewer"):
        ljspeech_corpus(repetitive, labelled=500)
    rest = 200 - len(ljspeech_corpus(repetitive, labelled=1).test)
    assert len(ljspeech_corpus(repetitive, labelled=rest - 1).unlabelled) == 1
    with pytest.raises(ValueError, match=f"ask for {rest - 1} or fewer"):
        ljspeech_corpus(repetitive, labelled=rest)


def test_unlabelled_can_be_limited(repetitive):
    assert len(open_corpus(repetitive, labelled=5, unlabelled=7, test=3).unlabelled) == 7


def test_one_text_for_all_cannot_be_split(tmp_path):
    folder = write_corpus(tmp_path / "c", [f"{i}|same" for i in range(20)])
    with pytest.raises(ValueError, match="other texts"):
        ljspeech_corpus(folder, labelled=5)


def test_digit_strings_say_their_text_with_the_right_recordings(tmp_path):
    corpus = fsdd_corpus(write_fsdd(tmp_path), labelled=20, unlabelled=50, test=20, seed=1)
    for part, allowed in ((corpus.unlabelled, {5, 6}), (corpus.labelled, {5, 6}), (corpus.test, {0, 4})):
        for utterance in part:
            # Two neighbours of the same level are one to `heard` when there is no pause in between.
            said = heard(utterance)
            words = [DIGITS.index(word) for word in utterance.text.split()]
            assert 3 <= len(words) <= 7 and len(utterance.audio()) == utterance.num_samples
            assert 0 <= utterance.num_samples - 100 * len(words) <= 480 * (len(words) - 1)
            assert {index for _, index in said} <= allowed
            merged = iter(words)
            assert all(digit in merged for digit, _ in said), "digits are heard in the order of the text"
            assert {digit for digit, _ in said} == set(words)


def test_digit_strings_are_distinct_and_reproducible(tmp_path):
    folder = write_fsdd(tmp_path)
    corpus = open_corpus(f"fsdd:{folder}", labelled=30, unlabelled=2000, test=50, seed=2)
    assert corpus.name == "fsdd-al"
    assert len(texts(corpus.unlabelled) | texts(corpus.labelled) | texts(corpus.test)) == 2080
    again = fsdd_corpus(folder, labelled=10, unlabelled=5, test=50, seed=2)
    assert [u.text for u in again.labelled] == [u.text for u in corpus.labelled[:10]]
    for one, other in zip(again.test, corpus.test, strict=True):
        assert one.text == other.text and np.array_equal(one.audio(), other.audio())
    assert texts(fsdd_corpus(folder, labelled=10, unlabelled=5, test=50, seed=3).test) != texts(corpus.test)


def test_digit_speakers(tmp_path):
    folder = write_fsdd(tmp_path / "a")
    assert fsdd_corpus(folder, labelled=1, unlabelled=1, test=1, speaker="bo").test[0].speaker == "bo"
    with pytest.raises(ValueError, match="'cy' is unknown in .*: choose from al, bo"):
        fsdd_corpus(folder, labelled=1, speaker="cy")
    for path in (folder / "recordings").glob("7_al_[04].wav"):
        path.unlink()
    assert fsdd_corpus(folder, labelled=1, unlabelled=1, test=1).name == "fsdd-bo"
    with pytest.raises(ValueError, match="'al' lacks recordings"):
        fsdd_corpus(folder, labelled=1, speaker="al")


def test_digit_folders_that_do_not_work(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        open_corpus(f"fsdd:{tmp_path / 'nowhere'}", labelled=1)
    with pytest.raises(FileNotFoundError, match="has no recordings/"):
        fsdd_corpus(tmp_path, labelled=1)
    with pytest.raises(ValueError, match="no speaker has each digit"):
        fsdd_corpus(write_fsdd(tmp_path / "a", indices=(5, 6)), labelled=1)
    mixed = write_fsdd(tmp_path / "b", speakers=("al",))
    save_audio(mixed / "recordings" / "3_al_9.wav", np.full(100, 0.1), 16000)
    with pytest.raises(ValueError, match=r"different rates, \[8000, 16000\]"):
        fsdd_corpus(mixed, labelled=1)


@pytest.mark.parametrize("name", ["labelled", "unlabelled", "test"])
def test_counts_below_one_are_refused(repetitive, name):
    counts = {"labelled": 5, "unlabelled": 5, "test": 5, name: 0}
    for spec in (repetitive, f"fsdd:{repetitive}", None):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            open_corpus(spec, **counts)


def test_real_folders_open(corpora):
    sentences = open_corpus(corpora / "asterisk_en", labelled=10, seed=0)
    assert sentences.name == "asterisk_en" and 20 < minutes(sentences.unlabelled) < 25
    loaded = sentences.test[0]
    assert len(loaded.audio()) == loaded.num_samples and loaded.sample_hz == 8000
    digits = open_corpus(f"fsdd:{corpora / 'fsdd'}", labelled=60, unlabelled=100, seed=0)
    assert digits.name == "fsdd-george" and 1.5 < minutes(digits.labelled) < 4


@pytest.mark.filterwarnings("ignore:.*without text")
def test_real_ljspeech_is_read(corpora):
    # The excerpt may hold more audio than rows, hence not strict.
    found = read_ljspeech(corpora / "ljspeech_mini", strict=False)
    assert found[0].id == "LJ001-0001" and found[0].text.startswith("Printing, in the only sense")
    assert {u.sample_hz for u in found} == {22050} and all(len(u.audio()) == u.num_samples for u in found[:3])
