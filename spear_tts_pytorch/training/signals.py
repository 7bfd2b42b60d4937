"""Being asked to stop: SIGINT and SIGTERM are noted, so that a training can save what it has first.

In: signals. Out: which one came. Knows nothing of training.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Inside `noted()`, the first SIGINT or SIGTERM sets `received` and nothing else; the next one acts as before it.

    Only Python's main thread can have handlers: elsewhere nothing is noted. Signals that are ignored stay so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {key: value for key, value in handlers.items() if value not in (None, signal.SIG_IGN)}
        for number in self._before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextmanager
def terminating() -> Iterator[None]:
    """Inside, the first SIGTERM raises SystemExit(143) where the program is, so that what is done can be written.

    Nothing changes where SIGTERM is ignored, or in another thread than Python's main one.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before)
        raise stop(number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stop(number: int) -> BaseException:
    """What a program that was sent a signal raises: KeyboardInterrupt, or SystemExit with the shell's code for it."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
