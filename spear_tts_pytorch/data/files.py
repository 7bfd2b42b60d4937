"""Writing files so that a reader, or a crash, never meets half of one, and folders for one writer at a time.

In: a path and its contents. Knows nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"


class FolderInUseError(OSError, RuntimeError):
    """Another process writes into a folder."""


def write_whole(path: str | Path, data: bytes) -> None:
    """Writes a file so that it is seen either whole or not at all, also after a loss of power."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


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
