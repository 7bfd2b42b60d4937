"""Files that are whole or absent, and folders with one writer."""

import subprocess
import sys

import pytest

from spear_tts_pytorch.utils.files import copy_whole, locked, whole_folder, write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


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
