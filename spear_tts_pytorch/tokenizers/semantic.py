"""The interface of a semantic tokenizer, the calls that work for any of them, and the checks that ours share.

In: waveforms `[b, t]` and their lengths `[b]` in samples, or clips `[t]` of uneven lengths. Out: int64 ids `[b, n]` in
`0..codebook_size-1`, padded with -1, or rows `[n]` without padding.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from spear_tts_pytorch.tokens import INTEGER_DTYPES, SPEECH_PAD_ID, pad_sequences
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.replacing import whole
from spear_tts_pytorch.utils.values import given_path, plain, shown, whole_number

CONFIG_NAME = "tokenizer.json"
RATES = range(1000, 768_001)  # Hz; resampling from others turns a small clip into gigabytes
NOT_FINITE = "holds samples that are NaN or infinite: leave the clip out or export it again"
TOO_LOUD = 1e4  # full scale is 1; filters and mixing never leave peaks this high


class ClipError(ValueError):
    """A clip that cannot be tokenized.

    Attributes:
        row: its row in the batch.
        name: of the argument that holds the batch.
        reason: words that follow the clip's name in a message, such as "is silent: leave the clip out".
    """

    def __init__(self, row: int, reason: str, name: str = "wav"):
        super().__init__(row, reason, name)
        self.row, self.reason, self.name = row, reason, name

    def __str__(self) -> str:
        return f"row {self.row} of {self.name} {self.reason}"


def reason_of(error: BaseException) -> str:
    """An error in words that follow the name of its clip."""
    return error.reason if isinstance(error, ClipError) else str(error) or type(error).__name__


@runtime_checkable
class SemanticTokenizer(Protocol):
    """The interface of a speech tokenizer that the model needs.

    Attributes:
        codebook_size: K, ids are `0..K-1`.
        target_sample_hz: sampling rate in Hz of the waveforms that it takes.
        downsample_factor: samples per frame, at `target_sample_hz`.
    """

    @property
    def codebook_size(self) -> int: ...

    @property
    def target_sample_hz(self) -> int: ...

    @property
    def downsample_factor(self) -> int: ...

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
    *,
    speakers: Sequence[str | None] | None = None,
) -> Tensor:
    """Calls any semantic tokenizer on a padded batch. A tokenizer without the argument `lengths` is called clip by clip.

    Args:
        tokenizer: called with `wav`, and with `lengths`, `input_sample_hz` and `speakers` if they are given and accepted.
        wav: `[b, t]` or `[t]`, floating point, in -1..1.
        lengths: `[b]`, integers: samples of each row that are audio; all of them if None.
        input_sample_hz: rate of `wav` in Hz; the tokenizer's own if None.
        speakers: name of the speaker of each row, for tokenizers that normalise by speaker.

    Returns:
        int64 ids `[b, n]`, padded with -1.

    Raises:
        ClipError: a row of `wav` holds NaN or infinity, or the tokenizer refuses it (a ValueError).
        ValueError: `lengths` does not fit `wav`.
    """
    wav = check_wav(wav).float()
    if isinstance(tokenizer, nn.Module):  # not a part of the model, so it stays where the user put it
        device = next((tensor.device for tensor in tokenizer.parameters()), wav.device)
        wav = wav.to(device)
        tokenizer.eval()
    options: dict[str, Any] = {}
    if input_sample_hz is not None:
        options["input_sample_hz"] = checked_rate("input_sample_hz", input_sample_hz)
    if accepts_argument(tokenizer, "flatten"):
        options["flatten"] = False
    if speakers is not None and accepts_argument(tokenizer, "speakers"):
        options["speakers"] = speakers
    if not bool(torch.isfinite(wav).all()):
        row = int((~torch.isfinite(wav)).flatten(1).any(dim=1).nonzero()[0])
        raise ClipError(row, NOT_FINITE)
    # in the tokenizer's own precision, so that ids do not depend on the precision of the model's training
    with torch.no_grad(), torch.autocast(wav.device.type, enabled=False):
        if lengths is None:
            return tokenizer(wav, **options).reshape(wav.shape[0], -1).long()
        lengths = check_lengths(lengths, wav)
        if accepts_argument(tokenizer, "lengths"):
            return tokenizer(wav, lengths=lengths, **options).reshape(wav.shape[0], -1).long()
        ends = cast("list[int]", lengths.tolist())
        options.pop("speakers", None)
        rows = [tokenizer(row[None, :end], **options).reshape(-1) for row, end in zip(wav, ends, strict=True)]
        return pad_sequences(rows, SPEECH_PAD_ID)


def tokenize_clips(
    tokenizer: Callable[..., Tensor],
    clips: Sequence[Tensor],
    input_sample_hz: int | None = None,
    *,
    speakers: Sequence[str | None] | None = None,
    device: torch.device | None = None,
) -> list[Tensor]:
    """Clips of uneven lengths to ids, as one padded batch of `tokenize_waveform`.

    Args:
        tokenizer: any semantic tokenizer.
        clips: waveforms `[t]`, floating point, in -1..1, all at one rate.
        input_sample_hz: that rate in Hz; the tokenizer's own if None.
        speakers: name of the speaker of each clip, for tokenizers that normalise by speaker.
        device: where the batch is put; the device of the clips if None.

    Returns:
        int64 ids `[n]` of each clip, without padding.

    Raises:
        TypeError: `clips` is no list of floating-point waveforms.
        ClipError: a clip holds NaN or infinity, or the tokenizer refuses it (a ValueError).
        ValueError: no clips, or a clip that is empty or has more than one dimension.
    """
    if not isinstance(cast(object, clips), Sequence) or isinstance(clips, (str, bytes)):
        raise TypeError(f"clips must be a list of waveforms, got {shown(clips)}")
    if len(clips) == 0:
        raise ValueError("clips is empty: give at least one waveform")
    clips = [check_wav(clip, name=f"clips[{index}]", ndim=1)[0] for index, clip in enumerate(clips)]
    wav = pad_sequence([clip.float() for clip in clips], batch_first=True)  # [b, t]
    lengths = torch.tensor([len(clip) for clip in clips])
    try:
        wav = wav if device is None else wav.to(device)
        ids = tokenize_waveform(tokenizer, wav, lengths, input_sample_hz, speakers=speakers)
    except ClipError as error:
        raise ClipError(error.row, error.reason, "clips") from error
    return [row[row != SPEECH_PAD_ID] for row in ids]


def check_tokenizer(tokenizer: object) -> None:
    """Raises TypeError if `tokenizer` is no `SemanticTokenizer`."""
    if not callable(tokenizer) or not hasattr(tokenizer, "codebook_size"):
        raise TypeError(
            "tokenizer must be a semantic tokenizer, a function of waveforms with codebook_size, target_sample_hz and "
            f"downsample_factor, got {shown(tokenizer)}"
        )


def describe(tokenizer: SemanticTokenizer) -> dict[str, Any]:
    """A description that differs between tokenizers, as JSON types: its own `to_dict`, or its type and number of ids."""
    if hasattr(tokenizer, "to_dict"):
        return cast(Any, tokenizer).to_dict()
    return {"type": type(tokenizer).__name__, "codebook_size": tokenizer.codebook_size}


def check_lengths(lengths: Tensor, wav: Tensor) -> Tensor:
    """`lengths` as int64 `[b]`, each between 1 and `t` for `wav` `[b, t]`.

    Raises:
        ValueError: another number of rows, or a length outside `1..t`.
    """
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"lengths must be integers, one for each row of wav, got {shown(lengths)}") from error
    if lengths.dtype not in INTEGER_DTYPES or lengths.shape != wav.shape[:1]:
        raise ValueError(
            f"lengths must be integers of the shape [{wav.shape[0]}], one for each row of wav {list(wav.shape)}, "
            f"got {lengths.dtype} {list(lengths.shape)}"
        )
    wrong = [int(length) for length in lengths if not 1 <= length <= wav.shape[1]]
    if wrong:
        raise ValueError(f"lengths must be between 1 and {wav.shape[1]} (samples in wav), got {wrong[0]}")
    return lengths.long()


def check_wav(wav: object, *, name: str = "wav", ndim: int | None = None) -> Tensor:
    """Returns a waveform `[t]` or a batch of them `[b, t]`, tensor or array, as a tensor `[b, t]`.

    Args:
        name: the name of the argument, for messages.
        ndim: 1 or 2 allows only one of the two shapes.

    Raises:
        TypeError: not a floating-point tensor or array.
        ValueError: another number of dimensions, or no samples.
    """
    if name.endswith("]") and isinstance(plain(wav), (int, float)):
        of = name.partition("[")[0]
        raise TypeError(f"{of} must be a list of waveforms, got the samples of one: give [waveform]")
    if isinstance(wav, np.ndarray) and cast("np.ndarray", wav).dtype.kind == "f":
        array = cast("np.ndarray[Any, np.dtype[Any]]", wav)
        wav = torch.from_numpy(np.array(array, dtype=cast(Any, array.dtype).newbyteorder("="), order="C"))
    if not isinstance(wav, Tensor) or not wav.is_floating_point():
        has_type = isinstance(wav, (np.ndarray, Tensor))
        kind = cast(Any, wav).dtype if has_type else type(wav).__name__
        remedy = "divide 16-bit samples by 32768" if has_type else "use torch.as_tensor"
        raise TypeError(f"{name} must be a floating-point waveform in -1 to 1, got {kind}: {remedy}")
    if wav.ndim not in ((1, 2) if ndim is None else (ndim,)) or wav.numel() == 0:
        shape = {None: "[b, t] or [t]", 1: "[t]", 2: "[b, t]"}[ndim]
        raise ValueError(f"{name} must have the shape {shape} and hold samples, got {list(wav.shape)}")
    return wav[None] if wav.ndim == 1 else wav


def checked_rate(name: str, rate: object) -> int:
    """A sampling rate in Hz.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is not between 1,000 and 768,000.
    """
    return whole_number(name, rate, RATES[0], RATES[-1])


def check_rates(*rates: int) -> None:
    """Raises ValueError for sampling rates outside 1,000 to 768,000 Hz."""
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
    """Why a waveform `[t]` cannot be tokenized, as words that follow the clip's name in a message; "" if it can."""
    if not torch.isfinite(wav).all():
        return NOT_FINITE
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
    name: str = "wav",
) -> Iterator[Tensor]:
    """Yields the audio of each row of `wav` `[b, t]`, float32 `[t_i]` at `target_sample_hz`.

    Args:
        lengths: `[b]`, samples of each row that are audio; all of them if None.
        input_sample_hz: rate of `wav` in Hz, `target_sample_hz` if None.
        min_samples: fewest samples of a clip that can be tokenized.
        multiple_of: clips are cut to a multiple of this many samples.
        name: of the argument that is `wav`, for messages.

    Raises:
        TypeError: `wav` is not floating point.
        ClipError: a row is too short, silent, not finite or not audio in -1..1 (a ValueError).
        ValueError: `wav` has another shape; a rate is out of range.
    """
    wav = check_wav(wav, name=name)
    ends = [wav.shape[1]] * len(wav)
    if lengths is not None:
        ends = cast("list[int]", check_lengths(lengths, wav).tolist())
    given_hz = target_sample_hz if input_sample_hz is None else checked_rate("input_sample_hz", input_sample_hz)
    for index, end in enumerate(ends):
        clip = resampled(wav[index, :end].float(), given_hz, target_sample_hz)
        clip = clip[: len(clip) // multiple_of * multiple_of]
        problem = problem_with(clip, min_samples, target_sample_hz)
        if problem:
            raise ClipError(index, problem, name)
        yield clip


def accepts_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether `function` (of a module: its `forward`) takes an argument called `name`."""
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters


def shown_rates(tokenizer: SemanticTokenizer) -> str:
    """Clusters, sampling rate and ids per second of a tokenizer, for its `repr`."""
    rate = tokenizer.target_sample_hz / tokenizer.downsample_factor
    most = "at most " if getattr(tokenizer, "unique_consecutive", False) else ""
    return f"{tokenizer.codebook_size} clusters, {tokenizer.target_sample_hz} Hz, {most}{rate:g} ids per second"


def read_config(path: Path) -> dict[str, Any]:
    """The object in a tokenizer.json. For errors see `read_object`."""
    return read_object(path, "a tokenizer configuration", "save the tokenizer again")


Loader = Callable[[Path], SemanticTokenizer]
_loaders: dict[str, Loader] = {}


def register_semantic_tokenizer(kind: str, load: Loader) -> None:
    """Registers the function that `load_semantic_tokenizer` calls with a folder whose tokenizer.json has the type `kind`."""
    _loaders[kind] = load


def load_semantic_tokenizer(folder: str | os.PathLike[str]) -> SemanticTokenizer:
    """Opens the tokenizer saved in `folder`, of any registered kind (`register_semantic_tokenizer`).

    Raises:
        FileNotFoundError: the folder holds no tokenizer.json.
        ValueError: a broken tokenizer.json or a kind that this version cannot read.
    """
    folder = whole(given_path("folder", folder), CONFIG_NAME)
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no semantic tokenizer in {folder}: {CONFIG_NAME} is missing")
    kind = read_config(path).get("type")
    if not isinstance(kind, str) or kind not in _loaders:
        known = ", ".join(map(repr, sorted(_loaders)))
        raise ValueError(
            f"{path} has the tokenizer type {kind!r:.60}, this version knows {known}: upgrade the package, or add your own "
            "kind by register_semantic_tokenizer"
        )
    return _loaders[kind](folder)
