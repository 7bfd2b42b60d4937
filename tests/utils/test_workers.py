"""Processes that work for another one: they end with it, and one that is killed is an error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spear_tts_pytorch.utils import workers

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys, time
from pathlib import Path
from spear_tts_pytorch.utils.workers import in_processes

def work(folder, task):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)

{guard}
    for _ in in_processes(work, sys.argv[1], range(4), 2):
        pass
"""


def started(folder, guard='if __name__ == "__main__":'):
    folder.mkdir()
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def pids(folder, count=2):
    for _ in range(1200):
        found = [int(path.name) for path in folder.iterdir()]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError("the processes do not start")


def gone(pid):
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_processes_end_with_the_one_they_work_for(tmp_path):
    """Killed, interrupted alone, interrupted as a group (Ctrl-C), or because another process was killed."""
    groups = {name: started(tmp_path / name) for name in ("kill", "ctrl-c", "worker")}
    children = {name: pids(tmp_path / name) for name in groups}
    groups["kill"].kill()
    os.killpg(groups["ctrl-c"].pid, signal.SIGINT)
    os.kill(children["worker"][0], signal.SIGKILL)
    errors = {name: process.communicate(timeout=60)[1] for name, process in groups.items()}
    for name, found in children.items():
        assert all(map(gone, found)), f"{name}: a process is left"
    assert "ChildProcessError: a process that worked for this one was killed" in errors["worker"].splitlines()[-1]
    assert errors["ctrl-c"].count("Traceback") == 1, "that of the program alone"


@pytest.mark.slow
def test_a_script_without_a_guard_and_one_from_standard_input_are_told(tmp_path):
    process = started(tmp_path / "bare", guard="if True:")
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and 'if __name__ == "__main__":' in error.splitlines()[-1]
    found = subprocess.run(
        [sys.executable, "-", str(tmp_path)],
        input=SCRIPT.format(guard='if __name__ == "__main__":'),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "ValueError: workers cannot import this program, which was read from <stdin>" in found.stderr


def test_a_killed_process_of_a_loader_is_an_error_in_one_line():
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory was short"), workers.loading(2):
        raise killed
    for error, number in ((RuntimeError("another"), 2), (killed, 0)):
        with pytest.raises(RuntimeError) as found, workers.loading(number):
            raise error
        assert found.value is error


def test_a_loader_whose_processes_cannot_start_tells_of_the_guard():
    cause = RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost")
    with pytest.raises(ChildProcessError, match="no process could start .*if __name__ == "), workers.loading(1):
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from cause


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Kills the process that unpickles it: one that runs out of memory while it starts ends so."""

    def __reduce__(self):
        return die, ()


def test_a_process_that_is_killed_while_it_starts_is_called_killed():
    with pytest.raises(ChildProcessError, match="was killed, perhaps because memory was short"):
        list(workers.in_processes(str, Deadly(), [1], 1))
