"""The recipe as one pipeline: from folders of recordings to a voice and its error rates."""

from spear_tts_pytorch.recipe.clips import Clips
from spear_tts_pytorch.recipe.measure import Column
from spear_tts_pytorch.recipe.saying import Said
from spear_tts_pytorch.recipe.settings import COLUMNS, Settings
from spear_tts_pytorch.recipe.stages import Rows, Stages
from spear_tts_pytorch.recipe.survey import Survey
from spear_tts_pytorch.recipe.table import make_table
from spear_tts_pytorch.recipe.voice import Voice

__all__ = ["COLUMNS", "Clips", "Column", "Rows", "Said", "Settings", "Stages", "Survey", "Voice", "make_table"]
