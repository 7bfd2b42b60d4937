"""Tables beside audio: which column is the text, and which tables are refused."""

import numpy as np
import pytest
import soundfile

from spear_tts_pytorch.cli.program import main
from spear_tts_pytorch.data.corpora import ljspeech_corpus, open_corpus, read_ljspeech
from spear_tts_pytorch.data.corpora.readers import read_corpus

PAIRS = [("c0", "hello there", None), ("c1", "good bye", None)]
SPOKEN = [(id_, text, "anna") for id_, text, _ in PAIRS]


def folder_of(tmp_path, name, text, audio=("wavs/c0.wav", "wavs/c1.wav"), rates=(8000, 8000)):
    for path, rate in zip(audio, rates, strict=True):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, np.random.default_rng(0).normal(0, 0.1, rate // 4), rate)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def shown(found):
    return [(one.id, one.text, one.speaker) for one in found]


TABLES = {
    "speaker last, header": (
        "audio_file|text|speaker\nwavs/c0.wav|hello there|anna\nwavs/c1.wav|good bye|anna\n",
        "'text'",
    ),
    "speaker and language": ("wavs/c0.wav|anna|EN|hello there\nwavs/c1.wav|anna|EN|good bye\n", "column 4 of 4"),
    "speaker's number": ("c0|3|hello there\nc1|4|good bye\n", "column 3 of 3"),
    "speaker behind": ("c0|hello there|anna\nc1|good bye|peter\n", "column 2 of 3"),
    "raw, normalised, speaker": ("c0|Hello there!|hello there|anna\nc1|Good bye|good bye|anna\n", "column 3 of 4"),
    "text before the name": ("hello there|c0\ngood bye|c1\n", "column 1 of 2"),
    "semicolons": ("c0;hello there\nc1;good bye\n", "column 2"),
    "commas, header": ("file_name,text\nwavs/c0.wav,hello there\nwavs/c1.wav,good bye\n", "'text'"),
    "unknown header": ("file;lang;Satz\nc0;de;hello there\nc1;de;good bye\n", "'satz'"),
    "tabs, header": ("path\tduration\tsentence\nc0.wav\t1.5\thello there\nc1.wav\t2\tgood bye\n", "'sentence'"),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("name", ["metadata.csv", "train.txt"])
def test_the_column_of_the_text_is_found_and_said(tmp_path, case, name):
    text, said = TABLES[case]
    folder = folder_of(tmp_path, name, text)
    with pytest.warns(UserWarning) as told:
        found = read_corpus(folder)
    wanted = SPOKEN if "speaker" in text.split("\n")[0] else PAIRS
    assert shown(found) == wanted
    assert len(told) == 1 and name in str(told[0].message) and said in str(told[0].message)
    assert "\n" not in str(told[0].message)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text",
    [
        "c0|hello there\nc1|good bye\n",
        "c0|Hello there!|hello there\nc1|Good bye.|good bye\n",
        "c0|hello there\nc1|Good bye.|good bye\n",
        "wavs\\c0.wav|hello there\r\nwavs\\c1.wav|good bye\r\n",
        "/data/x/wavs/c0.wav|hello there\n/data/x/wavs/c1.wav|good bye\n",
        '"c0"|"hello there"\n"c1"|"good bye"\n',
        "c0\thello there\nc1\tgood bye\n",
    ],
)
def test_the_layouts_of_ljspeech_are_read_without_a_word(tmp_path, text):
    assert shown(read_corpus(folder_of(tmp_path, "metadata.csv", text))) == PAIRS


@pytest.mark.parametrize(
    "text",
    [
        "c0|one | or two|one | or two\nc1|good bye|good bye\n",
        "c0|one | or two\nc1|good bye\n",
        "c0|anna|one | or two\nc1|anna|good bye\n",
        "c0|one | or two|anna\nc1|good bye|anna\n",
        "c0;one | or two\nc1;good bye\n",
    ],
)
@pytest.mark.filterwarnings("ignore:.*taken as the text")
@pytest.mark.filterwarnings("ignore:.*texts hold")
def test_a_bar_inside_a_text_stays_there(tmp_path, text):
    assert [one.text for one in read_corpus(folder_of(tmp_path, "metadata.csv", text))] == ["one | or two", "good bye"]


def test_bars_that_cannot_be_told_apart_are_refused(tmp_path):
    text = "c0|one | two|something else\nc1|Good bye|good bye\nc1b|Good day|good day\n"
    with pytest.raises(ValueError, match=r"metadata.csv line 1 has 4 columns, not 3: remove '\|' from inside"):
        read_corpus(folder_of(tmp_path, "metadata.csv", text))


@pytest.mark.filterwarnings("ignore:.*taken as the text")
@pytest.mark.parametrize(
    ("name", "text", "columns", "wanted"),
    [
        ("metadata.csv", "c0|hello there|guten Tag euch\nc1|good bye|auf Wiedersehen\n", r"2 \('hello there'\), 3", 2),
        ("train.txt", "c0|hello there|guten Tag euch\nc1|good bye|auf Wiedersehen\n", r"2 \('hello there'\), 3", "2"),
        ("metadata.csv", "c0|yes|anna\nc1|yes|anna\n", r"2 \('yes'\), 3 \('anna'\)", None),
        ("metadata.csv", "id|text|sentence\nc0|hello there|x\nc1|good bye|y\n", "'text', 'sentence'", "text"),
        (
            "m.jsonl",
            '{"id":"c0","text":"hello there","sentence":"x"}\n{"id":"c1","text":"good bye"}',
            "'text', 'sent",
            "TEXT",
        ),
    ],
)
def test_what_may_be_two_texts_is_refused_until_one_is_named(tmp_path, name, text, columns, wanted):
    folder = folder_of(tmp_path, name, text)
    with pytest.raises(
        ValueError, match=rf"{name}: the text may be in .* columns {columns}.*text_column= \(--text-column\)"
    ):
        read_corpus(folder)
    if wanted is not None:
        assert shown(read_corpus(folder, text_column=wanted)) == PAIRS


def test_columns_that_are_not_there_are_named(tmp_path):
    folder = folder_of(tmp_path, "metadata.csv", "c0|hello there\nc1|good bye\n")
    for wanted in ("text", 0, 3, "3"):
        with pytest.raises(ValueError, match=f"no column text_column={wanted!r}: it has no header, and 2 columns"):
            read_corpus(folder, text_column=wanted)
    with pytest.raises(ValueError, match="text_column=2 cannot be used with a dataset object"):
        read_corpus([], text_column=2)
    with pytest.raises(ValueError, match="text_column=2 cannot be used with .*wavs, which has no table"):
        read_corpus(folder / "wavs", text_column=2)
    with pytest.raises(FileNotFoundError, match="has no table x.txt"):
        read_corpus(folder, table="x.txt")
    with pytest.raises(ValueError, match="text_column=2 needs a folder with metadata.csv"):
        open_corpus(None, labelled=1, text_column=2)


@pytest.mark.filterwarnings("ignore:.*taken as the text")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "metadata.jsonl",
            '{"file_name": "wavs/c0.wav", "text": "hello there"}\n{"file_name": "wavs/c1.wav", "text": "good bye"}\n',
        ),
        (
            "train.json",
            '[{"path": "wavs/c0.wav", "sentence": "hello there"}, {"path": "wavs/c1.wav", "sentence": "good bye"}]',
        ),
        (
            "manifest.json",
            '{"audio_filepath": "/x/wavs/c0.wav", "duration": 1, "text": "hello there"}\n'
            '{"audio_filepath": "c1", "text": "good bye"}',
        ),
        ("transcript.txt", "c0 hello there\nc1   good bye\n"),
        ("TRAIN.TXT", "c0.WAV|hello there\nc1.wav|good bye\n"),
    ],
)
def test_tables_of_other_names_are_read(tmp_path, name, text):
    assert shown(read_corpus(folder_of(tmp_path, name, text))) == PAIRS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "wavs/c0.wav", "text": "a"}\n{"file_n', "metadata.jsonl line 2 is not an object of JSON"),
        ("[" * 100_000, "metadata.jsonl line 1 is not an object of JSON"),
    ],
)
def test_damaged_tables_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_corpus(folder_of(tmp_path, "metadata.jsonl", text))


