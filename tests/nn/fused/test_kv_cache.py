"""The cache against a list of rows: growth, selection, truncation, replacement."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spear_tts_pytorch.nn.fused.fused_decoder import FusedDecoder
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.nn.transformer import Transformer


def test_cache_grows_by_doubling_and_keeps_what_it_holds():
    torch.manual_seed(0)
    decoder = Transformer(dim=8, depth=2, dim_head=4, heads=2, causal=True, cross_attend=True).eval()
    cache, fused = KVCache(2, torch.randn(1, 3, 8), None), FusedDecoder(decoder)
    capacities, kept = set(), None
    for i in range(200):
        fused(torch.randn(1, 1, 8), cache, None)
        capacities.add(cache.keys.shape[2])
        if i == 50:
            kept = cache.keys[:, :, :51].clone()
    assert capacities == {64, 128, 256} and torch.equal(cache.keys[:, :, :51], kept)
    assert bool((cache.keys[:, :, :200] != 0).any(-1).all()) and not bool(cache.keys[:, :, 200:].any())


def test_reordering_rows_copies_what_differs_only_and_misses_nothing():
    """Whatever parents, appends and truncations: the rows hold what they would if all of each were copied."""
    random = np.random.default_rng(0)
    for _ in range(20):
        cache, plain = KVCache(1, torch.zeros(2, 1, 1), None), torch.zeros(2, 0)
        lengths = [0, 0]
        for step in range(30):
            cache.reserve(1, max(lengths) + 1, 1, torch.float32)
            new = torch.randn(len(plain), 1)
            plain = torch.cat((plain, torch.zeros(len(plain), 1)), dim=1) if plain.shape[1] == max(lengths) else plain
            for row, length in enumerate(lengths):
                cache.keys[row, 0, length] = plain[row, length] = new[row]
            cache.values.copy_(-cache.keys)
            cache.extend(1, 0, 1)
            lengths = [length + 1 for length in lengths]
            if step % 7 == 6:  # rows of one source are cut alike
                cut = {source: int(random.integers(1, 1 + max(lengths))) for source in (0, 1)}
                lengths = [min(x, cut[row * 2 // len(lengths)]) for row, x in enumerate(lengths)]
                cache.truncate(lengths)
            beams = 1 if step < 2 else 3
            held = len(plain) // 2
            rows = np.concatenate([source * held + random.integers(0, held, beams) for source in (0, 1)])
            cache.select(torch.from_numpy(rows))
            plain, lengths = plain[rows], [lengths[row] for row in rows]
            assert cache.lengths == lengths
            for row, length in enumerate(lengths):
                assert torch.equal(cache.keys[row, 0, :length, 0], plain[row, :length])
                assert torch.equal(cache.values[row, 0, :length, 0], -plain[row, :length])


def test_what_two_rows_share_is_not_copied():
    cache = KVCache(2, torch.zeros(1, 1, 1), None)
    cache.reserve(1, 11, 1, torch.float32)
    cache.extend(10, 0, 2)
    cache.select(torch.tensor([0, 0, 0]))
    cache.extend(1, 0, 2)
    for cached in (cache.keys, cache.values):
        cached[:, 0, 10, 0] = torch.arange(6.0)
        cached[1, :, :10], cached[4, :, :10] = 99.0, 77.0  # row 1 of both layers
    cache.select(torch.tensor([0, 2, 2]))
    for cached in (cache.keys, cache.values):
        assert cached[:, 0, 10, 0].tolist() == [0, 2, 2, 3, 5, 5]
        assert cached[1, 0, :10, 0].tolist() == [99] * 10 and cached[4, 0, :10, 0].tolist() == [77] * 10


@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 1, 1], [1], [1, 0], [0, 1, 1], [1, 1, 0, 0]])
def test_select_equals_a_fresh_run_of_those_rows(rows):
    """Row i after `select` goes on as former row `rows[i]` would, whatever the grouping of beams."""
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=2, dim_head=4, heads=4, causal=True, cross_attend=True).eval()
    x, context = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    mask = torch.tensor([[[[True, True, True, False]]], [[[True] * 4]]])
    cache = KVCache(2, context, mask[:, 0, 0])

    fused = FusedDecoder(decoder)

    def run(new):
        return decoder.final_norm(fused(new, cache, cache.context_mask[:, None, None])[0])

    run(x[:, :3])
    cache.select(torch.tensor(rows))
    got = run(x[rows, 3:])
    wanted = decoder(x[rows], context=context[rows], context_mask=mask[rows])[:, 3:]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    order = torch.arange(len(rows)).flip(0)
    cache.select(order)
    rows = [rows[i] for i in order]
    more = torch.randn(len(rows), 1, 16)
    wanted = decoder(torch.cat((x[rows], more), dim=1), context=context[rows], context_mask=mask[rows])[:, 4:]
    torch.testing.assert_close(run(more), wanted, atol=1e-5, rtol=1e-5)


def test_select_takes_each_rows_length_along():
    torch.manual_seed(0)
    decoder = Transformer(dim=16, depth=1, dim_head=4, heads=4, causal=True, cross_attend=True).eval()
    x, context = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    cache = KVCache(1, context, None)
    fused = FusedDecoder(decoder)
    fused(x[:, :3], cache, None)
    cache.truncate([1, 3])
    cache.select(torch.tensor([1, 0]))
    assert cache.lengths == [3, 1]
    got = decoder.final_norm(fused(torch.stack((x[1, 3:], x[0, 1:2])), cache, None)[0])
    wanted = decoder(x, context=context)
    torch.testing.assert_close(got[:, 0], torch.stack((wanted[1, 3], wanted[0, 1])), atol=1e-5, rtol=1e-5)


DEPTH, KINDS = 2, ("append", "append", "reorder", "reorder", "select", "truncate", "replace")


class Rows:
    """The slow twin of a cache: for each row its source, and a list of one number per position."""

    def __init__(self, sources):
        self.rows = [(source, []) for source in sources]  # a source is (number, length)

    def check(self, cache):
        assert cache.rows == len(self.rows) and cache.rows % cache.sources == 0
        assert cache.lengths == [len(numbers) for _, numbers in self.rows]
        for row, ((number, length), numbers) in enumerate(self.rows):
            source = row // (cache.rows // cache.sources)
            for layer in range(DEPTH):
                held = cache.keys[layer * cache.rows + row, 0, : len(numbers), 0]
                assert held.tolist() == [value + layer / 4 for value in numbers]
                assert torch.equal(cache.values[layer * cache.rows + row, 0, : len(numbers), 0], -held)
                for cross in cache.cross:
                    assert cross[layer, source, 0, : 1 + length, 0].tolist() == [number] * (1 + length)
            assert cache.context[source, :length, 0].tolist() == [number] * length
            assert cache.context_positions[source, :length].tolist() == [number + i for i in range(length)]
            mask = cache.context_mask[source].tolist()
            assert mask == [i < length for i in range(len(mask))]


def cache_of(sources):
    longest = max(length for _, length in sources)
    numbers, lengths = (torch.tensor(column) for column in zip(*sources, strict=True))
    context = numbers[:, None, None].float().expand(-1, longest, 1).clone()
    positions = numbers[:, None] + torch.arange(longest)
    cache = KVCache(DEPTH, context, torch.arange(longest) < lengths[:, None], positions)
    cross = numbers[None, :, None, None, None].float().expand(DEPTH, -1, 1, 1 + longest, 1)
    cache.cross = cross.clone(), cross.clone()
    return cache


def append(cache, rows, numbers):
    """One more position in each row, with new numbers."""
    lengths = cache.lengths
    keys, values = cache.reserve(1, max(lengths) + 1, 1, torch.float32)
    for row, (length, (_, held)) in enumerate(zip(lengths, rows.rows, strict=True)):
        held.append(next(numbers))
        for layer in range(DEPTH):
            keys[layer * cache.rows + row, 0, length] = held[-1] + layer / 4
            values[layer * cache.rows + row, 0, length] = -keys[layer * cache.rows + row, 0, length]
    cache.extend(1, 0, DEPTH)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cache_is_a_list_of_rows(data):
    """Any sequence of steps, selections, truncations and replaced sources leaves in each row what a list would hold."""
    numbers, names = itertools.count(1), itertools.count(1000, 1000)
    lengths = st.integers(1, 6)

    def draw_sources(count):
        return [(next(names), data.draw(lengths, label="source length")) for _ in range(count)]

    def draw_rows(cache, count):
        return data.draw(st.lists(st.integers(0, cache.rows - 1), min_size=count[0], max_size=count[1]), label="rows")

    def select(cache, twin, chosen):
        cache.select(torch.tensor(chosen))
        twin.rows = [(twin.rows[row][0], list(twin.rows[row][1])) for row in chosen]

    def truncate(cache, twin):
        cut = data.draw(st.lists(st.integers(1, 9), min_size=cache.rows, max_size=cache.rows), label="lengths")
        cache.truncate(cut)
        twin.rows = [(source, held[:length]) for (source, held), length in zip(twin.rows, cut, strict=True)]

    def replace(cache, twin):
        places = st.lists(st.integers(0, cache.sources - 1), min_size=1, unique=True)
        places, each = data.draw(places, label="places"), cache.rows // cache.sources
        sources = draw_sources(len(places))
        other, new = cache_of(sources), Rows(sources)
        append(other, new, numbers)
        select(other, new, [i for i in range(len(places)) for _ in range(each)])
        for _ in range(data.draw(st.integers(0, 3), label="steps")):
            append(other, new, numbers)
        truncate(other, new)
        cache.replace(places, other)
        for index, place in enumerate(places):
            twin.rows[place * each : (place + 1) * each] = new.rows[index * each : (index + 1) * each]

    sources = draw_sources(data.draw(st.integers(1, 3), label="sources"))
    cache, twin = cache_of(sources), Rows(sources)
    append(cache, twin, numbers)
    select(cache, twin, [i for i in range(len(sources)) for _ in range(3)])  # beams
    for kind in data.draw(st.lists(st.sampled_from(KINDS), min_size=8, max_size=20), label="operations"):
        if kind == "append":
            append(cache, twin, numbers)
        elif kind == "reorder":  # as many rows as before: copies in place
            select(cache, twin, draw_rows(cache, (cache.rows, cache.rows)))
        elif kind == "select":
            select(cache, twin, draw_rows(cache, (1, 6)))
        else:
            {"truncate": truncate, "replace": replace}[kind](cache, twin)
        twin.check(cache)


def test_rows_that_were_cut_below_what_they_share_are_copied_from_there_on():
    cache, twin, numbers = cache_of([(1000, 2)]), Rows([(1000, 2)]), itertools.count()
    for _ in range(5):
        append(cache, twin, numbers)
    cache.select(torch.tensor([0, 0]))
    cache.truncate([2, 2])
    twin.rows = [(source, held[:2]) for source, held in twin.rows * 2]
    append(cache, twin, numbers)
    cache.select(torch.tensor([1, 1]))
    twin.rows = [twin.rows[1]] * 2
    twin.check(cache)


def test_a_cache_that_has_read_nothing_cannot_take_part_in_a_replacement():
    full, empty = cache_of([(1000, 2)]), cache_of([(2000, 2)])
    append(full, Rows([(1000, 2)]), itertools.count())
    for cache, other in ((full, empty), (empty, full)):
        with pytest.raises(RuntimeError, match="holds no keys and values: let the decoder read ids"):
            cache.replace([0], other)


def test_sources_with_and_without_positions_do_not_mix():
    caches = [cache_of([(1000, 2)]), cache_of([(2000, 2)])]
    for cache in caches:
        append(cache, Rows([(1000, 2)]), itertools.count())
    caches[1].context_positions = None
    with pytest.raises(ValueError, match="need context_positions, or neither"):
        caches[0].replace([0], caches[1])
