"""An argument MODEL that names no model is one line of error."""

import pytest
from shell import one_line_error, spear_tts

from spear_tts_pytorch.cli import main


@pytest.mark.slow
@pytest.mark.parametrize("command", [["generate", "no/model", "a"], ["label", "no/model", "speech", "pairs"]])
def test_missing_model_is_one_line(command):
    done = spear_tts(*command, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: MODEL no/model: there is no such folder") and done.stderr.count("\n") == 1


def test_folder_without_a_model_is_one_line(capsys, tmp_path):
    assert main(["generate", str(tmp_path), "a"]) == 2
    one_line_error(capsys, str(tmp_path), "config.json")


def test_a_name_that_is_no_hub_id_is_explained_once(capsys):
    assert main(["generate", "nomodel", "a"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: MODEL: no model folder 'nomodel': give a folder") and shown.count("nomodel") == 1
