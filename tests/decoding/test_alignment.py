"""Forced alignment: the best path equals that of trying all paths; a window finds the same where it is wide enough."""

import itertools

import pytest
import torch

from spear_tts_pytorch.decoding.alignment import ctc_align


def all_paths(log_probs, ids, blank=0):
    """Score of the best path and all paths that reach it: every row of labels is tried that collapses to the ids."""
    found = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        merged = [label for label, _ in itertools.groupby(path) if label != blank]
        if merged == ids.tolist():
            found[path] = sum(log_probs[frame, label].item() for frame, label in enumerate(path))
    best = max(found.values())
    return best, [path for path, score in found.items() if abs(score - best) < 1e-6]


def first_frames(path, blank=0):
    return [frame for frame, label in enumerate(path) if label != blank and (frame == 0 or path[frame - 1] != label)]


@pytest.mark.parametrize("seed", range(8))
def test_the_path_is_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(6, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    ids = torch.randint(1, 3, (1 + seed % 3,), generator=generator)
    _, paths = all_paths(log_probs, ids)
    found = ctc_align(log_probs, ids)
    assert found.frames.tolist() in [first_frames(path) for path in paths]
    path = next(path for path in paths if first_frames(path) == found.frames.tolist())
    for frame, log_prob, id_ in zip(found.frames.tolist(), found.log_probs.tolist(), ids.tolist(), strict=True):
        run = [log_probs[t, id_].item() for t in range(frame, len(path)) if set(path[frame : t + 1]) == {id_}]
        assert log_prob == pytest.approx(sum(run) / len(run), abs=1e-5)


def test_a_window_follows_a_long_text():
    """A clear recording is aligned in a window of a tenth of the states, and the same as without one."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 20, (400,), generator=generator)
    frames = torch.sort(torch.randperm(3000, generator=generator)[:400]).values
    keep = torch.cat([torch.tensor([True]), (frames[1:] - frames[:-1]) > 1])
    ids, frames = ids[keep], frames[keep]
    log_probs = torch.randn(3000, 20, generator=generator)
    log_probs[:, 0] += 3
    log_probs[frames, 0] -= 3
    log_probs[frames, ids] += 8
    log_probs = log_probs.log_softmax(-1)
    exact = ctc_align(log_probs, ids)
    narrow = ctc_align(log_probs, ids, memory=3000 * 80)
    assert (exact.frames == frames).float().mean() > 0.98
    assert torch.equal(exact.frames, narrow.frames)


def test_all_is_said_at_the_end():
    ids = torch.arange(60) % 3 + 1
    log_probs = torch.full((900, 4), -20.0)
    log_probs[:840, 0] = 0
    log_probs[840 + torch.arange(60), ids] = 0
    exact = ctc_align(log_probs.log_softmax(-1), ids)
    assert exact.frames.tolist() == list(range(840, 900))


@pytest.mark.parametrize("seed", range(4))
def test_texts_that_fill_their_recording_are_found_in_narrow_windows(seed):
    """Repeated ids need a blank between them: without room in the window there is no path, and it is made wider."""
    ids = torch.randint(1, 3, (200,), generator=torch.Generator().manual_seed(seed))
    need = len(ids) + int((ids[1:] == ids[:-1]).sum())
    found = ctc_align(torch.zeros(need, 3).log_softmax(-1), ids, memory=64)
    assert (found.frames[1:] - found.frames[:-1]).tolist() == [
        1 + int(a == b) for a, b in zip(ids[1:], ids[:-1], strict=True)
    ]


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "ids must be some ids"), ([0], "without the blank"), ([9], "0..3"), ([1, 1, 1], "ids need 5 frames")],
)
def test_what_cannot_be_aligned_is_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        ctc_align(torch.zeros(4, 4).log_softmax(-1), torch.tensor(ids, dtype=torch.long))


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "hold NaN"), (float("-inf"), "-inf on every path")])
@pytest.mark.parametrize("memory", [1, 10**9])
def test_log_probabilities_without_a_path_are_refused(value, message, memory):
    log_probs = torch.zeros(200, 4).log_softmax(-1)
    log_probs[:, 2] = value
    with pytest.raises(ValueError, match=message):
        ctc_align(log_probs, torch.tensor([1, 2] * 50), memory=memory)


def test_arguments_of_another_kind_are_refused():
    log_probs = torch.zeros(4, 4).log_softmax(-1)
    with pytest.raises(TypeError, match="ids must be integers"):
        ctc_align(log_probs, torch.tensor([1.7]))
    with pytest.raises(ValueError, match="blank must be at least 0 and at most 3, got 4"):
        ctc_align(log_probs, torch.tensor([1]), blank=4)
