"""Training of `UnitToSpeech`: ids at full rate and log-mel spectra of clips, and updates on crops of them.

In: waveforms `[t]` and a semantic tokenizer. Out: a trained `UnitNetwork`. Ids and spectra stand in memory, 60 MB for an hour.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spear_tts_pytorch.tokenizers.consecutive import frame_ids
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, check_wav, clips_of, reason_of
from spear_tts_pytorch.tokenizers.unit_network import SPECTRA, UnitNetwork
from spear_tts_pytorch.tokenizers.whisper_mel import LEAST_SAMPLES, SAMPLE_HZ, whisper_mel
from spear_tts_pytorch.tokens import SPEECH_PAD_ID, pad_sequences, remove_repeats
from spear_tts_pytorch.utils.values import plain, real_number, settle, shown, switch, whole_number

CROP = 120  # frames of a crop, 2.4 s; as many ids without repeats for the durations
WARM_UP = 50  # updates over which the learning rate rises, at most a tenth of all
DURATION_EVERY = 4  # updates between two of the durations, which are learned sooner
DURATION_WEIGHT = 0.1
MEASURED = 200  # clips on which `stretch` is measured


@dataclass(frozen=True)
class UnitFitOptions:
    """Options of `UnitToSpeech.fit` that concern training, with the same names."""

    steps: int
    batch_size: int
    lr: float
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        settle(
            self,
            {
                "steps": whole_number("steps", self.steps, 1),
                "batch_size": whole_number("batch_size", self.batch_size, 1),
                "lr": real_number("lr", self.lr, above=0),
                "seed": whole_number("seed", self.seed, 0, 2**32 - 1),
                "progress": switch("progress", self.progress),
            },
        )


@dataclass(frozen=True)
class HeardClip:
    """A clip: `ids` at full rate, int32 `[n]`, and log-mel spectra, float16 `[2 n, 80]`."""

    ids: Tensor
    mel: Tensor


def hear(
    waveforms: Iterable[Any], tokenizer: SemanticTokenizer, sample_hz: int | None, progress: bool
) -> list[HeardClip]:
    """Ids and spectra of all clips that can be used; warns of the others. Arguments as in `UnitToSpeech.fit`.

    Raises:
        TypeError: `waveforms` is no list of clips.
        ValueError: no clip can be used.
    """
    if isinstance(waveforms, (str, bytes, Mapping)) or not hasattr(plain(waveforms), "__iter__"):
        raise TypeError(f"waveforms must be a list of waveforms or utterances, got {shown(cast(object, waveforms))}")
    heard, problems = list[HeardClip](), dict[str, str]()
    clips = tqdm(waveforms, desc="ids and spectra", unit="clip", disable=None if progress else True, leave=False)
    for index, clip in enumerate(clips):
        try:
            heard.append(_heard(clip, f"waveforms[{index}]", tokenizer, sample_hz))
        except (ValueError, OSError, MemoryError) as error:
            problems[str(getattr(clip, "id", index))] = reason_of(error)
    first = next(iter(problems.items()), None)
    said = f"{len(problems)} clips cannot be used ({first[0]}: {first[1]})" if first else ""
    if not heard:
        raise ValueError(f"waveforms holds no clip to learn from{said and '; '}{said}: give some audio")
    if said:
        warnings.warn(f"{said}: left out", stacklevel=3)  # the caller of UnitToSpeech.fit
    return heard


def _heard(clip: Any, name: str, tokenizer: SemanticTokenizer, sample_hz: int | None) -> HeardClip:
    given, rate, speaker = clip, sample_hz or tokenizer.target_sample_hz, None
    if hasattr(clip, "audio"):
        given, rate, speaker = clip.audio(), clip.sample_hz, getattr(clip, "speaker", None)
    wav = check_wav(given, name=name, ndim=1)
    mel = whisper_mel(next(clips_of(wav, None, rate, SAMPLE_HZ, LEAST_SAMPLES, name=name)).cpu())
    ids = frame_ids(tokenizer, wav, rate, [speaker] if speaker else None)[0].cpu()
    count = min(len(ids), len(mel) // SPECTRA)
    if count < 1:
        raise ValueError(f"{name} is shorter than a frame")
    return HeardClip(ids[:count].int(), mel[: SPECTRA * count].half())


def train_network(network: UnitNetwork, clips: Sequence[HeardClip], options: UnitFitOptions) -> list[dict[str, float]]:
    """Trains a network in place: L1 of log-mel spectra, and squared errors of the logarithms of durations.

    Returns:
        `step`, `loss` (of spectra) and `duration_loss` of some steps, evenly spaced.
    """
    rng = np.random.default_rng(options.seed)
    runs = [remove_repeats(clip.ids.long()) for clip in clips]
    lengths = np.array([len(clip.ids) for clip in clips], dtype=float)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=0.01)
    history, recent, device = list[dict[str, float]](), list[Tensor](), network.stretch.device
    durations_loss = torch.zeros((), device=device)
    network.train()
    steps = tqdm(range(options.steps), desc="unit to speech", disable=None if options.progress else True, leave=False)
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = options.lr * _share(step, options.steps)
        picks = rng.choice(len(clips), options.batch_size, p=lengths / lengths.sum())
        loss = spectra_loss(network, *(one.to(device) for one in _crops(clips, picks, rng)))
        recent.append(loss.detach())
        if step % DURATION_EVERY == 0:
            durations = duration_loss(network, *(one.to(device) for one in _run_crops(runs, picks, rng)))
            durations_loss, loss = durations.detach(), loss + DURATION_WEIGHT * durations
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # pyright: ignore[reportUnknownMemberType] (untyped in torch)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % max(1, options.steps // 20) == 0:
            mean = round(float(torch.stack(recent).mean()), 5)
            history.append({"step": step + 1, "loss": mean, "duration_loss": round(float(durations_loss), 5)})
            recent.clear()
            steps.set_postfix(loss=mean)
    network.eval()
    network.stretch.fill_(_stretch(network, runs[:: max(1, len(runs) // MEASURED)]))
    return history


def spectra_loss(network: UnitNetwork, ids: Tensor, mel: Tensor) -> Tensor:
    """The mean absolute error of the spectra `[b, 2 n, 80]` of ids `[b, n]`, padded with -1."""
    real = (ids != SPEECH_PAD_ID).repeat_interleave(SPECTRA, dim=1)[..., None]
    return ((network(ids) - mel).abs() * real).sum() / (real.sum() * mel.shape[-1])


def duration_loss(network: UnitNetwork, ids: Tensor, durations: Tensor) -> Tensor:
    """The mean squared error of logarithms of durations `[b, n]` of ids `[b, n]`, padded with 0 and -1."""
    real = ids != SPEECH_PAD_ID
    error = network.log_durations(ids) - durations.clamp(min=1).float().log()
    return (error.square() * real).sum() / real.sum()


def _share(step: int, steps: int) -> float:
    """The learning rate of an update, as a share of the highest: it rises evenly, and falls as a cosine."""
    return min(1.0, (step + 1) / max(1, min(WARM_UP, steps // 10))) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _crop(length: int, rng: np.random.Generator) -> slice:
    begin = int(rng.integers(0, max(1, length - CROP + 1)))
    return slice(begin, min(length, begin + CROP))


def _crops(clips: Sequence[HeardClip], picks: Iterable[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Ids `[b, n]` and spectra `[b, 2 n, 80]` of random crops."""
    ids, mel = list[Tensor](), list[Tensor]()
    for pick in picks:
        clip = clips[pick]
        part = _crop(len(clip.ids), rng)
        ids.append(clip.ids[part].long())
        mel.append(clip.mel[SPECTRA * part.start : SPECTRA * part.stop].float())
    return pad_sequences(ids, SPEECH_PAD_ID), nn.utils.rnn.pad_sequence(mel, batch_first=True)


def _run_crops(
    runs: Sequence[tuple[Tensor, Tensor]], picks: Iterable[int], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Ids without repeats `[b, n]` and durations `[b, n]` of random crops."""
    parts = [(runs[pick], _crop(len(runs[pick][0]), rng)) for pick in picks]
    ids = pad_sequences([run[0][part] for run, part in parts], SPEECH_PAD_ID)
    return ids, pad_sequences([run[1][part] for run, part in parts], 0)


@torch.no_grad()
def _stretch(network: UnitNetwork, runs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """True over predicted frames of some clips."""
    device = network.stretch.device
    predicted = sum(float(network.log_durations(ids[None].to(device)).exp().sum()) for ids, _ in runs)
    return sum(float(durations.sum()) for _, durations in runs) / predicted
