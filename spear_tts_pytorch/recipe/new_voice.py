"""What a new voice begins with: the places of its data, and the lists of clips for testing and learning.

In: arguments of `Voice.new`. Out: settings of `[data]`, and ids for `test.txt` and `labelled.txt`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from spear_tts_pytorch.data.corpora.clip_files import lines_of
from spear_tts_pytorch.recipe.clips import LEAST_LABELLED, MOST_TEST, TEST_SHARE, Clips, hold_out, ids_in
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.sources import CUTS, relative
from spear_tts_pytorch.utils.files import check_free, write_whole
from spear_tts_pytorch.utils.values import absolute_path, shown, whole_number

LISTS = ("test", "labelled")
Test = int | str | os.PathLike[str] | None


def counts(labelled: int | None, test: Test) -> tuple[int | None, Test]:
    """The arguments `labelled` and `test`, checked."""
    if labelled is not None:
        labelled = whole_number("labelled", labelled, LEAST_LABELLED, also=", or None for all")
    if test is not None and not isinstance(test, (str, os.PathLike)):
        test = whole_number("test", test, 0, also=", a file of ids, or None")
    return labelled, test


def _paths(name: str, given: object) -> list[Path]:
    """A path or several as a list."""
    if isinstance(given, (str, os.PathLike)):
        return [absolute_path(name, cast(object, given))]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{name} must be a path or a list of paths, got {shown(given)}")
    return [absolute_path(name, place) for place in cast("list[object]", given)]


def data_settings(folder: Path, corpus: object, text: object, unpaired_text: object) -> dict[str, Any]:
    """Folders and files of the settings `[data]`, relative to the voice folder.

    Raises:
        TypeError: something else than a path or a list of paths.
        ValueError: the voice folder lies in a folder of recordings, which would be read as one of them.
    """
    audio = _paths("corpus", corpus)
    for place in audio:
        if place.resolve() in (folder, *folder.parents):
            raise ValueError(f"{folder} lies in the recordings, {place}: choose a folder elsewhere for the voice")
    return {
        "data.audio": [relative(place, folder) for place in audio],
        "data.text": [relative(place, folder) for place in _paths("text", text)],
        "data.unpaired_text": [relative(place, folder) for place in _paths("unpaired_text", unpaired_text)],
    }


def check_new(folder: Path, ours: Sequence[str], data: Mapping[str, Any], test: Test) -> None:
    """Checks that a folder is free for a voice. Data may lie in it, and lists that a killed call has left.

    Args:
        folder: the voice folder.
        ours: patterns of a voice's files; it has the first.
        data: what `data_settings` returned.
        test: number of clips, or a file of their ids.

    Raises:
        FileExistsError: it holds a voice.
        ValueError: it holds other files.
    """
    if (folder / ours[0]).exists():
        raise FileExistsError(f"{folder} holds a voice already: choose another folder, or remove this one")
    places = [place for of_setting in data.values() for place in of_setting]
    if test is not None and not isinstance(test, int):
        places.append(relative(test, folder))
    within = {Path(place).parts[0] for place in places}
    check_free("the voice", folder, ours, within | {f"{name}.txt" for name in LISTS})


def draw(
    clips: Clips, settings: Settings, labelled: int | None, test: int | str | os.PathLike[str] | None
) -> dict[str, list[str]]:
    """Ids for the files `test.txt` and `labelled.txt`, where they are wanted."""
    with_text = [id_ for id_ in clips.every if clips.text(id_)]
    lists: dict[str, list[str]] = {}
    if test is not None and not isinstance(test, int):
        lists["test"] = ids_in(Path(test), "test", clips.every)
    elif not settings.data.test:
        count = min(MOST_TEST, round(TEST_SHARE * len(with_text))) if test is None else test
        lists["test"] = hold_out(clips.every, count, settings.training.seed, with_text)
    if labelled is not None:
        tested = {clips.text(id_) for id_ in lists.get("test", clips.test)}
        rest = [id_ for id_ in with_text if clips.text(id_) not in tested]
        if labelled > len(rest):
            raise ValueError(
                f"labelled={labelled} clips asked for, but {len(rest)} have a text that is not tested: lower it"
            )
        lists["labelled"] = hold_out(clips.every, labelled, settings.training.seed + 1, rest)
    return {name: ids for name, ids in lists.items() if ids}


@contextmanager
def undone_on_error(folder: Path, lists: Mapping[str, list[str]]) -> Generator[None]:
    """Writes the lists of ids into a new voice folder. After an error it is as before.

    Raises:
        ValueError: such a file is there, with other ids.
    """
    is_new = not folder.exists()
    for name, ids in lists.items():
        path = folder / f"{name}.txt"
        if path.exists() and list(dict.fromkeys(line.strip() for line in lines_of(path) if line.strip())) != ids:
            raise ValueError(f"{path} holds other ids than would be drawn: name it by data.{name}, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    made = [path for path in (folder / CUTS, *(folder / f"{name}.txt" for name in lists)) if not path.exists()]
    try:
        for name, ids in lists.items():
            if folder / f"{name}.txt" in made:
                write_whole(folder / f"{name}.txt", "".join(f"{id_}\n" for id_ in ids).encode())
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        if is_new:
            folder.rmdir()
        raise
