"""The reader of features: it learns, a clip in a batch is read as alone, seeds repeat, and features pass through a file."""

import pytest
import torch

from spear_tts_pytorch.decoding.ctc import ctc_greedy
from spear_tts_pytorch.recipe.feature_reader import FeatureReader

WIDTH = 12


def spelled(count, seed=0):
    """Clips whose features show each letter for four frames, with noise; and their text ids."""
    torch.manual_seed(seed)
    features, pairs = {}, []
    for number in range(count):
        text = torch.randint(1, 6, (int(torch.randint(3, 9, ())),))
        features[str(number)] = 0.3 * torch.randn(5 * len(text), WIDTH)
        for place, letter in enumerate(text.tolist()):
            features[str(number)][5 * place : 5 * place + 4, letter] += 3
        pairs.append((str(number), text))
    return features, pairs


def trained(steps, seed=0):
    features, pairs = spelled(40)
    torch.manual_seed(seed)
    reader = FeatureReader(WIDTH, 6, dim=32, depth=1, heads=2, dropout=0.1)
    frames = [len(features[id_]) for id_, _ in pairs]
    options = {"lr": 5e-3, "batch_frames": 300, "frames": frames, "seed": seed, "progress": False}
    return reader, reader.fit(features, pairs, steps=steps, **options)


def test_a_clip_in_a_batch_is_read_as_alone():
    torch.manual_seed(0)
    reader = FeatureReader(WIDTH, 6, dim=32, depth=2, heads=2).eval()
    rows = [torch.randn(n, WIDTH) for n in (7, 30, 1)]
    together = reader(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([7, 30, 1]))
    for row, found in zip(rows, together, strict=True):
        torch.testing.assert_close(found[: len(row)], reader.log_probs(row), atol=1e-5, rtol=1e-5)


def test_a_seed_repeats_and_the_callers_random_state_is_kept():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    reader, losses = trained(3)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
    again, same = trained(3)
    assert losses == same and not reader.training
    assert all(torch.equal(one, other) for one, other in zip(reader.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_it_learns_to_read():
    reader, losses = trained(150)
    assert losses[-1] < 0.5 * losses[0]
    features, pairs = spelled(30, seed=1)
    wrong = 0
    for id_, text in pairs:
        found = ctc_greedy(reader.log_probs(features[id_])[None], torch.tensor([len(features[id_])]))[0]
        wrong += found.tolist() != text.tolist()
    assert wrong <= 3
