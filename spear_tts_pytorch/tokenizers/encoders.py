"""Layers of speech encoders as features of audio: HuBERT and its kin, w2v-BERT 2.0, Whisper.

In: clips `[t]`. Out: features `[n, d]`, float32, a row for each 20 ms, equal to `hidden_states[layer]` of `transformers`. Each
clip is prepared and convolved by itself, and attention is masked: a clip has the same features in a batch as alone. Long
clips pass in overlapping windows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from spear_tts_pytorch.tokenizers.encoder_files import Opened, remove_norm, unused_norm
from spear_tts_pytorch.tokenizers.semantic import accepts_argument

WINDOW, OVERLAP = 1000, 100  # frames: longer clips pass in windows; 2 s at each inner end of a window are dropped
BATCH_FRAMES = 3000  # most frames, with padding, that pass together
FRAME = 320  # samples, 20 ms, of encoders that take log-mel spectra
SILENCE = 8000  # samples: Whisper hears half a second of silence after each clip; without it the end is not heard well
MEL_HZ = 16000  # rate of all encoders that take log-mel spectra
MEL_CHUNK = 3000  # spectra of 10 ms that are computed together

Window = tuple[int, int, int, int, int]
"""A clip's number, begin and end of the window in frames, and begin and end of its part that is used."""


