"""What decoding holds: a cache that grows by doubling and goes when the call ends."""

import gc
import weakref

import pytest
import small
import torch

from spear_tts_pytorch.nn.fused.kv_cache import KVCache

TYPES = small.TEXT_TO_SPEECH


@pytest.fixture
def model():
    return small.make_model(target_depth=2, target_early_exit_layer=1, autoset_semantic_eos_id=False).eval()


@pytest.fixture(autouse=True)
def only_new_objects():
    """The garbage collector lists only what is made from here on: a tensor that stays behind is one of these."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def live_bytes():
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]  # not those of a tracer
    plain = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors if not x.is_mkldnn}
    return sum(plain.values()) + sum(4 * x.numel() for x in tensors if x.is_mkldnn)  # reordered weights


@pytest.mark.slow
def test_the_cache_of_1000_ids_of_2_rows_is_allocated_by_doubling_and_freed(model, monkeypatch):
    allocated, caches, reserve = [], [], KVCache.reserve

    def recorded(cache, *args):
        before = cache.keys
        found = reserve(cache, *args)
        if cache.keys is not before:
            allocated.append(cache.keys.shape[2])
            caches.append(weakref.ref(cache))
        return found

    monkeypatch.setattr(KVCache, "reserve", recorded)
    before = live_bytes()
    ids = model.generate(torch.randint(1, 30, (2, 5)), max_length=1000, **TYPES)
    assert ids.shape == (2, 1000)
    assert allocated == [64, 128, 256, 512, 1024]
    del ids
    assert live_bytes() <= before and all(cache() is None for cache in caches)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, dict(spec_decode=True), dict(beam_search_decode=True, beam_size=3)], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nothing_is_left_of_5_calls(model, options, precision):
    model.quantize(precision)
    source = torch.randint(1, 30, (2, 5))
    model.generate(source, max_length=12, **options, **TYPES)
    before = live_bytes()
    for _ in range(5):
        model.generate(source, max_length=12, **options, **TYPES)
    assert live_bytes() <= before
