"""Corpora as people have them: folders, tables, datasets, made-up speech. `open_corpus` opens one by its name."""

from __future__ import annotations

import os

from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts, minutes, without_bad_audio
from spear_tts_pytorch.data.corpora.layouts import DIGITS, file_utterance, fsdd_corpus, ljspeech_corpus, read_ljspeech

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
]


def open_corpus(
    spec: str | os.PathLike[str] | None,
    *,
    labelled: int,
    seed: int = 0,
    test: int = 100,
    unlabelled: int | None = None,
    speaker: str | None = None,
    progress: bool = True,
) -> Corpus:
    """The corpus that `spec` names: None, synthetic speech; "fsdd:FOLDER", connected digits; else an LJSpeech folder.

    Args:
        labelled: how many utterances have their text.
        test: how many are held out (fewer if an LJSpeech folder is small).
        unlabelled: how many have audio only; None for as many as the corpus has or by default makes.
        speaker: whose digits are taken, for "fsdd:FOLDER".

    Raises:
        FileNotFoundError: the folder or a part of it is missing.
        ValueError: the folder is not as it should be, or has fewer utterances than asked for.
    """
    if spec is not None and os.fspath(spec).removeprefix("fsdd:") == "":
        raise ValueError(f"the corpus {os.fspath(spec)!r} names no folder: give FOLDER or fsdd:FOLDER")
    is_fsdd = spec is not None and os.fspath(spec).startswith("fsdd:")
    if speaker is not None and not is_fsdd:
        raise ValueError(f"speaker {speaker!r} can be chosen for fsdd:FOLDER only: leave it out")
    if spec is None:
        from spear_tts_pytorch.data.corpora.synthetic import DEFAULT_UNLABELLED, espeak_corpus

        count = DEFAULT_UNLABELLED if unlabelled is None else unlabelled
        return espeak_corpus(labelled=labelled, unlabelled=count, test=test, seed=seed, progress=progress)
    spec = os.fspath(spec)
    if is_fsdd:
        count, folder = 6000 if unlabelled is None else unlabelled, spec.removeprefix("fsdd:")
        return fsdd_corpus(folder, labelled=labelled, unlabelled=count, test=test, speaker=speaker, seed=seed)
    return ljspeech_corpus(spec, labelled=labelled, unlabelled=unlabelled, test=test, seed=seed)
