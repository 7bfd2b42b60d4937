"""What a stage of a voice was made from, and what came out: `stage.json` in the folder of each stage.

In: the causes of a stage, which are its settings and the fingerprints of its inputs. Out: whether the stage is done,
whether it must be run again and why, and its figures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spear_tts_pytorch.recipe.settings import changed
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import LOCK_NAME, write_whole
from spear_tts_pytorch.utils.json_files import field as field_of
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.version import __version__

RECORD, RUN, HISTORY = "stage.json", "run", "history.json"
INTERRUPTED = "it was interrupted"


@dataclass(frozen=True)
class Record:
    """The state of a stage.

    Attributes:
        causes: settings and fingerprints of the inputs, as JSON types.
        done: False while the stage is being made.
        output: fingerprint of the result.
        figures: what the stage measured, as JSON types.
        says: the key figures in a line.
        seconds: what it took.
        version: release that made it.
    """

    causes: Mapping[str, Any]
    done: bool = False
    output: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    says: str = ""
    seconds: float = 0.0
    version: str = __version__

    def save(self, folder: Path) -> None:
        """Writes the record into the folder of its stage."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECORD, (json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Record | None:
        """The record in the folder of a stage; None if there is none.

        Raises:
            ValueError: it is damaged.
        """
        path = folder / RECORD
        if not path.is_file():
            return None
        remedy = f"remove {folder}, and the stage is made again"
        read = read_object(path, "the record of a stage", remedy)
        try:
            return cls(
                causes=field_of(read, "causes", dict),
                done=field_of(read, "done", bool),
                output=field_of(read, "output", str),
                figures=field_of(read, "figures", dict),
                says=field_of(read, "says", str),
                seconds=field_of(read, "seconds", float),
                version=field_of(read, "version", str),
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}: {remedy}") from error


@dataclass(frozen=True)
class Made:
    """The result of a stage: its fingerprint, its figures, and the key ones in a line."""

    output: str
    figures: dict[str, Any]
    says: str


def begin(folder: Path, causes: Mapping[str, Any], *, anew: bool = False, growing: str = "") -> None:
    """Makes the folder of a stage ready. What another state of the causes left in it is removed.

    Args:
        anew: removes also what the same causes left: nothing is resumed.
        growing: a cause that may differ, because the stage adds to what is there.
    """
    there = Record.load(folder)
    if anew or there is None or changed(without(there.causes, growing), without(causes, growing)):
        clear(folder)
    Record(causes).save(folder)


def without(causes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The causes but for one."""
    return {key: value for key, value in causes.items() if key != name}


def clear(folder: Path) -> None:
    """Removes the contents of a stage's folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name == LOCK_NAME:
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def reasons(folder: Path, causes: Mapping[str, Any]) -> list[str]:
    """Why a stage must be run, in words; empty if it is done and its causes are as they were."""
    there = Record.load(folder)
    if there is None:
        return ["it was not run before"]
    differing = changed(there.causes, causes)
    if differing:
        return differing
    return [] if there.done else [INTERRUPTED]


def digest(parts: Iterable[str]) -> str:
    """A short fingerprint of texts in their order."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return made.hexdigest()[:16]


def write_history(folder: Path, history: Mapping[str, list[dict[str, Any]]]) -> None:
    """Writes the training records of a stage, by the name of the training. Collective."""
    write(folder / HISTORY, (json.dumps(history) + "\n").encode())


def write(path: Path, data: bytes) -> None:
    """Writes a file in the first process. It appears complete or not at all. Collective."""
    in_first_process(lambda: write_whole(path, data))
