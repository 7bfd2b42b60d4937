"""Corpora: folders in known layouts, tables, dataset objects, synthetic speech. `open_corpus` opens one by its name."""

from __future__ import annotations

import os

from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts, minutes, without_bad_audio
from spear_tts_pytorch.data.corpora.layouts import DIGITS, file_utterance, fsdd_corpus, ljspeech_corpus, read_ljspeech
from spear_tts_pytorch.data.corpora.writing import write_corpus

__all__ = [
    "DIGITS",
    "Corpus",
    "Utterance",
    "check_counts",
    "file_utterance",
    "fsdd_corpus",
    "ljspeech_corpus",
    "minutes",
    "open_corpus",
    "read_ljspeech",
    "without_bad_audio",
    "write_corpus",
]


def open_corpus(
    spec: str | os.PathLike[str] | None,
    *,
    labelled: int,
    seed: int = 0,
    test: int = 100,
    unlabelled: int | None = None,
    speaker: str | None = None,
    text_column: str | int | None = None,
    progress: bool = True,
) -> Corpus:
    """Opens a corpus.

    Args:
        spec: None for synthetic speech, "fsdd:FOLDER" for connected digits, else the path of a folder in LJSpeech's
            layout.
        labelled: number of utterances with text.
        seed: fixes the choice of the utterances.
        test: number of utterances held out for testing; fewer if an LJSpeech folder is small.
        unlabelled: number of utterances with audio only; None takes the corpus's default, or all that it has.
        speaker: the speaker of the digits, for "fsdd:FOLDER"; the first complete one if None.
        text_column: number of the text's column in metadata.csv, from 1, or its name in the first row; None recognises it.
        progress: shows a bar, on terminals.

    Raises:
        FileNotFoundError: the folder or a part of it is missing.
        ValueError: the folder is broken, or has fewer utterances than asked for.
    """
    if spec is not None and os.fspath(spec).removeprefix("fsdd:") == "":
        raise ValueError(f"the corpus {os.fspath(spec)!r} names no folder: give FOLDER or fsdd:FOLDER")
    is_fsdd = spec is not None and os.fspath(spec).startswith("fsdd:")
    if speaker is not None and not is_fsdd:
        raise ValueError(f"speaker {speaker!r} can be chosen for fsdd:FOLDER only: leave it out")
    if text_column is not None and (spec is None or is_fsdd):
        raise ValueError(f"text_column={text_column!r} needs a folder with metadata.csv: leave it out")
    if spec is None:
        from spear_tts_pytorch.data.corpora.synthetic import DEFAULT_UNLABELLED, espeak_corpus

        count = DEFAULT_UNLABELLED if unlabelled is None else unlabelled
        return espeak_corpus(labelled=labelled, unlabelled=count, test=test, seed=seed, progress=progress)
    spec = os.fspath(spec)
    if is_fsdd:
        count, folder = 6000 if unlabelled is None else unlabelled, spec.removeprefix("fsdd:")
        return fsdd_corpus(folder, labelled=labelled, unlabelled=count, test=test, speaker=speaker, seed=seed)
    return ljspeech_corpus(
        spec, labelled=labelled, unlabelled=unlabelled, test=test, seed=seed, text_column=text_column
    )
