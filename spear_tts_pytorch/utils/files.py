"""Files and folders that other processes see complete or not at all, and a lock for one writer of a folder.

In: a path, and bytes or a block that fills a folder. Out: the file or folder, on the disk when the call returns.
A crash or a loss of power leaves the former file or folder in place, and at most temporary ones beside it, whose names
`TEMPORARY` matches. The next write to the same place, and the next lock of the folder, remove those of ended processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

LOCK_NAME = ".lock"
# Names that `beside` makes: group 1 is the name of the file or folder, group 2 is "tmp" (new) or "old" (replaced).
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.(tmp|old)")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, or for this user, or for so large a file


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
    clear_leftovers(path.parent, path.name)
    temporary = beside(path)
    held = _made(temporary, Path.touch)
    try:
        yield temporary
        _sync_file(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            _rename_to_free(temporary, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        words = f"{error.strerror}; {path} was not written: make room, or choose another folder"
        raise OSError(error.errno, words) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        finally:
            _release(held)
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

    After an error in the block it is deleted, and a former folder stays as it was. Where the system can, the new and the
    former folder change places in one step. Elsewhere a process killed between two renamings leaves the former folder
    under a hidden name, from which `recover_folder` brings it back.

    Args:
        folder: where it appears; missing parents are made.
        replace: whether it may take the place of a folder that is not empty. The former folder is then deleted.

    Raises:
        FileExistsError: `folder` exists and is not empty, and `replace` is False.
    """
    folder = Path(folder).absolute()  # the block may change the working folder
    recover_folder(folder)
    if not replace and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already: choose another folder, or remove it first")
    old = beside(folder, "old")
    with temporary_folder(folder) as temporary:  # removed at the end, also if it then is the former folder
        try:
            yield temporary
            sync_tree(temporary)
            if folder.exists() and not replace:
                folder.rmdir()  # fails if another process has filled it meanwhile
            elif folder.is_dir() and not folder.is_symlink():
                shutil.copymode(folder, temporary)
            if not (folder.exists() and exchange(temporary, folder)):
                if folder.exists() or folder.is_symlink():
                    folder.rename(old)
                temporary.rename(folder)
            sync_folder(folder.parent)
        finally:
            if old.exists() and not folder.exists():
                old.rename(folder)
            remove(old)


@contextlib.contextmanager
def temporary_folder(folder: Path) -> Generator[Path]:
    """Yields a new hidden folder beside `folder`. Whatever has its name at the end is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(folder)
    held = _made(temporary, Path.mkdir)
    try:
        yield temporary
    finally:
        try:
            remove(temporary)
        finally:
            _release(held)


def recover_folder(folder: Path) -> None:
    """Clears up after killed processes that were writing `folder`: brings back the former one, or removes the rest.

    The folders of processes that are still writing are left alone.
    """
    if folder.name:
        clear_leftovers(folder.parent, folder.name)


def clear_leftovers(folder: Path, name: str | None = None, *, alone: bool = False) -> None:
    """Removes the temporary files and folders of killed processes, or brings back a folder that one had moved away.

    Those of processes that are still writing are left alone.

    Args:
        folder: where they are; it need not exist.
        name: of the file or folder that was being written; None stands for all.
        alone: whether no other process can be writing here. It matters where the system cannot tell (Windows).
    """
    for path in folder.glob(".*" if name is None else f".{_escaped(name)}.*"):
        match = TEMPORARY.fullmatch(path.name)
        if match is None or name not in (None, match[1]) or path.is_symlink():
            continue
        held = _hold(path)
        if held is None and not (alone and fcntl is None):
            continue
        with contextlib.suppress(OSError):
            if match[2] == "old" and not (folder / match[1]).exists():
                path.rename(folder / match[1])
            else:
                remove(path)
        _release(held)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _made(path: Path, make: Callable[[Path], None]) -> int | None:
    """Makes a new file or folder that is marked as in use from the start; returns what `_release` takes."""
    while True:
        make(path)
        held = _hold(path, wait=True)
        if path.exists():
            return held
        _release(held)  # another process took it for a leftover before it was marked


def digest_of_file(path: Path) -> str:
    """A short fingerprint of a file's contents."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            made.update(block)
    return made.hexdigest()[:16]


def _hold(path: Path, wait: bool = False) -> int | None:
    """Marks a file or folder as in use until it is released or the process ends.

    Returns:
        A descriptor for `_release`; None if another process uses it (unless `wait`), it is gone, or the system cannot tell.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):  # else another one has its name by now
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _release(held: int | None) -> None:
    if held is not None:
        os.close(held)


def remove(path: Path) -> None:
    """Removes a file, a folder with its contents, or a link but not its target. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Lets two files or folders change places in one step. False if this system or file system cannot."""
    call = _exchanger()
    return call is not None and call(os.fsencode(first), os.fsencode(second)) == 0


def _exchanger() -> Callable[[bytes, bytes], int] | None:
    try:
        library: Any = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return lambda first, second: library.renamex_np(first, second, ctypes.c_uint(2))  # RENAME_SWAP
        rename = library.renameat2
    except (AttributeError, OSError, TypeError):
        return None
    here = ctypes.c_int(-100)  # AT_FDCWD: relative paths start in the working folder
    return lambda first, second: rename(here, first, here, second, ctypes.c_uint(2))  # RENAME_EXCHANGE


def check_free(name: str, folder: str | Path, ours: Sequence[str], given: Collection[str] = ()) -> None:
    """Checks, before any work, that a folder may be written: it is new or empty, or a former run wrote it.

    Args:
        name: what the folder is to the user, for messages.
        folder: where files shall go.
        ours: patterns of names; a folder of a former run holds one of these. Hidden files count for nothing.
        given: names in the folder that the caller knows of; they count for nothing, either.

    Raises:
        ValueError: the folder holds other files, or it or a parent is a file.
    """
    folder = Path(folder)
    file = next((path for path in (folder, *folder.absolute().parents) if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise ValueError(f"{name} {folder}: {file} is a file: give a new or an empty folder")
    there = sorted(path.name for path in folder.glob("[!.]*") if path.name not in given)
    if there and not any(next(folder.glob(pattern), None) for pattern in ours):
        named = f"{', '.join(there[:3])}{' and others' if len(there) > 3 else ''}"
        raise ValueError(f"{name} {folder} holds other files ({named}): give a new or an empty folder")


def check_file(name: str, path: Path) -> None:
    """Checks, before any work, that a file may be written or replaced.

    Raises:
        FileNotFoundError: its folder is missing.
        ValueError: there is a folder of its name.
    """
    if path.is_dir():
        raise ValueError(f"{name} {path} is a folder: give the name of a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name} {path}: there is no folder {path.parent}; make it first")


def with_usual_mode(folder: Path) -> None:
    """Gives the files in a new folder the mode of any new file (the umask), where a library made them private."""
    probe = beside(folder / "mode")
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def sync_tree(folder: Path) -> None:
    """Makes the files and names in `folder` durable."""
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

    Removes the temporary files that killed writers have left in it.

    Raises:
        FolderInUseError: another writer holds the lock.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderInUseError(
            f"{folder} is being written to by another process: wait for it to end, or choose another folder"
        ) from error
    try:
        clear_leftovers(folder, alone=True)
        yield
    finally:
        lock.release()
