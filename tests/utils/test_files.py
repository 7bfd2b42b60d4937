"""Files and folders appear complete or not at all, and a locked folder has one writer."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import many
import pytest
from full_disk import full_disk

from spear_tts_pytorch.data.pairs.cache import remove_stale
from spear_tts_pytorch.data.pairs.writer import PairWriter
from spear_tts_pytorch.utils.files import (
    TEMPORARY,
    _put_in_place,
    beside,
    clear_leftovers,
    copy_whole,
    locked,
    recover_folder,
    whole_folder,
    write_whole,
)


def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with full_disk(10), pytest.raises(OSError, match=f"too large; {path} was not written: make room"):
        write_whole(path, b"new" * 10)
    assert path.read_bytes() == b"old" and [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_exists_is_kept_where_asked(tmp_path, monkeypatch, links):
    if not links:  # as on FAT

        def refused(*paths):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr("os.link", refused)
    path = tmp_path / "file"
    write_whole(path, b"old", replace=False)
    with pytest.raises(FileExistsError, match="file"):
        write_whole(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        raise RuntimeError
    assert not list((tmp_path / "deep").iterdir())
    (tmp_path / "deep" / "out").mkdir()  # empty
    with whole_folder(tmp_path / "deep" / "out") as folder:
        copy_whole(__file__, folder / "a")
        assert not list((tmp_path / "deep" / "out").iterdir())
    assert (tmp_path / "deep" / "out" / "a").stat().st_size > 0
    with pytest.raises(FileExistsError, match="exists already"), whole_folder(tmp_path / "deep" / "out"):
        pass


def fill(folder, text):
    (folder / "part").mkdir()
    for path in (folder / "a", folder / "part" / "b"):
        path.write_text(text)


def fill_replaced(folder):
    folder.mkdir()
    fill(folder, "older")


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def complete(text):
    return {"a": text, str(Path("part", "b")): text}


def test_a_folder_replaces_another_where_asked(tmp_path):
    for text in ("old", "new"):
        with whole_folder(tmp_path / "deep" / "out", replace=True) as folder:
            fill(folder, text)
        assert content(tmp_path / "deep" / "out") == complete(text)
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("replace", [True, False])
def test_an_error_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path, monkeypatch, replace):
    """The n-th call of the system fails, for each n until no call fails. Nothing temporary stays."""
    left = 0

    def failing(original):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                left = 1000
                raise OSError(28, "No space left on device")
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    monkeypatch.setattr(Path, "rmdir", failing(Path.rmdir))
    outcomes = []
    for number in range(20):
        parent = tmp_path / str(number)
        (parent / "out").mkdir(parents=True)
        if replace:
            fill(parent / "out", "old")
        left, failed = number, False
        try:
            with whole_folder(parent / "out", replace=replace) as folder:
                fill(folder, "new")
        except OSError:
            failed = True
        left = 1000
        names = [path.name for path in parent.iterdir()]
        assert names == ["out"] or (not replace and names == [])  # the empty folder may be gone
        found = content(parent / "out")
        assert found in (complete("old") if replace else {}, complete("new"))
        assert failed or found == complete("new")
        outcomes.append(failed)
    assert outcomes[0] and not outcomes[-1]


def test_files_are_on_the_disk_before_the_folder_appears(tmp_path, monkeypatch):
    events, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.fstat(file).st_ino), fsync(file))[1])
    monkeypatch.setattr(Path, "rename", lambda *paths: (events.append("rename"), rename(*paths))[1])
    with whole_folder(tmp_path / "out") as folder:
        fill(folder, "new")
    before = set(events[: events.index("rename")])
    paths = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {path.stat().st_ino for path in paths} <= before and len(paths) == 4
    assert events[-1] == tmp_path.stat().st_ino


def test_a_folder_comes_back_after_a_kill_between_the_renamings(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        fill(folder, "old")
    code = (
        "import os; from pathlib import Path; from spear_tts_pytorch.utils import files\n"
        "rename = Path.rename\n"
        "files.exchange = lambda *paths: False  # as on systems that cannot\n"
        "Path.rename = lambda *paths: (rename(*paths), os._exit(9))\n"
        f"with files.whole_folder({str(tmp_path / 'out')!r}, replace=True) as folder: (folder / 'a').write_text('new')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    found = {TEMPORARY.fullmatch(path.name).groups(): content(path) for path in tmp_path.iterdir()}
    assert found == {("out", "old"): complete("old"), ("out", "tmp"): {"a": "new"}}
    recover_folder(tmp_path / "out")
    assert {path.name: content(path) for path in tmp_path.iterdir()} == {"out": complete("old")}


def test_a_folder_that_is_being_written_is_not_cleared_away(tmp_path):
    with whole_folder(tmp_path / "out") as folder:
        recover_folder(tmp_path / "out")
        with whole_folder(tmp_path / "out", replace=True) as other:
            fill(other, "old")
        fill(folder, "new")
        shutil.rmtree(tmp_path / "out")
    assert content(tmp_path / "out") == complete("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    with whole_folder(tmp_path / "target") as folder:
        fill(folder, "old")
    (tmp_path / "out").symlink_to(tmp_path / "target")
    with whole_folder(tmp_path / "out", replace=True) as folder:
        fill(folder, "new")
    assert content(tmp_path / "target") == complete("old") and content(tmp_path / "out") == complete("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "target"]


def test_temporary_names_are_hidden_unique_and_known():
    names = [beside(Path("deep", "a.b"), suffix) for suffix in ("tmp", "old", "tmp")]
    assert len(set(names)) == 3 and {name.parent for name in names} == {Path("deep")}
    assert [TEMPORARY.fullmatch(name.name).groups() for name in names] == [
        ("a.b", "tmp"),
        ("a.b", "old"),
        ("a.b", "tmp"),
    ]
    assert not any(TEMPORARY.fullmatch(name) for name in ("a.b", ".a.tmp", ".lock", f"{names[0].name}.x"))


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with locked(folder):
        with pytest.raises(RuntimeError, match="another process"), locked(folder):
            pass
    with locked(folder):
        pass


def test_a_writer_that_is_killed_lets_go_of_its_folder(tmp_path):
    code = (
        "import sys, time; from spear_tts_pytorch.utils.files import locked\n"
        f"with locked({str(tmp_path)!r}): print('mine', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline().strip() == b"mine"
        with pytest.raises(RuntimeError, match="another process"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path):
            pass


def _killed_while_writing(path, folder):
    """Is killed with the file or folder complete, before it is in its place."""
    os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
    if folder:
        with whole_folder(path, replace=True) as temporary:
            (temporary / "a").write_text("a")
    else:
        write_whole(path, b"new")


def left(folder):
    return [path.name for path in folder.iterdir() if TEMPORARY.fullmatch(path.name)]


@pytest.mark.parametrize("again", ["write", "lock", "pairs", "cache"])
def test_what_killed_writers_leave_is_removed_at_the_next_start(tmp_path, again):
    name = "pairs-00000-000000.parquet"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").touch()
    for path, folder in ((tmp_path / name, False), (tmp_path / "b", True)):
        if folder and again == "write":
            continue
        assert many.run(1, _killed_while_writing, path, folder) == [(False, "killed")]
    assert len(left(tmp_path)) == (1 if again == "write" else 2)
    if again == "write":
        write_whole(tmp_path / name, b"new")
    elif again == "lock":
        with locked(tmp_path):
            assert not left(tmp_path)
    elif again == "pairs":
        PairWriter(tmp_path)
    else:
        remove_stale([], [tmp_path])
    assert not left(tmp_path) and (tmp_path / "b" / "old").exists()


def test_what_others_are_writing_is_left_alone(tmp_path):
    with _put_in_place(tmp_path / "file") as temporary, whole_folder(tmp_path / "folder") as folder:
        clear_leftovers(tmp_path)
        assert sorted(left(tmp_path)) == sorted([temporary.name, folder.name])
        temporary.write_bytes(b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_files_of_one_name_may_be_written_at_once(tmp_path):
    """Each write clears up after killed ones; it must never take a living one for one of those."""

    def write():
        for _ in range(30):
            write_whole(tmp_path / "file", b"new")

    threads = [threading.Thread(target=write) for _ in range(4)]
    failed = []
    threading.excepthook, before = lambda args: failed.append(args.exc_value), threading.excepthook
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    assert not failed and [path.name for path in tmp_path.iterdir()] == ["file"]
