"""Files and folders that other processes see complete or not at all, and a lock for one writer of a folder.

In: a path, and bytes or a block that fills a folder. Out: the file or folder, on the disk when the call returns.
A crash or a loss of power leaves the former file or folder in place, and at most temporary ones beside it, whose names
`TEMPORARY` matches.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"
# Names that `beside` makes: group 1 is the name of the file or folder, group 2 is "tmp" (new) or "old" (replaced).
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")


class FolderInUseError(OSError, RuntimeError):
    """Another process writes into the folder."""


def beside(path: Path, suffix: str = "tmp") -> Path:
    """A new hidden name in the folder of `path`. It is unique across threads, processes and machines."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{suffix}")


def write_whole(path: str | Path, data: bytes | memoryview, *, replace: bool = True) -> None:
    """Writes a file that appears complete or not at all, even if the power fails.

    Args:
        replace: whether to overwrite a file that exists.

    Raises:
        FileExistsError: the file exists, and `replace` is False.
    """
    with _put_in_place(Path(path), replace) as temporary:
        temporary.write_bytes(data)


def copy_whole(source: str | Path, path: str | Path) -> None:
    """Copies a file. The copy appears complete or not at all; it overwrites a file at `path`."""
    with _put_in_place(Path(path)) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _put_in_place(path: Path, replace: bool = True) -> Generator[Path]:
    """Yields the path of a file to write. Afterwards renames it to `path`; after an error deletes it."""
    temporary = beside(path)
    try:
        yield temporary
        _sync_file(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            _rename_to_free(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _rename_to_free(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        # This file system has no hard links. Another process could take the name between the check and the renaming.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(temporary, path)


@contextlib.contextmanager
def whole_folder(folder: str | Path, *, replace: bool = False) -> Generator[Path]:
    """Yields an empty folder to fill. It appears at `folder` when the block ends, complete or not at all.

    After an error in the block it is deleted, and a former folder stays as it was. A process killed between the two
    renamings leaves the former folder under a name that `TEMPORARY` matches, with the ending "old". The next call for
    this folder first moves it back, see `restore_replaced`.

    Args:
        folder: where it appears; missing parents are made.
        replace: whether it may take the place of a folder that is not empty. The former folder is then deleted.

    Raises:
        FileExistsError: `folder` exists and is not empty, and `replace` is False.
    """
    folder = Path(folder)
    restore_replaced(folder)
    if not replace and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already: choose another folder, or remove it first")
    temporary, old = beside(folder), beside(folder, "old")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync_tree(temporary)
        if folder.exists() and replace:
            folder.rename(old)
        elif folder.exists():
            folder.rmdir()  # fails if another process has filled it meanwhile
        temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def restore_replaced(folder: Path) -> None:
    """Moves the former folder back if a killed `whole_folder` left neither it nor the new one in place.

    If the new one is in place, the former is deleted. New folders that are not complete stay: a process may be filling one.
    """
    found = [
        path
        for path in folder.parent.glob(".*")
        if (match := TEMPORARY.fullmatch(path.name)) and match[1] == folder.name
    ]
    replaced = [path for path in found if path.name.endswith(".old")]
    for path in sorted(replaced, key=lambda path: path.stat().st_ctime, reverse=True):  # the latest first
        if folder.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(folder)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _sync_file(path)
        else:
            sync_folder(path)
    sync_folder(folder)


def _sync_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable on systems that can do so."""
    with contextlib.suppress(OSError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: str | Path) -> Generator[None]:
    """Locks a folder for one writer, and makes it if it is missing. The system unlocks it when the process ends.

    Raises:
        FolderInUseError: another writer holds the lock.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"{folder} is being written to by another process: wait for it to end, or choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
