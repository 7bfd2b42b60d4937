"""The strategies over a decoder of the tests: whole batches in one call, as `generate` runs them over a model."""

import torch

from spear_tts_pytorch.decoding.beam import BeamSearch
from spear_tts_pytorch.decoding.loop import Limits, admit_all, collected, decode, drained
from spear_tts_pytorch.decoding.options import DecodingOptions
from spear_tts_pytorch.decoding.sampling import Sampling
from spear_tts_pytorch.decoding.speculative import Speculation

CPU = torch.device("cpu")


def options_and_limits(eos_id, pad_id=-1, forbid_ids=(), **options):
    return DecodingOptions(**{"filter_logits_fn": None, **options}), Limits(eos_id, pad_id, tuple(forbid_ids))


def sample_ids(step, cache, rows, *, seed=0, on_step=None, **options):
    """A `DecodeResult` of rows drawn with this seed; `on_step` gets each `Progress`."""
    how, limits = options_and_limits(**options)
    steps = decode(
        step,
        admit_all(step, cache, range(rows), CPU),
        lambda numbers: Sampling(numbers, options=how, limits=limits, seed=seed, device=CPU),
        rows,
    )
    return collected(drained(watched(steps, on_step)), limits.pad_id)


def beam_search(step, cache, rows, **options):
    """A `DecodeResult` of the best hypotheses."""
    how, limits = options_and_limits(beam_search_decode=True, **options)
    steps = decode(
        step,
        admit_all(step, cache, range(rows), CPU),
        lambda numbers: BeamSearch(numbers, options=how, limits=limits, device=CPU),
        rows,
    )
    return collected(drained(steps), limits.pad_id)


def speculation(step, cache, rows, *, seed=0, draft_cost=1 / 6, **options):
    """A run of speculative sampling, not begun."""
    how, limits = options_and_limits(spec_decode=True, **options)
    return Speculation(
        step, cache, range(rows), options=how, limits=limits, seed=seed, device=CPU, draft_cost=draft_cost
    )


def speculate(step, cache, rows, *, on_step=None, **options):
    """A `SpeculativeResult`; `on_step` gets each `Progress`."""
    run = speculation(step, cache, rows, **options)
    return run.result(drained(watched(iter(run), on_step)))


def watched(steps, on_step):
    for progress in steps:
        if on_step is not None:
            on_step(progress)
        yield progress
