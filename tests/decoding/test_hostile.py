"""Hostile arguments of generation and scoring: each gives a right result or an error that names the argument."""

import pytest
import small
import torch
from hostile import HOSTILE, outcome
from hypothesis import assume, given, settings
from hypothesis import strategies as st

STRATEGIES = [
    {},
    {"temperature": 0.0},
    {"beam_search_decode": True, "beam_size": 2},
    {"spec_decode": True, "spec_decode_gamma": 2},
    {"spec_decode": True, "temperature": 0.0},
]
OPTIONS = """source_type target_type temperature filter_logits_fn filter_fn_kwargs max_length min_length repetition_penalty
no_repeat_ngram_size cond_scale beam_search_decode beam_size length_penalty spec_decode spec_decode_gamma
spec_decode_lenience source source_mask source_lengths prompt generator""".split()
SCORES = "source target source_type target_type source_mask target_mask source_lengths target_lengths end cond_scale batch_size"
METHODS = {
    "generate": [*OPTIONS, "return_source", "return_target_mask", "return_scores", "return_result", "progress"],
    "generate_many": [
        *OPTIONS[:16],
        "sources",
        "prompt",
        "generator",
        "seed",
        "max_tokens",
        "max_batch_size",
        "on_error",
    ],
    "generate_stream": [*OPTIONS[:10], *OPTIONS[13:], "chunk"],
    "generate_n_best": [*OPTIONS[:10], "beam_size", "length_penalty", "source", "source_mask", "prompt", "n_best"],
    "score": SCORES.split(),
}


@pytest.fixture(scope="module")
def model():
    return small.make_model(
        spread=0.5,
        target_early_exit_layer=1,
        cond_drop_prob=0.1,
        num_semantic_token_ids=8,
        tokenizer_encode=small.letters,
    ).eval()


def right(found):
    """Ids of the vocabulary or padding, at most three a row; scores that are finite."""
    if isinstance(found, torch.Tensor):
        ids_or_scores = found.long() if found.dtype == torch.bool else found
        return found.ndim in (1, 2) and bool(torch.isfinite(ids_or_scores).all()) and bool((found < 30).all())
    if isinstance(found, (tuple, list)):
        return all(right(one) for one in found)
    if hasattr(found, "token_log_probs"):
        return right(found.log_probs) and bool((found.log_probs <= 0).all()) and found.ids.shape == found.mask.shape
    return found is None or (right(found.ids) and (isinstance(found.ids, list) or found.ids.shape[-1] <= 3))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_each_outcome_is_a_right_result_or_names_the_argument(method, model, data):
    names = data.draw(st.lists(st.sampled_from(METHODS[method]), min_size=1, max_size=2, unique=True), label="names")
    given_values = {name: data.draw(st.sampled_from(HOSTILE), label=name) for name in names}
    assume(not isinstance(given_values.get("filter_logits_fn"), torch.nn.Module))  # a function may raise what it likes
    most = given_values.get("max_length")
    assume(not isinstance(most, int) or most < 100 or most >= 2**31)  # a row without an end would go on and on
    strategy = data.draw(st.sampled_from(STRATEGIES), label="strategy")
    arguments = {"source": ["ab", "a"], "max_length": 3}
    if method in ("generate", "generate_many", "generate_stream"):
        arguments |= {name: value for name, value in strategy.items() if name in METHODS[method]}
    if method == "generate_many":
        arguments |= {"sources": arguments.pop("source"), "progress": False}
    if method == "score":
        arguments = {"source": ["ab", "a"], "target": [[1, 2, 3], [4]]}
    arguments |= given_values

    def call():
        found = getattr(model, method)(**arguments)
        if method == "generate_n_best":
            return [one.ids for row in found for one in row]
        return list(found) if method == "generate_stream" else found

    found = outcome(call, [*names, *(name.removesuffix("s") for name in names)])
    assert found is None or right(found), f"{names}: {found!r}"
