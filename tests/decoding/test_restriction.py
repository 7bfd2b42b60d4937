"""Penalties, forbidden repetition, least lengths and filters that see the ids so far, against a twin of plain Python loops."""

from __future__ import annotations

import itertools
import math
from collections import deque

import pytest
import small
import torch
from drafting import EOS, PAD, START, VOCABULARY, DraftingStep
from fake_step import FakeCache, FakeStep
from small import TEXT_TO_SPEECH
from strategies import beam_search, options_and_limits, sample_ids, speculation

from spear_tts_pytorch.decoding.filters import top_k
from spear_tts_pytorch.decoding.history import History
from spear_tts_pytorch.decoding.restriction import Restriction, penalize, repeats

CPU = torch.device("cpu")


def skip_last(logits, ids):
    """A filter: the last id so far does not come again at once."""
    rows, lengths = torch.arange(len(ids)), (ids != PAD).sum(dim=1)
    last = torch.where(lengths > 0, ids[rows, (lengths - 1).clamp_min(0)] if ids.shape[1] else 0, 0)
    logits = logits.clone()
    logits[rows[lengths > 0], last[lengths > 0]] = -math.inf
    return logits


OPTIONS = {
    "repetition_penalty": dict(repetition_penalty=1.7),
    "reward": dict(repetition_penalty=0.6),
    "no_repeat_ngram_size": dict(no_repeat_ngram_size=2),
    "min_length": dict(min_length=2),
    "ids": dict(filter_logits_fn=skip_last),
    "all": dict(repetition_penalty=1.4, no_repeat_ngram_size=2, min_length=2, filter_logits_fn=skip_last),
}


def twin(logits, so_far, generated, eos_id, options):
    """The logits of one row, a list, restricted in loops; `so_far` are all ids, the last `generated` of them no prompt's."""
    logits, n = list(logits), options.get("no_repeat_ngram_size", 0)
    for token in set(so_far):
        penalty = options.get("repetition_penalty", 1.0)
        logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    for start in range(len(so_far) - n + 1 if n else 0):
        gram = so_far[start : start + n]
        if gram[:-1] == so_far[len(so_far) - n + 1 :]:
            logits[gram[-1]] = -math.inf
    if eos_id is not None and generated < options.get("min_length", 0):
        logits[eos_id] = -math.inf
    if "filter_logits_fn" in options and so_far:
        logits[so_far[-1]] = -math.inf
    return logits


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_of_mixed_ages_equal_plain_loops(name):
    how, limits = options_and_limits(eos_id=5, **OPTIONS[name])
    noise = torch.Generator().manual_seed(1)
    for _ in range(20):
        ages = torch.randint(0, 9, (6,), generator=noise).tolist()
        prompts = [torch.randint(0, 5, (int(n),), generator=noise) for n in torch.randint(0, 4, (6,), generator=noise)]
        ids = torch.randint(0, 5, (6, 9), generator=noise)
        history = History(prompts, CPU)
        history.append(ids, torch.tensor(ages))
        logits = torch.randn(6, 6, generator=noise)
        rows = [[*prompt.tolist(), *row[:age]] for prompt, row, age in zip(prompts, ids.tolist(), ages, strict=True)]
        wanted = [twin(*one, 5, OPTIONS[name]) for one in zip(logits.tolist(), rows, ages, strict=True)]
        torch.testing.assert_close(Restriction(how, limits, CPU)(logits, history), torch.tensor(wanted))


def test_penalty_and_repetition_are_those_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    noise = torch.Generator().manual_seed(2)
    for length, n in itertools.product((1, 2, 5, 40), (1, 2, 3)):
        ids, logits = torch.randint(0, 7, (9, length), generator=noise), torch.randn(9, 7, generator=noise)
        for penalty in (0.5, 1.3):
            theirs = processors.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
            torch.testing.assert_close(penalize(logits, ids, penalty), theirs)
        theirs = processors.NoRepeatNGramLogitsProcessor(n)(ids, logits.clone())
        assert torch.equal(repeats(ids, torch.full((9,), length), n, 7), theirs.isneginf())


