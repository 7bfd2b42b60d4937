"""Signals: the first is noted, the second acts, all processes agree, and handlers come back."""

import os
import signal
import sys
import threading
import time
import weakref

import pytest
from training_setup import make_trainer

from spear_tts_pytorch.training.signals import SIGNALS, StopSignals, stop, terminating


@pytest.fixture(autouse=True)
def signals_as_in_a_shell():
    """A process that a shell started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_acts_at_once_and_other_threads_have_no_handlers():
    signals = StopSignals()
    with pytest.raises(KeyboardInterrupt), signals.noted():
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    trainer, before = make_trainer("forward"), signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join(60)
    assert int(trainer.steps) == 8 and signal.getsignal(signal.SIGTERM) is before
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.noted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ignored)


def test_processes_agree_on_the_first_signal_that_one_of_them_received():
    signals = StopSignals()
    assert signals.asked() == [0.0, 0.0] and signals.agreed is None
    signals.agree([0.0, 2.0])
    assert signals.agreed == signal.SIGTERM
    signals.agree([1.0, 2.0])
    assert signals.agreed == signal.SIGINT
    signals.agree([0.0, 0.0])
    assert signals.agreed is None
    for number in SIGNALS:
        signals.received = number
        signals.agree(signals.asked())
        assert signals.agreed == number


def test_terminating_turns_one_signal_into_an_exit():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised, terminating():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert isinstance(stop(signal.SIGINT), KeyboardInterrupt)


class Signalling:
    """Sends SIGTERM while Python destroys it."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("where", ["destructor", "callback", "last line"])
def test_a_signal_in_a_destructor_or_a_callback_is_not_lost(where):
    hook, reached = sys.unraisablehook, False
    with pytest.raises(SystemExit) as raised, terminating():
        if where == "callback":
            held = threading.Event()
            watched = weakref.ref(held, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            del held
            assert watched() is None
        else:
            Signalling()
        if where != "last line":
            time.sleep(20)
            reached = True
    assert raised.value.code == 143 and not reached and sys.unraisablehook is hook


def test_other_exceptions_that_are_dropped_are_still_shown(monkeypatch):
    class Failing:
        def __del__(self):
            raise RuntimeError("shown")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(str(unraisable.exc_value)))
    with terminating():
        Failing()
    assert shown == ["shown"]
