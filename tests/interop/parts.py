"""Small models from the downstream packages, with a `TextToSemantic` inside: ours, or that of release 0.4.8.

Whichever `spear_tts_pytorch` Python finds is built in, so that both go through the same code. The packages are used as
they come from PyPI. Only `fairseq`, which no longer installs and which they import without needing it, is an empty module.
"""

import sys
from types import ModuleType, SimpleNamespace

if "fairseq" not in sys.modules:
    sys.modules["fairseq"] = ModuleType("fairseq")
    sys.modules["fairseq"].__spec__ = None

import torch
from audiolm_pytorch import HubertWithKmeans, SoundStream
from soundstorm_pytorch import ConformerWrapper, SoundStorm
from torch import Tensor, nn
from voicebox_pytorch import ConditionalFlowMatcherWrapper, VoiceBox
from voicebox_pytorch.voicebox_pytorch import AudioEncoderDecoder

from spear_tts_pytorch import TextToSemantic

SAMPLE_HZ = 16_000
SAMPLES_PER_ID = 320  # of HubertWithKmeans
CODES_PER_ID = 2  # SoundStream has two frames to one semantic id
NUM_TEXT_IDS, NUM_SPEECH_IDS = 257, 20  # the texts' ids are bytes


class Hubert(HubertWithKmeans):
    """The real class, over a random network instead of a checkpoint: to read one it needs fairseq itself."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.target_sample_hz, self.seq_len_multiple_of, self.output_layer = SAMPLE_HZ, None, 9
        self.model = _Network()
        self.kmeans = SimpleNamespace(n_clusters=NUM_SPEECH_IDS)
        self.register_buffer("cluster_centers", torch.randn(NUM_SPEECH_IDS, 8))


class _Network(nn.Module):
    """Waveforms `[b, t]` to features `[b, t // 320, 8]`, called as HubertWithKmeans calls fairseq's network."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 8, SAMPLES_PER_ID, stride=SAMPLES_PER_ID)

    def forward(self, wav: Tensor, features_only: bool, mask: bool, output_layer: int) -> dict[str, Tensor]:
        return {"x": 10 * self.frames(wav[:, None]).transpose(1, 2)}


class Frames(AudioEncoderDecoder):
    """Voicebox's audio codec; its own two fetch weights from a hub. Waveforms `[b, t]` to latents `[b, t // 320, 16]`."""

    sampling_rate, downsample_factor, latent_dim = SAMPLE_HZ, SAMPLES_PER_ID, 16

    def __init__(self) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(SAMPLES_PER_ID, self.latent_dim) / 4)

    def encode(self, audio: Tensor) -> Tensor:
        return audio.unfold(1, SAMPLES_PER_ID, SAMPLES_PER_ID) @ self.basis

    def decode(self, latents: Tensor) -> Tensor:
        return (latents @ self.basis.T).flatten(1)


def text_to_semantic(**options) -> TextToSemantic:
    """A small model with everything downstream packages ask for: an early exit, and grouped queries besides."""
    sizes = dict(dim=32, source_depth=2, target_depth=2, heads=4, dim_head=16, target_kv_heads=2)
    ids = dict(num_text_token_ids=NUM_TEXT_IDS, num_semantic_token_ids=NUM_SPEECH_IDS)
    return TextToSemantic(**{**sizes, **ids, "target_early_exit_layer": 1, **options})


def soundstream() -> SoundStream:
    """audiolm-pytorch's codec, 160 samples to a frame of two codes; its codebooks are learned from noise."""
    codec = SoundStream(
        channels=4,
        strides=(4, 5, 8),
        channel_mults=(2, 4, 8),
        codebook_dim=16,
        codebook_size=16,
        rq_num_quantizers=2,
        attn_window_size=16,
        attn_dim_head=8,
        attn_heads=2,
        discr_multi_scales=(1,),
        stft_discriminator=nn.Identity(),
    )
    codec(torch.randn(4, 8_000), return_encoded=True)
    return codec.eval()


def soundstorm(model: TextToSemantic, codec: SoundStream | None = None, wav2vec: Hubert | None = None) -> SoundStorm:
    """SoundStorm conditioned on the semantic ids of `model`."""
    net = ConformerWrapper(codebook_size=16, num_quantizers=2, conformer=dict(dim=16, depth=1, heads=2, dim_head=8))
    options = dict(wav2vec_target_sample_hz=SAMPLE_HZ, wav2vec_downsample_factor=SAMPLES_PER_ID)
    if wav2vec is not None:
        options = dict(wav2vec=wav2vec)
    if codec is None:
        options |= dict(codec_target_sample_hz=SAMPLE_HZ, codec_downsample_factor=SAMPLES_PER_ID // CODES_PER_ID)
    return SoundStorm(net, soundstream=codec, spear_tts_text_to_semantic=model, steps=2, **options)


def voicebox(model: TextToSemantic) -> ConditionalFlowMatcherWrapper:
    """Voicebox conditioned on `model`, which must have a `wav2vec`; end-of-sequence is Voicebox's "no condition"."""
    net = VoiceBox(
        num_cond_tokens=model.num_semantic_token_ids,
        audio_enc_dec=Frames(),
        dim=32,
        dim_cond_emb=16,
        depth=2,
        heads=2,
        dim_head=16,
        num_register_tokens=2,
    )
    return ConditionalFlowMatcherWrapper(net, text_to_semantic=model)
