"""Text to semantic speech tokens with little parallel data: the first stage of SPEAR-TTS (arXiv 2302.03540).

The public names live here. Each is imported from its module when it is first used, so that `import spear_tts_pytorch`
and `spear-tts --help` do not wait for torch.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from spear_tts_pytorch._moved import install as _install_moved_modules
from spear_tts_pytorch.version import __version__ as __version__

_install_moved_modules()

if _TYPE_CHECKING:
    from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator as SemanticToTextDatasetGenerator
    from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset as GeneratedAudioTextDataset
    from spear_tts_pytorch.data.pairs.dataset import MockDataset as MockDataset
    from spear_tts_pytorch.model.text_to_semantic import TextToSemantic as TextToSemantic
    from spear_tts_pytorch.objectives import SemanticToTextWrapper as SemanticToTextWrapper
    from spear_tts_pytorch.objectives import SpeechSpeechPretrainWrapper as SpeechSpeechPretrainWrapper
    from spear_tts_pytorch.objectives import TextToSemanticWrapper as TextToSemanticWrapper
    from spear_tts_pytorch.recipe.voice import Voice as Voice
    from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive as UniqueConsecutive
    from spear_tts_pytorch.tokenizers.encoder_kmeans import EncoderKmeans as EncoderKmeans
    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans as HubertWithKmeans
    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
    from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans as MelKmeans
    from spear_tts_pytorch.tokenizers.phonemes import PhonemeTokenizer as PhonemeTokenizer
    from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer as SemanticTokenizer
    from spear_tts_pytorch.tokenizers.text import ByteTokenizer as ByteTokenizer
    from spear_tts_pytorch.tokenizers.text import CharacterTokenizer as CharacterTokenizer
    from spear_tts_pytorch.tokenizers.text import TextTokenizer as TextTokenizer
    from spear_tts_pytorch.tokenizers.unit_to_speech import UnitToSpeech as UnitToSpeech
    from spear_tts_pytorch.training.stages import SemanticToTextTrainer as SemanticToTextTrainer
    from spear_tts_pytorch.training.stages import SpeechSpeechPretrainer as SpeechSpeechPretrainer
    from spear_tts_pytorch.training.stages import TextToSemanticTrainer as TextToSemanticTrainer

# The same names once more for run time, and as what `from spear_tts_pytorch import *` brings; tests compare the three lists.
_MODULES = {
    "ByteTokenizer": "tokenizers.text",
    "CharacterTokenizer": "tokenizers.text",
    "EncoderKmeans": "tokenizers.encoder_kmeans",
    "GeneratedAudioTextDataset": "data.pairs.dataset",
    "HubertWithKmeans": "tokenizers.hubert",
    "HuggingFaceTokenizer": "tokenizers.huggingface",
    "MelKmeans": "tokenizers.mel_kmeans",
    "MockDataset": "data.pairs.dataset",
    "PhonemeTokenizer": "tokenizers.phonemes",
    "SemanticToTextDatasetGenerator": "data.generator",
    "SemanticToTextTrainer": "training.stages",
    "SemanticToTextWrapper": "objectives",
    "SemanticTokenizer": "tokenizers.semantic",
    "SpeechSpeechPretrainWrapper": "objectives",
    "SpeechSpeechPretrainer": "training.stages",
    "TextToSemantic": "model.text_to_semantic",
    "TextToSemanticTrainer": "training.stages",
    "TextToSemanticWrapper": "objectives",
    "TextTokenizer": "tokenizers.text",
    "UniqueConsecutive": "tokenizers.consecutive",
    "UnitToSpeech": "tokenizers.unit_to_speech",
    "Voice": "recipe.voice",
}

__all__ = [
    "ByteTokenizer",
    "CharacterTokenizer",
    "EncoderKmeans",
    "GeneratedAudioTextDataset",
    "HubertWithKmeans",
    "HuggingFaceTokenizer",
    "MelKmeans",
    "MockDataset",
    "PhonemeTokenizer",
    "SemanticToTextDatasetGenerator",
    "SemanticToTextTrainer",
    "SemanticToTextWrapper",
    "SemanticTokenizer",
    "SpeechSpeechPretrainWrapper",
    "SpeechSpeechPretrainer",
    "TextToSemantic",
    "TextToSemanticTrainer",
    "TextToSemanticWrapper",
    "TextTokenizer",
    "UniqueConsecutive",
    "UnitToSpeech",
    "Voice",
    "__version__",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
