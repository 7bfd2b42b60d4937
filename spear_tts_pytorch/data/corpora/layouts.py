"""Corpora from folders: LJSpeech's layout, and connected digits made of the Free Spoken Digit Dataset.

In: a folder, the numbers of utterances, a seed. Out: a `Corpus` of unlabelled, labelled and test utterances. The same seed
gives the same utterances. Audio is loaded when it is needed. Texts of the test part occur in no other part.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from spear_tts_pytorch.data.audio import load_audio, read_header, resample
from spear_tts_pytorch.data.corpora.clip_files import (
    AudioIndex,
    NoTextWarning,
    audio_in,
    by_listed_id,
    few,
    listed_id,
    readable,
    unread_audio,
)
from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts
from spear_tts_pytorch.data.corpora.tables import ljspeech_table
from spear_tts_pytorch.tokenizers.text import normalize_text
from spear_tts_pytorch.utils.values import given_path

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WITHOUT_TEXT = "without text"  # what is done with a clip
FIRST_TRAINING_INDEX = 5  # recordings of FSDD with a lower index are its usual test set


def read_ljspeech(
    folder: str | os.PathLike[str], *, strict: bool = True, text_column: str | int | None = None
) -> list[Utterance]:
    """Reads a folder with `metadata.csv` (`id|text|normalised text` or `id|text`) and audio in `wavs/` or beside it.

    The normalised text is used if there is one. The reader accepts a byte-order mark, CRLF, blank lines, tabs, semicolons
    or commas instead of bars, ids with folders and the ending of the audio, and letters that Unicode composes otherwise than
    in the file name. Other columns, such as speakers, are recognised by a header or by their values; a warning then says
    which column is taken as the text. Clips may have different sampling rates.

    Args:
        folder: the corpus.
        strict: True raises an error for rows without audio or text, audio without a row, and audio that cannot be read.
            False warns: rows without audio are left out; rows without text and audio without a row have the text None;
            audio that cannot be read raises its error when it is loaded. Audio without a row comes last.
        text_column: number of the text's column, from 1, or its name in the first row; None recognises it.

    Raises:
        FileNotFoundError: the folder, its metadata.csv or its wavs/ is missing.
        ValueError: no rows, rows that repeat an id or lack a text, rows and audio that do not match, several columns that
            may be the text, two files of one name, audio that cannot be read.
    """
    folder = given_path("folder", folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no corpus folder {folder}: give a folder that holds metadata.csv and wavs/")
    table = folder / "metadata.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} is missing: write one line `id|text` for each wavs/id.wav")
    texts, speakers, says = _metadata(table, folder, strict, text_column)
    files = _audio_files(folder)
    for message, remedy, done in _differences(folder, texts, files):
        if strict:
            raise ValueError(f"{message}: {remedy}")
        warnings.warn(f"{message}: {done}", NoTextWarning if done == WITHOUT_TEXT else UserWarning, stacklevel=2)
    if not files.keys() & texts.keys():
        raise ValueError(f"{folder}: no row of metadata.csv has audio: one of its columns must be names of the files")
    if unread := unread_audio(_place(folder), deep=False):
        warnings.warn(unread, stacklevel=2)
    if says:
        warnings.warn(says, stacklevel=2)
    named = [(id_, text) for id_, text in texts.items() if id_ in files]
    named += [(id_, None) for id_ in files if id_ not in texts]
    return [file_utterance(id_, text, speakers.get(id_), files[id_], strict=strict) for id_, text in named]


def _metadata(
    path: Path, folder: Path, strict: bool, text_column: str | int | None
) -> tuple[dict[str, str | None], dict[str, str | None], str]:
    """Texts and speakers of metadata.csv by id, and which column was taken as the text, in words.

    Raises:
        ValueError: as `read_ljspeech`.
    """
    place = _place(folder)
    table = ljspeech_table(path, AudioIndex(audio_in(place), place).__contains__, text_column)
    texts, speakers, repeated = dict[str, "str | None"](), dict[str, "str | None"](), list[str]()
    for (name, text, speaker), line in zip(table.rows, table.lines, strict=True):
        if strict and text is None:
            raise ValueError(f"{path} line {line} is not `id|text`, or its text is empty: {name[:60]!r}")
        id_ = listed_id(name.replace("\\", "/").rpartition("/")[2])
        if id_ in texts:
            repeated.append(name)
        texts[id_], speakers[id_] = text, speaker
    if repeated:
        raise ValueError(f"{path}: {len(repeated)} rows repeat an id ({few(repeated)}): make each id unique")
    return texts, speakers, f"{path}: {table.says}" if table.says else ""


def _differences(folder: Path, rows: dict[str, str | None], files: dict[str, Path]) -> Iterator[tuple[str, str, str]]:
    """Rows and audio that lack their counterpart: for each kind the message, the remedy, and the treatment if not strict."""
    place = "wavs/" if (folder / "wavs").is_dir() else "the folder"
    empty = [id_ for id_, text in rows.items() if text is None]
    without_audio = [id_ for id_ in rows if id_ not in files]
    without_row = [readable(files[id_].name) for id_ in files if id_ not in rows]
    for names, lack, remedy, done in (
        (empty, "rows of metadata.csv are empty", "write texts", WITHOUT_TEXT),
        (
            without_audio,
            f"rows of metadata.csv have no audio in {place}",
            "add the audio or remove the rows",
            "left out",
        ),
        (
            without_row,
            f"audio files in {place} have no row in metadata.csv",
            "add rows or remove the files",
            WITHOUT_TEXT,
        ),
    ):
        if names:
            yield f"{folder}: {len(names)} {lack} ({few(names)})", remedy, done


def ljspeech_corpus(
    folder: str | os.PathLike[str],
    *,
    labelled: int,
    unlabelled: int | None = None,
    test: int = 100,
    seed: int = 0,
    strict: bool = True,
    text_column: str | int | None = None,
) -> Corpus:
    """Splits a folder in LJSpeech's layout at random. Clips of one text are all in the test part, or none is.

    All clips have the sampling rate that most clips have; others are resampled when they are loaded.

    Args:
        folder: the corpus.
        labelled: number of clips with text. A larger number keeps the clips of a smaller one and adds others.
        unlabelled: number of clips with audio only; all others if None.
        test: number of clips held out, at most a tenth of all.
        seed: fixes the random choices.
        strict, text_column: as in `read_ljspeech`.

    Raises:
        FileNotFoundError: as `read_ljspeech`.
        ValueError: as `read_ljspeech`; fewer clips than asked for.
    """
    check_counts(labelled=labelled, test=test, **({} if unlabelled is None else {"unlabelled": unlabelled}))
    every = _at_one_rate(read_ljspeech(folder, strict=strict, text_column=text_column))
    utterances = [utterance for utterance in every if utterance.text is not None]
    if not utterances:
        raise ValueError(f"{folder}: no clip has a text: write some into metadata.csv")
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(normalize_text(utterance.text or ""), []).append(utterance)
    ordered = list(groups.values())
    held_out: list[Utterance] = []
    rest: list[Utterance] = []
    wanted = max(1, min(test, len(utterances) // 10))
    for index in _permutation(seed, len(ordered)):
        group = ordered[index]
        (held_out if len(held_out) + len(group) <= wanted else rest).extend(group)
    if not held_out:
        raise ValueError(f"{folder}: every text occurs too often to hold one out for testing: add clips of other texts")
    # At least one clip must remain for pretraining.
    if labelled >= len(rest):
        raise ValueError(
            f"labelled={labelled} utterances asked for, but {folder} has {len(utterances)} clips, of which "
            f"{len(held_out)} are held out: " + (f"ask for {len(rest) - 1} or fewer" if len(rest) > 1 else "add clips")
        )
    rest = [rest[index] for index in _permutation([seed, 1], len(rest))]
    others = rest[labelled:] + [utterance for utterance in every if utterance.text is None]
    others = others if unlabelled is None else others[:unlabelled]
    return Corpus(Path(folder).resolve().name, others, rest[:labelled], held_out)


def _at_one_rate(utterances: list[Utterance]) -> list[Utterance]:
    """The utterances, of which those at another rate than most are resampled when they are loaded."""
    rates = Counter(one.sample_hz for one in utterances if one.sample_hz)
    common = rates.most_common(1)[0][0] if rates else 0
    return [
        replace(one, sample_hz=common, load=partial(_resampled, one, common), num_samples=None)
        if one.sample_hz not in (0, common)
        else one
        for one in utterances
    ]


def _resampled(one: Utterance, sample_hz: int) -> np.ndarray:
    return resample(one.audio(), one.sample_hz, sample_hz)


def _permutation(seed: int | list[int], number: int) -> list[int]:
    """The numbers below `number` in a random order."""
    return cast("list[int]", np.random.default_rng(seed).permutation(number).tolist())


def fsdd_corpus(
    folder: str | os.PathLike[str],
    *,
    labelled: int,
    unlabelled: int = 6000,
    test: int = 100,
    speaker: str | None = None,
    seed: int = 0,
) -> Corpus:
    """Makes distinct strings of 3 to 7 digits, such as "three one four", of one speaker's recordings.

    Args:
        folder: holds `recordings/{digit}_{speaker}_{index}.wav`. Only test strings use the indices 0 to 4.
        labelled, unlabelled, test: numbers of strings of each part.
        speaker: name of the speaker. If None, the first in the alphabet with recordings of each digit for both the test
            and the other parts.
        seed: fixes the random choices.

    Raises:
        FileNotFoundError: the folder or its recordings are missing.
        ValueError: an unknown speaker, or one without recordings of each digit for both sides; counts out of range.
    """
    check_counts(labelled=labelled, unlabelled=unlabelled, test=test)
    if labelled + unlabelled + test > 1_000_000:
        raise ValueError(f"at most 1,000,000 strings can be made, got {labelled + unlabelled + test}: ask for fewer")
    speaker, recordings, sample_hz = _load_recordings(given_path("folder", folder), speaker)
    taken: set[tuple[int, ...]] = set()
    parts: list[list[Utterance]] = []
    # Each part has its own random numbers, in this order: a larger part does not change the parts before it.
    for part, (name, count) in enumerate((("test", test), ("labelled", labelled), ("unlabelled", unlabelled))):
        rng = np.random.default_rng([seed, part])
        pools = recordings[0 if name == "test" else 1]
        parts.append([_digit_string(f"{name}-{i:05d}", pools, taken, speaker, sample_hz, rng) for i in range(count)])
    return Corpus(f"fsdd-{speaker}", parts[2], parts[1], parts[0])


def _digit_string(
    id_: str,
    pools: list[list[np.ndarray]],
    taken: set[tuple[int, ...]],
    speaker: str,
    sample_hz: int,
    rng: np.random.Generator,
) -> Utterance:
    """A string of digits that is not in `taken`, of random recordings from `pools[digit]`, with pauses of 0 to 60 ms."""
    while True:
        digits = tuple(int(digit) for digit in rng.integers(0, 10, rng.integers(3, 8)))
        if digits not in taken:
            taken.add(digits)
            break
    pieces: list[np.ndarray] = []
    for position, digit in enumerate(digits):
        if position:
            pieces.append(np.zeros(rng.integers(0, round(0.06 * sample_hz) + 1), dtype=np.float32))
        pieces.append(pools[digit][rng.integers(len(pools[digit]))])
    text = " ".join(DIGITS[digit] for digit in digits)
    length = sum(len(piece) for piece in pieces)
    return Utterance(id_, text, speaker, sample_hz, lambda: np.concatenate(pieces), length)


def _load_recordings(folder: Path, speaker: str | None) -> tuple[str, list[list[list[np.ndarray]]], int]:
    """The speaker, the recordings `[0 for test, 1 for training][digit]`, and their rate in Hz; a few MB."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give the Free Spoken Digit Dataset's, which holds recordings/")
    files: dict[str, list[tuple[int, int, Path]]] = {}
    for path in sorted((folder / "recordings").glob("*.wav")):
        digit, _, tail = path.stem.partition("_")
        name, _, index = tail.rpartition("_")
        if name and digit in set("0123456789") and index.isdecimal():
            files.setdefault(name, []).append((int(digit), int(index), path))
    if not files:
        raise FileNotFoundError(f"{folder} has no recordings/{{digit}}_{{speaker}}_{{index}}.wav: is it the right one?")
    complete = [name for name in sorted(files) if _is_complete(files[name])]
    if speaker is None and not complete:
        raise ValueError(
            f"{folder}: no speaker has each digit both with an index of 0 to 4 and above: complete the download"
        )
    speaker = speaker if speaker is not None else complete[0]
    if speaker not in complete:
        state = "lacks recordings of some digits" if speaker in files else "is unknown"
        raise ValueError(f"the speaker {speaker!r} {state} in {folder}: choose from {', '.join(complete) or 'none'}")
    pools: list[list[list[np.ndarray]]] = [[[] for _ in DIGITS] for _ in range(2)]
    rates: set[int] = set()
    for digit, index, path in files[speaker]:
        wav, sample_hz = load_audio(path)
        rates.add(sample_hz)
        pools[index >= FIRST_TRAINING_INDEX][digit].append(wav)
    if len(rates) != 1:
        raise ValueError(f"{folder}: the recordings of {speaker} have different rates, {sorted(rates)} Hz: use one")
    return speaker, pools, rates.pop()


