"""What users hand to the model, as checked ids: texts, waveforms or ids, as tensors, arrays or lists of rows.

In: one batch of one modality, its vocabulary and its tokenizer. Out: int64 ids `[b, n]`, padded on the right.
Knows nothing of embeddings, end-of-sequence or tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spear_tts_pytorch.tokenizers.semantic import tokenize_waveform
from spear_tts_pytorch.tokens import Vocabulary, pad_sequences

Batch: TypeAlias = Tensor | np.ndarray | Sequence[str] | Sequence[Tensor] | Sequence[np.ndarray]


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
        name: what to call `x` in errors.
        tokenizer: of texts or waveforms.
        lengths: samples of each waveform that are audio, `[b]`.
        mask: `[b, n]`, True at real ids; the others become padding.
        empty_rows: whether a row may have no id.
        right_padded: whether padding must stand behind a row's ids.

    Raises:
        TypeError: neither texts, waveforms nor ids of that modality.
        ValueError: no tokenizer for what was given, ids out of range, padding before an id, a row without any.
    """
    if isinstance(x, str):
        raise TypeError(f"{name} is a single text: give a list of texts")
    if isinstance(x, (list, tuple)) and len(x) == 0:
        raise ValueError(f"{name} is empty: give at least one row")
    if vocabulary.modality == "text" and isinstance(x, (list, tuple)) and all(isinstance(text, str) for text in x):
        ids = _encode_texts(list(x), tokenizer, name)
    else:
        ids, lengths = _as_batch(x, vocabulary, name, lengths)
        if ids.is_floating_point() and vocabulary.modality == "speech":
            if tokenizer is None:
                raise ValueError(f"{name} is a waveform, which needs a tokenizer: pass wav2vec to TextToSemantic")
            ids = tokenize_waveform(tokenizer, ids.to(device), lengths)
    if mask is not None:
        ids = _masked(ids, mask, vocabulary, name)
    return vocabulary.check(ids, name, empty_rows=empty_rows, right_padded=right_padded).to(device)


def _encode_texts(texts: list[str], tokenizer: Callable[..., Any] | None, name: str) -> Tensor:
    if tokenizer is None:
        raise ValueError(f"{name} is text, which needs a tokenizer: pass tokenizer_encode to TextToSemantic")
    ids = tokenizer(texts)
    if isinstance(ids, (list, tuple)):
        ids = pad_sequences([torch.as_tensor(row) for row in ids], 0)
    used = (ids != 0).any(dim=0).nonzero()  # some tokenizers pad every batch to their longest text
    return ids[:, : int(used[-1]) + 1] if len(used) else ids[:, :1]


def _as_batch(x: Batch, vocabulary: Vocabulary, name: str, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Arrays and lists of rows as one padded tensor, and the lengths of rows that are waveforms."""
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x), lengths
    if not isinstance(x, (list, tuple)):
        return x, lengths
    try:
        rows = [torch.as_tensor(row) for row in x]
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = "texts, waveforms or" if vocabulary.modality == "text" else "waveforms or"
        raise TypeError(f"{name} must be {kinds} ids, got a list that holds {type(x[0]).__name__}") from error
    if any(row.ndim != 1 for row in rows):
        raise ValueError(f"{name} is a list, so each of its rows must have one dimension, got {list(rows[0].shape)}")
    if all(row.is_floating_point() for row in rows) and vocabulary.modality == "speech":
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
    if any(row.is_floating_point() for row in rows):
        raise TypeError(f"{name} must be rows of {vocabulary.modality} ids, got {rows[0].dtype}")
    return pad_sequences(rows, vocabulary.pad_id), lengths


def _masked(ids: Tensor, mask: Tensor, vocabulary: Vocabulary, name: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != ids.shape:
        got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{name}_mask must be boolean of the shape {list(ids.shape)}, that of {name}, got {got}")
    if ids.dtype == torch.uint8:
        ids = ids.long()  # has no room for negative padding
    return ids.masked_fill(~mask.to(ids.device), vocabulary.pad_id)
