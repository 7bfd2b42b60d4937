"""A training step does not wait for the device but for one read: loss, gradient norm, ids and requests to stop."""

import pytest
import torch
from accelerate import Accelerator
from host_reads import host_reads
from training_setup import make_model, make_pairs, make_speech, train_options

from spear_tts_pytorch.training.stages import SemanticToTextTrainer, SpeechSpeechPretrainer, TextToSemanticTrainer

READS = 1  # of an update, however many batches it has

CASES = {
    "pretrain": (SpeechSpeechPretrainer, make_speech, {}, {"ff_dropout": 0.1}),
    "pretrain whole": (SpeechSpeechPretrainer, make_speech, {"reconstruct_seq": True}, {}),
    "pretrain masked": (SpeechSpeechPretrainer, make_speech, {"reconstruct_seq": True, "mask_id": 3}, {}),
    "backtranslate": (SemanticToTextTrainer, make_pairs, {"token_dropout": 0.3}, {"emb_dropout": 0.1}),
    "backtranslate without clipping": (SemanticToTextTrainer, make_pairs, {"max_grad_norm": None}, {}),
    "backtranslate by CTC": (SemanticToTextTrainer, make_pairs, {"ctc_weight": 1.0, "freeze_encoder": False}, {}),
    "backtranslate by both": (SemanticToTextTrainer, make_pairs, {"ctc_weight": 0.3}, {}),
    "forward": (TextToSemanticTrainer, make_pairs, {"dropout": 0.1}, {}),
    "forward, conditions dropped": (
        TextToSemanticTrainer,
        make_pairs,
        {"freeze": "none", "label_smoothing": 0.1},
        {"cond_drop_prob": 0.4, "align_reg_loss_weight": 1.0, "target_early_exit_layer": 1},
    ),
    "forward, with a prior": (
        TextToSemanticTrainer,
        make_pairs,
        {"freeze": "none"},
        {"cross_attention_prior": True, "add_positions": True, "target_kv_heads": 1},
    ),
}


@pytest.fixture
def on_meta(monkeypatch):
    monkeypatch.setattr(Accelerator, "device", property(lambda self: torch.device("meta")))
    # torch has no CTC loss there. A real one makes the host wait for the lengths, inside of torch.
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", lambda log_probs, *args, **options: log_probs.sum(dim=(0, 2)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batches", [1, 2])
def test_an_update_reads_the_device_once(on_meta, case, batches):
    trainer_class, make_data, options, model_options = CASES[case]
    trainer = trainer_class(
        make_model(ctc=True, **model_options), dataset=make_data(), **train_options(grad_accum_every=batches, **options)
    )
    with host_reads():
        trainer.train_step()  # the first update makes the optimizer's state
    with host_reads() as reads:
        trainer.train_step()
    assert sum(reads.values()) == READS, reads
    assert all(parameter.device.type == "meta" for parameter in trainer.model.parameters())
    assert trainer.optim.state_dict()["state"]


@pytest.mark.parametrize("batch_size", [1, 12])
def test_a_validation_reads_the_device_as_often_for_many_batches_as_for_one(on_meta, batch_size):
    options = train_options(batch_size=batch_size)
    trainer = TextToSemanticTrainer(make_model(), dataset=make_pairs(), valid_dataset=make_pairs(), **options)
    with host_reads() as reads:
        trainer.validate()
    assert sum(reads.values()) == 3, reads  # all losses, all counts of right ids, sums over processes


def test_a_read_is_counted():
    """The counter sees the reads that are usual in training code; without this, no test above could fail."""
    x = torch.ones(3, device="meta")
    for read in (
        lambda: x.sum().item(),
        lambda: float(x[0]),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: bool(x.all()),
    ):
        with host_reads() as reads:
            read()
        assert sum(reads.values()) == 1
    for shaped_by_values in (lambda: x.nonzero(), lambda: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)), host_reads():
            shaped_by_values()