def test_least_length_is_that_of_transformers():
    processors = pytest.importorskip("transformers.generation.logits_process")
    how, limits = options_and_limits(eos_id=3, min_length=3)
    theirs = processors.MinLengthLogitsProcessor(3, 3)
    for length in range(6):
        history, ids = History([torch.empty(0).long()], CPU), torch.ones(1, length).long()
        history.append(ids)
        ours = Restriction(how, limits, CPU)(torch.zeros(1, 4), history)
        assert torch.equal(ours, theirs(ids, torch.zeros(1, 4)))


# strategies over fake decoders


def strings(step: FakeStep, source: int, eos_id: int, length: int, options: dict) -> dict[tuple[int, ...], float]:
    """Every string that may be generated, with its log-probability as beam search counts it."""
    found, live = {}, {(): 0.0}
    for age in range(length):
        grown = {}
        for string, total in live.items():
            plain = step.after(source, string)
            allowed = torch.tensor(twin(plain.tolist(), list(string), age, eos_id, options))
            values = (allowed - max(0.0, float(allowed.logsumexp(0)))).tolist()
            grown |= {(*string, token): total + value for token, value in enumerate(values) if value > -math.inf}
        ended = {string: p for string, p in grown.items() if string[-1] == eos_id or age == length - 1}
        live = {string: p for string, p in grown.items() if string not in ended}
        found |= ended
    return found


def fake_step(seed: int) -> FakeStep:
    """Logits that are log-probabilities, as `strings` takes them."""
    step = FakeStep(vocabulary=4, length=5, sources=3, seed=seed)
    step.table = step.table.log_softmax(-1)
    return step


@pytest.mark.parametrize("name", OPTIONS)
def test_an_unlimited_beam_finds_the_best_strings_that_are_allowed(name):
    for seed in range(3):
        step = fake_step(seed)
        result = beam_search(step, FakeCache(3), 3, eos_id=3, beam_size=4**5, n_best=5, max_length=5, **OPTIONS[name])
        for source in range(3):
            wanted = strings(step, source, 3, 5, OPTIONS[name])
            ranked = sorted(wanted, key=lambda string: -wanted[string])[:5]
            assert [one.score for one in result.n_best[source]] == pytest.approx([wanted[s] for s in ranked], abs=1e-5)
            assert [tuple(one.ids.tolist()) for one in result.n_best[source]] == ranked


@pytest.mark.parametrize("name", OPTIONS)
def test_greedy_takes_the_best_that_is_allowed_and_a_beam_of_one_too(name):
    for seed in range(10):
        step = FakeStep(vocabulary=4, length=12, sources=3, seed=seed, sharpness=2.0)
        options = dict(eos_id=3, max_length=12, **OPTIONS[name])
        greedy = sample_ids(step, FakeCache(3), 3, temperature=0, **options)
        for source in range(3):
            string: list[int] = []
            while len(string) < 12 and string[-1:] != [3]:
                logits = step.logits(torch.tensor([source]), torch.tensor([string], dtype=torch.long))[0].tolist()
                logits = twin(logits, string, len(string), 3, OPTIONS[name])
                string.append(max(range(4), key=logits.__getitem__))
            assert greedy.n_best[source][0].ids.tolist() == string
        one = beam_search(step, FakeCache(3), 3, beam_size=1, **options)
        assert torch.equal(one.ids, greedy.ids)


DRAWS = 20_000


def distribution(step: DraftingStep, options: dict) -> torch.Tensor:
    """Of all strings of three ids, `[v, v, v]`; those that end earlier stand at the string filled up with id 0."""
    total = torch.zeros(VOCABULARY, VOCABULARY, VOCABULARY, dtype=torch.double)

    def grow(string: list[int], probability: float) -> None:
        if len(string) == 3 or EOS in string:
            total[tuple(string + [0] * (3 - len(string)))] += probability
            return
        before = [START, START, *string]
        logits = step.model[0, len(string), before[-2], before[-1]].tolist()
        allowed = torch.tensor(twin(logits, string, len(string), EOS, options), dtype=torch.double)
        for token, p in enumerate(allowed.softmax(0).tolist()):
            if p > 0:
                grow([*string, token], probability * p)

    grow([], 1.0)
    return total.flatten()


