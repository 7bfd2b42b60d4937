"""Speech ids to sound: durations are predicted, then log-mel spectra, then a waveform.

In: ids `[n]` of a semantic tokenizer with 50 frames a second, with or without repeats. Out: log-mel spectra `[m, 80]` of 10 ms
as Whisper takes them, or a waveform `[t]` at 16 kHz by Griffin-Lim; a vocoder may take its place. Trained on audio alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, check_tokenizer, checked_rate, describe
from spear_tts_pytorch.tokenizers.unit_fit import UnitFitOptions, hear, train_network
from spear_tts_pytorch.tokenizers.unit_network import UnitNetwork
from spear_tts_pytorch.tokenizers.whisper_mel import SAMPLE_HZ, mel_to_wav
from spear_tts_pytorch.tokens import SPEECH_PAD_ID
from spear_tts_pytorch.utils.json_files import field, read_object
from spear_tts_pytorch.utils.replacing import replaced, whole
from spear_tts_pytorch.utils.values import given_path, integers, switch, whole_number
from spear_tts_pytorch.utils.weight_files import read_shapes

FORMAT_VERSION = 1
KIND, CONFIG_NAME, TENSORS_NAME = "unit_to_speech", "unit_to_speech.json", "unit_to_speech.safetensors"
FRAME_HZ, TOLERANCE = 50, 0.02
MOST_FRAMES = 2**22  # of one sound: 23 hours
MOST_DURATION = 250  # frames of one id, 5 s
MOST_ITERATIONS = 10_000
REMEDY = "save or fit it again"


class UnitToSpeech(nn.Module):
    """Turns speech ids into log-mel spectra and sound: the unit-to-speech model of GSLM (arXiv 2102.01192, section 3.3).

    Usually made by `UnitToSpeech.fit` or `UnitToSpeech.load`. The network is an embedding and residual convolutions
    over ids at full rate; a smaller one predicts durations of ids without repeats (FastSpeech, arXiv 1905.09263).

    Args:
        num_ids: K, ids are `0..K-1`.
        dim: width.
        depth: number of residual convolutions.
        unique_consecutive: whether ids come without repeats: their durations are predicted.
        vocoder: log-mel spectra `[m, 80]`, 100 a second, to a waveform `[t]`; None is Griffin-Lim. It is not saved.
        vocoder_sample_hz: sampling rate of its waveforms in Hz.

    Attributes:
        codebook_size: K.
        target_sample_hz: sampling rate of the sound in Hz.
        tokenizer: description of the tokenizer that `fit` was given; None without `fit`.
        history: losses of `fit`, by steps; empty after `load`.

    Raises:
        TypeError, ValueError: a size that cannot be.
    """

    def __init__(
        self,
        num_ids: int,
        *,
        dim: int = 256,
        depth: int = 5,
        unique_consecutive: bool = False,
        vocoder: Callable[[Tensor], Tensor] | None = None,
        vocoder_sample_hz: int = SAMPLE_HZ,
    ):
        super().__init__()
        self.codebook_size = whole_number("num_ids", num_ids, 1)
        self.dim, self.depth = whole_number("dim", dim, 1), whole_number("depth", depth, 1)
        self.unique_consecutive = switch("unique_consecutive", unique_consecutive)
        self.vocoder, self.vocoder_sample_hz = vocoder, checked_rate("vocoder_sample_hz", vocoder_sample_hz)
        self.network = UnitNetwork(self.codebook_size, self.dim, self.depth)
        self.tokenizer: dict[str, Any] | None = None
        self.history: list[dict[str, float]] = []

    @classmethod
    def fit(
        cls,
        waveforms: Iterable[Any],
        tokenizer: SemanticTokenizer,
        *,
        sample_hz: int | None = None,
        steps: int = 1000,
        dim: int = 256,
        depth: int = 5,
        batch_size: int = 16,
        lr: float = 1e-3,
        device: str | torch.device | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> UnitToSpeech:
        """Learns from audio, without texts: ids of the tokenizer with their durations, and spectra of the same audio.

        Args:
            waveforms: float waveforms `[t]` in -1..1, or utterances of a corpus (`data/corpora`). Clips that cannot be used
                are left out with a warning. An hour takes 60 MB of memory.
            tokenizer: gives 50 ids a second, or removes repeats of them and tells their durations.
            sample_hz: sampling rate in Hz of waveforms; that of the tokenizer if None. Utterances have their own.
            steps: updates.
            dim, depth: as in the constructor.
            batch_size: crops of 2.4 seconds in an update.
            lr: highest learning rate.
            device: where it is trained, such as "cuda"; None is the CPU.
            seed: fixes weights and crops.
            progress: shows bars, on terminals.

        Raises:
            TypeError: `tokenizer` is no semantic tokenizer.
            ValueError: a tokenizer of another rate or without durations, no usable clip, or a number out of range.
        """
        check_tokenizer(tokenizer)
        rate = tokenizer.target_sample_hz / tokenizer.downsample_factor
        if abs(rate / FRAME_HZ - 1) > TOLERANCE:
            raise ValueError(
                f"tokenizer gives {rate:.4g} frames a second, UnitToSpeech takes {FRAME_HZ}: use another one"
            )
        options = UnitFitOptions(steps, batch_size, lr, seed, progress)
        sample_hz = None if sample_hz is None else checked_rate("sample_hz", sample_hz)
        unique = bool(getattr(tokenizer, "unique_consecutive", False))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            made = cls(tokenizer.codebook_size, dim=dim, depth=depth, unique_consecutive=unique)
        clips = hear(waveforms, tokenizer, sample_hz, options.progress)
        mean = torch.stack([clip.mel.float().mean(dim=0) for clip in clips]).mean(dim=0)
        made.network.begin_at(_centroids(tokenizer), mean)
        made.tokenizer = json.loads(json.dumps(describe(tokenizer)))
        made.to(device)
        made.history = train_network(made.network, clips, options)
        return made.eval()

    @property
    def target_sample_hz(self) -> int:
        return SAMPLE_HZ if self.vocoder is None else self.vocoder_sample_hz

    @property
    def device(self) -> torch.device:
        return self.network.stretch.device

    def forward(self, ids: Tensor) -> Tensor:
        """Ids at full rate `[b, n]`, padded with -1, to log-mel spectra `[b, 2 n, 80]`; those of padding mean nothing."""
        return self.network(self._checked(ids, 2))

    @torch.no_grad()
    def durations(self, ids: Tensor) -> Tensor:
        """Predicted durations in frames of ids without repeats `[b, n]`, padded with -1: int64 `[b, n]`, 0 at padding.

        Running totals are rounded, not each duration, so that the total length is right; an id may last 0 frames.

        Raises:
            TypeError, ValueError: ids of another shape or kind, or out of range.
        """
        ids = self._checked(ids, 2)
        frames = (self.network.log_durations(ids).exp() * self.network.stretch).clamp(max=MOST_DURATION)
        frames = frames.double().masked_fill(ids == SPEECH_PAD_ID, 0)
        totals = frames.cumsum(dim=1).round().long()
        return totals.diff(dim=1, prepend=totals.new_zeros(len(totals), 1))

    @torch.no_grad()
    def log_mel(self, ids: Tensor, durations: Tensor | None = None) -> Tensor:
        """The log-mel spectra of ids.

        Args:
            ids: `[n]`, integers; padding (-1) is left out.
            durations: `[n]`, integers, frames of 20 ms for each id. If None: predicted with `unique_consecutive`, else one
                frame each.

        Returns:
            float32 `[2 m, 80]`, where m is the sum of the durations.

        Raises:
            TypeError, ValueError: ids of another shape or kind or out of range, none, or durations that do not fit.
        """
        ids = self._checked(ids, 1)
        real = ids != SPEECH_PAD_ID
        if durations is not None:
            durations = integers("durations", durations).to(ids.device).long()
            if durations.shape != ids.shape or (durations[real] < 0).any():
                raise ValueError(f"durations must be integers >= 0 of the shape {list(ids.shape)}, one for each id")
            durations = durations[real]
            if float(durations.double().sum()) > MOST_FRAMES:
                raise ValueError(f"durations must add up to at most {MOST_FRAMES} frames: give parts of the ids")
        ids = ids[real]
        if durations is None and self.unique_consecutive and len(ids):
            durations = self.durations(ids[None])[0]
        if durations is not None:
            ids = ids.repeat_interleave(durations)
        if not len(ids):
            raise ValueError("ids holds no sound: give at least one id that lasts at least one frame")
        return self.network(ids[None])[0]

    def resynthesize(
        self, ids: Tensor, durations: Tensor | None = None, *, iterations: int = 32, seed: int = 0
    ) -> Tensor:
        """Ids to a waveform, through `log_mel`.

        Args:
            ids, durations: as for `log_mel`.
            iterations: steps of Griffin-Lim, at most 10,000.
            seed: fixes the phases at its start.

        Returns:
            float32 `[t]` at `target_sample_hz`, on the CPU.
        """
        iterations = whole_number("iterations", iterations, 0, MOST_ITERATIONS)
        seed = whole_number("seed", seed, 0, 2**63 - 1)
        mel = self.log_mel(ids, durations)
        if self.vocoder is None:
            return mel_to_wav(mel.cpu(), iterations=iterations, seed=seed)
        return self.vocoder(mel).detach().float().cpu()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `unit_to_speech.safetensors` and `unit_to_speech.json` into `folder`, both or none. Other files in it stay."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        with replaced(folder, (CONFIG_NAME, TENSORS_NAME)) as new:
            (new / TENSORS_NAME).write_bytes(to_bytes(tensors))
            (new / CONFIG_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        vocoder: Callable[[Tensor], Tensor] | None = None,
        vocoder_sample_hz: int = SAMPLE_HZ,
    ) -> UnitToSpeech:
        """Opens what `save` wrote.

        Args:
            folder: of `save`.
            vocoder, vocoder_sample_hz: as in the constructor.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: the files are of a later format, or damaged.
        """
        folder = whole(given_path("folder", folder), CONFIG_NAME)
        for name in (CONFIG_NAME, TENSORS_NAME):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no UnitToSpeech in {folder}: {name} is missing")
        config = read_object(folder / CONFIG_NAME, "a UnitToSpeech", REMEDY)
        try:
            kind, version = field(config, "type", str), field(config, "format_version", int)
            if kind != KIND or version > FORMAT_VERSION:
                raise ValueError(f"it has the type {kind!r:.60} and the format {version}: upgrade the package")
            sizes = {name: field(config, name, int) for name in ("num_ids", "dim", "depth")}
            unique = field(config, "unique_consecutive", bool)
            _check_sizes(sizes, read_shapes(folder / TENSORS_NAME))
            made = cls(**sizes, unique_consecutive=unique, vocoder=vocoder, vocoder_sample_hz=vocoder_sample_hz)
            made.tokenizer = field(config, "tokenizer", (dict, type(None)))
            made.network.load_state_dict(from_bytes((folder / TENSORS_NAME).read_bytes()))
        except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{folder / CONFIG_NAME} does not hold a usable UnitToSpeech ({error}): {REMEDY}"
            ) from error
        return made.eval()

    def to_dict(self) -> dict[str, Any]:
        """A description as JSON types."""
        return {
            "type": KIND,
            "format_version": FORMAT_VERSION,
            "num_ids": self.codebook_size,
            "dim": self.dim,
            "depth": self.depth,
            "unique_consecutive": self.unique_consecutive,
            "tokenizer": self.tokenizer,
        }

    def fits(self, tokenizer: SemanticTokenizer) -> bool:
        """Whether it was trained on the ids of this tokenizer."""
        return self.tokenizer == json.loads(json.dumps(describe(tokenizer)))

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        return f"UnitToSpeech({self.codebook_size} ids, dim {self.dim}, depth {self.depth}, {size:,} parameters)"

    def _checked(self, ids: Tensor, ndim: int) -> Tensor:
        ids = integers("ids", ids).long().to(self.device)
        if ids.ndim != ndim:
            shape = "[n]" if ndim == 1 else "[b, n]"
            raise ValueError(f"ids must be integers of the shape {shape}, got {list(ids.shape)}")
        wrong = ids[(ids < SPEECH_PAD_ID) | (ids >= self.codebook_size)]
        if wrong.numel():
            raise ValueError(f"ids holds {int(wrong[0])}, but speech ids are 0 to {self.codebook_size - 1}")
        return ids


def _centroids(tokenizer: SemanticTokenizer) -> Tensor | None:
    """The centroids of a tokenizer, or of the one within it, if it has some."""
    found: Any = getattr(getattr(tokenizer, "tokenizer", tokenizer), "centroids", None)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != tokenizer.codebook_size:
        return None
    return found.detach().cpu().float()


def _check_sizes(sizes: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the weights are of these sizes. A network of other sizes is not built."""
    there = shapes.get("embedding.weight")
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    if there != (sizes["num_ids"], sizes["dim"]) or depth != sizes["depth"]:
        raise ValueError(f"its sizes are {sizes}, its weights are {there} with {depth} convolutions")
