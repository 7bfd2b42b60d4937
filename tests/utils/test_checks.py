"""Types checked at run time, and evaluation mode for a while."""

import pytest
import torch

from spear_tts_pytorch.utils.checks import evaluating, in_evaluation, typechecked


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


def test_a_view_in_evaluation_mode_shares_weights_and_leaves_modes_alone():
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 4)).train()
    module[2].eval()
    view = in_evaluation(module)
    assert not any(part.training for part in view.modules())
    assert [part.training for part in module.modules()] == [True, True, True, False]
    assert all(a is b for a, b in zip(view.parameters(), module.parameters(), strict=True))
    x = torch.randn(8, 4)
    assert torch.equal(view(x), view(x)) and not torch.equal(module(x), module(x))
    module[0].weight.data.zero_()
    assert (view[0].weight == 0).all() and type(view) is type(module)


def test_a_part_in_two_places_is_one_part_of_the_view_and_hooks_run():
    part, calls = torch.nn.Linear(2, 2), []
    module = torch.nn.ModuleDict({"a": part, "b": part})
    part.register_forward_pre_hook(lambda module, inputs: calls.append(module.training))
    view = in_evaluation(module)
    assert view["a"] is view["b"] and len(list(view.parameters())) == 2
    view["a"](torch.zeros(1, 2))
    assert calls == [False]


def test_a_compiled_module_has_a_view_that_runs_its_own_forward_pass():
    module = torch.nn.Sequential(torch.nn.Dropout(0.9)).train()
    module.compile(backend="eager")
    module(torch.ones(3, 50))
    assert (in_evaluation(module)(torch.ones(3, 50)) == 1).all()
