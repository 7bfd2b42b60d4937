"""Kills a voice's run with SIGKILL in each of its stages, and lets the last run end: `python killed.py VOICE`.

Each run is a fork of this process, which has imported everything and computed nothing. Prints the stages in which a run was
killed.
"""

import os
import signal
import sys
import time
from pathlib import Path

from spear_tts_pytorch.recipe.records import Record
from spear_tts_pytorch.recipe.results import STAGES
from spear_tts_pytorch.recipe.voice import Voice

TIMEOUT, INTO = 100.0, 0.08  # seconds: for a stage to begin, and from its beginning to the end of its process


def fork(folder: Path) -> int:
    """Starts a run and returns its process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Voice(folder, progress=False).run()
            code = 0
        finally:
            os._exit(code)
    return child


def killed_in(folder: Path, stage: str) -> bool:
    """Runs until a stage has begun, and then ends the process. False if the run was over before."""
    child, place = fork(folder), Voice(folder, progress=False).results.place(stage)
    limit = time.monotonic() + TIMEOUT
    while time.monotonic() < limit and os.waitpid(child, os.WNOHANG) == (0, 0):
        record = Record.load(place)
        if record is not None and not record.done:
            time.sleep(INTO)
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1] == signal.SIGKILL
        time.sleep(0.002)
    return False


def main() -> int:
    folder = Path(sys.argv[1])
    print(*(stage for stage in STAGES if killed_in(folder, stage)))
    return os.waitstatus_to_exitcode(os.waitpid(fork(folder), 0)[1])


if __name__ == "__main__":
    sys.exit(main())