def p_value(ids: torch.Tensor, expected: torch.Tensor) -> float:
    """Chi-square of rows of ids against expected counts; cells that expect below 5 are pooled."""
    ids = torch.nn.functional.pad(ids, (0, 3 - ids.shape[1]), value=PAD).clamp_min(0)
    found = torch.bincount(ids @ torch.tensor([25, 5, 1]), minlength=125).double()
    assert (found[expected == 0] == 0).all(), "a string that is not allowed"
    rare = expected < 5
    expected, found = (torch.cat((x[~rare], x[rare].sum()[None])) for x in (expected, found))
    expected, found = expected[expected > 0], found[expected > 0]
    half = torch.tensor([len(expected) - 1, float(((found - expected) ** 2 / expected).sum())], dtype=torch.double) / 2
    return float(torch.special.gammaincc(half[0], half[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repetition_penalty", "all"])
def test_sampling_and_speculation_draw_exactly_from_what_is_allowed(name):
    """p < 0.001 never at a fixed seed. Drafts are off the model, and three ids take one to three cycles."""
    step = DraftingStep(sources=1, noise=1.0)
    expected = DRAWS * distribution(step, OPTIONS[name])
    options = dict(eos_id=EOS, pad_id=PAD, max_length=3, **OPTIONS[name])
    assert p_value(sample_ids(step.plain, step.new_cache(DRAWS), DRAWS, **options).ids, expected) > 0.001
    run = speculation(step, step.new_cache(DRAWS), DRAWS, seed=1, **options)
    deque(run, maxlen=0)
    ids = run.ids[:, :3].masked_fill(torch.arange(3) >= torch.tensor(run.counts)[:, None], PAD)
    assert 0.1 < run.accepted / run.drafted < 0.95
    assert p_value(ids, expected) > 0.001


# the model's methods


def naive_greedy(model, source, prompt, options, length, cond_scale=1.0):
    """The whole forward pass for each id, and the twin."""
    ids, eos_id = list(prompt), model.eos_id["speech"]
    while len(ids) - len(prompt) < length and ids[-1:] != [eos_id]:
        target = torch.tensor([ids], dtype=torch.long)
        logits = model(source[None], target, **TEXT_TO_SPEECH)[0, -1]
        if cond_scale != 1:
            free = model(source[None], target, cond_drop_prob=1.0, **TEXT_TO_SPEECH)[0, -1]
            logits = free + (logits - free) * cond_scale
        logits = twin(logits.tolist(), ids, len(ids) - len(prompt), eos_id, options)
        ids.append(max(range(len(logits)), key=logits.__getitem__))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def talker():
    """A model whose greedy ids repeat, and end at times."""
    return small.make_model(
        seed=3, spread=0.7, target_early_exit_layer=1, target_depth=2, cond_drop_prob=0.1, num_semantic_token_ids=6
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("prompted", [False, True])
def test_all_methods_agree_with_a_whole_forward_pass_for_each_id(prompted, talker):
    sources = small.make_rows(30, [1, 6, 3, 2], seed=1)
    prompts = small.make_rows(6, [1, 3, 2, 5], seed=2)
    options, length = OPTIONS["all"], 9
    given = [row.tolist() if prompted else [] for row in prompts]
    call = dict(temperature=0.0, max_length=length, prompt=prompts if prompted else None, **TEXT_TO_SPEECH, **options)
    beam = {**call, "temperature": 1.0, "beam_search_decode": True, "beam_size": 1}
    for cond_scale in (1.0, 2.0):
        wanted = [
            naive_greedy(talker, source, prompt, options, length, cond_scale)
            for source, prompt in zip(sources, given, strict=True)
        ]
        stream = torch.cat(list(talker.generate_stream(sources, cond_scale=cond_scale, **call)), dim=1)
        assert listed(stream) == wanted
        for strategy in (call, beam, {**call, "spec_decode": True}):
            assert listed(talker.generate(sources, cond_scale=cond_scale, **strategy)) == wanted
            many = talker.generate_many(sources, max_batch_size=2, progress=False, cond_scale=cond_scale, **strategy)
            assert [one.ids.tolist() for one in many] == [[i for i in row if i != 6] for row in wanted]


def listed(ids):
    return [[token for token in row if token != -1] for row in ids.tolist()]


@pytest.mark.parametrize("strategy", [{}, dict(beam_search_decode=True, beam_size=3), dict(spec_decode=True)])
def test_slots_that_are_filled_again_change_nothing(strategy, talker):
    sources, prompts = small.make_rows(30, [5, 2, 7, 1, 4, 3], seed=4), small.make_rows(6, [2, 1, 4, 3, 1, 2], seed=5)
    call = {"max_length": 12, **TEXT_TO_SPEECH, **strategy, **OPTIONS["all"]}
    if "spec_decode" in strategy:  # the number of drafts follows the batch, and with it the draws
        call["temperature"] = 0.0
    alone = [
        talker.generate_many([source], prompt=[prompt], seed=[7], progress=False, **call)[0]
        for source, prompt in zip(sources, prompts, strict=True)
    ]
    together = talker.generate_many(sources, prompt=prompts, seed=[7] * 6, max_batch_size=2, progress=False, **call)
    assert [one.ids.tolist() for one in together] == [one.ids.tolist() for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-4)


def test_no_hypothesis_of_a_beam_repeats_or_ends_early(talker):
    options = dict(no_repeat_ngram_size=2, min_length=4, beam_size=4, max_length=10)
    for hypotheses in talker.generate_n_best(small.make_rows(30, [3, 5], seed=1), n_best=4, **options):
        for one in hypotheses:
            grams = list(itertools.pairwise(one.ids.tolist()))
            assert len(one.ids) > 4 and len(grams) == len(set(grams))


@pytest.mark.parametrize(
    "strategy", [dict(temperature=0.0), {}, dict(beam_search_decode=True, beam_size=2), dict(spec_decode=True)]
)
def test_a_filter_sees_prompt_and_ids_so_far(strategy, talker):
    seen = []

    def note(logits, ids, extra):
        assert logits.shape[0] == ids.shape[0] and ids.dtype == torch.long and extra == 3
        seen.extend(tuple(row) for row in listed(ids))
        return logits

    sources, prompts = small.make_rows(30, [3, 4], seed=1), [torch.tensor([4, 1]), torch.tensor([2, 5, 3])]
    how = dict(filter_logits_fn=note, filter_fn_kwargs={"extra": 3}, max_length=6, prompt=prompts, **strategy)
    generated = listed(talker.generate(sources, generator=torch.Generator(), **how))
    for prompt, row in zip(prompts, generated, strict=True):
        for length in range(len(row)):
            assert (*prompt.tolist(), *row[:length]) in seen
    assert all(row[:2] == (4, 1) or row[:3] == (2, 5, 3) for row in seen)


def test_a_filter_without_ids_is_called_as_before(talker):
    calls = []

    def old(logits, thres=0.5, **keywords):
        calls.append(keywords)
        return top_k(logits, thres)

    ids = talker.generate([[1, 2]], filter_logits_fn=old, filter_fn_kwargs={"thres": 0.3, "more": 1}, max_length=3)
    assert calls and all(one == {"more": 1} for one in calls) and ids.shape[0] == 1


@pytest.mark.parametrize(
    "strategy", [dict(temperature=0.0), dict(temperature=0.0, spec_decode=True), dict(beam_search_decode=True)]
)
def test_filters_have_effect_without_draws(strategy, talker):
    def no_end(logits):
        return logits.index_fill(1, torch.tensor([6]), -math.inf)

    result = talker.generate(
        small.make_rows(30, [3, 4], seed=1), filter_logits_fn=no_end, max_length=30, return_result=True, **strategy
    )
    assert result.truncated.all() and not (result.ids == 6).any() and result.ids.shape[1] == 30


@pytest.mark.parametrize("strategy", [dict(temperature=0.0), {}, dict(spec_decode=True), dict(beam_search_decode=True)])
def test_what_forbids_all_ids_is_named(strategy, talker):
    call = dict(no_repeat_ngram_size=1, max_length=20, **strategy)
    assert (talker.generate([[1, 2], [3, 4]], **call) == 6).any(dim=1).all()  # end-of-sequence is always left
    with pytest.raises(ValueError, match="no_repeat_ngram_size and min_length"):
        talker.generate([[1, 2], [3, 4]], min_length=15, **call)
    with pytest.raises(ValueError, match="filter_logits_fn"):
        talker.generate([[1]], filter_logits_fn=lambda logits: torch.full_like(logits, -math.inf), **strategy)


@pytest.mark.parametrize("wrong", [lambda logits: None, lambda logits: logits[:, :2], lambda logits: logits[0]])
def test_what_a_filter_returns_is_checked(wrong, talker):
    with pytest.raises(ValueError, match="filter_logits_fn must return logits of the shape"):
        talker.generate([[1, 2]], filter_logits_fn=wrong)