def test_several_tables_are_read_together_unless_they_contradict(tmp_path):
    folder = folder_of(tmp_path, "train.txt", "wavs/c0.wav|hello there\n")
    (folder / "val.txt").write_text("wavs/c1.wav|good bye\nwavs/gone.wav|gone\n")
    (folder / "README.txt").write_text("Some | notes\nabout; the corpus, and more\n")
    with pytest.warns(UserWarning) as told:
        assert shown(read_corpus(folder)) == PAIRS
    assert "1 rows of train.txt, val.txt have no audio: left out (wavs/gone.wav)" in " ".join(
        str(one.message) for one in told
    )
    (folder / "val.txt").write_text("wavs/c0.wav|other\n")
    with pytest.raises(
        ValueError, match=r"wavs/c0.wav has different texts in train.txt and val.txt: table= \(--table\)"
    ):
        read_corpus(folder)
    with pytest.warns(UserWarning, match=r"1 audio files have no row in val.txt: without text \(c1\)"):
        assert shown(read_corpus(folder, table="val.txt")) == [("c0", "other", None), ("c1", None, None)]


@pytest.mark.filterwarnings("ignore:.*taken as the text")
def test_equal_file_names_in_several_folders_are_told_apart_by_their_paths(tmp_path):
    folder = folder_of(tmp_path, "all.csv", "file,text\ns2/a.wav,two\ns1\\a.wav,one\n", audio=("s1/a.wav", "s2/a.wav"))
    assert shown(read_corpus(folder)) == [("s2/a", "two", None), ("s1/a", "one", None)]
    (folder / "all.csv").write_text("file,text\na.wav,one\ns3/a.wav,two\n")
    with pytest.warns(UserWarning, match=r"1 tables are not read: .*\(all.csv\)"):
        assert [one.text for one in read_corpus(folder)] == [None, None]


def test_two_sampling_rates_are_read_beside_a_table(tmp_path):
    rows = "".join(f"c{index}|text {index}\n" for index in range(20))
    audio = [f"wavs/c{index}.wav" for index in range(20)]
    folder = folder_of(tmp_path, "metadata.csv", rows, audio, [16000] * 2 + [8000] * 18)
    for found in (read_corpus(folder), read_ljspeech(folder)):
        assert [(one.sample_hz, len(one.audio())) for one in found] == [(16000, 4000)] * 2 + [(8000, 2000)] * 18
    corpus = ljspeech_corpus(folder, labelled=5)
    for one in corpus.unlabelled + corpus.labelled + corpus.test:
        assert one.sample_hz == 8000 and len(one.audio()) == 2000, "the recipe hears one rate"


def test_the_shell_takes_the_options(tmp_path, capsys):
    folder = folder_of(tmp_path / "c", "metadata.csv", "c0|hello there|guten Tag euch\nc1|good bye|auf Wiedersehen\n")
    arguments = ["tokenize", str(folder), str(tmp_path / "ids"), "--clusters", "2", "--no-progress"]
    assert main(arguments) == 2 and "--text-column" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="column 3 of 3 is taken as the text"):
        assert main([*arguments, "--text-column", "3"]) == 0
