"""Voicebox speaks and trains on our semantic ids. It embeds -1 as it is: a ragged batch needs another padding."""

import parts
import pytest
import torch

from spear_tts_pytorch import ByteTokenizer, MelKmeans

TEXT = ["hello world"]
EOS = parts.NUM_SPEECH_IDS
DECODING = {"sampling": dict(), "speculative": dict(spec_decode=True, spec_decode_gamma=3)}


def embedded(flow) -> list[torch.Tensor]:
    """Filled with the ids that Voicebox embeds, once for each of its evaluations."""
    seen: list[torch.Tensor] = []
    flow.voicebox.to_cond_emb.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


@pytest.mark.parametrize("options", DECODING.values(), ids=DECODING)
def test_samples_from_text(voiced_model, options) -> None:
    flow = parts.voicebox(voiced_model)
    seen = embedded(flow)
    torch.manual_seed(1)
    audio = flow.sample(texts=TEXT, max_semantic_token_ids=40, **options)
    torch.manual_seed(1)
    ids = voiced_model.generate(TEXT, source_type="text", target_type="speech", max_length=40, **options)
    assert len(seen) > 1 and all(torch.equal(each, ids) for each in seen)
    assert ids.min() >= 0 and ids.max() <= EOS
    assert audio.shape == (1, ids.shape[1] * parts.SAMPLES_PER_ID)
    assert audio.isfinite().all() and audio.std() > 0


def test_samples_from_semantic_ids(voiced_model) -> None:
    flow = parts.voicebox(voiced_model)
    options = dict(source_type="text", target_type="speech", max_length=40, filter_logits_fn=None)
    ids = voiced_model.generate([*TEXT, "ab", "x y z"], **options)
    assert (ids == -1).any(), "the batch should be ragged"
    audio = flow.sample(semantic_token_ids=ids.masked_fill(ids == -1, EOS))
    assert audio.shape == (3, ids.shape[1] * parts.SAMPLES_PER_ID)
    assert audio.isfinite().all() and (audio.std(dim=-1) > 0).all()


def test_samples_in_the_voice_of_a_prompt(voiced_model) -> None:
    flow = parts.voicebox(voiced_model)
    seen = embedded(flow)
    prompt = torch.randn(1, 4 * parts.SAMPLES_PER_ID)
    audio = flow.sample(texts=TEXT, cond=prompt, max_semantic_token_ids=40)
    # the length comes from the rates of our model's wav2vec and of the codec, equal here
    assert audio.shape == (1, seen[0].shape[1] * parts.SAMPLES_PER_ID) and audio.isfinite().all()


def test_our_model_learns_on_after_sampling(voiced_model) -> None:
    """Voicebox samples in inference mode, whose tensors must not stay behind in our model."""
    flow = parts.voicebox(voiced_model)
    flow.sample(texts=TEXT, max_semantic_token_ids=10)
    voiced_model.train()
    ids = torch.randint(0, EOS, (1, 60))
    loss = voiced_model(TEXT, ids, source_type="text", target_type="speech", return_loss=True)
    loss.backward()
    assert loss.isfinite() and voiced_model.semantic_token_emb.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tokenizer", ["HubertWithKmeans", "MelKmeans"])
def test_training_step(hubert, tokenizer) -> None:
    """From audio, which our model's tokenizer turns into ids, and from ids given; our model is left alone."""
    if tokenizer == "MelKmeans":
        clips = torch.randn(20, 20 * parts.SAMPLES_PER_ID)
        hubert = MelKmeans.fit(clips, parts.SAMPLE_HZ, num_clusters=parts.NUM_SPEECH_IDS, progress=False)
    model = parts.text_to_semantic(tokenizer_encode=ByteTokenizer(), wav2vec=hubert)
    flow = parts.voicebox(model)
    seen = embedded(flow)
    audio = torch.randn(2, 10 * parts.SAMPLES_PER_ID)
    losses = []
    for given in ({}, dict(semantic_token_ids=hubert(audio).clone())):
        torch.manual_seed(1)
        losses.append(flow(audio, **given))
    assert torch.equal(*seen) and losses[0] == losses[1] and losses[0].isfinite()
    losses[0].backward()
    assert flow.voicebox.to_cond_emb.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
