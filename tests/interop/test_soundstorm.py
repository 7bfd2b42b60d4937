"""SoundStorm speaks and trains on our semantic ids: releases 0.4.10 (takes texts) and 0.6.1 (takes ids)."""

import random
from importlib.metadata import version

import parts
import pytest
import torch
from torch import Tensor

from spear_tts_pytorch import MelKmeans
from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform

TEXTS = ["hello world", "ab", "x y z"]
EOS = parts.NUM_SPEECH_IDS
DECODING = {
    "sampling": dict(),
    "beam search": dict(beam_search_decode=True, beam_size=3),
    "speculative": dict(spec_decode=True, spec_decode_gamma=3),
}
decodings = pytest.mark.parametrize("options", DECODING.values(), ids=DECODING)
takes_texts = version("soundstorm-pytorch") == "0.4.10"  # the releases after it have lost an import


def our_ids(model, texts: list[str], **options) -> Tensor:
    return model.generate(texts, source_type="text", target_type="speech", **with_defaults(options))


def with_defaults(options: dict) -> dict:
    """Short, reproducible generation of ids of all kinds."""
    generator = torch.Generator().manual_seed(1)
    return dict(max_length=40, filter_logits_fn=None, generator=generator) | options


def spoken(storm, texts: list[str], monkeypatch, **options) -> tuple[Tensor, Tensor]:
    """The waveforms of `texts`, and the semantic ids from which SoundStorm made them."""
    seen = []
    condition = storm.maybe_get_condition
    monkeypatch.setattr(storm, "maybe_get_condition", lambda ids, **kw: seen.append(ids) or condition(ids, **kw))
    if takes_texts:
        own = {key: options.pop(key) for key in ("spec_decode", "spec_decode_gamma") if key in options}
        audio = storm.generate(texts=texts, text_to_semantic_generate_kwargs=with_defaults(options), **own)
    else:
        audio = storm.generate(cond_semantic_token_ids=our_ids(storm.text_to_semantic, texts, **options))
    return audio, seen[0]


def seeded_loss(storm, x: Tensor, **options) -> Tensor:
    torch.manual_seed(2)
    random.seed(2)
    return storm(x, **options)[0]


def noise(rows: int, ids: int) -> Tensor:
    return torch.randn(rows, ids * parts.SAMPLES_PER_ID)


def frames_mask(lengths: Tensor, ids: int) -> Tensor:
    """Which of the codec's frames are audio, `[b, frames]`, from lengths in semantic ids `[b]`."""
    return torch.arange(ids * parts.CODES_PER_ID) < lengths[:, None] * parts.CODES_PER_ID


@decodings
def test_text_becomes_sound(model, options, monkeypatch) -> None:
    storm = parts.soundstorm(model, parts.soundstream())
    audio, ids = spoken(storm, TEXTS, monkeypatch, **options)
    assert audio.shape == (len(TEXTS), ids.shape[1] * parts.SAMPLES_PER_ID)
    assert audio.isfinite().all() and (audio.std(dim=-1) > 0).all()


@decodings
def test_soundstorm_gets_the_ids_that_generate_gives(model, options, monkeypatch) -> None:
    _, ids = spoken(parts.soundstorm(model, parts.soundstream()), TEXTS, monkeypatch, **options)
    assert torch.equal(ids, our_ids(model, TEXTS, **options))
    real = ids != -1
    assert ((ids >= 0) & (ids <= EOS))[real].all()
    assert not (real[:, 1:] & ~real[:, :-1]).any()  # nothing after padding
    for row in ids:
        row = row[row != -1]
        assert not (row[:-1] == EOS).any() and (len(row) == ids.shape[1] or row[-1] == EOS)


def test_one_text_becomes_one_waveform(model, monkeypatch) -> None:
    def without_end(logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([EOS]), float("-inf"))

    storm = parts.soundstorm(model, parts.soundstream())
    audio, ids = spoken(storm, TEXTS[:1], monkeypatch, filter_logits_fn=without_end, max_length=12)
    assert ids.shape == (1, 12) and ids.max() < EOS
    assert audio.shape == (12 * parts.SAMPLES_PER_ID,)


