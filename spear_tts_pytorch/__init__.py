"""Text to semantic speech tokens with little parallel data: the first stage of SPEAR-TTS (arXiv 2302.03540).

The public names live here. Each is imported from its module when it is first used, so that `import spear_tts_pytorch`
and `spear-tts --help` do not wait for torch. This file knows where names live and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spear_tts_pytorch.version import __version__ as __version__

if TYPE_CHECKING:
    from spear_tts_pytorch.data.generator import SemanticToTextDatasetGenerator as SemanticToTextDatasetGenerator
    from spear_tts_pytorch.data.pairs import GeneratedAudioTextDataset as GeneratedAudioTextDataset
    from spear_tts_pytorch.data.pairs import MockDataset as MockDataset
    from spear_tts_pytorch.text_to_semantic import TextToSemantic as TextToSemantic
    from spear_tts_pytorch.tokenizers.consecutive import UniqueConsecutive as UniqueConsecutive
    from spear_tts_pytorch.tokenizers.hubert import HubertWithKmeans as HubertWithKmeans
    from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer as HuggingFaceTokenizer
    from spear_tts_pytorch.tokenizers.mel_kmeans import MelKmeans as MelKmeans
    from spear_tts_pytorch.tokenizers.phonemes import PhonemeTokenizer as PhonemeTokenizer
    from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer as SemanticTokenizer
    from spear_tts_pytorch.tokenizers.text import ByteTokenizer as ByteTokenizer
    from spear_tts_pytorch.tokenizers.text import CharacterTokenizer as CharacterTokenizer
    from spear_tts_pytorch.tokenizers.text import TextTokenizer as TextTokenizer
    from spear_tts_pytorch.training.trainers import SemanticToTextTrainer as SemanticToTextTrainer
    from spear_tts_pytorch.training.trainers import SpeechSpeechPretrainer as SpeechSpeechPretrainer
    from spear_tts_pytorch.training.trainers import TextToSemanticTrainer as TextToSemanticTrainer
    from spear_tts_pytorch.wrappers import SemanticToTextWrapper as SemanticToTextWrapper
    from spear_tts_pytorch.wrappers import SpeechSpeechPretrainWrapper as SpeechSpeechPretrainWrapper
    from spear_tts_pytorch.wrappers import TextToSemanticWrapper as TextToSemanticWrapper

# The same names once more for run time; tests hold the two lists to each other.
_MODULES = {
    "ByteTokenizer": "tokenizers.text",
    "CharacterTokenizer": "tokenizers.text",
    "GeneratedAudioTextDataset": "data.pairs",
    "HubertWithKmeans": "tokenizers.hubert",
    "HuggingFaceTokenizer": "tokenizers.huggingface",
    "MelKmeans": "tokenizers.mel_kmeans",
    "MockDataset": "data.pairs",
    "PhonemeTokenizer": "tokenizers.phonemes",
    "SemanticToTextDatasetGenerator": "data.generator",
    "SemanticToTextTrainer": "training.trainers",
    "SemanticToTextWrapper": "wrappers",
    "SemanticTokenizer": "tokenizers.semantic",
    "SpeechSpeechPretrainWrapper": "wrappers",
    "SpeechSpeechPretrainer": "training.trainers",
    "TextToSemantic": "text_to_semantic",
    "TextToSemanticTrainer": "training.trainers",
    "TextToSemanticWrapper": "wrappers",
    "TextTokenizer": "tokenizers.text",
    "UniqueConsecutive": "tokenizers.consecutive",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
