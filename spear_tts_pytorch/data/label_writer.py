"""Writes labels to folders of pairs: the best hypotheses to one, the others of a beam search to another.

In: labelled items. Out: pairs with texts, scores and their source. An item that cannot be written holds the error instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from spear_tts_pytorch.data.labelling import Item, Label
from spear_tts_pytorch.data.pairs.shards import (
    DATASET_NAME,
    SOURCE_GENERATED,
    SOURCE_TRUNCATED,
    list_shards,
    read_column,
    read_metadata,
)
from spear_tts_pytorch.data.pairs.writer import PairWriter
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.utils.values import plain


class LabelWriter:
    """Writes the labels of one process; a context manager.

    Args:
        model: made the labels.
        folder: of the pairs.
        others: folder of the other hypotheses; None if there are none.
        done: ids of pairs that the folder of the others holds already.
        rank: number of this process.
        rows_per_shard: pairs after which a shard is complete.
        options: of decoding; a later run must share them.
        decode: the user's function that decodes; None if the model does.

    Raises:
        ValueError: a folder holds pairs of another model or of other options.
    """

    def __init__(
        self,
        model: TextToSemantic,
        folder: Path,
        others: Path | None,
        *,
        done: set[str],
        rank: int,
        rows_per_shard: int,
        options: Mapping[str, Any],
        decode: object = None,
    ):
        self.model, self.done = model, done
        described = {key: _describe(value) for key, value in options.items()}
        described["decode"] = None if decode is None else _describe(decode)
        described["text_tokenizer"] = _tokenizer_hash(model.tokenizer_encode)
        self.best = self._open(folder, rank, rows_per_shard, described)
        self.others = None if others is None else self._open(others, rank, rows_per_shard, described)

    def _open(self, folder: Path, rank: int, rows_per_shard: int, options: dict[str, Any]) -> PairWriter:
        try:
            return PairWriter(
                folder,
                num_semantic_token_ids=self.model.num_semantic_token_ids,
                num_text_token_ids=self.model.num_text_token_ids,
                unique_consecutive=getattr(self.model.wav2vec, "unique_consecutive", None),
                model_hash=model_hash(self.model),
                options=options,
                semantic_tokenizer=fingerprint_of(self.model.wav2vec),
                rank=rank,
                rows_per_shard=rows_per_shard,
            )
        except ValueError as error:
            if not read_metadata(folder):
                raise
            raise ValueError(f"{error}, or remove these pairs by overwrite=True") from error

    def __enter__(self) -> LabelWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.others is not None:
                self.others.close()
        finally:
            self.best.close()

    def write(self, items: list[Item]) -> None:
        """Writes items. One that cannot be written holds the error as its problem; errors of the disk are raised.

        The other hypotheses come first, because the best one marks an item as done.
        """
        labelled = [item for item in items if item.label is not None and item.problem is None]
        texts: dict[str, list[str | None]] = {}
        for item in labelled:
            try:
                texts[item.id] = self._texts(item)
                self._write_others(item, texts[item.id])
            except OSError:
                raise
            except Exception as error:  # a tokenizer may raise errors of any type
                item.problem = error.with_traceback(None)
        if self.others is not None:
            self.others.flush()
        for item in labelled:
            if item.problem is None and item.label is not None:
                try:
                    _write(self.best, item.id, item.speech, item.label, texts[item.id][0])
                except (ValueError, TypeError) as error:
                    item.problem = error.with_traceback(None)

    def _texts(self, item: Item) -> list[str | None]:
        """The texts of an item's hypotheses, the best first."""
        label, tokenizer = cast(Label, item.label), self.model.text_tokenizer
        rows = [label.text, *(other.ids for other in label.others)]
        return [None if tokenizer is None else tokenizer.decode(row)[0] for row in rows]

    def _write_others(self, item: Item, texts: list[str | None]) -> None:
        others = cast(Label, item.label).others if self.others is not None else []
        for number, (other, text) in enumerate(zip(others, texts[1:], strict=True), start=2):
            name = f"{item.id}#{number}"
            if name not in self.done:
                _write(cast(PairWriter, self.others), name, item.speech, Label.of(other), text)


def _write(writer: PairWriter, id: str, speech: Tensor, label: Label, text: str | None) -> None:
    source = SOURCE_TRUNCATED if label.truncated else SOURCE_GENERATED
    writer.write(id, speech, label.text, text=text, score=label.score, source=source)


def ids_in(folder: Path) -> set[str]:
    """Ids of the pairs in a folder."""
    return {name for path in list_shards(folder) for name in read_column(path, "id").to_pylist()}


def remove_pairs(folder: Path) -> None:
    """Removes the pairs of a folder and their description."""
    for path in [*list_shards(folder), folder / DATASET_NAME]:
        path.unlink(missing_ok=True)


def model_hash(model: nn.Module) -> str:
    """SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_of(tokenizer: object) -> str | None:
    """The fingerprint of a semantic tokenizer; None if it has none."""
    fingerprint: object = getattr(tokenizer, "to_dict", dict[str, object])().get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def _tokenizer_hash(tokenizer: Any) -> str | None:
    """A short hash of the text tokenizer's description; None if it has none."""
    if not hasattr(tokenizer, "to_dict"):
        return None
    return hashlib.sha256(json.dumps(tokenizer.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _describe(value: Any) -> Any:
    """An option as JSON types, so that a later run can compare it with its own."""
    value = plain(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): _describe(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in cast("list[Any]", value)]
    named: Any = value if hasattr(value, "__qualname__") else cast(Any, type(value))
    return f"{named.__module__}.{named.__qualname__}"
