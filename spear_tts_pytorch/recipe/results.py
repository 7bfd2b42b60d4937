"""The results of the stages of a voice, read from its folder when they are needed.

In: a voice folder and its settings. Out: clips, tokenizers, ids, models and pairs. A result that is missing is an error that
names the command that makes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from spear_tts_pytorch.data.corpora.clip_files import lines_of
from spear_tts_pytorch.data.pairs.dataset import GeneratedAudioTextDataset
from spear_tts_pytorch.data.tokenized import TokenizedSpeech
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.aligning import read_aligned
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.recipe.clips import Clips, letters, read_clips
from spear_tts_pytorch.recipe.records import Record
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.sources import at, file_digest
from spear_tts_pytorch.recipe.stages import Pair, Rows, Stages, backtranslator, speech_rate, surest
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, load_semantic_tokenizer
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer, normalize_text
from spear_tts_pytorch.tokenizers.unit_to_speech import UnitToSpeech
from spear_tts_pytorch.utils.distributed import rank_and_world
from spear_tts_pytorch.utils.json_files import read_object

STAGES = ("units", "pretrain", "backtranslate", "label", "train", "evaluate")
RESYNTHESIS = "resynthesis"  # after the first stage, in voices that want it
EVERY_STAGE = (STAGES[0], RESYNTHESIS, *STAGES[1:])
FOLDERS = {stage: stage for stage in EVERY_STAGE} | {"label": "pairs"}
Progress = bool | Literal["lines"]
IDS, MODEL, TOKENIZER, NETWORK, TEXTS, FUSION = "ids", "model", "tokenizer", "network", "texts.txt", "fusion.json"
FORGOTTEN = {  # of each stage, what is read again once it is made
    "units": ("tokenizer", "_network", "ids", "labelled", "development", "unlabelled", "test", "stages"),
    "pretrain": ("pretrained",),
    "backtranslate": ("reader",),
    "label": ("pairs",),
    "train": ("model",),
}
LEAST_FOR_DEVELOPMENT = 100  # labelled clips
MOST_FOR_DEVELOPMENT = 100


class Results:
    """The results of a voice's stages.

    Args:
        folder: the voice folder.
        settings: its settings.
        progress: True tells what is done and shows bars, on terminals; "lines" shows no bars; False does neither.

    Attributes:
        progress: whether there are bars.
        lines: whether there are lines.
    """

    def __init__(self, folder: Path, settings: Settings, progress: Progress = True):
        self.folder, self.settings, self.progress, self.lines = folder, settings, progress is True, bool(progress)

    def tell(self, line: str) -> None:
        """Prints a line in the first process, if lines are wanted."""
        if self.lines and rank_and_world()[0] == 0:
            print(line, flush=True)

    @property
    def plan(self) -> tuple[str, ...]:
        """The stages of this voice, in their order."""
        return EVERY_STAGE if self.settings.resynthesis.steps else STAGES

    def owner(self, stage: str) -> Path:
        """The voice folder that has the result of a stage: this one, or the one that a setting `shared` names.

        The network from ids to sound is where the units are.
        """
        units = self.settings.units.shared
        shared = {"units": units, RESYNTHESIS: units, "pretrain": self.settings.pretrain.shared}.get(stage)
        return at(self.folder, shared) if shared else self.folder

    def shares(self, stage: str) -> bool:
        """Whether the result of a stage is that of another voice."""
        return self.owner(stage) != self.folder

    def place(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.owner(stage) / FOLDERS[stage]

    @property
    def ids_folder(self) -> Path:
        """The folder of the speech ids."""
        return self.owner("units") / IDS

    def record(self, stage: str) -> Record | None:
        """The record of a stage; None if it was never begun."""
        return Record.load(self.place(stage))

    def output(self, stage: str) -> str:
        """The fingerprint of a stage's result.

        Raises:
            FileNotFoundError: the stage is not done.
        """
        record = self.record(stage)
        if record is None or not record.done:
            raise FileNotFoundError(
                f"the stage {stage!r} of {self.folder} is not done: run `spear-tts {stage} {self.folder}`, or all stages by "
                f"`spear-tts run {self.folder}`"
            )
        return record.output

    def forget(self, *names: str) -> None:
        """Has results read again the next time."""
        for name in names:
            self.__dict__.pop(name, None)

    # data

    @cached_property
    def clips(self) -> Clips:
        """The clips and their parts."""
        return read_clips(self.settings.data, self.folder, progress=self.progress)

    @cached_property
    def digests(self) -> dict[str, str]:
        """A fingerprint of each clip's audio, by id."""
        return {id_: file_digest(one) for id_, one in self.clips.every.items()}

    def keys(self, ids: Iterable[str], *, texts: bool = False) -> list[str]:
        """Names of clips with the fingerprints of their audio, and with their texts if these matter."""
        return [f"{id_}:{self.digests[id_]}" + (f":{self.clips.text(id_)}" if texts else "") for id_ in ids]

    def training_options(self) -> dict[str, Any]:
        """The options of all trainings that change a result."""
        return {name: value for name, value in self.settings.section("training").items() if name != "save_every"}

    # units

    @cached_property
    def tokenizer(self) -> SemanticTokenizer:
        """The tokenizer of speech."""
        self.output("units")
        return self.saved_tokenizer()

    def saved_tokenizer(self) -> SemanticTokenizer:
        """The tokenizer of speech, read from its file, also before stage 1 is done."""
        with self.made_by("units"):
            return load_semantic_tokenizer(self.place("units") / TOKENIZER)

    @property
    def network(self) -> UnitToSpeech | None:
        """The network from ids to sound; None if this voice has none, or not yet."""
        record = self.record(RESYNTHESIS)
        if record is None or not record.done or not self.settings.resynthesis.steps:
            return None
        return self._network if self._network.fits(self.tokenizer) else None  # the units may have been made again

    @cached_property
    def _network(self) -> UnitToSpeech:
        with self.made_by(RESYNTHESIS):
            return UnitToSpeech.load(self.place(RESYNTHESIS) / NETWORK)

    @cached_property
    def ids(self) -> dict[str, torch.Tensor]:
        """Speech ids `[n]` by the id of the clip. Clips that could not be used are missing."""
        self.output("units")
        wanted = self.clips.every
        with self.made_by("units"):
            speech = TokenizedSpeech(self.ids_folder)
            places = {id_: place for place, id_ in enumerate(speech.ids)}
            return {id_: speech[places[id_]] for id_ in wanted if id_ in places}

    @cached_property
    def characters(self) -> CharacterTokenizer:
        """The alphabet: the characters of the texts of all clips, also of those that are not trained on, and of transcripts."""
        texts = [self.clips.text(id_) for id_ in self.clips.every]
        return CharacterTokenizer.fit([*texts, *(normalize_text(one.text) for one in self.clips.transcripts.values())])

    @cached_property
    def sentences(self) -> list[str]:
        """Unpaired sentences that the alphabet can write, normalised; punctuation that it lacks is left out."""
        known = set(self.characters.symbols)
        kept: list[str] = []
        for line in self.clips.unpaired:
            wanted = letters(line) | known
            bare = normalize_text("".join(one if one in wanted else " " for one in normalize_text(line)))
            kept += [bare] if bare and known.issuperset(bare) else []
        return kept

    def rows(self, ids: Iterable[str]) -> Rows:
        """Clips as ids, without those that have no speech ids. A text with unknown characters is left out."""
        known, nothing = set(self.characters.symbols), torch.empty(0, dtype=torch.long)
        usable = [id_ for id_ in ids if len(self.ids.get(id_, ()))]
        texts = [text if known.issuperset(text) else "" for text in map(self.clips.text, usable)]
        text_ids = [self.characters.encode([text])[0] if text else nothing for text in texts]
        return Rows(usable, [self.ids[id_] for id_ in usable], text_ids, texts)

    @cached_property
    def labelled(self) -> Rows:
        """The labelled clips that are trained on."""
        development = set(self.development_ids)
        return self.rows(id_ for id_ in self.clips.labelled if id_ not in development)

    @cached_property
    def development_ids(self) -> list[str]:
        """Labelled clips that are kept from training, to see how well the backtranslator reads."""
        labelled, share = self.clips.labelled, self.settings.backtranslate.development
        if len(labelled) < LEAST_FOR_DEVELOPMENT or not share:
            return []
        count = min(MOST_FOR_DEVELOPMENT, round(share * len(labelled)))
        order = sorted(labelled, key=lambda id_: random_place(id_, self.settings.training.seed))
        return order[:count]

    @cached_property
    def development(self) -> Rows:
        """The clips of `development_ids`, or the test's if there are none."""
        return self.rows(self.development_ids or self.clips.test)

    @cached_property
    def unlabelled(self) -> Rows:
        """Clips whose texts, if known, only a judge may use."""
        return self.rows(self.clips.unlabelled)

    @cached_property
    def test(self) -> Rows:
        """The clips that are kept for testing."""
        return self.rows(self.clips.test)

    @cached_property
    def stages(self) -> Stages:
        """The stage functions with this voice's settings and tokenizers."""
        rate = speech_rate(self.labelled)
        return Stages(self.settings, self.tokenizer, self.characters, rate, self.progress)

    # models and pairs

    @cached_property
    def pretrained(self) -> TextToSemantic:
        """The model of stage 2."""
        return self._model("pretrain", self.place("pretrain") / MODEL)

    @cached_property
    def reader(self) -> CTCBacktranslator:
        """The backtranslator of stage 3, with its language model."""
        model = self._model("backtranslate", self.place("backtranslate") / MODEL)
        folder = self.place("backtranslate")  # the corpus may be elsewhere when a voice speaks
        with self.made_by("backtranslate"):
            texts = [line for line in lines_of(folder / TEXTS) if line]
            reader = backtranslator(model, texts, self.settings)
            if (folder / FUSION).is_file():
                chosen = read_object(folder / FUSION, "weights", f"remove {folder / FUSION}")
                weight, bonus = float(chosen["lm_weight"]), float(chosen["length_bonus"])
                reader.fusion = replace(reader.fusion, lm_weight=weight, length_bonus=bonus)
        return reader

    def texts_for_lm(self) -> list[str]:
        """The labelled texts, transcripts and the unpaired sentences, normalised."""
        transcripts = [normalize_text(one.text) for one in self.clips.transcripts.values()]
        return [text for text in (*self.labelled.texts, *transcripts, *self.sentences) if text]

    def chosen_unlabelled(self) -> Rows:
        """The clips that are labelled."""
        most = self.settings.label.most
        return self.rows(self.clips.unlabelled[: most or None])

    @cached_property
    def pairs(self) -> GeneratedAudioTextDataset | None:
        """The pseudo-labelled pairs of stage 4; None if there is no clip without a text."""
        self.output("label")
        if not self.unlabelled.ids:
            return None
        with self.made_by("label"):
            return GeneratedAudioTextDataset(self.place("label"))

    @cached_property
    def aligned(self) -> dict[str, str]:
        """Texts by the ids of clips whose recording has a transcript."""
        with self.made_by("backtranslate"):
            return read_aligned(self.place("backtranslate"))

    def aligned_pairs(self, texts: Mapping[str, str]) -> list[Pair]:
        """The pairs of clips with a text out of a transcript, of which the test has none."""
        tested = {self.clips.text(id_) for id_ in self.clips.test}
        usable = {id_: text for id_, text in texts.items() if text not in {"", *tested} and len(self.ids.get(id_, ()))}
        return [(self.ids[id_], self.characters.encode([text])[0]) for id_, text in usable.items()]

    def labels(self) -> list[Pair]:
        """The pairs that are learned from beside the labelled ones: clips of transcripts, and pseudo-labelled clips."""
        aligned = self.aligned_pairs(self.aligned)
        if self.pairs is None:
            return aligned
        return aligned + surest(self.pairs, self.settings.label.keep, set(self.unlabelled.ids) - set(self.aligned))

    @cached_property
    def model(self) -> TextToSemantic:
        """The voice's model, of stage 5."""
        return self._model("train", self.folder / MODEL)

    def _model(self, stage: str, folder: Path) -> TextToSemantic:
        self.output(stage)
        with self.made_by(stage):
            return TextToSemantic.from_pretrained(folder)

    @contextmanager
    def made_by(self, stage: str) -> Generator[None]:
        """Names the command that makes a damaged or missing result again, but not one that may not be read."""
        try:
            yield
        except PermissionError:
            raise
        except (ValueError, OSError) as error:
            words = f"the result of {stage} is damaged: make it again by `spear-tts {stage} {self.folder} --again` ({error})"
            raise ValueError(words) from error


def random_place(id_: str, seed: int) -> int:
    """A random place for an id that does not depend on the other ids."""
    return int.from_bytes(hashlib.sha256(f"{seed} {id_}".encode("utf-8", "surrogatepass")).digest()[:8], "big")
