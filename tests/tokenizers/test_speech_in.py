"""Both tokenizers on real speech and on what is wrong with audio."""

import numpy as np
import pytest
import torch

from spear_tts_pytorch import MelKmeans
from spear_tts_pytorch.data.audio import load_audio

RATE = 16_000


@pytest.fixture(scope="module")
def clips(corpora):
    """64 real clips of two corpora, all that `ljspeech_mini` has."""
    files = sorted((corpora / "ljspeech_mini" / "wavs").iterdir())
    files += sorted((corpora / "asterisk_en" / "wavs").iterdir())[: 64 - len(files)]
    return [torch.from_numpy(load_audio(path, RATE)[0]) for path in files]


@pytest.fixture(scope="module", params=["mel", "hubert"])
def tokenizer(request, clips, fixtures):
    if request.param == "mel":
        pytest.importorskip("sklearn")
        return MelKmeans.fit(clips, RATE, 50, progress=False)
    pytest.importorskip("transformers")
    from spear_tts_pytorch import HubertWithKmeans

    folder = fixtures / "hubert_tiny"
    return HubertWithKmeans(folder / "hubert_tiny.pt", folder / "hubert_tiny_L2_km20.bin", output_layer=2)


@pytest.mark.slow
def test_64_clips_have_the_ids_in_batches_of_8_that_they_have_alone(tokenizer, clips):
    assert len(clips) == 64
    for start in range(0, 64, 8):
        batch = clips[start : start + 8]
        lengths = torch.tensor([len(clip) for clip in batch])
        ids = tokenizer(torch.nn.utils.rnn.pad_sequence(batch, batch_first=True), lengths)
        for row, clip in zip(ids, batch, strict=True):
            alone = tokenizer(clip)[0]
            assert torch.equal(row[: len(alone)], alone) and bool((row[len(alone) :] == -1).all())


def test_other_rates_and_clipped_audio_are_taken(tokenizer, clips):
    clip = clips[0]
    assert abs(tokenizer(clip.repeat_interleave(12), None, 192_000).shape[1] - tokenizer(clip).shape[1]) <= 1
    clipped = (20 * clip).clamp(-1, 1)
    assert tokenizer(clipped).shape == tokenizer(clip).shape


@pytest.mark.parametrize(
    ("change", "rate", "words"),
    [
        (lambda wav: wav, 0, "input_sample_hz must be at least 1000, got 0"),
        (lambda wav: wav, -8000, "input_sample_hz must be at least 1000, got -8000"),
        (lambda wav: wav, 1, "input_sample_hz must be at least 1000, got 1"),
        (lambda wav: 1e6 * wav, None, r"is not audio in -1\.\.1 \(its peak is"),
        (lambda wav: torch.where(torch.arange(len(wav)) == 5, torch.nan, wav), None, "NaN or infinite"),
        (lambda wav: 0 * wav, None, "is silent"),
        (lambda wav: wav[:320], None, "has 320 samples, fewer than one window"),
        (lambda wav: wav[:0], None, "hold samples"),
    ],
)
def test_what_is_wrong_is_said(tokenizer, clips, change, rate, words):
    with pytest.raises(ValueError, match=words):
        tokenizer(change(clips[0]), None, rate)
    with pytest.raises(TypeError, match="divide 16-bit samples"):
        tokenizer((clips[0] * 32767).short())
    with pytest.raises(TypeError, match="floating-point"):
        tokenizer(np.arange(100))
