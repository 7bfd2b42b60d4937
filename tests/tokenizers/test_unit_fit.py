"""Training of units to speech: what is heard, the losses, the same seed the same network."""

import pytest
import torch
from babble import HZ, make_clips

from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans
from spear_tts_pytorch.tokenizers.unit_fit import UnitFitOptions, duration_loss, hear, spectra_loss, train_network
from spear_tts_pytorch.tokenizers.unit_network import UnitNetwork
from spear_tts_pytorch.tokenizers.whisper_mel import whisper_mel

OPTIONS = dict(steps=12, batch_size=4, lr=2e-2, seed=0, progress=False)


@pytest.fixture(scope="module")
def tokenizer():
    return MelKmeans.fit(make_clips()[:12], HZ, 16, progress=False)


@pytest.fixture(scope="module")
def clips(tokenizer):
    return hear(make_clips()[:12], tokenizer, HZ, progress=False)


def test_ids_at_full_rate_stand_beside_the_spectra(tokenizer, clips):
    wav = torch.tensor(make_clips()[3])
    ids, mel = tokenizer(wav[None])[0], whisper_mel(wav)
    count = min(len(ids), len(mel) // 2)
    assert torch.equal(clips[3].ids.long(), ids[:count])
    torch.testing.assert_close(clips[3].mel.float(), mel[: 2 * count], atol=2e-3, rtol=0)


def test_clips_that_cannot_be_used_are_left_out(tokenizer):
    with pytest.warns(UserWarning, match="1 clips cannot be used \\(1: .*silent"):
        heard = hear([make_clips()[0], torch.zeros(16000)], tokenizer, HZ, progress=False)
    assert len(heard) == 1
    with pytest.raises(ValueError, match="waveforms holds no clip to learn from; 1 clips cannot be used"):
        hear([torch.zeros(16000)], tokenizer, HZ, progress=False)
    with pytest.raises(TypeError, match="waveforms must be a list of waveforms"):
        hear("clips", tokenizer, HZ, progress=False)


def test_losses_look_at_real_positions_only(clips):
    torch.manual_seed(0)
    network = UnitNetwork(16, 16, 1)
    ids, mel = clips[0].ids[None, :20].long(), clips[0].mel[None, :40].float()
    padded = torch.nn.functional.pad(ids, (0, 9), value=-1)
    noise = torch.cat([mel, torch.randn(1, 18, 80)], dim=1)
    torch.testing.assert_close(spectra_loss(network, padded, noise), spectra_loss(network, ids, mel))
    torch.testing.assert_close(spectra_loss(network, ids, network(ids) + 0.5), torch.tensor(0.5))
    durations = network.log_durations(ids).exp() * torch.e
    torch.testing.assert_close(duration_loss(network, ids, durations), torch.tensor(1.0), atol=0.2, rtol=0)
    more = torch.nn.functional.pad(durations, (0, 9))
    torch.testing.assert_close(duration_loss(network, padded, more), duration_loss(network, ids, durations))


def test_training_learns_and_is_reproducible(clips):
    def trained(seed):
        torch.manual_seed(0)
        network = UnitNetwork(16, 16, 1)
        return network, train_network(network, clips, UnitFitOptions(**{**OPTIONS, "steps": 20, "seed": seed}))

    network, history = trained(0)
    assert [one["step"] for one in history] == list(range(1, 21))
    assert history[-1]["loss"] < 0.8 * history[0]["loss"] and not network.training
    true = predicted = 0.0
    for clip in clips:
        runs, times = torch.unique_consecutive(clip.ids.long(), return_counts=True)
        true += float(times.sum())
        predicted += float(network.log_durations(runs[None]).detach().exp().sum() * network.stretch)
    assert predicted == pytest.approx(true, rel=1e-3)
    again, same = trained(0)
    assert same == history and all(map(torch.equal, again.state_dict().values(), network.state_dict().values()))
    assert trained(1)[1] != history


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"seed": -1}, {"progress": 2}])
def test_options_that_cannot_be(wrong):
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        UnitFitOptions(**{**OPTIONS, **wrong})
