"""Pictures of a training run: curves of its records, and the cross-attention of one validation item.

In: records, a model and a prepared batch of one item. Out: PNG files. The weights, the place in the data and the random
generators of the run stay as they are. `utils/plots.py` draws the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.tokens import Modality
from spear_tts_pytorch.training.batches import PreparedBatch
from spear_tts_pytorch.utils.checks import evaluating
from spear_tts_pytorch.utils.plots import plot_alignment, plot_records

TICKS = 10  # every so many speech ids one has a label


@dataclass(frozen=True)
class Alignment:
    """Where cross-attention looks.

    Attributes:
        weights: `[up, right]`, averaged over layers and heads.
        labels: of the columns.
        names: of both axes, right and up.
    """

    weights: Tensor
    labels: list[str]
    names: tuple[str, str]


def plot_run(folder: Path, title: str, records: Sequence[Mapping[str, Any]], alignment: Alignment) -> list[Path]:
    """Draws `curves.png` and `alignment.png` into a folder, which is made if need be. Returns their paths.

    Raises:
        ValueError: there are no records.
        ImportError: matplotlib is not installed.
    """
    curves = plot_records(records, folder / "curves.png", title)
    path = folder / "alignment.png"
    return [curves, plot_alignment(alignment.weights, alignment.labels, path, title, *alignment.names)]


@torch.no_grad()
def alignment_of(model: TextToSemantic, wrapper: nn.Module, batch: PreparedBatch) -> Alignment:
    """The cross-attention of a batch of one item, in the call of the model that the train wrapper makes of it."""
    source, target, options = _call_of_model(model, wrapper, batch)
    source_type, target_type = options["source_type"], options["target_type"]
    names = ("source_type", "target_type", "source_position_rate")
    weights = model.alignment(source, target, **{name: options[name] for name in names if name in options})
    # Row i predicts target id i. The null key stands before the source, and its end-of-sequence behind it.
    weights = weights[:, 0].mean(dim=(0, 1))[: target.shape[1], 1 : 1 + source.shape[1]].float().cpu()
    if target_type == "text":
        return Alignment(weights.T, _labels(model, target, "text"), ("text position", "semantic token"))
    across = "text position" if source_type == "text" else "semantic token given"
    return Alignment(weights, _labels(model, source, source_type), (across, "semantic token"))


def _call_of_model(
    model: TextToSemantic, wrapper: nn.Module, batch: PreparedBatch
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The arguments that the wrapper calls the model with: source and target `[1, n]`, keywords."""
    calls: list[tuple[Tensor, Tensor, dict[str, Any]]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, Tensor], options: dict[str, Any]) -> None:
        calls.append((*inputs, options))

    hook = model.register_forward_pre_hook(cast(Any, note), with_kwargs=True)
    try:
        with evaluating(wrapper):
            wrapper(**batch.inputs)
    finally:
        hook.remove()
    return calls[0]


def _labels(model: TextToSemantic, ids: Tensor, modality: Modality) -> list[str]:
    if modality == "speech":
        return [str(index) if index % TICKS == 0 else "" for index in range(ids.shape[1])]
    tokenizer = model.text_tokenizer
    if tokenizer is None:
        return [str(int(text_id)) for text_id in ids[0]]
    return tokenizer.decode(ids[0][:, None])
