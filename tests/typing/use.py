"""A user's script, for type checkers: the API as the README uses it, with the types that a user gets.

`tests/typing/test_typing.py` checks it with `pyright` and `mypy`, both strict, and runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import assert_type

from spear_tts_pytorch import (
    CharacterTokenizer,
    GeneratedAudioTextDataset,
    MelKmeans,
    SemanticToTextDatasetGenerator,
    SemanticToTextTrainer,
    SpeechSpeechPretrainer,
    TextToSemantic,
    TextToSemanticTrainer,
)
from spear_tts_pytorch.decoding.batching import Generated
from spear_tts_pytorch.decoding.loop import DecodeResult, Hypothesis
from spear_tts_pytorch.decoding.score import Scores
from spear_tts_pytorch.decoding.stream import TokenStream

TEXTS = ["one two", "three", "two two one", "three one"]


def speech() -> list[Tensor]:
    """Noise of the length of short words, `[t]`."""
    noise = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=noise) for samples in (4_000, 5_000, 6_000, 7_000)]


def make_model(waves: list[Tensor]) -> TextToSemantic:
    wav2vec = MelKmeans.fit(waves, sample_hz=8_000, num_clusters=16, progress=False)
    assert_type(wav2vec, MelKmeans)
    assert_type(wav2vec.codebook_size, int)
    assert_type(wav2vec.target_sample_hz, int)
    assert_type(wav2vec(waves[0]), Tensor)
    text_tokenizer = CharacterTokenizer.fit(TEXTS)
    assert_type(text_tokenizer, CharacterTokenizer)
    assert_type(text_tokenizer.encode(TEXTS), Tensor)
    model = TextToSemantic(
        dim=16,
        source_depth=1,
        target_depth=1,
        heads=2,
        dim_head=8,
        wav2vec=wav2vec,
        tokenizer_encode=text_tokenizer,
        ctc=True,
        add_positions=True,
        text_position_rate=3.0,
    )
    assert_type(model, TextToSemantic)
    assert_type(model.dim, int)
    assert_type(model.device, torch.device)
    assert_type(model.num_semantic_token_ids, int)
    return model


def train(model: TextToSemantic, waves: list[Tensor], folder: Path) -> None:
    pairs = list(zip(waves, TEXTS, strict=True))
    pretrainer = SpeechSpeechPretrainer(
        model,
        model.wav2vec,
        dataset=waves,
        reconstruct_seq=True,
        deletion_prob=0.6,
        num_train_steps=2,
        num_warmup_steps=1,
        batch_size=2,
        lr=3e-4,
        results_folder=folder / "pretrain",
        progress=False,
    )
    assert_type(pretrainer, SpeechSpeechPretrainer)
    assert_type(pretrainer.train(), None)
    SemanticToTextTrainer(
        model,
        dataset=pairs,
        ctc_weight=0.5,
        num_train_steps=1,
        num_warmup_steps=0,
        batch_tokens=500,
        grad_accum_every=1,
        results_folder=str(folder / "backtranslate"),
        accelerate_kwargs={"mixed_precision": "no"},
        progress=False,
    ).train()

    generate_pairs = SemanticToTextDatasetGenerator(
        model, dataset=waves, folder=folder / "pairs", batch_size=2, progress=False
    )
    generate_pairs(max_length=4, beam_search_decode=True)
    dataset = GeneratedAudioTextDataset(folder / "pairs", text_lengths=(0, None))
    assert_type(len(dataset), int)
    assert_type(dataset.ids, list[str])

    TextToSemanticTrainer(
        model,
        dataset=pairs,
        freeze="none",
        num_train_steps=1,
        num_warmup_steps=0,
        batch_size=2,
        results_folder=folder / "train",
        progress=False,
    ).train()


def decode(model: TextToSemantic, waves: list[Tensor]) -> None:
    noise = torch.Generator().manual_seed(0)
    assert_type(model.generate(["one two"], max_length=4), Tensor)
    ids = model.generate(
        ["one two", "two"],
        source_type="text",
        target_type="speech",
        temperature=0.5,
        max_length=8,
        cond_scale=1.0,
        generator=noise,
    )
    assert_type(ids, Tensor)
    read = model.generate(
        waves[0][None], source_type="speech", target_type="text", max_length=4, beam_search_decode=True, beam_size=2
    )
    assert_type(read, Tensor)
    result = model.generate(["one"], max_length=4, return_result=True)
    assert_type(result, DecodeResult)
    assert_type(result.ids, Tensor)
    assert_type(result.truncated, Tensor)
    for piece in model.generate_stream(["one"], chunk=2, max_length=4):
        assert_type(piece, Tensor)
    assert_type(model.generate_stream(["one"], max_length=4), TokenStream)

    hypotheses = model.generate_n_best(["one"], n_best=2, beam_size=2, max_length=4)
    assert_type(hypotheses, list[list[Hypothesis]])
    assert_type(hypotheses[0][0].score, float)

    many = model.generate_many(TEXTS, max_length=4, temperature=0.8, seed=0, progress=False)
    assert_type(many, list[Generated])
    assert_type(many[0].score, float)
    some = model.generate_many(TEXTS, max_length=4, on_error="skip", progress=False)
    assert_type(some, list[Generated | None])

    scores = model.score(["one two", "two"], ids, batch_size=1)
    assert_type(scores, Scores)
    assert_type(scores.mean_log_probs, Tensor)


def keep(model: TextToSemantic, folder: Path) -> TextToSemantic:
    assert_type(model.quantize("int8"), TextToSemantic)
    assert_type(model.compile(warm_up=False), TextToSemantic)
    model.quantize("fp32")
    model.save_pretrained(folder)
    same = TextToSemantic.from_pretrained(folder)
    assert_type(same, TextToSemantic)
    model.load(folder)
    return same


class Named(TextToSemantic):
    """A user's own model: methods that return the model keep its class."""

    name: str = "mine"


def keep_named(model: Named, folder: Path) -> None:
    assert_type(model.quantize("bf16"), Named)
    assert_type(Named.from_pretrained(folder), Named)


def main(folder: Path) -> None:
    waves = speech()
    model = make_model(waves)
    train(model, waves, folder)
    decode(model, waves)
    keep(model, folder / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
