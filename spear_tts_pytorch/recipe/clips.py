"""The clips of a voice: what its folders of audio hold, and which clips are labelled, which test, which have no text.

In: `Sources` and the section `[data]` of the settings. Out: `Clips`. The audio itself is loaded when it is needed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from spear_tts_pytorch.data.corpora.clip_files import few, lines_of
from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.recipe.settings import Data
from spear_tts_pytorch.recipe.sources import Sources, Transcript, at, read_sources
from spear_tts_pytorch.tokenizers.text import normalize_text

LEAST_LABELLED = 5
MOST_TEST = 100
TEST_SHARE = 0.1


@dataclass(frozen=True)
class Clips:
    """All clips of a voice, and their parts by id.

    Attributes:
        every: all clips, by id.
        labelled: ids of the clips whose text is trained on.
        test: ids of the clips that are kept for testing; all have a text.
        unpaired: sentences without audio.
        transcripts: texts of long recordings, which are aligned to their clips once a reader is trained.
        remarks: what the readers of the folders found odd. That clips have no text is not odd.
    """

    every: Mapping[str, Utterance]
    labelled: tuple[str, ...]
    test: tuple[str, ...]
    unpaired: tuple[str, ...] = ()
    transcripts: Mapping[str, Transcript] = field(default_factory=dict[str, Transcript])
    remarks: tuple[str, ...] = ()

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Ids of all other clips. Some may have a text that the voice must not learn from."""
        others = {*self.labelled, *self.test}
        return tuple(id_ for id_ in self.every if id_ not in others)

    def text(self, id_: str) -> str:
        """The normalised text of a clip, "" if it is unknown."""
        return normalize_text(self.every[id_].text or "")

    def seconds(self, ids: Iterable[str]) -> float:
        """The duration of clips together."""
        return sum(self.every[id_].seconds for id_ in ids)

    def __repr__(self) -> str:
        parts = {"labelled": self.labelled, "test": self.test, "other": self.unlabelled}
        return f"Clips({', '.join(f'{len(ids)} {name}' for name, ids in parts.items())})"


def read_clips(data: Data, folder: Path, *, progress: bool = False) -> Clips:
    """Reads the recordings and texts that the settings name, cuts long recordings, and divides the clips into parts.

    Args:
        data: the settings; paths are relative to `folder`.
        folder: the voice folder, which keeps the cuts.
        progress: shows a bar over recordings that are cut, on terminals.

    Raises:
        FileNotFoundError, ValueError: as `read_sources` and `divide`.
    """
    sources = read_sources(data, folder, progress=progress)
    sources.save_cuts(folder)
    return divide(sources, data, folder)


def divide(sources: Sources, data: Data, folder: Path) -> Clips:
    """Divides clips into parts by the files of ids that the settings name.

    Args:
        sources: the clips.
        data: the settings; paths are relative to `folder`.
        folder: the voice folder.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: fewer than 5 labelled clips, an unknown id, texts in different scripts, or a text of the test that is
            also trained on.
    """
    every = sources.every
    with_text = [id_ for id_, one in every.items() if one.text]
    test = _ids(folder, data.test, "data.test", every)
    labelled = _ids(folder, data.labelled, "data.labelled", every) if data.labelled else with_text
    for name, ids in (("data.test", test), ("data.labelled", labelled)):
        without = [id_ for id_ in ids if not every[id_].text]
        if without:
            raise ValueError(
                f"{name}: {len(without)} clips have no text ({few(without)}): write texts, or take them out"
            )
    if data.labelled and (both := set(labelled) & set(test)):
        raise ValueError(
            f"{len(both)} clips are in data.labelled and in data.test ({few(sorted(both))}): take them out of one"
        )
    tested = set(test)
    labelled = [id_ for id_ in labelled if id_ not in tested]
    _check_labelled(labelled, with_text, every)
    unpaired = [line for name in data.unpaired_text for line in _sentences(at(folder, name))]
    _check_script(every, labelled, test, unpaired)
    clips = Clips(every, tuple(labelled), tuple(test), tuple(unpaired), sources.transcripts, tuple(sources.remarks))
    _check_test(clips)
    return clips


