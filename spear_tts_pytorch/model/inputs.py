"""Inputs of the model as checked ids: texts, waveforms or ids, as tensors, arrays or lists of rows.

In: one batch of one modality, its vocabulary and its tokenizer. Out: int64 ids `[b, n]`, padded on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform
from spear_tts_pytorch.tokens import INTEGER_DTYPES, MODALITIES, Batch, Modality, Vocabulary, pad_sequences
from spear_tts_pytorch.utils.values import as_tensor, listed, one_of, shown


def to_ids(
    x: Batch,
    vocabulary: Vocabulary,
    name: str,
    *,
    tokenizer: Callable[..., Any] | None,
    device: torch.device,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    empty_rows: bool = True,
    right_padded: bool = True,
) -> Tensor:
    """One batch as ids `[b, n]` on `device`.

    Args:
        x: ids `[b, n]` of any integer dtype, or rows `[n]` of them; for text also a list of texts; for speech also
            waveforms `[b, t]` or rows `[t]`, floating point.
        name: how errors call `x`.
        tokenizer: of texts or waveforms.
        lengths: samples of each waveform that are audio, `[b]`.
        mask: `[b, n]`, True at real ids; the others become padding.
        empty_rows: whether a row may have no id.
        right_padded: whether padding must stand behind a row's ids.

    Raises:
        TypeError: neither texts, waveforms nor ids of that modality.
        ValueError: no tokenizer for these texts or waveforms, ids out of range, padding before an id, a row without any.
    """
    if isinstance(x, str):
        raise TypeError(f"{name} is a single text: give a list of texts")
    x = cast(Batch, listed(name, x))
    if isinstance(x, (list, tuple)) and len(x) == 0:
        raise ValueError(f"{name} is empty: give at least one row")
    if vocabulary.modality == "text" and isinstance(x, (list, tuple)) and any(isinstance(text, str) for text in x):
        ids = _encode_texts(list(x), tokenizer, vocabulary, name)
    else:
        ids, own_lengths = _as_batch(x, vocabulary, name)
        if ids.is_floating_point() and vocabulary.modality == "speech":
            if tokenizer is None:
                raise ValueError(f"{name} is a waveform, which needs a tokenizer: pass wav2vec to TextToSemantic")
            lengths = _lengths(lengths, own_lengths, ids, name)
            ids, lengths = tokenize_waveform(tokenizer, ids.to(device), lengths), None
    if lengths is not None:
        raise ValueError(f"{name}_lengths are for waveforms in samples, but {name} holds no waveforms: leave them out")
    if mask is not None:
        ids = _masked(ids, mask, vocabulary, name)
    return vocabulary.check(ids, name, empty_rows=empty_rows, right_padded=right_padded).to(device)


class Reader(Protocol):
    """A model with vocabularies and tokenizers."""

    tokenizer_encode: Any
    wav2vec: Any

    @property
    def vocabulary(self) -> Mapping[Modality, Vocabulary]: ...

    @property
    def device(self) -> torch.device: ...

    def to_ids(
        self,
        x: Batch,
        modality: Modality,
        name: str,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        empty_rows: bool = True,
        right_padded: bool = True,
    ) -> Tensor: ...


def batch_ids(
    model: Reader,
    x: Batch,
    modality: Modality,
    name: str,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    empty_rows: bool = True,
    right_padded: bool = True,
) -> Tensor:
    """`to_ids` with a model's tokenizer and vocabulary of a modality: checked ids `[b, n]` on the model's device."""
    one_of(f"{name}_type", modality, MODALITIES)
    return to_ids(
        x,
        model.vocabulary[modality],
        name,
        tokenizer=model.wav2vec if modality == "speech" else model.tokenizer_encode,
        device=model.device,
        lengths=lengths,
        mask=mask,
        empty_rows=empty_rows,
        right_padded=right_padded,
    )


def source_ids(
    model: Reader, source: Batch, source_type: Modality, mask: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Checked ids `[b, n]` of sources: every row has some; a mask may leave out ids inside a row."""
    return model.to_ids(source, source_type, "source", lengths, mask, empty_rows=False, right_padded=mask is None)


def check_rows(source: int | None, target: int | None) -> None:
    """Raises ValueError if source and target have different numbers of rows, as far as they are known."""
    if source and target and source != target:
        raise ValueError(f"source has {source} rows and target {target}: they must agree")


def check_plain(source: Batch, target: Batch, *given: Tensor | None) -> None:
    """Raises for masks and lengths beside ids that are taken as they are, and for anything but ids `[b, n]`."""
    if any(one is not None for one in given):
        raise ValueError(
            "check_ids=False takes no masks and no lengths: mark padding in the ids, or leave check_ids out"
        )
    for name, x in (("source", source), ("target", target)):
        if not isinstance(x, Tensor) or x.dtype != torch.long or x.ndim != 2:
            raise TypeError(f"with check_ids=False, {name} must be int64 ids [b, n], got {type(x).__name__}")