def _is_complete(files: list[tuple[int, int, Path]]) -> bool:
    """Whether there are recordings of each digit for test and for training."""
    return len({(digit, index >= FIRST_TRAINING_INDEX) for digit, index, _ in files}) == 2 * len(DIGITS)


def _audio_files(folder: Path) -> dict[str, Path]:
    """Audio files by id, of a folder in LJSpeech's layout."""
    place = _place(folder)
    files = audio_in(place)
    if not files and place == folder:
        raise FileNotFoundError(f"{folder / 'wavs'} is missing: put the audio there, one file {{id}}.wav for each row")
    return by_listed_id(files, place)


def _place(folder: Path) -> Path:
    """The folder of the audio in LJSpeech's layout."""
    return folder / "wavs" if (folder / "wavs").is_dir() else folder


def file_utterance(id_: str, text: str | None, speaker: str | None, path: Path, *, strict: bool = False) -> Utterance:
    """A clip in a file, which is read when its audio is needed.

    Args:
        strict: True raises an error if the header of the file cannot be read. With False, its `sample_hz` is 0, and
            loading its audio raises the error.
    """
    try:
        rate, samples = read_header(path)
    except ValueError:
        if strict:
            raise
        rate, samples = 0, 0
    return Utterance(id_, text, speaker, rate, partial(_wav_of, path.absolute()), samples, path)


def _wav_of(path: Path) -> np.ndarray:
    return load_audio(path)[0]
