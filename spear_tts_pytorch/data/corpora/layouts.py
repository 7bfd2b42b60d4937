"""Corpora as utterances: LJSpeech-layout folders, connected digits from the Free Spoken Digit Dataset, espeak-ng.

In: a folder, how many utterances are to be labelled, a seed. Out: a `Corpus` of unlabelled, labelled and test
utterances, the same ones each time; audio is loaded when asked for. Texts of the test occur nowhere else.
Knows nothing of tokenizers' ids, batches or training.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from spear_tts_pytorch.data.audio import load_audio
from spear_tts_pytorch.data.corpora.clip_files import audio_in, by_listed_id, few, read_metadata, readable
from spear_tts_pytorch.data.corpora.corpus import Corpus, Utterance, check_counts
from spear_tts_pytorch.tokenizers.semantic import RATES
from spear_tts_pytorch.tokenizers.text import normalize_text

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FIRST_TRAINING_INDEX = 5  # recordings of FSDD below it are its customary test set


def read_ljspeech(folder: str | os.PathLike[str], *, strict: bool = True) -> list[Utterance]:
    """All utterances of a folder with `metadata.csv` (`id|text|normalised text` or `id|text`) and audio in `wavs/` or beside.

    The normalised text is used where there is one. A byte-order mark, CRLF, blank lines, tabs instead of bars, ids with
    the ending of the audio and letters composed otherwise than in the file's name are tolerated.

    Args:
        strict: whether rows without audio, rows and audio without a text and audio that cannot be read are errors; else the
            first are left out with a warning, the next have the text None, audio without a row comes last, and the last
            says so when it is asked for.

    Raises:
        FileNotFoundError: the folder, its metadata.csv or its wavs/ is missing.
        ValueError: no rows, rows that repeat an id or lack a text, rows and audio that do not match, two files of one
            name, audio that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no corpus folder {folder}: give a folder that holds metadata.csv and wavs/")
    rows = read_metadata(folder / "metadata.csv", strict=strict)
    files = _audio_files(folder)
    place = "wavs/" if (folder / "wavs").is_dir() else "the folder"
    without_audio = [id_ for id_ in rows if id_ not in files]
    without_row = [readable(files[id_].name) for id_ in files if id_ not in rows]
    empty = [id_ for id_, text in rows.items() if text is None]
    for names, what, remedy, done in (
        (empty, "rows of metadata.csv are empty", "write texts", "without text"),
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
            "without text",
        ),
    ):
        if names:
            message = f"{folder}: {len(names)} {what} ({few(names)})"
            if strict:
                raise ValueError(f"{message}: {remedy}")
            warnings.warn(f"{message}: {done}", stacklevel=2)
    named = [(id_, text) for id_, text in rows.items() if id_ in files]
    named += [(id_, None) for id_ in files if id_ not in rows]
    found = [file_utterance(id_, text, None, files[id_], strict=strict) for id_, text in named]
    if not files.keys() & rows.keys():
        raise ValueError(f"{folder}: no row of metadata.csv has audio: its first column must be names of the files")
    rates = {utterance.sample_hz: utterance.id for utterance in found if utterance.sample_hz}
    if len(rates) > 1:
        shown = ", ".join(f"{id_} has {rate} Hz" for rate, id_ in sorted(rates.items()))
        raise ValueError(f"{folder}: sampling rates differ ({shown}): resample all audio to one rate")
    return found