def number_of_rows(x: Batch) -> int | None:
    """How many rows a batch has, before it is tokenized; None for a single row."""
    if isinstance(x, (list, tuple)) or hasattr(x, "to_list") or hasattr(x, "to_pylist"):
        return len(x)
    return len(x) if getattr(x, "ndim", 0) == 2 else None


def _encode_texts(texts: list[Any], tokenizer: Callable[..., Any] | None, vocabulary: Vocabulary, name: str) -> Tensor:
    """The tokenizer's ids, padded with the vocabulary's padding instead of 0, without columns of nothing else."""
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name} has texts, but {name}[{index}] is {shown(text)}: give texts alone")
    if tokenizer is None:
        raise ValueError(f"{name} is text, which needs a tokenizer: pass tokenizer_encode to TextToSemantic")
    ids = tokenizer(texts)
    if isinstance(ids, (list, tuple)):
        ids = pad_sequences([torch.as_tensor(row, dtype=torch.long) for row in cast("list[Any]", ids)], 0)
    ids = torch.as_tensor(ids) if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, Tensor) or ids.dtype not in INTEGER_DTYPES or ids.ndim != 2 or len(ids) != len(texts):
        got = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"tokenizer_encode must turn {len(texts)} texts into ids [{len(texts)}, n], got {got}")
    used = (ids != 0).any(dim=0).nonzero()  # some tokenizers pad every batch to their longest text
    ids = ids[:, : int(used[-1]) + 1] if len(used) else ids[:, :1]
    return ids.long().masked_fill(ids == 0, vocabulary.pad_id)


def _as_batch(x: Batch, vocabulary: Vocabulary, name: str) -> tuple[Tensor, Tensor | None]:
    """Arrays and lists of rows as one padded tensor, and the lengths of rows that are waveforms."""
    kinds = "texts, waveforms or ids" if vocabulary.modality == "text" else "waveforms or ids"
    if isinstance(x, Tensor):
        return x, None
    if isinstance(x, np.ndarray):
        return _tensor(x, name, kinds, name), None
    if not isinstance(x, (list, tuple)):
        raise TypeError(f"{name} must be {kinds}, got {type(x).__name__}")
    rows = [_tensor(row, name, kinds, f"{name}[{index}]") for index, row in enumerate(x)]
    for index, row in enumerate(rows):
        if row.ndim != 1:
            raise ValueError(
                f"{name} is a list, so its rows must have one dimension, but {name}[{index}] has {row.ndim}"
            )
    if vocabulary.modality == "speech" and all(row.is_floating_point() and len(row) for row in rows):
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
    for index, row in enumerate(rows):
        if len(row) and row.dtype not in INTEGER_DTYPES:
            raise TypeError(f"{name} must be rows of {vocabulary.modality} ids, but {name}[{index}] is {row.dtype}")
    return pad_sequences([row.long() for row in rows], vocabulary.pad_id), None


def _tensor(x: Any, name: str, kinds: str, part: str) -> Tensor:
    try:
        return as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be {kinds}, but {part} is {type(cast(object, x)).__name__} ({error})") from error


def _lengths(given: object, own: Tensor | None, waves: Tensor, name: str) -> Tensor | None:
    """The lengths to go by: those given, which cannot be longer than rows of their own length."""
    if given is None:
        return own
    rows, samples = (1, waves.shape[0]) if waves.ndim == 1 else (len(waves), waves.shape[-1])
    try:
        lengths = torch.as_tensor(listed(f"{name}_lengths", given))
    except (TypeError, ValueError, RuntimeError):
        lengths = None
    if lengths is None or lengths.dtype not in INTEGER_DTYPES or lengths.shape != (rows,):
        raise ValueError(f"{name}_lengths must be integers [{rows}], samples of each row of {name}, got {shown(given)}")
    most = torch.full((rows,), samples) if own is None else own
    if bool(((lengths.cpu() > most) | (lengths.cpu() < 1)).any()):
        raise ValueError(f"{name}_lengths {lengths.tolist()} do not fit rows of {most.tolist()} samples")
    return lengths


def _masked(ids: Tensor, mask: Tensor, vocabulary: Vocabulary, name: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != ids.shape:
        got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{name}_mask must be boolean of the shape {list(ids.shape)}, that of its ids, got {got}")
    if ids.dtype not in INTEGER_DTYPES:
        return ids  # refused by the check of ids
    return ids.long().masked_fill(~mask.to(ids.device), vocabulary.pad_id)
