"""Losses against loops that are obviously right."""

import pytest
import torch

from spear_tts_pytorch.model import losses


def test_cross_entropy_counts_real_ids_only():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 5), torch.tensor([[1, 2, -1, -1], [0, 3, 4, 1]])
    wanted = [-logits[i, j].log_softmax(-1)[target[i, j]] for i in range(2) for j in range(4) if target[i, j] >= 0]
    torch.testing.assert_close(losses.cross_entropy(logits, target, -1), torch.stack(wanted).mean())


def test_ctc_sums_alignments_and_leaves_out_the_impossible():
    torch.manual_seed(0)
    log_probs = torch.randn(3, 3, 4, requires_grad=True).log_softmax(-1)
    target, lengths = torch.tensor([[1, 2], [3, 3], [2, 1]]), torch.tensor([3, 2, 3])  # "3 3" needs 3 frames
    per_row = losses.ctc_per_row(log_probs, lengths, target, torch.tensor([2, 2, 2]), blank=0)
    paths = [(1, 2, 2), (1, 1, 2), (1, 2, 0), (1, 0, 2), (0, 1, 2)]
    total = sum(sum(log_probs[0, t, path[t]] for t in range(3)).exp() for path in paths)
    torch.testing.assert_close(per_row[0], -total.log())
    assert per_row[1] == 0
    assert losses.ctc_alignable(lengths, target, torch.tensor([2, 2, 2])).tolist() == [True, False, True]
    loss = losses.ctc(log_probs, lengths, target, torch.tensor([2, 2, 2]), blank=0)
    torch.testing.assert_close(loss, per_row[0] + per_row[2])


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize("dropped", [[0, 1, 2, 3], [0, 2, 3], [1, 3], [2], []])
def test_alignment_regularizer_is_the_pairwise_difference(temperature, dropped):
    torch.manual_seed(0)
    source, target = torch.randn(4, 4, 6, requires_grad=True), torch.randn(4, 5, 6)
    lengths = (torch.tensor([4, 2, 3, 1]), torch.tensor([5, 5, 1, 3]))
    masks = [torch.arange(x.shape[1]) < n[:, None] for x, n in zip((source, target), lengths, strict=True)]
    flags = torch.tensor([row in dropped for row in range(4)])
    got = losses.alignment_regularizer(source, target, *masks, flags, 0.4, temperature)

    def similarity(x, n, i, j):
        pooled = []
        for row in (i, j):
            real = x[row, : n[row]]
            pool = real.amax(0) if temperature is None else (real / temperature).exp().sum(0).log() * temperature
            pooled.append(pool / pool.norm())
        return pooled[0] @ pooled[1]

    squares = [
        (similarity(source, lengths[0], i, j) - similarity(target, lengths[1], i, j)) ** 2
        for i in dropped
        for j in dropped
        if i != j
    ]
    wanted = torch.stack(squares).sum() / (4 * 3 * 0.4) if squares else torch.zeros(())
    torch.testing.assert_close(got, wanted)
    got.backward()
    assert source.grad.isfinite().all()
