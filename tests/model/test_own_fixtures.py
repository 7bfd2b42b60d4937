"""Same weights, same numbers as when `fixtures/make_fixtures.py` was last run: every option of the model, in one file.

It stands in for test_parity.py where the numbers of release 0.4.8 are not at hand, and adds the options that came later.
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "fixtures"


def load_generator():
    spec = importlib.util.spec_from_file_location("make_fixtures", FOLDER / "make_fixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_fixtures = load_generator()
TENSORS = load_file(FOLDER / make_fixtures.TENSORS)
CONFIGS = json.loads((FOLDER / make_fixtures.NUMBERS).read_text(encoding="utf-8"))


def part(name):
    """The tensors recorded under a name."""
    return {key.removeprefix(f"{name}/"): value for key, value in TENSORS.items() if key.startswith(f"{name}/")}


def assert_same_tensors(got, wanted):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        if value.is_floating_point():
            torch.testing.assert_close(got[key], value, atol=1e-4, rtol=0, msg=lambda text, key=key: f"{key}: {text}")
        else:
            assert got[key].tolist() == value.tolist(), key


def assert_same_numbers(got, wanted):
    assert got.keys() == wanted.keys()
    wrong = {key: (got[key], value) for key, value in wanted.items() if got[key] != pytest.approx(value, abs=1e-4)}
    assert not wrong


def load_model(name):
    return make_fixtures.make_model(CONFIGS[name]["kwargs"], part(f"weights/{CONFIGS[name]['weights']}"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_recorded_numbers(name):
    tensors, numbers = make_fixtures.measure(load_model(name), part("inputs"))
    wanted = dict(CONFIGS[name]["numbers"])
    assert_same_numbers(numbers.pop("gradients"), wanted.pop("gradients"))
    assert_same_numbers(numbers, wanted)
    assert_same_tensors(tensors, part(name))


def test_the_generator_makes_these_files(tmp_path):
    make_fixtures.record(tmp_path)
    again = load_file(tmp_path / make_fixtures.TENSORS)
    assert_same_tensors(again, TENSORS)
    for key, value in TENSORS.items():
        if key.startswith(("weights/", "inputs/")):
            assert torch.equal(again[key], value), key
    configs = json.loads((tmp_path / make_fixtures.NUMBERS).read_text(encoding="utf-8"))
    assert list(configs) == list(CONFIGS)
    for name, config in configs.items():
        wanted = dict(CONFIGS[name]["numbers"])
        assert_same_numbers(config["numbers"].pop("gradients"), wanted.pop("gradients"))
        assert_same_numbers(config.pop("numbers"), wanted)
        assert config == {key: value for key, value in CONFIGS[name].items() if key != "numbers"}


def test_every_tensor_belongs_to_what_is_compared():
    weights = {f"weights/{config['weights']}" for config in CONFIGS.values()}
    assert {key.rsplit("/", 1)[0] for key in TENSORS} == {"inputs"} | weights | set(CONFIGS)
    assert sum(path.stat().st_size for path in FOLDER.glob("parity.*")) < 600_000


def test_old_names_are_among_the_weights():
    names = {key.split("/")[2] for key in TENSORS if key.startswith("weights/")}
    assert "semantic_token_emb.weight" in names  # as release 0.4.8 had it
    assert "to_early_exit_semantic_logits.0.fn.1.weight" in names
    assert "target_transformer.layers.1.1.to_kv.0.weight" in names
    assert "target_transformer.layers.1.cross_attention.to_kv.weight" in names  # as it is now


@pytest.mark.parametrize(("one", "other"), [("mha", "positions"), ("mha", "prior"), ("positions", "prior")])
def test_options_show_in_the_numbers(one, other):
    assert CONFIGS[one]["weights"] == CONFIGS[other]["weights"]
    difference = part(one)["logits__text__speech"] - part(other)["logits__text__speech"]
    assert difference.abs().max() > 1


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("guided", "guided_max_pool", "loss_dropped__text__speech"),
        ("early_exit", "early_exit_detached", "gradients"),
    ],
)
def test_options_of_losses_show_in_the_numbers(one, other, kind):
    assert CONFIGS[one]["weights"] == CONFIGS[other]["weights"]
    one, other = CONFIGS[one]["numbers"][kind], CONFIGS[other]["numbers"][kind]
    if kind == "gradients":
        one, other = sum(one.values()), sum(other.values())
    assert abs(one - other) > 1e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_beam_search_finds_more_than_greedy_decoding(name):
    tensors = part(name)
    greedy = [key for key in tensors if key.startswith("greedy__")]
    assert greedy and any(not torch.equal(tensors[key], tensors[key.replace("greedy", "beam")]) for key in greedy)


def test_rows_end_at_once_later_and_not_at_all():
    ends = set()
    for name, config in CONFIGS.items():
        for key, ids in part(name).items():
            if key.startswith(("greedy__", "beam__")):
                target = key.split("__")[2].replace("speech", "semantic")
                is_eos = ids == config["kwargs"][f"num_{target}_token_ids"]
                ends |= {int(row.int().argmax()) if row.any() else None for row in is_eos}
    assert {0, 1, 4, None} <= ends


@pytest.mark.parametrize("way", ["greedy", "greedy_guided", "beam"])
def test_rows_of_a_large_batch_are_those_recorded(way):
    options = dict(source_type="speech", target_type="text", max_length=make_fixtures.MAX_LENGTH)
    options |= {"beam_search_decode": True, "beam_size": 3} if way == "beam" else {"temperature": 0.0}
    options |= {"cond_scale": 3.0} if way == "greedy_guided" else {}
    recorded, crowd = part("guided")[f"{way}__speech__text"], [1, 0, 0, 2, 0, 0, 0, 0, 0]
    got = load_model("guided").generate(part("inputs")["source_speech"][crowd], **options)
    assert got.tolist() == recorded[crowd].tolist()
