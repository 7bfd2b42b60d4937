"""Processes that work for this one. They end with it, however it ends; one that is killed is an error in one line.

In: a function, an object that all calls share, and tasks. Out: the results, in the order of the tasks. Also the same
promises for the processes of torch's `DataLoader`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GUARD = (
    'a script that starts processes needs the line `if __name__ == "__main__":` before the part that runs, because each '
    "process imports the script again: add it, or work in one process (0 workers)"
)
KILLED = (
    "a process that worked for this one was killed, perhaps because memory was short: what was done before is kept; start "
    "again, with fewer workers if there is too little memory"
)

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


def in_processes(
    function: Callable[[S, T], R], shared: S, tasks: Iterable[T], workers: int
) -> Generator[R, None, None]:
    """Yields `function(shared, task)` in the order of the tasks. Only a few tasks wait at a time.

    The processes end at once when the generator is closed, and when this process ends, even by SIGKILL.

    Args:
        function: can be pickled, as all arguments and results.
        shared: is sent to each process once.
        tasks: are read as they are needed.
        workers: number of processes, at least 1.

    Raises:
        ChildProcessError: a process was killed, or none could start.
        ValueError: the program was read from standard input, so that other processes cannot import it.
    """
    check_can_start()
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    ours, theirs = context.Pipe()
    pool = ProcessPoolExecutor(workers, context, _start, (theirs, function, shared, threads))
    waiting: deque[Future[R]] = deque()
    others, started = set(multiprocessing.active_children()), set[Any]()
    try:
        for task in tasks:
            with _signals_blocked():  # the processes that start here ignore them: this one ends them
                waiting.append(pool.submit(_run, task))
            started |= set(multiprocessing.active_children()) - others
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        pool.shutdown()
    except BrokenProcessPool as error:
        worked = ours.poll()
        ours.close()
        pool.shutdown()  # until it is known how each process ended
        killed = worked or any((one.exitcode or 0) not in (0, 1, -signal.SIGTERM) for one in started)
        raise ChildProcessError(KILLED if killed else f"no process could start to work: {GUARD}") from error
    finally:
        ours.close()  # the others see it and end
        theirs.close()
        pool.shutdown(cancel_futures=True)


def check_can_start() -> None:
    """Raises an error where processes cannot be started.

    Raises:
        SystemExit: this process was started by a script without a guard, and runs the script again.
        ValueError: the program was read from standard input.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(f"error: {GUARD}")
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is not None and not os.path.exists(path):
        raise ValueError(
            f"workers cannot import this program, which was read from {path}: save it as a file, or work in one process "
            "(workers=0)"
        )


_work: Any = None


def _start(parent: Connection, function: Callable[[Any, Any], Any], shared: Any, threads: int) -> None:
    """Prepares a process."""
    import torch  # slow to import; the shell imports this file

    global _work
    ignore_signals()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    parent.send_bytes(b"started")
    torch.set_num_threads(threads)
    _work = function, shared


def _end_with(parent: Connection) -> None:
    """Ends this process when the other end of the connection is closed, also in the middle of its work."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _run(task: Any) -> Any:
    function, shared = _work
    return function(shared, task)


@contextlib.contextmanager
def _signals_blocked() -> Generator[None]:
    """Inside, SIGINT and SIGTERM wait. Processes that start inside never get them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(worker: int = 0) -> None:
    """Lets a process that works for another one ignore SIGINT and SIGTERM, which a process group gets as a whole.

    The other process ends it. Without it that one could not end its step.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def loading(num_workers: int) -> Generator[None]:
    """Inside, a killed process of a `DataLoader` with `num_workers` is a ChildProcessError.

    Raises:
        ChildProcessError: a process was killed, or none could start.
    """
    try:
        yield
    except RuntimeError as error:
        if not num_workers or "DataLoader worker (pid" not in str(error):
            raise
        if "exit code 1." in f"{error} {error.__cause__}":  # its own error ended it before it could send one
            raise ChildProcessError(f"no process could start to read items (its error is above): {GUARD}") from error
        raise ChildProcessError(f"{KILLED} ({' '.join(str(error).split())})") from error
