"""The recipe as one pipeline, from a corpus to a voice and its error rates."""

from spear_tts_pytorch.recipe.config import RecipeConfig
from spear_tts_pytorch.recipe.run import COLUMNS, RecipeResult, run_recipe
from spear_tts_pytorch.recipe.steps import Column, Rows, Stages

__all__ = ["COLUMNS", "Column", "RecipeConfig", "RecipeResult", "Rows", "Stages", "run_recipe"]
