"""Pictures of a recipe's result: losses, error rates and one alignment, as PNG files in a folder."""

from __future__ import annotations

from pathlib import Path

from spear_tts_pytorch.recipe.run import COLUMNS, RecipeResult
from spear_tts_pytorch.utils.plots import plot_alignment, plot_error_rates, plot_losses


def write_plots(result: RecipeResult, folder: Path) -> None:
    """Writes losses.png, error_rates.png and alignment.png (of the first test text) into `folder`."""
    plot_losses(result.histories, folder / "losses.png")
    bars = {f"({name}) {COLUMNS[name]}": column.headline for name, column in result.columns.items()}
    plot_error_rates({**bars, "floor (true ids)": result.floor}, folder / "error_rates.png")
    text = result.test.texts[0]
    weights = result.model.alignment([text], result.test.semantic[0][None], source_type="text", target_type="speech")
    # mean over layers and heads, without the null key, the start token's row and the end-of-sequence key
    plot_alignment(weights[:, 0].mean(dim=(0, 1))[1:, 1:-1], list(text), folder / "alignment.png", title=f'"{text}"')