def ljspeech_corpus(
    folder: str | os.PathLike[str],
    *,
    labelled: int,
    unlabelled: int | None = None,
    test: int = 100,
    seed: int = 0,
    strict: bool = True,
) -> Corpus:
    """Splits an LJSpeech-layout folder by seed; clips of the same text stay together on one side of the test.

    Args:
        labelled: how many clips have their text; a larger number adds to those of a smaller one.
        unlabelled: how many have audio only, all others if None.
        test: how many are held out, but at most a tenth of all.

    Raises:
        FileNotFoundError, ValueError: as `read_ljspeech`; more labelled clips asked for than there are.
    """
    check_counts(labelled=labelled, test=test, **({} if unlabelled is None else {"unlabelled": unlabelled}))
    every = read_ljspeech(folder, strict=strict)
    utterances = [utterance for utterance in every if utterance.text is not None]
    if not utterances:
        raise ValueError(f"{folder}: no clip has a text, write some into metadata.csv")
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(normalize_text(utterance.text or ""), []).append(utterance)
    ordered = list(groups.values())
    held_out: list[Utterance] = []
    rest: list[Utterance] = []
    wanted = max(1, min(test, len(utterances) // 10))
    for index in np.random.default_rng(seed).permutation(len(ordered)):
        group = ordered[index]
        (held_out if len(held_out) + len(group) <= wanted else rest).extend(group)
    if not held_out:
        raise ValueError(f"{folder}: every text occurs too often to hold one out for testing, add clips of other texts")
    # One clip at least must be left to pretrain on.
    if labelled >= len(rest):
        raise ValueError(
            f"labelled={labelled} utterances asked for, but {folder} has {len(utterances)} clips, of which "
            f"{len(held_out)} are held out: " + (f"ask for {len(rest) - 1} or fewer" if len(rest) > 1 else "add clips")
        )
    rest = [rest[index] for index in np.random.default_rng([seed, 1]).permutation(len(rest))]
    others = rest[labelled:] + [utterance for utterance in every if utterance.text is None]
    others = others if unlabelled is None else others[:unlabelled]
    return Corpus(Path(folder).resolve().name, others, rest[:labelled], held_out)


def fsdd_corpus(
    folder: str | os.PathLike[str],
    *,
    labelled: int,
    unlabelled: int = 6000,
    test: int = 100,
    speaker: str | None = None,
    seed: int = 0,
) -> Corpus:
    """Strings of 3 to 7 digits put together from one speaker's recordings, "three one four"; no two are the same.

    Args:
        folder: holds `recordings/{digit}_{speaker}_{index}.wav`. Index 0 to 4 is heard in test strings only.
        speaker: the alphabetically first with recordings of all digits on both sides if None.

    Raises:
        FileNotFoundError: the folder or its recordings are missing.
        ValueError: an unknown speaker, or one without recordings of each digit on both sides.
    """
    check_counts(labelled=labelled, unlabelled=unlabelled, test=test)
    if labelled + unlabelled + test > 1_000_000:
        raise ValueError(f"at most 1,000,000 strings can be made, {labelled + unlabelled + test} asked for")
    speaker, recordings, sample_hz = _load_recordings(Path(folder), speaker)
    taken: set[tuple[int, ...]] = set()
    parts = []
    # The test first, then the labelled, each from its own random numbers: more of one changes nothing before it.
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
    """A string that is not `taken` yet, of random recordings from `pools` (by digit), 0 to 60 ms apart."""
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
    """The speaker, their recordings by [test or training][digit], and the rate in Hz; a few MB for one speaker."""
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
        raise ValueError(f"{folder}: no speaker has each digit both with index 0 to 4 and above, complete the download")
    speaker = speaker if speaker is not None else complete[0]
    if speaker not in complete:
        state = "lacks recordings of some digits" if speaker in files else "is unknown"
        raise ValueError(f"the speaker {speaker!r} {state} in {folder}: choose from {', '.join(complete) or 'none'}")
    pools: list[list[list[np.ndarray]]] = [[[] for _ in DIGITS] for _ in range(2)]
    rates = set()
    for digit, index, path in files[speaker]:
        wav, sample_hz = load_audio(path)
        rates.add(sample_hz)
        pools[index >= FIRST_TRAINING_INDEX][digit].append(wav)
    if len(rates) != 1:
        raise ValueError(f"{folder}: the recordings of {speaker} have different rates, {sorted(rates)} Hz: use one")
    return speaker, pools, rates.pop()


def _is_complete(files: list[tuple[int, int, Path]]) -> bool:
    return len({(digit, index >= FIRST_TRAINING_INDEX) for digit, index, _ in files}) == 2 * len(DIGITS)


def _audio_files(folder: Path) -> dict[str, Path]:
    """Id to audio file of a folder in LJSpeech's layout, by name."""
    inner = folder / "wavs"
    place = inner if inner.is_dir() else folder
    files = audio_in(place)
    if not files and place == folder:
        raise FileNotFoundError(f"{inner} is missing: put the audio there, one file {{id}}.wav for each row")
    return by_listed_id(files, place)


def file_utterance(id_: str, text: str | None, speaker: str | None, path: Path, *, strict: bool = False) -> Utterance:
    """A clip in a file that is read when it is asked for.

    Args:
        strict: whether a file whose header cannot be read is an error; else its rate is 0, and its audio says why.
    """
    try:
        info = soundfile.info(os.fsencode(path))  # soundfile encodes names strictly
        rate, samples = info.samplerate, info.frames
        if rate not in RATES:
            raise RuntimeError(f"it gives {rate} Hz as its sampling rate")
    except (soundfile.SoundFileError, RuntimeError) as error:
        if strict:
            reason = getattr(error, "error_string", error)
            raise ValueError(f"{path} cannot be read as audio ({reason}): repair, convert or remove it") from error
        rate, samples = 0, 0
    return Utterance(id_, text, speaker, rate, partial(_wav_of, path), samples)


def _wav_of(path: Path) -> np.ndarray:
    return load_audio(path)[0]
