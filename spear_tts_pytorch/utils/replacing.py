"""Files of a folder that are replaced together, all of them or none, beside files of others, which stay.

In: the folder, the names of the files and folders that belong together, a block that writes new ones. Out: the new ones.
A process that is killed while they take their places leaves a hidden folder that holds all of them; `whole` finds it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from spear_tts_pytorch.utils.files import (
    TEMPORARY,
    beside,
    recover_folder,
    remove,
    sync_folder,
    sync_tree,
    temporary_folder,
    whole_folder,
)
from spear_tts_pytorch.utils.values import given_path

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl


@contextlib.contextmanager
def replaced(folder: str | os.PathLike[str], names: Sequence[str], keep: Sequence[str] = ()) -> Generator[Path]:
    """Yields an empty folder to write files into. At the end they take their places in `folder`, all of them or none.

    `folder` is swapped in one step if it holds nothing but files of these names. Beside other files, which stay, the new
    files are put in place one after the other; until the last is there, readers find them with `whole`. A former file of
    these names that was not written again is removed. A link to a folder stays a link.

    Args:
        folder: is made if it is missing.
        names: files and folders that belong together. The first is always written.
        keep: files that are copied into the new folder at the start, if they are there.

    Raises:
        NotADirectoryError: there is a file at `folder`.
    """
    target = Path(os.path.realpath(given_path("folder", folder)))
    if os.path.lexists(target) and not target.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: choose another")
    recover_folder(target)
    there = {path.name for path in target.iterdir()} if target.is_dir() else set[str]()
    own = {*names, _complete(target, names[0]).name}
    with whole_folder(target, replace=True) if there <= own and _can_move(target) else _beside(target, names) as stage:
        for name in keep:
            if (whole(target, names[0]) / name).is_file():
                shutil.copyfile(whole(target, names[0]) / name, stage / name)
        yield stage


def whole(folder: Path, name: str) -> Path:
    """Where to read the files that `replaced` wrote: `folder`, or a folder in it that a killed process left.

    Args:
        name: the first of their names.
    """
    complete = _complete(folder, name)
    return complete if complete.is_dir() and not complete.is_symlink() else folder


def _complete(folder: Path, name: str) -> Path:
    """A folder that appears when all new files are written, and goes when all of them are in their places."""
    return folder / f".{name}.complete"


@contextlib.contextmanager
def _beside(target: Path, names: Sequence[str]) -> Generator[Path]:
    """Yields a folder inside `target`, whose contents are put in place at the end."""
    complete = _complete(target, names[0])
    recover_folder(complete)
    with temporary_folder(complete) as stage:
        yield stage
        sync_tree(stage)
        with _locked(target):
            _finish(target, names)  # of a killed process
            stage.rename(complete)
            try:
                _finish(target, names)
            except KeyboardInterrupt:
                _finish(target, names)
                raise


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Marks a folder as in use (see `recover_folder`); waits until no other process uses it. Windows does not wait."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _finish(target: Path, names: Sequence[str]) -> None:
    """Puts complete files in their places, if there are any. After a kill at any point it can be done again."""
    complete = _complete(target, names[0])
    if not complete.is_dir():
        return
    new = {path.name for path in complete.iterdir()}
    for path in target.iterdir():
        match = TEMPORARY.fullmatch(path.name)
        if match and match[1] in new.union(names):  # of a killed process
            remove(path)
    for name in sorted(new.union(names)):
        _put(complete / name, target / name)
    sync_folder(target)
    used = beside(complete)
    complete.rename(used)  # from now on the files in their places are read
    remove(used)


def _put(new: Path, old: Path) -> None:
    """Puts a copy of a file or folder in place of a former one, or removes that one if there is none new."""
    temporary, former = beside(old), beside(old, "old")
    if new.is_dir():
        shutil.copytree(new, temporary, copy_function=_link)
    elif new.exists():
        _link(new, temporary)
    if os.path.lexists(old) and not (new.is_file() and old.is_file()):
        old.rename(former)
    if os.path.lexists(temporary):
        os.replace(temporary, old)
    remove(former)


def _link(source: str | Path, path: str | Path) -> None:
    """A second name for a file, or a copy where the file system has one name for each."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copy2(source, path)


def _can_move(folder: Path) -> bool:
    """Whether another folder may take the place of this one: nothing is mounted there, and no program is at work in it."""
    here = Path.cwd()
    inside = folder == here or folder in here.parents
    parent = next(path for path in folder.parents if path.is_dir())
    return not inside and not os.path.ismount(folder) and os.access(parent, os.W_OK)
