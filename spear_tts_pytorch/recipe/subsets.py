"""Voices that learn from fewer or more labelled minutes of a voice's clips, and share its units, ids and pretraining.

In: a voice whose clips have texts, minutes and seeds. Out: `Subset`, the clips that are drawn; and the folder of a voice that
learns from them. The minutes of a seed are nested: those of 5 are among those of 15.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from spear_tts_pytorch.recipe.clips import LEAST_LABELLED, Clips
from spear_tts_pytorch.recipe.presets import preset
from spear_tts_pytorch.recipe.results import Results, random_place
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.sources import at, copy_cuts, relative
from spear_tts_pytorch.recipe.survey import survey
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.values import real_number

ALL = "all"
LISTS, FILES = ("audio", "text", "unpaired_text"), ("test", "labelled")  # of [data]
ELSEWHERE = ("encoder", "init", "shared", "judge", "recogniser")  # settings that may name a folder
LIST, SETTINGS = "labelled.txt", "voice.toml"


@dataclass(frozen=True)
class Subset:
    """Labelled clips that are drawn.

    Attributes:
        minutes: what was asked for, such as "15" or "all".
        seed: of the draw, and of everything random in the voice that learns from them.
        ids: of the clips.
        seconds: their duration together.
    """

    minutes: str
    seed: int
    ids: tuple[str, ...]
    seconds: float

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.minutes}-{self.seed}"

    def __repr__(self) -> str:
        return (
            f"Subset({self.minutes} minutes, seed {self.seed}, {len(self.ids)} clips, {self.seconds / 60:.1f} minutes)"
        )


def checked_minutes(labelled: object) -> list[float]:
    """Minutes in rising order, each once; infinity is all.

    Raises:
        TypeError, ValueError: no minutes, or something else than numbers above 0 and "all".
    """
    given = list(cast("list[object]", labelled)) if isinstance(labelled, (list, tuple)) else [labelled]
    if not given:
        raise ValueError('labelled is empty: give minutes, such as 15 or "all"')
    also = ', or "all"'
    return sorted({float("inf") if one == ALL else real_number("labelled", one, above=0, also=also) for one in given})


def drawn(clips: Clips, minutes: float, seed: int) -> Subset:
    """Draws clips with a text that is not tested, one by one, until they last so many minutes.

    Args:
        clips: of the voice.
        minutes: infinity takes all.
        seed: of the draw.

    Raises:
        ValueError: there are fewer minutes, or fewer than five clips in them.
    """
    tested, test = {clips.text(id_) for id_ in clips.test}, set(clips.test)
    usable = [id_ for id_, one in clips.every.items() if one.sample_hz and id_ not in test]
    usable = [id_ for id_ in usable if clips.text(id_) and clips.text(id_) not in tested]
    there = clips.seconds(usable)
    if 60 * minutes > there and minutes != float("inf"):
        raise ValueError(
            f"labelled={minutes:g} minutes asked for, but the clips whose text is known and not tested have {there / 60:.1f}: "
            'lower it, or take "all"'
        )
    chosen, seconds = list[str](), 0.0
    for id_ in sorted(usable, key=lambda id_: random_place(id_, seed)):
        if seconds >= 60 * minutes:
            break
        chosen.append(id_)
        seconds += clips.every[id_].seconds
    if len(chosen) < LEAST_LABELLED:
        raise ValueError(
            f"labelled={minutes:g} minutes are {len(chosen)} clips, at least {LEAST_LABELLED} are needed: raise it"
        )
    name = ALL if minutes == float("inf") else f"{minutes:g}"
    return Subset(name, seed, tuple(chosen), seconds)


def prepare(results: Results, folder: Path, ids: Sequence[str], changes: dict[str, Any]) -> Clips:
    """Makes the folder of a voice that learns from these clips: their list, `voice.toml` and the cuts. Collective.

    Sizes, steps and dropout are those that a new voice with so much text begins with, where the voice itself has those that it
    began with, and its own elsewhere.

    Args:
        results: of the voice.
        folder: of the other one.
        ids: of its labelled clips.
        changes: further settings, by "section.setting".

    Returns:
        Its clips.
    """
    clips = replace(results.clips, labelled=tuple(ids))
    settings = _scaled(results.settings, results.clips, clips)
    settings = moved(settings, results.folder, folder).replaced({"data.labelled": LIST, **changes})

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / LIST, "".join(f"{id_}\n" for id_ in ids).encode())
        copy_cuts(results.folder, folder)
        settings.save(folder / SETTINGS)

    in_first_process(write)
    return clips


def _scaled(settings: Settings, before: Clips, after: Clips) -> Settings:
    """Settings that were proposed for the labelled minutes before, as they are proposed for those after."""
    first, second = (preset(survey(clips), width=settings.model.dim) for clips in (before, after))
    changes: dict[str, Any] = {}
    for name in settings.sections():
        was, proposed, here = first.section(name), second.section(name), settings.section(name)
        changes |= {f"{name}.{key}": proposed[key] for key in here if here[key] == was[key] != proposed[key]}
    return settings.replaced(changes)


def moved(settings: Settings, old: Path, new: Path) -> Settings:
    """The settings with paths relative to another folder.

    Args:
        settings: with paths relative to `old`.
        old, new: folders of voices.
    """
    changes: dict[str, Any] = {}

    def there(name: str) -> str:
        return relative(at(old, name), new)

    for key in LISTS:
        changes[f"data.{key}"] = [there(name) for name in settings.section("data")[key]]
    for key in FILES:
        name = settings.section("data")[key]
        changes[f"data.{key}"] = there(name) if name else ""
    for section in fields(settings):
        for key, value in settings.section(section.name).items():
            if key in ELSEWHERE and value and os.path.exists(at(old, value)):  # else it is on the Hub
                changes[f"{section.name}.{key}"] = there(value)
    return settings.replaced(changes)
