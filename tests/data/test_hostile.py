"""Hostile arguments of tokenized speech and of the readers: each gives a right result or an error that names the argument."""

import os

import hostile
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_tts_pytorch.data.audio import load_audio, save_audio
from spear_tts_pytorch.data.corpora import Utterance
from spear_tts_pytorch.data.corpora.dataset_items import read_dataset
from spear_tts_pytorch.data.corpora.readers import Waveforms, read_corpus
from spear_tts_pytorch.data.tokenized import TokenizedSpeech, fit_tokenizer, tokenize_corpus

RATE = 8000


class Sign:
    """A tokenizer: each 10 samples are an id, the sign of their sum."""

    codebook_size, target_sample_hz, downsample_factor = 2, RATE, 10

    def __call__(self, wav, lengths=None, input_sample_hz=None, flatten=True):
        return (wav[:, : wav.shape[1] // 10 * 10].unflatten(1, (-1, 10)).sum(dim=-1) > 0).long()


def sound():
    return np.sin(np.arange(4000) ** 1.3 / 9).astype(np.float32) / 2


CLIPS = [Utterance("a", None, None, RATE, sound), Utterance("b", "text", "speaker", RATE, sound)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    tokenize_corpus(CLIPS, Sign(), folder / "ids", progress=False)
    save_audio(folder / "audio.wav", sound(), RATE)
    before = os.getcwd()
    os.chdir(folder)  # some hostile values are names of folders
    yield folder
    os.chdir(before)


def calls(folder):
    def tokenize(**options):
        defaults = dict(utterances=CLIPS, tokenizer=Sign(), folder=folder / "ids", progress=False)
        return tokenize_corpus(**{**defaults, **options})

    def save(**options):
        arguments = {"path": folder / "new.wav", "wav": sound(), "sample_hz": RATE, **options}
        save_audio(**arguments)
        return load_audio(arguments["path"])

    return {
        "tokenize_corpus": (
            tokenize,
            "utterances tokenizer folder rows_per_shard progress",
            lambda found: found.clips in (0, 2) and not found.skipped,
        ),
        "fit_tokenizer": (
            lambda **options: fit_tokenizer(**{"utterances": CLIPS, "num_clusters": 3, "progress": False, **options}),
            "utterances num_clusters seed progress",
            lambda found: 1 <= found.codebook_size <= 4,
        ),
        "TokenizedSpeech": (lambda **options: TokenizedSpeech(**options), "folder", lambda found: False),
        "TokenizedSpeech.__getitem__": (
            lambda index: TokenizedSpeech(folder / "ids")[index],
            "index",
            lambda found: found.dtype == torch.int64 and found.tolist() == TokenizedSpeech(folder / "ids")[0].tolist(),
        ),
        "Waveforms": (
            lambda **options: Waveforms(**{"utterances": CLIPS, "sample_hz": RATE, **options}),
            "utterances sample_hz",
            lambda found: len(found) in (0, 2),
        ),
        "load_audio": (
            lambda **options: load_audio(**{"path": folder / "audio.wav", **options}),
            "path target_sample_hz",
            lambda found: found[0].dtype == np.float32 and found[1] == RATE,
        ),
        "save_audio": (
            save,
            "path wav sample_hz",
            lambda found: len(found[0]) > 0,
        ),
        "read_corpus": (
            lambda source: list(read_corpus(source)),
            "source dataset",
            lambda found: all(isinstance(one, Utterance) for one in found),
        ),
        "read_dataset": (
            lambda dataset: list(read_dataset([dataset, {"audio": dataset}])),
            "dataset",
            lambda found: False,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(calls(None)))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_each_outcome_is_a_right_result_or_names_the_argument(name, made, data):
    call, names, right = calls(made)[name]
    names = names.split()
    drawn = data.draw(
        st.lists(st.sampled_from(names[:1] if "read" in name else names), min_size=1, max_size=2, unique=True)
    )
    values = {one: data.draw(st.sampled_from(hostile.HOSTILE), label=one) for one in drawn}

    def called():
        try:
            return call(**values)
        except (FileNotFoundError, IndexError) as error:  # right for a path that leads nowhere, or an index
            raise ValueError(f"{' '.join(drawn)}: {error}") from error

    found = hostile.outcome(called, [*drawn, *names] if "read" in name else drawn)
    assert found is None or right(found)
