"""The network of units: padding changes nothing, and near units begin near."""

import torch

from spear_tts_pytorch.tokenizers.unit_network import UnitNetwork


def network():
    torch.manual_seed(0)
    return UnitNetwork(12, 16, 2)


def test_two_spectra_for_each_id_and_padding_changes_nothing():
    model = network()
    long, short = torch.randint(0, 12, (1, 20)), torch.randint(0, 12, (1, 7))
    both = torch.cat([long, torch.nn.functional.pad(short, (0, 13), value=-1)])
    mel, durations = model(both), model.log_durations(both)
    assert mel.shape == (2, 40, 80) and durations.shape == (2, 20)
    for row, ids in enumerate((long, short)):
        torch.testing.assert_close(mel[row, : 2 * ids.shape[1]], model(ids)[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(durations[row, : ids.shape[1]], model.log_durations(ids)[0], atol=1e-5, rtol=0)


def test_the_loss_of_durations_leaves_the_embedding_alone():
    model = network()
    model.log_durations(torch.arange(12)[None]).sum().backward()
    assert model.embedding.weight.grad is None
    model(torch.arange(12)[None]).sum().backward()
    assert model.embedding.weight.grad.abs().sum() > 0


def test_embeddings_begin_at_the_centroids():
    for width in (5, 40):  # narrower and wider than the network
        model, centroids = network(), torch.randn(12, width, generator=torch.Generator().manual_seed(1))
        centroids[1] = centroids[0] + 0.01
        model.begin_at(centroids, torch.arange(80.0))
        far = torch.cdist(model.embedding.weight, model.embedding.weight)
        assert far[0, 1] < 0.1 * far[0, 2:].min()
        assert torch.equal(model.to_mel.bias, torch.arange(80.0).repeat(2))
    untouched = network()
    untouched.begin_at(None, torch.zeros(80))
    assert torch.equal(untouched.embedding.weight, network().embedding.weight)