def test_the_ids_decide_the_sound(model) -> None:
    storm, ids = parts.soundstorm(model, parts.soundstream()), torch.arange(15)[None]
    waveforms = []
    for each in (ids, ids, ids.flip(1)):
        torch.manual_seed(2)
        waveforms.append(storm.generate(cond_semantic_token_ids=each))
    assert torch.equal(waveforms[0], waveforms[1]) and not torch.equal(waveforms[0], waveforms[2])


def test_end_and_padding_are_no_condition(model) -> None:
    ids = our_ids(model, TEXTS)
    assert (ids == -1).any(), "the batch should be ragged"
    condition = parts.soundstorm(model).maybe_get_condition(ids)
    assert condition.shape == (len(TEXTS), ids.shape[1] * parts.CODES_PER_ID, 16)
    for row, length in zip(condition, ((ids != -1) & (ids != EOS)).sum(dim=-1).tolist(), strict=True):
        end = length * parts.CODES_PER_ID  # one frame on either side of it is interpolated
        assert (row[: end - 1].abs().sum(dim=-1) > 0).all() and (row[end + 1 :] == 0).all()


def test_training_step_leaves_our_model_alone(model) -> None:
    storm, ids = parts.soundstorm(model), our_ids(model, TEXTS)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    codes = torch.randint(0, 16, (len(TEXTS), ids.shape[1] * parts.CODES_PER_ID, 2))
    mask = frames_mask((ids != -1).sum(dim=-1), ids.shape[1])
    optimizer = torch.optim.AdamW(storm.parameters(), lr=0.1)

    loss = seeded_loss(storm, codes, cond_semantic_token_ids=ids, mask=mask)
    loss.backward()
    assert loss.isfinite()
    for part in (storm.net.code_embeds, storm.net.conformer, storm.net.heads, storm.net.to_logits):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    # SoundStorm embeds the ids under no_grad: neither its own copy of the embedding nor the rest of our model learns
    assert all(parameter.grad is None for parameter in model.parameters())
    assert storm.semantic_token_emb is model.semantic_token_emb
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    other = seeded_loss(storm, codes, cond_semantic_token_ids=ids, mask=mask)
    assert other != loss
    assert other != seeded_loss(storm, codes, cond_semantic_token_ids=ids.where(ids < 1, 1), mask=mask)


def test_training_on_padded_audio_with_its_own_tokenizer(model, hubert, monkeypatch) -> None:
    storm, waveforms = parts.soundstorm(model, parts.soundstream(), hubert), noise(3, 12)
    mask = frames_mask(torch.tensor([12, 7, 4]), 12)
    waveforms = waveforms * mask.repeat_interleave(waveforms.shape[1] // mask.shape[1], dim=1)
    seen = []
    condition = storm.maybe_get_condition
    monkeypatch.setattr(storm, "maybe_get_condition", lambda ids, **kw: seen.append(ids) or condition(ids, **kw))
    loss = seeded_loss(storm, waveforms, mask=mask)
    loss.backward()
    assert loss.isfinite() and storm.net.code_embeds.weight.grad.abs().sum() > 0
    assert torch.equal(seen[0], hubert(waveforms))
    assert all(parameter.grad is None for parameter in [*model.parameters(), *hubert.parameters()])


def test_training_on_padded_audio_with_our_tokenizer(model) -> None:
    """Padding is -1 to SoundStorm and out of its loss, whatever sounds there."""
    storm, codec, waveforms = parts.soundstorm(model), parts.soundstream(), noise(3, 12)
    tokenizer = MelKmeans.fit(noise(20, 20), parts.SAMPLE_HZ, num_clusters=parts.NUM_SPEECH_IDS, progress=False)
    lengths = torch.tensor([12, 7, 4])
    mask = frames_mask(lengths, 12)
    is_audio = mask.repeat_interleave(waveforms.shape[1] // mask.shape[1], dim=1)
    codes = codec.tokenize(waveforms)[0]
    losses = []
    for padding in (torch.zeros_like(waveforms), noise(3, 12)):
        ids = tokenize_waveform(tokenizer, waveforms.where(is_audio, padding), lengths * parts.SAMPLES_PER_ID)
        assert ((ids != -1).sum(dim=-1) - lengths).abs().max() <= 1
        losses.append(seeded_loss(storm, codes.where(mask[..., None], 0), cond_semantic_token_ids=ids, mask=mask))
    losses[0].backward()
    assert losses[0].isfinite() and losses[0] == losses[1]
    assert storm.net.code_embeds.weight.grad.abs().sum() > 0
