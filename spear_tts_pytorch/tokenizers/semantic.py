"""What a semantic tokenizer is, and how to call one that does not know about lengths.

In: waveforms `[b, t]` and their lengths `[b]` in samples. Out: int64 ids `[b, n]` in `0..codebook_size-1`, padded
with -1 where a clip has ended. Knows nothing of how ids come about, nor of models.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from spear_tts_pytorch.tokens import pad_sequences

SPEECH_PAD_ID = -1
CONFIG_NAME = "tokenizer.json"
RATES = range(1000, 768_001)  # Hz; resampling from others turns a small clip into gigabytes
TOO_LOUD = 1e4  # far beyond what filters or mixing leave over full scale, 1


@runtime_checkable
class SemanticTokenizer(Protocol):
    """What the model asks of a speech tokenizer.

    Attributes:
        codebook_size: K, ids are `0..K-1`.
        target_sample_hz: the rate in Hz of the waveforms it takes.
        downsample_factor: samples per frame.
    """

    codebook_size: int
    target_sample_hz: int
    downsample_factor: int

    def __call__(
        self,
        wav: Tensor,
        lengths: Tensor | None = None,
        input_sample_hz: int | None = None,
        flatten: bool = True,
    ) -> Tensor:
        """Waveforms `[b, t]` or `[t]` to int64 ids `[b, n]`, padded with -1."""
        ...


def tokenize_waveform(
    tokenizer: Callable[..., Tensor],
    wav: Tensor,
    lengths: Tensor | None = None,
    input_sample_hz: int | None = None,
) -> Tensor:
    """Calls any semantic tokenizer on a padded batch; one that has no `lengths` is called clip by clip.

    Args:
        tokenizer: called with `wav`, and with `lengths` and `input_sample_hz` where given and accepted.
        wav: `[b, t]` or `[t]`, floating point.
        lengths: `[b]`, samples of each row that are audio; all of them if None.
        input_sample_hz: rate of `wav`, if it is not the tokenizer's own.

    Returns:
        int64 ids `[b, n]`, padded with -1.

    Raises:
        ValueError: `lengths` does not fit `wav`.
    """
    wav = (wav[None] if wav.ndim == 1 else wav).float()
    if isinstance(tokenizer, nn.Module):  # not a part of the model, so it stays where the user put it
        device = next((tensor.device for tensor in tokenizer.parameters()), wav.device)
        wav = wav.to(device)
        tokenizer.eval()
    options: dict[str, Any] = {} if input_sample_hz is None else {"input_sample_hz": input_sample_hz}
    if accepts_argument(tokenizer, "flatten"):
        options["flatten"] = False
    if not bool(torch.isfinite(wav).all()):
        raise ValueError("the waveform holds samples that are NaN or infinite: leave the clip out or export it again")
    # in the tokenizer's own precision, so that ids do not depend on how the model trains
    with torch.no_grad(), torch.autocast(wav.device.type, enabled=False):
        if lengths is None:
            return tokenizer(wav, **options).reshape(wav.shape[0], -1).long()
        lengths = check_lengths(lengths, wav)
        if accepts_argument(tokenizer, "lengths"):
            return tokenizer(wav, lengths=lengths, **options).reshape(wav.shape[0], -1).long()
        rows = []
        for row, length in zip(wav, lengths.tolist(), strict=True):
            rows.append(tokenizer(row[None, :length], **options).reshape(-1))
        return pad_sequences(rows, SPEECH_PAD_ID)


def describe(tokenizer: SemanticTokenizer) -> dict[str, Any]:
    """What tells a tokenizer from others, as JSON types: its own `to_dict`, or its type and number of ids."""
    if hasattr(tokenizer, "to_dict"):
        return tokenizer.to_dict()
    return {"type": type(tokenizer).__name__, "codebook_size": tokenizer.codebook_size}


def check_lengths(lengths: Tensor, wav: Tensor) -> Tensor:
    """`lengths` as int64 `[b]`, each between 1 and `t` for `wav` `[b, t]`.

    Raises:
        ValueError: another number of rows, or a length outside `1..t`.
    """
    lengths = torch.as_tensor(lengths)
    if lengths.is_floating_point() or lengths.shape != wav.shape[:1]:
        raise ValueError(
            f"lengths must be integers of the shape [{wav.shape[0]}], one for each row of wav {list(wav.shape)}, "
            f"got {lengths.dtype} {list(lengths.shape)}"
        )
    wrong = [int(length) for length in lengths if not 1 <= length <= wav.shape[1]]
    if wrong:
        raise ValueError(f"lengths must be between 1 and {wav.shape[1]} (samples in wav), got {wrong[0]}")
    return lengths.long()


def check_wav(wav: Tensor | np.ndarray, *, name: str = "wav", ndim: int | None = None) -> Tensor:
    """A waveform `[t]` or a batch of them `[b, t]` (`ndim` 1 or 2 allows only one of the two) as a tensor `[b, t]`.

    Raises:
        TypeError: not a floating-point tensor or array.
        ValueError: another number of dimensions, or nothing in it.
    """
    if isinstance(wav, np.ndarray):
        wav = torch.from_numpy(np.ascontiguousarray(wav))
    if not isinstance(wav, Tensor) or not wav.is_floating_point():
        kind = wav.dtype if isinstance(wav, Tensor) else type(wav).__name__
        remedy = "divide 16-bit samples by 32768" if isinstance(wav, Tensor) else "use torch.as_tensor"
        raise TypeError(f"{name} must be a floating-point waveform in -1 to 1, got {kind}: {remedy}")
    if wav.ndim not in ((1, 2) if ndim is None else (ndim,)) or wav.numel() == 0:
        shape = {None: "[b, t] or [t]", 1: "[t]", 2: "[b, t]"}[ndim]
        raise ValueError(f"{name} must have the shape {shape} and hold samples, got {list(wav.shape)}")
    return wav[None] if wav.ndim == 1 else wav


def check_rates(*rates: int) -> None:
    """Raises ValueError for sampling rates that no sound has."""
    if any(rate not in RATES for rate in rates):
        shown = " and ".join(str(rate) for rate in rates)
        raise ValueError(f"sampling rates must be {RATES[0]} to {RATES[-1]} Hz, got {shown}: repair or remove the clip")


def resampled(wav: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """A float32 waveform `[t]` at another rate in Hz."""
    check_rates(from_hz, to_hz)
    if from_hz == to_hz:
        return wav
    return torch.from_numpy(soxr.resample(wav.detach().cpu().numpy(), from_hz, to_hz)).to(wav.device)


def problem_with(wav: Tensor, min_samples: int, sample_hz: int) -> str:
    """Why a waveform `[t]` cannot be tokenized, in words that follow its name; empty if it can."""
    if not torch.isfinite(wav).all():
        return "holds samples that are NaN or infinite: leave the clip out or export it again"
    if wav.numel() and (peak := float(wav.abs().max())) >= TOO_LOUD:
        return f"is not audio in -1..1 (its peak is {peak:.3g}): leave the clip out or export it again"
    if wav.shape[0] < min_samples:
        return (
            f"has {wav.shape[0]} samples, fewer than one window of {min_samples} ({1000 * min_samples / sample_hz:g} "
            f"ms at {sample_hz} Hz): leave the clip out or pad it with silence"
        )
    if (wav == wav[0]).all():
        return f"is silent (all {wav.shape[0]} samples are {float(wav[0]):g}): leave the clip out"
    return ""


def clips_of(
    wav: Tensor | np.ndarray,
    lengths: Tensor | None,
    input_sample_hz: int | None,
    target_sample_hz: int,
    min_samples: int,
    multiple_of: int = 1,
) -> Iterator[Tensor]:
    """The audio of each row of `wav` `[b, t]`, one by one, float32 `[t_i]` at `target_sample_hz`.

    Args:
        lengths: `[b]`, samples of each row that are audio; all of them if None.
        input_sample_hz: rate of `wav` in Hz, `target_sample_hz` if None.
        min_samples: fewest samples of a clip that can be tokenized.
        multiple_of: clips are cut to a multiple of so many samples.

    Raises:
        TypeError: `wav` is not floating point.
        ValueError: `wav` has another shape, or a row that is too short, silent, not finite or not audio in -1..1; a rate out of
            range.
    """
    wav = check_wav(wav)
    ends = [wav.shape[1]] * len(wav) if lengths is None else check_lengths(lengths, wav).tolist()
    given_hz = target_sample_hz if input_sample_hz is None else input_sample_hz
    for index, end in enumerate(ends):
        clip = resampled(wav[index, :end].float(), given_hz, target_sample_hz)
        clip = clip[: len(clip) // multiple_of * multiple_of]
        problem = problem_with(clip, min_samples, target_sample_hz)
        if problem:
            raise ValueError(f"row {index} of wav {problem}")
        yield clip


def accepts_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` (a module: its `forward`) takes an argument called `name`."""
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters


Loader = Callable[[Path], SemanticTokenizer]
_loaders: dict[str, Loader] = {}


def register_semantic_tokenizer(kind: str, load: Loader) -> None:
    """Lets `load_semantic_tokenizer` open folders whose tokenizer.json has this `type`; `load` is given the folder."""
    _loaders[kind] = load


def load_semantic_tokenizer(folder: str | os.PathLike[str]) -> SemanticTokenizer:
    """The tokenizer saved in `folder`, of any kind that `register_semantic_tokenizer` was told of.

    Raises:
        FileNotFoundError: the folder holds no tokenizer.json.
        ValueError: a broken tokenizer.json or a kind that this version does not know.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no semantic tokenizer in {folder}: {CONFIG_NAME} is missing")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is not a tokenizer configuration ({error}): save the tokenizer again") from error
    if kind not in _loaders:
        known = ", ".join(map(repr, sorted(_loaders)))
        raise ValueError(f"{path} has the tokenizer type {kind!r}, this version knows {known}: upgrade the package")
    return _loaders[kind](Path(folder))
