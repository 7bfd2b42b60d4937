"""The three objectives: sources and targets, losses, and ids that were prepared before."""

import numpy as np
import pytest
import small
import torch

from spear_tts_pytorch.objectives import SemanticToTextWrapper, SpeechSpeechPretrainWrapper, TextToSemanticWrapper
from spear_tts_pytorch.utils.deletion import drop_ids
from spear_tts_pytorch.utils.noise import row_keys


@pytest.fixture
def model():
    return small.make_model(32, target_depth=2, heads=4, ctc=True, target_early_exit_layer=1)


def speech(*lengths):
    ids = torch.randint(0, 20, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    return ids.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None], -1)


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


@pytest.mark.parametrize("options", [{}, {"reconstruct_seq": True}, {"reconstruct_seq": True, "mask_id": 3}], ids=str)
def test_a_corruption_drawn_before_gives_the_same_loss(model, options):
    wrapper, ids, keys = SpeechSpeechPretrainWrapper(model, **options), speech(10, 5), row_keys(torch.tensor([4, 7]), 1)
    source, target = wrapper.corrupt(ids, keys)
    loss, logits = wrapper(ids, row_keys=keys)
    for check_ids in (True, False):
        other, other_logits = wrapper(source, target=target, row_keys=keys, check_ids=check_ids)
        assert torch.equal(loss, other) and torch.equal(logits, other_logits)


def test_dropped_ids_are_not_dropped_again(model):
    semantic, text, keys = speech(10, 5), torch.tensor([[1, 2, 3], [4, 5, 0]]), row_keys(torch.tensor([4, 7]), 1)
    wrapper = SemanticToTextWrapper(model, token_dropout=0.5)
    once = wrapper(semantic, text, keys)[0]
    before = drop_ids(semantic, 0.5, -1, keys)
    assert before.shape[1] < 10 and torch.equal(once, wrapper(before, text, keys, check_ids=False, dropped=True)[0])
    assert not torch.equal(once, wrapper(before, text, keys)[0])


def test_unchecked_ids_are_taken_as_they_are(model):
    """An id that is not in the vocabulary is named by the check; without it the embedding table fails."""
    bad, text = torch.tensor([[1, 2, 99]]), torch.tensor([[1, 2]])
    calls = [
        lambda **keywords: SpeechSpeechPretrainWrapper(model)(bad, **keywords),
        lambda **keywords: SemanticToTextWrapper(model)(bad, text, **keywords),
        lambda **keywords: TextToSemanticWrapper(model)(text, bad, **keywords),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="holds the id 99"):
            call()
        with pytest.raises((IndexError, RuntimeError)):
            call(check_ids=False)


@pytest.mark.parametrize("options", [{}, {"reconstruct_seq": True}], ids=str)
def test_the_end_of_a_crop_is_no_target(model, options):
    """Ids beyond the target have no logits, and the loss is that of a vocabulary in which end-of-sequence never comes."""
    ids, keys = speech(10, 5), row_keys(torch.arange(2), 0)
    wrapper = SpeechSpeechPretrainWrapper(model.eval(), **options, end=False)
    loss, logits = wrapper(ids, row_keys=keys)
    whole, more = SpeechSpeechPretrainWrapper(model, **options)(ids, row_keys=keys)
    target = wrapper.corrupt(ids, keys)[1]
    assert logits.shape[1] == target.shape[1] == more.shape[1] - 1
    torch.testing.assert_close(logits[target != -1], more[:, :-1][target != -1])
    wanted = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, ignore_index=-1)
    torch.testing.assert_close(loss, wanted)
    assert abs(float(loss - whole)) > 1e-4


@pytest.mark.parametrize(
    ("name", "value"), [("end", 1), ("deletion_prob", "0.5"), ("mask_id", 2.0), ("reconstruct_seq", None)]
)
def test_options_of_pretraining_are_refused_by_name(model, name, value):
    with pytest.raises(TypeError, match=name):
        SpeechSpeechPretrainWrapper(model, **{name: value})


def test_numbers_of_numpy_and_torch_are_numbers(model):
    wrapper = SpeechSpeechPretrainWrapper(model, None, np.float32(0.5), np.bool_(True), torch.tensor(3))
    assert (wrapper.deletion_prob, wrapper.reconstruct_seq, wrapper.mask_id) == (0.5, True, 3)
    assert SemanticToTextWrapper(model, np.float16(0.5), torch.tensor(0.25)).token_dropout == 0.25