def hold_out(every: Mapping[str, Utterance], count: int, seed: int, among: Iterable[str]) -> list[str]:
    """Draws ids of clips for testing. Clips of one text are all drawn, or none is.

    Args:
        every: all clips by id.
        count: most clips drawn.
        seed: of the draw.
        among: ids of clips with a text.
    """
    groups: dict[str, list[str]] = {}
    for id_ in among:
        groups.setdefault(normalize_text(every[id_].text or ""), []).append(id_)
    ordered, drawn = list(groups.values()), list[str]()
    order = cast("list[int]", np.random.default_rng(seed).permutation(len(ordered)).tolist())
    for index in order:
        if len(drawn) + len(ordered[index]) <= count:
            drawn += ordered[index]
    return sorted(drawn)


def _ids(folder: Path, name: str, setting: str, every: Mapping[str, Utterance]) -> list[str]:
    return ids_in(at(folder, name), setting, every) if name else []


def ids_in(path: Path, setting: str, every: Mapping[str, Utterance]) -> list[str]:
    """The ids in a file, in its order.

    Args:
        path: has an id a line.
        setting: for messages: what names the file.
        every: all clips by id.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or an id is of no clip.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{setting}: there is no file {path}: write ids into it, one a line")
    ids = list(dict.fromkeys(line.strip() for line in lines_of(path) if line.strip()))
    if not ids:
        raise ValueError(f"{setting}: {path} holds no ids: write ids of clips into it, one a line, or leave it out")
    unknown = [id_ for id_ in ids if id_ not in every]
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} ids are of no clip ({few(unknown)}): remove them, or restore the audio"
        )
    return ids


def _sentences(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"data.unpaired_text: there is no file {path}: give a text, a sentence a line")
    lines = [line.strip() for line in lines_of(path) if line.strip()]
    if not lines:
        raise ValueError(f"data.unpaired_text: {path} holds no text: write a sentence a line, or leave it out")
    return lines


def _check_labelled(labelled: Sequence[str], with_text: Sequence[str], every: Mapping[str, Utterance]) -> None:
    if not with_text:
        raise ValueError(
            f"none of {len(every)} clips has a text: write some into metadata.csv, a line `id|text` for each clip"
        )
    if len(labelled) < LEAST_LABELLED:
        raise ValueError(
            f"only {len(labelled)} labelled clips are left to train on, at least {LEAST_LABELLED} are needed: "
            "write more texts, or keep fewer clips for testing"
        )


def _check_script(
    every: Mapping[str, Utterance], labelled: Sequence[str], test: Sequence[str], unpaired: Sequence[str]
) -> None:
    """Raises ValueError if tests or unpaired sentences are written with other letters than all labelled texts."""
    known = {letter for id_ in labelled for letter in letters(every[id_].text or "")}
    texts = {id_: letters(every[id_].text or "") for id_ in test}
    strange = [id_ for id_, found in texts.items() if found and known.isdisjoint(found)]
    if strange:
        raise ValueError(
            f"data.test: {len(strange)} texts share no letter with the labelled ones ({few(strange)}): write both in one "
            "script, or take them out"
        )
    if unpaired and not any(known.issuperset(letters(line)) for line in unpaired):
        found = sorted({letter for line in unpaired for letter in letters(line)} - known)
        raise ValueError(
            f"data.unpaired_text: all {len(unpaired)} sentences have letters that no labelled text has "
            f"({', '.join(map(named, found[:3]))}): give sentences in the script of the texts"
        )


def letters(text: str) -> set[str]:
    """The letters, their marks and the digits of a text as the alphabet has them, without punctuation and blanks."""
    return {character for character in normalize_text(text) if unicodedata.category(character)[0] in "LMN"}


def named(character: str) -> str:
    """A character with its name: "'é' (LATIN SMALL LETTER E WITH ACUTE)"."""
    return f"{character!r} ({unicodedata.name(character, f'U+{ord(character):04X}')})"


def _check_test(clips: Clips) -> None:
    trained = {clips.text(id_) for id_ in clips.labelled}
    repeated = [id_ for id_ in clips.test if clips.text(id_) in trained]
    if repeated:
        raise ValueError(
            f"{len(repeated)} texts of the test are also texts of labelled clips ({few(repeated)}): take these clips out of "
            "data.test"
        )
