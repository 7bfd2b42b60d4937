"""The paper's table for a corpus: the error of each column by labelled minutes.

In: a voice whose clips have texts. Out: `table.md`, `table.json`, a picture and sounds in `table/` of the voice folder, where
each row is a voice of its own. The voices of the rows share units, ids, pretraining and judge. A table that was interrupted
goes on; what is done and unchanged is kept.

Source: Kharitonov et al., "Speak, Read and Prompt" (2023), table 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spear_tts_pytorch.recipe.clips import Clips
from spear_tts_pytorch.recipe.columns import in_order
from spear_tts_pytorch.recipe.estimate import in_words
from spear_tts_pytorch.recipe.judge import judge_of
from spear_tts_pytorch.recipe.report import write_report
from spear_tts_pytorch.recipe.results import RESYNTHESIS, Results
from spear_tts_pytorch.recipe.settings import COLUMNS
from spear_tts_pytorch.recipe.sounds import column_sounds
from spear_tts_pytorch.recipe.sources import relative
from spear_tts_pytorch.recipe.subsets import ALL, Subset, checked_minutes, drawn, prepare
from spear_tts_pytorch.recipe.table_report import FULL, JSON, measures, write_table
from spear_tts_pytorch.recipe.voice import Voice
from spear_tts_pytorch.utils.distributed import in_first_process, locked_for_all
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.values import unicode_text, whole_number
from spear_tts_pytorch.version import __version__

FOLDER = "table"
SHARED = ("units", RESYNTHESIS, "pretrain")  # stages that a row does not make
USUAL = (5.0, 15.0, 30.0, 60.0)  # labelled minutes, where there are so many
HEARD = "adA"  # letters of the columns that are played


@dataclass(frozen=True)
class Row:
    """A voice of the table.

    Attributes:
        subset: the clips that it learns from.
        columns: the letters that are measured with it.
        folder: of the voice.
        pretrained: folder of the voice whose pretraining it shares.
    """

    subset: Subset
    columns: str
    folder: Path
    pretrained: Path


def make_table(
    voice: Voice, labelled: Sequence[float | str] | float | str | None = None, *, columns: str = "abcd", seeds: int = 3
) -> dict[str, Any]:
    """Makes the table, or goes on with it.

    Args:
        voice: its clips have more texts than it learns from, or it learns from all; some are kept for testing.
        labelled: minutes of the rows, numbers or "all". None is 5, 15, 30 and 60 as far as there are so many, and "all".
        columns: letters of the columns; A is measured once for each seed, with the row of most minutes.
        seeds: of clips that are drawn and of everything random: the voice's own seed and those that follow it.

    Returns:
        The contents of table.json.

    Raises:
        FolderInUseError: another run is at work on the table or in the voice folder.
        TypeError, ValueError: arguments that cannot be, more minutes than there are, no clips for testing.
    """
    rows = _rows(voice, labelled, _letters(columns), whole_number("seeds", seeds, 1))
    in_first_process(lambda: (voice.folder / FOLDER).mkdir(exist_ok=True))
    with locked_for_all(voice.folder / FOLDER):
        voice.units()
        if RESYNTHESIS in voice.results.plan:
            voice.resynthesis()
        if not voice.settings.evaluate.judge:
            judge_of(voice.results)
        done, pretrained = dict[str, Mapping[str, Any]](), set[Path]()
        pace = _Pace(voice, len(rows))
        for number, row in enumerate(rows):
            if row.pretrained not in pretrained:
                _pretrain(voice, row)
                pretrained.add(row.pretrained)
            made = _open(voice, row)
            if any(made.status().values()):
                voice.results.tell(f"table: row {number + 1} of {len(rows)}: {_words(row)}; {pace.left(number)}")
                begun = time.perf_counter()
                made.run()
                in_first_process(partial(write_report, made.results))
                pace.took(time.perf_counter() - begun)
                _write(voice, rows, {**done, row.subset.name: _figures(made)})
            done[row.subset.name] = _figures(made)
        _write(voice, rows, done, lambda: _sounds(voice, rows))
    voice.results.tell(f"table: written to {voice.folder / FOLDER}")
    return read_object(voice.folder / FOLDER / JSON, "a table", "make it again")


def _figures(made: Voice) -> Mapping[str, Any]:
    record = made.results.record("evaluate")
    assert record is not None  # it was run
    return record.figures


def _letters(columns: object) -> str:
    given = unicode_text("columns", columns)
    if not given or set(given) - set(COLUMNS) or len(set(given)) != len(given):
        raise ValueError(f"columns must be letters of {''.join(COLUMNS)}, each once, got {given!r}")
    return "".join(in_order(given))


def _rows(voice: Voice, labelled: object, columns: str, seeds: int) -> list[Row]:
    """The rows of all seeds, those of the first seed first."""
    clips, first = voice.results.clips, voice.settings.training.seed
    if not clips.test:
        raise ValueError(
            "data.test names no clips to measure on: write ids of clips with a text into a file, one a line, and name it by "
            "`--set data.test=FILE`"
        )
    if labelled is None:
        there = drawn(clips, float("inf"), first).seconds / 60
        labelled = [*(minutes for minutes in USUAL if minutes < there), ALL]
    minutes, rows = checked_minutes(labelled), list[Row]()
    for seed in range(first, first + seeds):
        subsets = [drawn(clips, one, seed) for one in minutes]
        other = voice.folder / FOLDER / f"seed-{seed}"
        pretrained = voice.results.owner("pretrain") if seed == first else other
        for place, subset in enumerate(subsets):
            letters = columns if place == len(subsets) - 1 else columns.replace(FULL, "")
            if letters:
                rows.append(Row(subset, letters, voice.folder / FOLDER / subset.name, pretrained))
    return rows


def _pretrain(voice: Voice, row: Row) -> None:
    """Makes the pretraining that a row shares."""
    if row.pretrained == voice.results.owner("pretrain"):
        voice.pretrain()
        return
    labelled = voice.results.clips.labelled
    changes = {"training.seed": row.subset.seed, "units.shared": _units(voice, row.pretrained), "pretrain.shared": ""}
    clips = prepare(voice.results, row.pretrained, labelled, changes)
    other = _voice(voice, row.pretrained, clips)
    if other.status()["pretrain"]:
        voice.results.tell(f"table: pretraining of seed {row.subset.seed}")
        other.pretrain()


def _open(voice: Voice, row: Row) -> Voice:
    """The voice of a row, whose folder and settings are made."""
    changes: dict[str, Any] = {
        "training.seed": row.subset.seed,
        "evaluate.columns": row.columns,
        "evaluate.split": "test",
        "units.shared": _units(voice, row.folder),
        "pretrain.shared": relative(row.pretrained, row.folder),
    }
    if not voice.settings.evaluate.judge:
        changes["evaluate.judge"] = relative(voice.folder, row.folder)
    return _voice(voice, row.folder, prepare(voice.results, row.folder, row.subset.ids, changes))


def _units(voice: Voice, folder: Path) -> str:
    """The voice that has the units, as a setting of another one."""
    return relative(voice.results.owner("units"), folder)


def _voice(voice: Voice, folder: Path, clips: Clips) -> Voice:
    """A voice of the table. Its clips are known, it is not timed, and has one report at its end."""
    lines = voice.results.lines
    made = Voice(folder, progress=True if voice.results.progress else "lines" if lines else False)
    made.results.clips, made.estimate, made.reports = clips, None, False
    return made


def _words(row: Row) -> str:
    minutes = "all labelled" if row.subset.minutes == ALL else f"{row.subset.minutes} minutes"
    return f"{minutes}, seed {row.subset.seed}, columns {row.columns}"


class _Pace:
    """How long the rows take: as those before, or as the voice's own estimate."""

    def __init__(self, voice: Voice, rows: int):
        self.voice, self.rows, self.seconds = voice, rows, list[float]()

    def took(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def left(self, number: int) -> str:
        """What is left from a row on, in words; a row is as long as the mean of those that were made."""
        each = statistics.mean(self.seconds) if self.seconds else self._expected()
        if each is None:
            return f"{self.rows - number} rows left"
        return f"about {in_words(each)}; {in_words(each * (self.rows - number))} left of the table"

    def _expected(self) -> float | None:
        estimate = self.voice.estimate if self.voice.results.lines else None
        if estimate is None:
            return None
        return sum(seconds for stage, seconds in estimate.seconds.items() if stage not in SHARED)


def _sounds(voice: Voice, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Texts by (a), (d) and (A) of the first seed: (A), and the others from the row nearest to the voice's own minutes."""
    clips = voice.results.clips
    own = clips.seconds(clips.labelled)
    first = [row for row in rows if row.subset.seed == rows[0].subset.seed]
    nearest = min(first, key=lambda row: abs(row.subset.seconds - own))
    heard: dict[str, tuple[str, Results]] = {}
    for row, letters in ((nearest, HEARD.replace(FULL, "")), (first[-1], FULL)):
        for name in letters:
            if name in row.columns:
                heard[f"{name}-{row.subset.minutes}"] = (name, _open(voice, row).results)
    return column_sounds(voice.results, heard, voice.folder / FOLDER)


def _write(
    voice: Voice,
    rows: Sequence[Row],
    figures: Mapping[str, Mapping[str, Any]],
    sounds: Callable[[], list[dict[str, Any]]] = list,
) -> None:
    """Writes the table, as far as it is made, in the first process.

    Args:
        voice: of the table.
        rows: all rows.
        figures: of the stage `evaluate` of each row's voice that is made.
        sounds: makes them.
    """
    cells = [
        {
            "labelled": row.subset.minutes,
            "minutes": round(row.subset.seconds / 60, 2),
            "clips": len(row.subset.ids),
            "seed": row.subset.seed,
            "column": name,
            "figures": figures[row.subset.name]["columns"][name],
        }
        for row in rows
        if row.subset.name in figures
        for name in row.columns
    ]
    summary = {
        "voice": voice.folder.name,
        "library_version": __version__,
        "rows": len(rows),
        "done": len(figures),
        "test_clips": len(voice.results.clips.test),
        "candidates": voice.settings.evaluate.candidates,
        "cells": cells,
        "measures": measures(cells, list(figures.values())),
    }
    in_first_process(lambda: write_table({**summary, "sounds": sounds()}, voice.folder / FOLDER))