class SpeechEncoder(nn.Module):
    """An encoder up to a layer. Subclasses know how a family takes audio.

    Args:
        opened: what `open_encoder` gave.

    Attributes:
        model: of `transformers`.
        normalize: whether waveforms are brought to mean 0 and variance 1.
        dim: width d of the features.
        hop: samples of a frame.
        least_samples: fewest samples of a clip.
        window_frames: most frames that pass in one window.
        batch_frames: most frames, padding included, that pass together.
        overlap: frames that are dropped at each inner end of a window.
        also: numbers of lower layers, whose outputs stand before the last layer's in the features; none at first.
    """

    model: Any

    def __init__(self, opened: Opened):
        super().__init__()
        self.opened = opened
        self.model = opened.model
        self.normalize = opened.normalize
        self.dim: int = self.model.config.hidden_size
        self.hop = self.least_samples = FRAME
        self.window_frames, self.overlap, self.batch_frames = WINDOW, OVERLAP, BATCH_FRAMES
        self.also: tuple[int, ...] = ()
        self._digest = b""
        self.requires_grad_(False).eval()

    def prepared(self, clip: Tensor) -> Tensor:
        """What windows are cut from: a waveform `[t]`, or spectra `[n, m]`."""
        raise NotImplementedError

    def frames(self, prepared: Tensor) -> int:
        """The number of frames of a prepared clip."""
        raise NotImplementedError

    def embedded(self, prepared: Tensor, begin: int, end: int) -> Tensor:
        """Frames `begin` to `end`, and perhaps some more, as the input `[n, d]` of the first layer."""
        raise NotImplementedError

    def layers(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Embedded windows `[b, n, d]` through all layers; `real` `[b, n]` is False at padding, None without any."""
        return self.model.encoder(x, attention_mask=real).last_hidden_state

    @property
    def stack(self) -> Sequence[nn.Module]:
        """The layers, from the bottom up."""
        return cast("Sequence[nn.Module]", self.model.encoder.layers)

    def _outputs(self, x: Tensor, real: Tensor | None) -> Tensor:
        """The outputs of the layers `also` and of the last one, side by side: `[b, n, d]`."""
        found: dict[int, Tensor] = {}

        def keep(number: int, _module: nn.Module, _inputs: Any, out: Any) -> None:
            found[number] = cast("Tensor", out[0] if isinstance(out, tuple) else out)

        hooks = [self.stack[number - 1].register_forward_hook(partial(keep, number)) for number in self.also]
        try:
            last = self.layers(x, real)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([*(found[number] for number in self.also), last], dim=-1)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def taken(self, clips: list[Tensor], take: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
        """The results of `take` on a clip's number and the features `[n, d]` of each window, joined for each clip.

        Windows of all clips pass together, in their order. Features are dropped once `take` has returned, to save memory.
        """
        ready = [self.prepared(clip) for clip in clips]
        windows = [
            (index, *window)
            for index, one in enumerate(ready)
            for window in windows_of(self.frames(one), self.window_frames, self.overlap)
        ]
        parts: list[list[Tensor]] = [[] for _ in clips]
        batch: list[Window] = []
        for place, window in enumerate(windows):
            batch.append(window)
            following = [*batch, windows[place + 1]] if place + 1 < len(windows) else batch
            longest = max(end - begin for _, begin, end, _, _ in following)
            if place + 1 == len(windows) or len(following) * longest > self.batch_frames:
                for (index, begin, _, first, last), found in zip(batch, self._encoded(ready, batch), strict=True):
                    parts[index].append(take(index, found[first - begin : last - begin]))
                batch = []
        return [torch.cat(part) for part in parts]

    def _encoded(self, ready: list[Tensor], batch: list[Window]) -> list[Tensor]:
        """Outputs `[end - begin, d]` of the layer, for frames `begin` to `end` of clip `index`."""
        rows = [self.embedded(ready[index], begin, end) for index, begin, end, _, _ in batch]
        lengths = [len(row) for row in rows]
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = None
        if min(lengths) < max(lengths):
            real = torch.arange(x.shape[1], device=x.device) < torch.tensor(lengths, device=x.device)[:, None]
        out = self._outputs(x, real)
        return [row[: end - begin].float() for row, (_, begin, end, _, _) in zip(out, batch, strict=True)]

    @property
    def digest(self) -> bytes:
        """SHA-256 of all weights that are used, by name; computed at the first use."""
        if not self._digest:
            found = hashlib.sha256()
            for name, tensor in sorted(cast("nn.Module", self.model).state_dict().items()):
                if name != "masked_spec_embed":  # only pretraining uses it
                    found.update(f"{name} {list(tensor.shape)}".encode())
                    found.update(tensor.float().cpu().contiguous().numpy().data)
            self._digest = found.digest()
        return self._digest

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickling, which torch refuses for the weight norm of some models."""
        opened, model = self.opened, self.model
        about = (opened.kind, opened.layer, opened.depth, opened.sample_hz, self.normalize)
        limits = (self.window_frames, self.overlap, self.batch_frames)
        return _rebuilt, (type(model), model.config, model.state_dict(), about, limits)


class WaveformEncoder(SpeechEncoder):
    """HuBERT, WavLM, wav2vec 2.0: convolutions over the waveform."""

    def __init__(self, opened: Opened):
        super().__init__(opened)
        config = self.model.config
        self.hop = math.prod(config.conv_stride)
        self.least_samples = _receptive_field(config)
        if getattr(config, "conv_pos_batch_norm", False):
            self.batch_frames = 1  # a norm of the padding would be heard: each window passes alone

    def prepared(self, clip: Tensor) -> Tensor:
        if not self.normalize:
            return clip
        return (clip - clip.mean()) / (clip.var(unbiased=False) + 1e-7).sqrt()

    def frames(self, prepared: Tensor) -> int:
        return (len(prepared) - self.least_samples) // self.hop + 1

    def embedded(self, prepared: Tensor, begin: int, end: int) -> Tensor:
        is_last = end == self.frames(prepared)
        stop = len(prepared) if is_last else (end - 1) * self.hop + self.least_samples  # in samples
        wav = prepared[begin * self.hop : stop].to(self.device)
        found = self.model.feature_projection(self.model.feature_extractor(wav[None]).transpose(1, 2))
        return cast("Tensor", found[0] if isinstance(found, tuple) else found)[0]


class W2vBertEncoder(SpeechEncoder):
    """w2v-BERT 2.0: log-mel spectra, two in a frame, with mean 0 and variance 1 over the clip in each band."""

    def __init__(self, opened: Opened):
        super().__init__(opened)
        from transformers import SeamlessM4TFeatureExtractor

        bands, odd = divmod(self.model.config.feature_projection_input_dim, 2)
        if odd:
            raise ValueError(f"feature_projection_input_dim must be even, got {2 * bands + 1}: two spectra are a frame")
        self.spectra: Any = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands)
        self.least_samples = FRAME + 240  # two spectra of 400 samples, 160 apart
        self.batch_frames = WINDOW  # its relative positions take memory by the square of a window

    def prepared(self, clip: Tensor) -> Tensor:
        wav = clip.cpu().numpy()
        count = (len(wav) - 400) // 160 + 1
        parts: list[Tensor] = []
        for begin in range(0, count, MEL_CHUNK):
            size = min(MEL_CHUNK, count - begin)
            chunk = wav[160 * begin : 160 * (begin + size - 1) + 400]
            options = {"sampling_rate": MEL_HZ, "do_normalize_per_mel_bins": False, "return_tensors": "pt"}
            pairs: Tensor = self.spectra(chunk, **options)["input_features"][0]  # [ceil(size / 2), 2 * bands]
            parts.append(pairs.reshape(2 * len(pairs), -1)[:size])
        bands = torch.cat(parts)  # [count, bands]
        bands = (bands - bands.mean(dim=0)) / (bands.var(dim=0) + 1e-7).sqrt()
        return bands[: count // 2 * 2].reshape(count // 2, -1)

    def frames(self, prepared: Tensor) -> int:
        return len(prepared)

    def embedded(self, prepared: Tensor, begin: int, end: int) -> Tensor:
        return self.model.feature_projection(prepared[None, begin:end].to(self.device))[0][0]


class WhisperEncoder(SpeechEncoder):
    """The encoder of Whisper on each window and half a second of silence, in place of silence up to 30 seconds."""

    def __init__(self, opened: Opened):
        super().__init__(opened)
        from transformers import WhisperFeatureExtractor

        self.spectra: Any = WhisperFeatureExtractor(feature_size=self.model.config.num_mel_bins)
        self.places: int = self.model.config.max_source_positions  # 1,500 frames, 30 s
        self.window_frames = self.places - SILENCE // FRAME
        self.overlap = min(OVERLAP, self.window_frames // 4)
        if self.window_frames < 4:
            raise ValueError(f"max_source_positions must be at least {SILENCE // FRAME + 4}, got {self.places}")

    def prepared(self, clip: Tensor) -> Tensor:
        return clip

    def frames(self, prepared: Tensor) -> int:
        return len(prepared) // FRAME

    def embedded(self, prepared: Tensor, begin: int, end: int) -> Tensor:
        stop = len(prepared) if end == self.frames(prepared) else end * FRAME
        wav = nn.functional.pad(prepared[begin * FRAME : stop], (0, SILENCE)).cpu().numpy()
        # The loudest band of the window gives the floor of the logarithm, as in the spectra that Whisper was trained on.
        found: Tensor = self.spectra(wav, sampling_rate=MEL_HZ, padding="do_not_pad", return_tensors="pt")[
            "input_features"
        ]
        places = min(found.shape[2] // 2, self.places)
        mel = found[:, :, : 2 * places].to(self.device)  # [1, bands, 2 n]
        x = nn.functional.gelu(self.model.conv2(nn.functional.gelu(self.model.conv1(mel))))[0].T  # [n, d]
        return x + self.model.embed_positions.weight[:places]

    def layers(self, x: Tensor, real: Tensor | None) -> Tensor:
        mask = None
        if real is not None:
            mask = x.new_zeros(len(x), 1, 1, x.shape[1]).masked_fill(~real[:, None, None], torch.finfo(x.dtype).min)
            mask = mask.expand(-1, -1, x.shape[1], -1)
        for layer in self.model.layers:
            older = {"layer_head_mask": None} if accepts_argument(layer, "layer_head_mask") else {}
            out: Any = layer(x, attention_mask=mask, **older)
            x = cast("Tensor", out[0] if isinstance(out, tuple) else out)
        return self.model.layer_norm(x)

    @property
    def stack(self) -> Sequence[nn.Module]:
        return cast("Sequence[nn.Module]", self.model.layers)


def encoder_of(opened: Opened) -> SpeechEncoder:
    """The encoder of the family to which an opened model belongs."""
    families = {"whisper": WhisperEncoder, "wav2vec2-bert": W2vBertEncoder}
    return families.get(opened.kind, WaveformEncoder)(opened)


def windows_of(frames: int, window: int = WINDOW, overlap: int = OVERLAP) -> list[tuple[int, int, int, int]]:
    """Begin and end of each window, and begin and end of its part that is used. The parts cover each frame once."""
    if frames <= window:
        return [(0, frames, 0, frames)]
    step = window - 2 * overlap
    number = math.ceil((frames - 2 * overlap) / step)
    found: list[tuple[int, int, int, int]] = []
    for i in range(number):
        begin, end = i * step, min(i * step + window, frames)
        found.append((begin, end, begin + overlap * (i > 0), frames if i == number - 1 else end - overlap))
    return found


def _receptive_field(config: Any) -> int:
    """Samples on which one frame depends."""
    size = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        size = (size - 1) * stride + kernel
    return size


def _rebuilt(
    kind: Callable[[Any], Any],
    config: Any,
    state: dict[str, Tensor],
    about: tuple[Any, ...],
    limits: tuple[int, int, int],
) -> SpeechEncoder:
    """The encoder of which `__reduce__` gave the parts."""
    model = kind(config)
    opened = Opened(model, *about)
    remove_norm(unused_norm(opened.kind, config, opened.layer == opened.depth), model)
    model.load_state_dict(state)
    encoder = encoder_of(opened).to(next(iter(state.values())).device)
    encoder.window_frames, encoder.overlap, encoder.batch_frames = limits
    return encoder
