"""What a stage starts from: an earlier voice, a saved model, one on the Hub, or a checkpoint of a release up to 0.4.8.

In: the setting `init` of a stage. Out: a model with the weights that fit, and which those are; or a tokenizer of speech.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spear_tts_pytorch.model.pretrained import load_weights, model_folder, read_package, rename_old_keys
from spear_tts_pytorch.model.saving import CONFIG, SEMANTIC_TOKENIZER, WEIGHTS
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.results import Results
from spear_tts_pytorch.recipe.sources import relative
from spear_tts_pytorch.recipe.stages import OF_TEXT
from spear_tts_pytorch.utils.files import digest_of_file, whole_folder
from spear_tts_pytorch.utils.json_files import read_object

SETTINGS, TOKENIZER_FILE = "voice.toml", "tokenizer.json"
OF_SPEECH = ("token_emb.speech.", "early_exit.to_logits.")


@dataclass(frozen=True)
class Start:
    """Which weights of a model were loaded.

    Attributes:
        source: where they are from.
        loaded: names of the tensors that were loaded.
        anew: names of those that begin anew, with the reason.
    """

    source: str
    loaded: tuple[str, ...]
    anew: Mapping[str, str]

    def __str__(self) -> str:
        rest = ", ".join(f"{name} ({why})" for name, why in list(self.anew.items())[:4])
        more = f" and {len(self.anew) - 4} more" if len(self.anew) > 4 else ""
        begun = f"; anew: {rest}{more}" if self.anew else ""
        return f"{len(self.loaded)} of {len(self.loaded) + len(self.anew)} tensors are those of {self.source}{begun}"


def starting(
    results: Results, stage: str, usual: TextToSemantic | None
) -> tuple[TextToSemantic | None, dict[str, Any]]:
    """The model that a stage starts from: that of its setting `init`, or the usual one; and what was loaded, as figures."""
    source: str = results.settings.section(stage)["init"]
    if not source:
        return usual, {}
    model = results.stages.new_model(usual)
    start = start_from(model, source, results.folder, stage)
    results.tell(f"{stage}: {start}")
    return model, {"start": {"source": source, "loaded": len(start.loaded), "anew": dict(start.anew)}}


def start_from(model: TextToSemantic, source: str, folder: Path, stage: str) -> Start:
    """Loads, in place, the weights of another model that fit by name, shape, alphabet and units.

    Args:
        model: of this voice.
        source: a voice folder, of which the model of the same stage is taken; a model folder; a file of weights; or a Hub id.
            Paths are relative to `folder`.
        folder: the voice folder.
        stage: "pretrain", "backtranslate" or "train".

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: a damaged file, or a model of which nothing fits.
    """
    place = _place(source, folder, stage)
    there = dict(read_package(place / WEIGHTS if place.is_dir() else place)["model"])
    rename_old_keys(there)
    own, anew = model.state_dict(), dict[str, str]()
    other_text, other_speech = not _same_alphabet(model, place), not _same_units(model, place)
    for name, value in own.items():
        if name not in there:
            anew[name] = "not there"
        elif there[name].shape != value.shape:
            anew[name] = f"{list(there[name].shape)} there, {list(value.shape)} here"
        elif other_text and name.startswith(OF_TEXT):
            anew[name] = "another alphabet"
        elif other_speech and name.startswith(OF_SPEECH):
            anew[name] = "other units"
    loaded = [name for name in own if name not in anew]
    if not any("transformer.layers" in name for name in loaded):
        raise ValueError(
            f"{stage}.init: no layer of {source} fits this voice (such as {next(iter(anew.items()))}): give model.dim, "
            "model.depth and model.heads its sizes"
        )
    load_weights(model, {**own, **{name: there[name] for name in loaded}}, source=source)
    return Start(source, tuple(loaded), anew)


def copy_units(source: str, folder: Path, into: Path) -> None:
    """Copies the tokenizer of speech of a voice or of a saved model.

    Raises:
        FileNotFoundError: there is none.
    """
    at = _at(source, folder)
    places = [at / "units" / "tokenizer", at / SEMANTIC_TOKENIZER, at]
    found = [place for place in places if (place / TOKENIZER_FILE).is_file()]
    if not found and not at.exists():
        found = [model_folder(source, {}) / SEMANTIC_TOKENIZER]
    if not found or not (found[0] / TOKENIZER_FILE).is_file():
        raise FileNotFoundError(f"units.init: {source} holds no tokenizer of speech: give a voice, or '' to fit one")
    with whole_folder(into, replace=True) as made:
        shutil.copytree(found[0], made, dirs_exist_ok=True)


def beginning(source: str | os.PathLike[str], folder: Path) -> dict[str, Any]:
    """The settings of a new voice that starts from another model: `init` of two stages, and sizes that fit.

    Args:
        source: as for `start_from`, relative to the working directory.
        folder: the new voice folder.
    """
    at = Path(source).expanduser()
    name = relative(at, folder) if at.exists() else os.fspath(source)
    made: dict[str, Any] = {"pretrain.init": name}
    if any((place / TOKENIZER_FILE).is_file() for place in (at / "units" / "tokenizer", at / SEMANTIC_TOKENIZER)):
        made["units.init"] = name
    config = next((one for one in (at / "pretrain" / "model" / CONFIG, at / CONFIG) if one.is_file()), None)
    if config is not None:
        arguments = read_object(config, "the configuration of a model", "save the model again").get("arguments", {})
        names = {"model.dim": "dim", "model.depth": "source_depth", "model.heads": "heads"}
        made |= {setting: arguments[key] for setting, key in names.items() if key in arguments}
    return made


def _at(source: str, folder: Path) -> Path:
    return folder / Path(source).expanduser()


def _place(source: str, folder: Path, stage: str) -> Path:
    """The folder or file of the weights."""
    at = _at(source, folder)
    if (at / SETTINGS).is_file():
        at = at / "model" if stage == "train" else at / stage / "model"
        if not (at / CONFIG).is_file():
            raise FileNotFoundError(f"{stage}.init: the voice {source} has not done this stage: run it there first")
    return at if at.is_file() else model_folder(str(at) if at.exists() else source, {})


def _same_alphabet(model: TextToSemantic, place: Path) -> bool:
    """Whether both have one text tokenizer. A file of weights alone does not tell."""
    if not place.is_dir():
        return False
    there = read_object(place / CONFIG, "the configuration of a model", "save the model again").get("text_tokenizer")
    own = model.tokenizer_encode.to_dict()
    return there == json.loads(json.dumps(own))


def _same_units(model: TextToSemantic, place: Path) -> bool:
    """Whether both have one tokenizer of speech, file by file."""
    there = place / SEMANTIC_TOKENIZER
    if not place.is_dir() or not (there / TOKENIZER_FILE).is_file():
        return False
    with tempfile.TemporaryDirectory() as name:
        model.wav2vec.save(Path(name))
        return _digests(Path(name)) == _digests(there)


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest_of_file(path) for path in files}
