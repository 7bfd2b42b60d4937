"""Files that belong together are replaced together, beside files of others, at whatever moment the process ends."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from pair_rows import needs_fork

from spear_tts_pytorch.utils import replacing
from spear_tts_pytorch.utils.replacing import replaced, whole

NAMES = ("main", "other", "part")
KILLS = int(os.environ.get("SPEAR_TTS_KILLS", "5"))  # at random times


def write(folder, text):
    """The main file, and two further ones that old and new do not share."""
    with replaced(folder, NAMES) as new:
        (new / "main").write_text(text)
        if text.startswith("new"):
            (new / "part").mkdir()
            (new / "part" / "a").write_text(text)
        else:
            (new / "other").write_text(text)


def content(folder):
    folder = whole(folder, "main")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in files.items() if name != "mine" and not name.startswith(".")}


def complete(text):
    return {"main": text, str(Path("part", "a")) if text.startswith("new") else "other": text}


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_that_is_not_written_again_goes_and_others_stay(tmp_path, beside):
    folder = tmp_path / "folder"
    folder.mkdir()
    if beside:
        (folder / "mine").write_text("mine")
    for text in ("old", "new", "old"):
        write(folder, text)
        assert content(folder) == complete(text)
        assert {path.name for path in folder.iterdir()} - {"main", "other", "part"} == ({"mine"} if beside else set())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


class Ended(BaseException):
    """A process that ends: nothing after it runs but what clears up in any case."""


@pytest.mark.parametrize("interrupted", [False, True])
def test_at_any_step_the_old_files_or_the_new_ones_are_whole(tmp_path, monkeypatch, interrupted):
    """The n-th call of the system is the last one, for each n, or is interrupted by Ctrl-C. The next write repairs all."""
    left, error = 1000, KeyboardInterrupt if interrupted else Ended

    def failing(original):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0 or (left < 0 and not interrupted):
                raise error
            return original(*arguments, **options)

        return call

    for holder, name in ((os, "fsync"), (Path, "rename"), (os, "replace"), (os, "link"), (os, "unlink"), (os, "rmdir")):
        monkeypatch.setattr(holder, name, failing(getattr(holder, name)))
    seen = []
    for number in range(1, 60):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine").write_text("mine")
        write(folder, "old")
        left = number
        try:
            write(folder, "new")
        except error:
            pass
        ended, left = left <= 0, 1000
        found = content(folder)
        assert found in (complete("old"), complete("new")) and (folder / "mine").read_text() == "mine"
        seen.append(found == complete("new"))
        write(folder, "new again")
        assert content(folder) == complete("new again")
        assert {path.name for path in folder.iterdir()} == {"main", "part", "mine"}
        if not ended:
            break
    assert not seen[0] and seen[-1] and not ended


@needs_fork
def test_kills_at_random_times(tmp_path):
    (tmp_path / "mine").write_text("mine")
    write(tmp_path, "old")
    draw = random.Random(0)
    for _ in range(KILLS):
        process = os.fork()
        while process == 0:
            for text in ("new", "old"):
                write(tmp_path, text)
        time.sleep(draw.uniform(0, 0.05))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert content(tmp_path) in (complete("old"), complete("new"))
    write(tmp_path, "new")
    assert {path.name for path in tmp_path.iterdir()} == {"main", "part", "mine"}


def test_links_lead_where_they_led_and_files_are_no_folders(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("mine")
    write(tmp_path / "link", "old")
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "target") == complete("old")
    (tmp_path / "target" / "mine").write_text("mine")
    (tmp_path / "target" / "part").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "link", "new")
    assert content(tmp_path / "target") == complete("new")
    write(tmp_path / "link", "old")
    assert (tmp_path / "elsewhere" / "a").read_text() == "mine"
    (tmp_path / "loop").symlink_to("loop")
    for name in ("target/mine", "loop"):
        with pytest.raises(NotADirectoryError, match=name):
            write(tmp_path / name, "old")


def test_without_links_of_files_they_are_copied(tmp_path, monkeypatch):
    def refused(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    (tmp_path / "mine").write_text("mine")
    for text in ("old", "new"):
        write(tmp_path, text)
        assert content(tmp_path) == complete(text)


def test_a_former_file_is_kept_where_asked(tmp_path):
    for name in ("alone", "beside"):
        folder = tmp_path / name
        write(folder, "old")
        if name == "beside":
            (folder / "mine").write_text("mine")
        with replaced(folder, NAMES, keep=("other",)) as new:
            assert (new / "other").read_text() == "old"
            (new / "main").write_text("new")
        assert (folder / "other").read_text() == "old" and (folder / "main").read_text() == "new"


def test_a_complete_folder_is_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / replacing._complete(Path("."), "main")).symlink_to("elsewhere")
    assert whole(tmp_path, "main") == tmp_path
    shutil.rmtree(tmp_path / "elsewhere")
