"""Errors of results that cannot be read: the stage to run again where they are damaged, and only there."""

import pytest

from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.recipe.settings import Settings


@pytest.mark.parametrize("error", [ValueError("bad"), FileNotFoundError("lost"), OSError("torn")])
def test_a_damaged_result_names_the_stage_to_run_again(tmp_path, error):
    with pytest.raises(ValueError, match="the result of train is damaged: .*`spear-tts train .* --again`"):
        with Results(tmp_path, Settings()).made_by("train"):
            raise error


def test_a_result_that_may_not_be_read_is_not_called_damaged(tmp_path):
    with pytest.raises(PermissionError, match="Permission denied"), Results(tmp_path, Settings()).made_by("train"):
        raise PermissionError(13, "Permission denied")
