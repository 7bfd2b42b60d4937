"""Requests to stop: SIGINT and SIGTERM are noted, so that a training can save its state first.

In: signals to this process, and how many processes received each. Out: the signal that ends the training.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

from spear_tts_pytorch.utils.workers import SIGNALS

AGAIN_AFTER = 0.01  # seconds until a signal that was dropped is sent once more
Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignals:
    """Inside `noted()`, the first SIGINT or SIGTERM sets `received` and nothing else. The next one acts as before.

    Only Python's main thread can have handlers; in other threads nothing is noted. Ignored signals stay ignored.

    Attributes:
        received: the signal that this process received, None before that.
        agreed: the signal that all processes stop for, see `agree`; None before that.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self._before: dict[int, Handler] = {}

    @contextmanager
    def noted(self) -> Generator[None]:
        """Notes signals inside. The former handlers come back at the end, or at the first signal."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            handlers: dict[int, Handler] = {number: signal.getsignal(number) for number in SIGNALS}
            self._before = {key: value for key, value in handlers.items() if value not in (None, signal.SIG_IGN)}
        for number in self._before:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            self._restore()

    def asked(self) -> list[float]:
        """1.0 for the signal of `SIGNALS` that this process received, 0.0 for the others."""
        return [float(self.received == number) for number in SIGNALS]

    def agree(self, counts: Sequence[float]) -> None:
        """Sets `agreed`, from how many processes received each of `SIGNALS`. All processes must see the same counts."""
        self.agreed = next((number for number, count in zip(SIGNALS, counts, strict=True) if count), None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextmanager
def terminating() -> Generator[None]:
    """Inside, the first SIGTERM raises SystemExit(143), so that the program can still write its results.

    Python drops an exception that is raised in a destructor or in a callback of a weak reference. The signal is then sent
    once more. Nothing changes where SIGTERM is ignored, or in another thread than Python's main one.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return
    request, hook_before = stop(signal.SIGTERM), sys.unraisablehook
    again: threading.Timer | None = None

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal again
        again = None
        signal.signal(number, before)
        raise request

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        nonlocal again
        if unraisable.exc_value is not request:
            hook_before(unraisable)
            return
        signal.signal(signal.SIGTERM, end)
        again = threading.Timer(AGAIN_AFTER, _send_to_main, [signal.SIGTERM])
        again.start()

    signal.signal(signal.SIGTERM, end)
    sys.unraisablehook = hook
    try:
        yield
        if again is not None:  # the end of the block was faster
            again.join()
            raise request
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook_before


def _send_to_main(number: signal.Signals) -> None:
    """Sends a signal to Python's main thread, which also ends a wait of that thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


def stop(number: int) -> BaseException:
    """The exception for a signal: KeyboardInterrupt for SIGINT, else SystemExit with the code that a shell gives it."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
