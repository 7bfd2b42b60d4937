"""audiolm-pytorch's HubertWithKmeans is a semantic tokenizer to our model."""

import parts
import pytest
import torch

from spear_tts_pytorch import ByteTokenizer, SemanticTokenizer, SpeechSpeechPretrainWrapper
from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform

TEXTS = ["hello world", "ab", "x y z"]
LENGTHS = torch.tensor([12, 7, 4])


@pytest.fixture
def waveforms() -> torch.Tensor:
    return torch.randn(3, 12 * parts.SAMPLES_PER_ID)


def test_has_the_interface(hubert, voiced_model) -> None:
    assert isinstance(hubert, SemanticTokenizer)
    assert voiced_model.num_semantic_token_ids == hubert.codebook_size == parts.NUM_SPEECH_IDS
    assert voiced_model.wav2vec is hubert


def test_its_weights_are_not_the_models(voiced_model) -> None:
    assert not [name for name in voiced_model.state_dict() if "wav2vec" in name]
    assert not [name for name, _ in voiced_model.named_parameters() if "wav2vec" in name]


def test_padding_becomes_no_ids(hubert, waveforms) -> None:
    ids = tokenize_waveform(hubert, waveforms, LENGTHS * parts.SAMPLES_PER_ID)
    assert torch.equal((ids != -1).sum(dim=-1), LENGTHS)
    for row, waveform, length in zip(ids, waveforms, LENGTHS.tolist(), strict=True):
        assert torch.equal(row[:length], hubert(waveform[None, : length * parts.SAMPLES_PER_ID])[0])


@pytest.mark.parametrize("autoset_eos", [True, False], ids=["with eos", "without eos"])
def test_trains_on_waveforms(hubert, waveforms, autoset_eos) -> None:
    """Its ids come from inference mode, which backward refuses where they are used as they are."""
    options = dict(tokenizer_encode=ByteTokenizer(), wav2vec=hubert)
    options |= dict(autoset_semantic_eos_id=autoset_eos, autoset_text_eos_id=autoset_eos)
    model = parts.text_to_semantic(**options)
    loss = model(TEXTS, waveforms, source_type="text", target_type="speech", return_loss=True)
    assert loss == model(TEXTS, hubert(waveforms).clone(), source_type="text", target_type="speech", return_loss=True)
    loss = loss + SpeechSpeechPretrainWrapper(model)(waveforms, lengths=LENGTHS * parts.SAMPLES_PER_ID)[0]
    loss = loss + model(waveforms, TEXTS, source_type="speech", target_type="text", return_loss=True)
    loss.backward()
    assert loss.isfinite() and model.semantic_token_emb.weight.grad.abs().sum() > 0


def test_waveforms_become_text(voiced_model, waveforms) -> None:
    options = dict(source_type="speech", target_type="text", max_length=10, temperature=0)
    lengths = LENGTHS * parts.SAMPLES_PER_ID
    batch = voiced_model.generate(waveforms, source_lengths=lengths, **options)
    assert batch.shape[0] == 3 and batch.min() >= 0 and batch.max() <= parts.NUM_TEXT_IDS
    for row, waveform, length in zip(batch, waveforms, lengths.tolist(), strict=True):
        alone = voiced_model.generate(waveform[None, :length], **options)[0]
        assert torch.equal(row[row != 0], alone[alone != 0])
