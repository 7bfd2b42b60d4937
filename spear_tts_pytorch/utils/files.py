"""Writing files so that a reader, or a crash, never meets half of one, and folders for one writer at a time.

In: a path and its contents. Knows nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")  # the names that `beside` gives: of what, and what for


class FolderInUseError(OSError, RuntimeError):
    """Another process writes into a folder."""


def beside(path: Path, suffix: str = "tmp") -> Path:
    """A name next to `path`, hidden, that nobody else takes: threads, processes and machines may write at once."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{suffix}")


def write_whole(path: str | Path, data: bytes | memoryview, *, replace: bool = True) -> None:
    """Writes a file so that it is seen either whole or not at all, also after a loss of power.

    Raises:
        FileExistsError: the file exists, and `replace` is False.
    """
    with _put_in_place(Path(path), replace) as temporary:
        temporary.write_bytes(data)


def copy_whole(source: str | Path, path: str | Path) -> None:
    """Copies a file so that the copy is seen either whole or not at all."""
    with _put_in_place(Path(path)) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def _put_in_place(path: Path, replace: bool = True) -> Iterator[Path]:
    """A file to write, which is renamed to `path` at the end, and removed after an error."""
    temporary = beside(path)
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
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
    except OSError as error:  # no hard links on this file system: there is a moment between looking and renaming
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(temporary, path)


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` at the end, and is removed after an error.

    Raises:
        FileExistsError: `folder` exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already: choose another folder, or remove it first")
    temporary = beside(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_folder(temporary)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` durable, where the system can do so."""
    with contextlib.suppress(OSError):  # Windows has no descriptors of folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keeps a folder, made if it does not exist, for one writer; the system lets go of it when the process ends.

    Raises:
        FolderInUseError: another writer has it.
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
