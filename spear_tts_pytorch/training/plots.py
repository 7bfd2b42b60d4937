"""What a training run looks like: curves of its records, and where cross-attention looks in one validation item.

In: a trainer's records, model and validation set. Out: PNG files. Changes nothing of the run: not its weights, nor its
place in the data, nor its random numbers. How figures are drawn is `plots.py`'s business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spear_tts_pytorch.tokens import Modality
from spear_tts_pytorch.training.validation import VALID_SEED
from spear_tts_pytorch.utils.checks import evaluating
from spear_tts_pytorch.utils.noise import row_keys
from spear_tts_pytorch.utils.plots import plot_alignment, plot_records

TICKS = 10  # of speech ids, so many share a label


class SeeingMixin:
    """`plot`, for `Trainer`."""

    def plot(self, path: str | Path | None = None) -> list[Path]:
        """Draws `curves.png` (losses, accuracies, learning rate) and `alignment.png` (cross-attention).

        The alignment is that of the first validation item, averaged over layers and heads: text from left to right,
        speech upwards, in both directions; in pretraining, from what deletion left to what is asked for. With several
        processes each of them calls this, and the first one draws.

        Args:
            path: folder for the files, made if need be; the results folder by default.

        Returns: the paths written; none on processes but the first.

        Raises:
            ValueError: no `path` and no results folder, or nothing recorded yet.
            ImportError: matplotlib is not installed.
        """
        folder = self.results_folder if path is None else Path(path)
        if folder is None:
            raise ValueError("path is missing: give plot a folder, since this run has no results_folder")
        weights, labels, names = self._alignment()
        if not self.is_main:
            return []
        title = f"{self.task}, step {int(self.steps)}"
        curves = plot_records(self.history, folder / "curves.png", title)
        return [curves, plot_alignment(weights, labels, folder / "alignment.png", title, *names)]

    @torch.no_grad()
    def _alignment(self) -> tuple[Tensor, list[str], tuple[str, str]]:
        """Weights `[up, right]`, a label for each column, and the names of both axes."""
        source, target, options = self._call_of_model()
        source_type, target_type = options["source_type"], options["target_type"]
        names = ("source_type", "target_type", "source_position_rate")
        weights = self.model.alignment(source, target, **{name: options[name] for name in names if name in options})
        # Row i predicts target id i; the null key comes before the source, its end-of-sequence behind it.
        weights = weights[:, 0].mean(dim=(0, 1))[: target.shape[1], 1 : 1 + source.shape[1]].float().cpu()
        if target_type == "text":
            return weights.T, self._labels(target, "text"), ("text position", "semantic token")
        across = "text position" if source_type == "text" else "semantic token given"
        return weights, self._labels(source, source_type), (across, "semantic token")

    def _call_of_model(self) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """What the first validation item makes the stage call the model with: source and target `[1, n]`, keywords."""
        keys = row_keys(torch.zeros(1, dtype=torch.long), VALID_SEED)  # as in validation
        batch = self.prepare({**self.collate([self.valid_ds[0]]), "row_keys": keys})
        wrapper = self.accelerator.unwrap_model(self.train_wrapper)
        calls: list[tuple[Any, Any, dict[str, Any]]] = []
        hook = self.model.register_forward_pre_hook(
            lambda _, inputs, options: calls.append((*inputs, options)), with_kwargs=True
        )
        try:
            with evaluating(wrapper):
                self.run_step(wrapper, batch)
        finally:
            hook.remove()
        return calls[0]

    def _labels(self, ids: Tensor, modality: Modality) -> list[str]:
        if modality == "speech":
            return [str(index) if index % TICKS == 0 else "" for index in range(ids.shape[1])]
        tokenizer = self.model.text_tokenizer
        return list(map(str, ids[0].tolist())) if tokenizer is None else tokenizer.decode(ids[0][:, None])
