"""Types checked at run time, and evaluation mode for a while."""

import pytest
import torch

from spear_tts_pytorch.utils.checks import evaluating, typechecked


def test_a_wrong_type_is_a_type_error_that_names_the_argument():
    @typechecked
    def double(number: int, scale: float = 2.0) -> float:
        return number * scale

    assert double(2) == 4 and double(2, 3) == 6  # an int is accepted where a float is asked for
    for arguments in (("2",), (2, "3")):
        with pytest.raises(TypeError, match="number" if arguments == ("2",) else "scale"):
            double(*arguments)


@pytest.mark.parametrize("error", [None, ValueError])
def test_evaluation_mode_ends_with_the_block_and_each_part_gets_its_own_mode_back(error):
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()).train()
    module[1].eval()
    try:
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            if error:
                raise error
    except ValueError:
        assert error
    assert [part.training for part in module.modules()] == [True, True, False]
