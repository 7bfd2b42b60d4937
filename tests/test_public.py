"""What a notebook user sees: names that completion offers, arguments in docstrings, a short repr."""

import importlib
import inspect
import re
import typing

import pytest
import small
import torch

import spear_tts_pytorch
from spear_tts_pytorch.data.pairs import write_pairs


def public_classes():
    """Classes at the root that users construct: protocols are left out."""
    found = [getattr(spear_tts_pytorch, name) for name in spear_tts_pytorch.__all__ if name != "__version__"]
    return [one for one in found if not getattr(one, "_is_protocol", False)]


def constructor_arguments(cls):
    """Names of all arguments; a `**options: Unpack[...]` stands for the keys of its TypedDict."""
    names = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            names.append(name)
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = eval(annotation, vars(importlib.import_module(cls.__init__.__module__)))
        names += typing.get_args(annotation)[0].__annotations__ if typing.get_args(annotation) else [name]
    return names


def test_completion_offers_the_public_names():
    assert dir(spear_tts_pytorch) == sorted(spear_tts_pytorch.__all__)


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_every_constructor_argument_is_in_the_docstring(cls):
    text = "\n".join(filter(None, (cls.__doc__, cls.__init__.__doc__ if "__init__" in vars(cls) else None)))
    assert len(text) > 40
    missing = [name for name in constructor_arguments(cls) if not re.search(rf"\b{name}\b", text)]
    assert missing == []


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_no_public_class_prints_its_address(cls):
    assert cls.__repr__ is not object.__repr__


def test_what_a_notebook_prints_has_three_lines_at_most(tmp_path):
    pytest.importorskip("sklearn", reason="MelKmeans.fit needs scikit-learn")
    wav2vec = spear_tts_pytorch.MelKmeans.fit(small.make_clips([8_000] * 2), 8_000, num_clusters=8, progress=False)
    text = spear_tts_pytorch.CharacterTokenizer("abc")
    model = small.make_model(
        wav2vec=wav2vec, tokenizer_encode=text, num_semantic_token_ids=None, num_text_token_ids=None
    )
    pairs = [(torch.tensor([1, 2]), torch.tensor([1])), (torch.tensor([3]), torch.tensor([2, 3]))]
    write_pairs(tmp_path, pairs, num_semantic_token_ids=8, num_text_token_ids=model.num_text_token_ids)
    options = dict(num_train_steps=2, num_warmup_steps=1, batch_size=1, results_folder=None, progress=False)
    printed = [
        *(model, wav2vec, text, spear_tts_pytorch.ByteTokenizer(), spear_tts_pytorch.UniqueConsecutive(wav2vec)),
        *(spear_tts_pytorch.GeneratedAudioTextDataset(tmp_path), spear_tts_pytorch.MockDataset(3)),
        spear_tts_pytorch.SpeechSpeechPretrainer(model, dataset=[speech for speech, _ in pairs], **options),
        spear_tts_pytorch.SemanticToTextTrainer(model, dataset=pairs, **options),
        spear_tts_pytorch.TextToSemanticTrainer(model, dataset=pairs, **options),
        spear_tts_pytorch.SemanticToTextDatasetGenerator(model, dataset=[torch.tensor([1])], folder=tmp_path / "new"),
    ]
    for thing in printed:
        lines = repr(thing).splitlines()
        assert 1 <= len(lines) <= 3 and max(map(len, lines)) <= 200, lines
        assert " object at 0x" not in repr(thing)
