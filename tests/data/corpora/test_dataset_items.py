"""Items of datasets, as the libraries of datasets give them, and what cannot be one."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.data.corpora import Utterance
from spear_tts_pytorch.data.corpora.dataset_items import read_dataset
from spear_tts_pytorch.data.corpora.readers import read_corpus

WAV = np.ones(100, np.float32)
ROW = {"client_id": "ab", "path": "common_voice_en_1.mp3", "sentence": "Hello  you", "up_votes": "2"}

TUPLES = {  # what follows waveform and rate in torchaudio 2.11: text, speaker, id
    "LIBRISPEECH": (("MISTER QUILTER", 1272, 128104, 3), ("MISTER QUILTER", "1272", "1272-128104-0003")),
    "LIBRITTS": (("Mr. A", "Mister A", 84, 121123, "84_121123_07_01"), ("Mister A", "84", "84_121123_07_01")),
    "LJSPEECH": (("Dr. A", "Doctor A"), ("Doctor A", None, "0")),
    "LJSPEECH, one word": (("Yes.", "Yes."), ("Yes.", None, "0")),
    "CMUARCTIC": (("Author of the trail.", "a0001"), ("Author of the trail.", None, "a0001")),
    "VCTK_092": (("Please call Stella.", "p225", "001"), ("Please call Stella.", "p225", "p225_001")),
    "COMMONVOICE": ((ROW,), ("Hello you", "ab", "common_voice_en_1")),
    "SPEECHCOMMANDS": (("right", "a1b2", 1), ("right", "a1b2", "right/a1b2_1")),
    "VoxCeleb1Identification": ((3, "id10003-na8-00001"), (None, "3", "id10003-na8-00001")),
    "a text": (("hello",), ("hello", None, "0")),
    "a text and a speaker": (("hello", 5), ("hello", "5", "0")),
    "a text and no speaker": (("hello you", None), ("hello you", None, "0")),
    "no text and a speaker": ((None, 5), (None, "5", "0")),
    "nothing": ((), (None, None, "0")),
}


@pytest.mark.parametrize("name", TUPLES)
def test_tuples_of_torchaudio(name):
    rest, wanted = TUPLES[name]
    (found,) = read_corpus([(torch.ones(1, 100), 16000, *rest)])
    assert (found.text, found.speaker, found.id) == wanted
    assert found.sample_hz == 16000 and found.audio().tolist() == [1.0] * 100


def test_dictionaries_and_utterances():
    one = Utterance("u", "t", None, 8000, lambda: WAV)
    items = [
        {"audio": {"array": WAV, "sampling_rate": 16000}, "sentence": "a  b", "client_id": 7, "path": "x.mp3"},
        {"audio": {"array": WAV.astype(np.float64), "sampling_rate": np.int64(8000)}, "text": " "},
        (np.stack((WAV, 0 * WAV)), 16000),
        one,
    ]
    found = list(read_corpus(items))
    assert [(x.id, x.text, x.speaker, x.sample_hz) for x in found] == [
        ("x.mp3", "a b", "7", 16000),
        ("1", None, None, 8000),
        ("2", None, None, 16000),
        ("u", "t", None, 8000),
    ]
    assert found[2].audio().tolist() == [0.5] * 100 and found[1].audio().dtype == np.float32
    assert found[3] is one


def test_a_dataset_that_knows_its_length_alone_ends():
    class Endless(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return WAV, 8000, f"text {index}"

    assert [one.text for one in read_dataset(Endless())] == ["text 0", "text 1", "text 2"]
    subset = torch.utils.data.Subset(Endless(), [2])
    assert [one.text for one in read_dataset(subset)] == ["text 2"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (3, "it is a int"),
        ((WAV,), "it is a tuple"),
        ({"text": "a"}, "it is a dict"),
        ((WAV, 8000, [0, 1, 1]), "has the fields list after waveform"),  # YESNO
        ((WAV, 8000, "a", "b", "c", "d"), "no known layout has the fields str, str, str, str after"),
        ((WAV, 0), "its rate is 0"),
        ((WAV, WAV), "its rate is array"),
        ((np.ones((100, 2), np.float32), 8000), r"shape \[100, 2\], not \[t\] or \[channels, t\]"),
        ((np.ones((1, 1, 9), np.float32), 8000), r"shape \[1, 1, 9\]"),
        ((np.ones(9, np.int16), 8000), "of int16, not floating point"),
        ({"audio": None}, "its 'audio' is None"),
        ({"audio": {"path": None, "bytes": None}}, "neither an array nor a path nor bytes"),
        ({"audio": {"path": 5, "bytes": None}}, "has a path 5"),
        ({"audio": {"path": "a.wav", "bytes": "RIFF"}}, "bytes of the type str"),
        ({"audio": {"array": WAV, "sampling_rate": 8000}, "text": 5}, "its text is a int"),
    ],
)
def test_items_of_other_kinds_are_named(item, words):
    with pytest.raises(ValueError, match=f"item 1 of the dataset cannot be used .*{words}.*give dictionaries"):
        list(read_dataset([(WAV, 8000), item]))


def test_datasets_without_transcripts_are_refused():
    kind = type("IEMOCAP", (list,), {})
    for dataset in (kind([(WAV, 8000, "Ses01F", "neu", "M")]), SimpleNamespace(dataset=kind(), __iter__=None)):
        with pytest.raises(ValueError, match="IEMOCAP has no transcripts"):
            list(read_dataset(dataset))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of each format, and its samples."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    wave = np.sin(np.arange(4000) / 7).astype(np.float32) / 2
    for ending in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"a.{ending}", wave, 8000)
        found[folder / f"a.{ending}"] = load_audio(folder / f"a.{ending}")[0]
    return found


def test_audio_that_is_not_decoded_is_read_from_its_bytes_or_path(files):
    for path, wave in files.items():
        data = path.read_bytes()
        for audio in (
            {"path": str(path), "bytes": None},
            {"path": None, "bytes": data},
            {"path": "elsewhere.wav", "bytes": data},
            {"path": path},
            {"bytes": data},
            str(path),
            path,
            data,
        ):
            (one,) = read_dataset([{"audio": audio, "text": "hi"}])
            assert (one.id, one.text, one.sample_hz) == ("0", "hi", 8000)
            assert np.array_equal(one.audio(), wave) and one.seconds == len(wave) / 8000
            assert np.array_equal(pickle.loads(pickle.dumps(one)).audio(), wave)
        (bare,) = read_dataset([{"path": None, "bytes": data}])
        assert np.array_equal(bare.audio(), wave)


def test_bytes_of_joined_and_of_damaged_files(files):
    for path, wave in files.items():
        if path.suffix != ".mp3":
            (one,) = read_dataset([{"audio": path.read_bytes() * 2}])
            assert len(one.audio()) == 2 * len(wave)
        (cut,) = read_dataset([{"audio": {"path": "x.flac", "bytes": path.read_bytes()[:30]}, "id": "cut"}])
        with pytest.raises(ValueError, match="x.flac cannot be read as audio"):
            cut.audio()
    (absent,) = read_dataset([{"audio": {"path": "absent.flac", "bytes": None}}])
    with pytest.raises(FileNotFoundError, match="absent.flac"):
        absent.audio()


def test_datasets_of_huggingface_that_are_not_decoded(files):
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in files]
    column = datasets.Dataset.from_dict({"audio": paths, "text": ["a", "b", None, "d"]})
    raw = column.cast_column("audio", datasets.Audio(decode=False))
    for dataset in (raw, raw.to_iterable_dataset(), column):
        found = list(read_dataset(dataset))
        assert [one.text for one in found] == ["a", "b", None, "d"]
        for one, wave in zip(found, files.values(), strict=True):
            assert np.array_equal(one.audio(), wave)
