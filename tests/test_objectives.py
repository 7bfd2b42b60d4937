"""The three objectives: what is deleted, what is asked for, and that padding does not matter."""

import pytest
import torch

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.objectives import (
    SemanticToTextWrapper,
    SpeechSpeechPretrainWrapper,
    TextToSemanticWrapper,
    deletion_mask,
    take,
)
from spear_tts_pytorch.tokens import valid_mask


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TextToSemantic(
        32,
        source_depth=1,
        target_depth=2,
        num_text_token_ids=30,
        num_semantic_token_ids=20,
        dim_head=8,
        heads=4,
        ctc=True,
        target_early_exit_layer=1,
    )


def speech(*lengths):
    ids = torch.randint(0, 20, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return ids.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], -1)


@pytest.mark.parametrize("probability", [0.1, 0.6, 0.99])
def test_deletion_counts_real_ids_of_each_row_and_leaves_one(probability):
    valid = valid_mask(speech(10, 4, 1), -1)
    for seed in range(20):
        torch.manual_seed(seed)
        deleted = deletion_mask(valid, probability)
        assert not (deleted & ~valid).any()
        wanted = [min(-int(-n * probability // 1), n - 1) for n in (10, 4, 1)]
        assert deleted.sum(dim=-1).tolist() == wanted


def test_every_id_is_deleted_equally_often():
    torch.manual_seed(0)
    valid = torch.ones(4000, 5, dtype=torch.bool)
    share = deletion_mask(valid, 0.6).float().mean(dim=0)
    # standard error 0.0077: off by 0.04 once in five million
    assert (share - 0.6).abs().max() < 0.04


def test_take_keeps_the_order():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]])
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    assert take(ids, mask, -1).tolist() == [[1, 3, 4], [6, -1, -1]]


@pytest.mark.parametrize(
    ("options", "source_length", "target_length"),
    [({}, 4, 6), ({"reconstruct_seq": True}, 4, 10), ({"reconstruct_seq": True, "mask_id": 3}, 10, 10)],
)
def test_pretraining_sources_and_targets(model, monkeypatch, options, source_length, target_length):
    seen = {}
    forward = model.forward

    def record(source, target, **kwargs):
        seen.update(source=source, target=target, rate=kwargs["source_position_rate"])
        return forward(source, target, **kwargs)

    monkeypatch.setattr(model, "forward", record)
    ids = speech(10, 5)
    loss, logits = SpeechSpeechPretrainWrapper(model, **options)(ids)
    assert loss.isfinite() and logits.shape[:2] == (2, seen["target"].shape[1] + 1)
    assert seen["source"].shape[1] == source_length and seen["target"].shape[1] == target_length
    assert seen["rate"] == pytest.approx(2.5 if options == {"reconstruct_seq": True} else 1.0)
    if options.get("reconstruct_seq"):
        assert torch.equal(seen["target"], ids)


def test_pretraining_takes_waveforms_with_lengths(model):
    def tokenizer(wav, lengths=None):
        ids = (wav[:, ::100].abs() * 19).long()
        counts = torch.full((len(wav),), ids.shape[1]) if lengths is None else lengths // 100
        return ids.masked_fill(torch.arange(ids.shape[1]) >= counts[:, None], -1)

    wrapper = SpeechSpeechPretrainWrapper(model, tokenizer)
    wav = torch.rand(2, 1000)
    assert wrapper._ids(wav, torch.tensor([1000, 400])).tolist()[1][4:] == [-1] * 6
    assert wrapper(wav, lengths=torch.tensor([1000, 400]))[0].isfinite()


def test_text_losses_are_the_models(model):
    model.eval()
    semantic, text = speech(10, 5), torch.tensor([[1, 2, 3], [4, 5, 0]])
    loss, _ = SemanticToTextWrapper(model)(semantic, text)
    types = dict(source_type="speech", target_type="text", return_loss=True)
    torch.testing.assert_close(loss, model(semantic, text, **types))
    joint, _ = SemanticToTextWrapper(model, ctc_weight=0.3)(semantic, text)
    ctc, _ = SemanticToTextWrapper(model, ctc_weight=1.0)(semantic, text)
    torch.testing.assert_close(joint, 0.7 * loss + 0.3 * ctc)
    forward, _ = TextToSemanticWrapper(model)(text, semantic)
    types = dict(source_type="text", target_type="speech", return_loss=True)
    torch.testing.assert_close(forward, model(text, semantic, return_early_exit_loss=True, **types))
    without, _ = TextToSemanticWrapper(model)(text, semantic, return_early_exit_loss=False)
    assert without < forward


def test_token_dropout_is_for_training_only(model):
    semantic, text = speech(10, 5), torch.tensor([[1, 2, 3], [4, 5, 0]])
    wrapper = SemanticToTextWrapper(model, token_dropout=0.5)
    losses = {round(wrapper(semantic, text)[0].item(), 5) for _ in range(5)}
    assert len(losses) > 1
    wrapper.eval()
    assert len({round(wrapper(semantic, text)[0].item(), 5) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: SpeechSpeechPretrainWrapper(m, deletion_prob=1.0), "deletion_prob must be"),
        (lambda m: SpeechSpeechPretrainWrapper(m, mask_id=3), "needs reconstruct_seq"),
        (lambda m: SpeechSpeechPretrainWrapper(m)(torch.tensor([[1, 2], [-1, -1]])), "row without any id"),
        (lambda m: SpeechSpeechPretrainWrapper(m)(torch.tensor([[1, 2]]), return_early_exit_loss=True), "exit"),
        (lambda m: SemanticToTextWrapper(m, ctc_weight=1.5), "ctc_weight"),
        (lambda m: SemanticToTextWrapper(m, token_dropout=1.0), "token_dropout"),
    ],
)
def test_bad_options_are_named(model, call, words):
    with pytest.raises(ValueError, match=words):
        call(model)
