"""All settings of a voice, in sections, and the file `voice.toml` that holds them.

In: a `voice.toml`, or sections as keywords. Out: frozen `Settings`, whose every value is checked. The comment beside each
default below is written into the file, above its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast, get_type_hints

import tomlkit
from tomlkit.exceptions import TOMLKitError

from spear_tts_pytorch.recipe.setting_values import checked, from_text, known_name, plain
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.values import (
    given_path,
    instance,
    settle,
)

FORMAT = 1  # of voice.toml; a release refuses files of a higher number
COLUMNS = {
    "a": "from scratch",
    "b": "pretrained",
    "c": "backtranslation",
    "d": "pretrained + backtranslation",
    "A": "full supervision",  # all known texts but the test's, no pretraining, model and updates as for d
}
SPLITS = ("development", "test")  # clips that the figures are of
INIT = "Start from the weights of this voice, model folder, file or Hub id; '' starts anew."
FINGERPRINT = re.compile("[0-9a-f]{16}")  # of a result: that it changed is news, its digits are not
LARGEST_FILE = 1 << 20  # bytes of a voice.toml


def _setting(default: Any, comment: str, least: float | None = None, below: float | None = None) -> Any:
    """A field of a section: its default, the comment for voice.toml, the least value, and the value it stays below."""
    return field(default=default, metadata={"comment": comment, "least": least, "below": below})


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the recordings and texts are. Paths are relative to the voice folder."""

    audio: tuple[str, ...] = _setting((), "Folders of recordings. Clips without a text are welcome.")
    text: tuple[str, ...] = _setting((), "Tables or transcripts for audio in other folders; rows name the audio.")
    unpaired_text: tuple[str, ...] = _setting(
        (), "Text files without audio, a sentence a line: for the language model."
    )
    table: str = _setting("", "Name of the table of texts in a folder of audio; '' recognises it.")
    text_column: str = _setting("", "Column of the text in the table, by name or by number from 1; '' recognises it.")
    labelled: str = _setting("", "File of ids, one a line: only the texts of these clips are trained on; '' is all.")
    test: str = _setting("", "File of ids, one a line: clips that are kept for testing; '' keeps none.")
    speaker: str = _setting("", "Take the clips of this speaker only; '' takes all.")
    shortest: float = _setting(0.1, "Seconds. Shorter clips are left out.", least=0.05)
    longest: float = _setting(15.0, "Seconds. Longer recordings are cut at silences.", least=1)


@dataclass(frozen=True, kw_only=True)
class Units:
    """The tokenizer of speech."""

    encoder: str = _setting(
        "", "Speech encoder that the ids are found in: a folder of transformers or a Hub id; '' takes mel features."
    )
    layer: int = _setting(0, "Its layer; 0 is half of its layers, rounded up.", least=0)
    clusters: int = _setting(100, "Number of different ids.", least=2)
    unique: bool = _setting(True, "Leave out repeated ids.")
    fit_clips: int = _setting(600, "Clips that the clusters are fitted on.", least=1)
    init: str = _setting("", "Take the tokenizer of this voice or model instead of fitting one; '' fits one.")
    shared: str = _setting("", "Use tokenizer and ids of this voice, which has the same clips; '' makes own ones.")


@dataclass(frozen=True, kw_only=True)
class Resynthesis:
    """A network from ids to sound, learned from audio alone. The voice is heard through it, and a recogniser may judge it."""

    steps: int = _setting(0, "Updates; 0 makes none: units of mel features are turned into sound without it.", least=0)
    dim: int = _setting(256, "Width.", least=8)
    depth: int = _setting(6, "Convolutions.", least=1)
    hours: float = _setting(2.0, "Hours of audio that it learns from, at most.", least=0.001)
    batch: int = _setting(16, "Crops of 2.4 seconds in an update.", least=1)
    lr: float = _setting(1e-3, "Highest learning rate.", least=1e-9)


@dataclass(frozen=True, kw_only=True)
class Model:
    """Size of the models."""

    dim: int = _setting(128, "Width.", least=8)
    depth: int = _setting(3, "Layers of the encoder, and of the decoder.", least=1)
    heads: int = _setting(4, "Attention heads; the width is a multiple of them.", least=1)
    dropout: float = _setting(0.1, "In the feedforward layers and after the embeddings.", least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of all trainings."""

    seed: int = _setting(0, "Of everything random.", least=0, below=2**32)
    batch_tokens: int = _setting(2500, "Ids in a batch, padding included.", least=1)
    label_smoothing: float = _setting(0.1, "Of all losses.", least=0, below=1)
    precision: str = _setting("no", "'no' is float32; 'bf16' saves time on GPUs and at large widths.")
    save_every: int = _setting(200, "Updates between two checkpoints.", least=1)


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Stage 2: a model of speech, from audio alone."""

    steps: int = _setting(450, "Updates.", least=1)
    lr: float = _setting(1.5e-3, "Highest learning rate.", least=1e-9)
    again_at: float = _setting(0.5, "Added audio, as a share of the old, at which the stage is run again.", least=0)
    init: str = _setting("", INIT)
    shared: str = _setting("", "Use the pretraining of this voice, which shares the units; '' pretrains.")


@dataclass(frozen=True, kw_only=True)
class Backtranslate:
    """Stage 3: a reader of speech, from the few pairs."""

    steps: int = _setting(300, "Updates.", least=1)
    lr: float = _setting(1e-3, "Highest learning rate.", least=1e-9)
    token_dropout: float = _setting(0.15, "Share of speech ids that are deleted in training.", least=0, below=1)
    rounds: int = _setting(1, "How often the reader is trained again, on the pairs and its own surest labels.", least=0)
    features: bool = _setting(
        True, "With an encoder, the first labels come from a reader of its features, which hold more than the ids."
    )
    feature_steps: int = _setting(400, "Updates of that reader.", least=1)
    feature_rounds: int = _setting(0, "How often that reader is trained again, on its own labels, too.", least=0)
    sure_labels: float = _setting(0.5, "Share of the labels used for that, the surest first.", least=0.01, below=1.01)
    development: float = _setting(
        0.05, "Share of the labelled clips kept from training, if there are 100 and more.", least=0, below=0.5
    )
    init: str = _setting("", INIT.replace("starts anew", "starts from stage 2"))


@dataclass(frozen=True, kw_only=True)
class Label:
    """Stage 4: texts for the audio without text."""

    most: int = _setting(0, "Clips that are labelled at most; 0 is all.", least=0)
    lm_weight: float = _setting(1.4, "Weight of the character language model; 0 leaves it out.", least=0)
    lm_order: int = _setting(8, "Characters that the language model looks at, the predicted one included.", least=1)
    length_bonus: float = _setting(1.5, "Added to the score of a label for each character, in nats.")
    beam_size: int = _setting(8, "Hypotheses of the search.", least=1)
    keep: float = _setting(1.0, "Share of the labels that the last stage learns from, the surest first.", 0.01, 1.01)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Stage 5: text to speech, from pseudo-labelled and real pairs, and then from real pairs alone."""

    steps: int = _setting(400, "Updates on pseudo-labelled and real pairs.", least=1)
    lr: float = _setting(1.5e-3, "Highest learning rate of these.", least=1e-9)
    real_share: float = _setting(0.1, "Share of real pairs among them; real pairs are repeated for it.", 0.001, 1)
    finetune_steps: int = _setting(50, "Updates on real pairs alone.", least=0)
    finetune_lr: float = _setting(1e-4, "Highest learning rate of these.", least=1e-9)
    init: str = _setting("", INIT.replace("starts anew", "starts from stage 2"))


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Stage 6: how much of what the model says is understood."""

    columns: str = _setting("d", "Columns of the paper's table; all but d train further models, A on all known texts.")
    split: str = _setting("test", "Clips to measure on: 'development' to choose settings by, and then once 'test'.")
    scratch_steps: int = _setting(300, "Updates of the models of columns a and b, on real pairs alone.", least=1)
    judge: str = _setting("", "Take the judge of this voice, of the same units and letters; '' trains one.")
    judge_steps: int = _setting(1500, "Most updates of the judge, a recogniser of its own.", least=1)
    judge_patience: int = _setting(4, "Validations without a gain after which its training ends.", least=1)
    judge_width: int = _setting(128, "Its width.", least=8)
    candidates: int = _setting(4, "Samples per text among which the backtranslator chooses.", least=1)
    temperature: float = _setting(0.5, "Of these samples.", least=0)
    recogniser: str = _setting(
        "", "Whisper as a further judge, of resynthesised speech: a folder of transformers or a Hub id; '' is none."
    )
    language: str = _setting("", "Language that a multilingual recogniser reads, such as 'de'; '' lets it guess.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a voice. `replaced` makes others, `save` and `load` are the file.

    Raises:
        TypeError, ValueError: a value of another kind or out of range; the message names section and setting.
    """

    data: Data = field(default_factory=Data)
    units: Units = field(default_factory=Units)
    resynthesis: Resynthesis = field(default_factory=Resynthesis)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    pretrain: Pretrain = field(default_factory=Pretrain)
    backtranslate: Backtranslate = field(default_factory=Backtranslate)
    label: Label = field(default_factory=Label)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)

    def __post_init__(self) -> None:
        for section in fields(self):
            given: Any = instance(section.name, getattr(self, section.name), cast("type[Any]", section.default_factory))
            kinds = _kinds(given)
            values = {
                name: checked(f"{section.name}.{name}", value, kinds[name], about.metadata)
                for name, value, about in _values(given)
            }
            settle(self, {section.name: replace(given, **values)})
        _check_choices(self)

    def __repr__(self) -> str:
        model, steps = self.model, f"{self.pretrain.steps} + {self.backtranslate.steps} + {self.train.steps} steps"
        return f"Settings(dim {model.dim}, {model.depth} + {model.depth} layers, {self.units.clusters} ids, {steps})"

    @staticmethod
    def sections() -> list[str]:
        """The names of the sections."""
        return [section.name for section in fields(Settings)]

    def section(self, name: str) -> dict[str, Any]:
        """The values of a section by name, as JSON types."""
        values = _values(getattr(self, name))
        return {key: plain(value) for key, value, _ in values}

    def replaced(self, changes: Mapping[str, Any]) -> Settings:
        """The settings with others in the places of some.

        Args:
            changes: values by "section.setting". Strings are read as the setting's kind, as `--set` gives them.

        Raises:
            TypeError, ValueError: an unknown name, or a value of another kind or out of range.
        """
        made = {section: getattr(self, section) for section in self.sections()}
        for name, value in changes.items():
            section, _, key = name.partition(".")
            old = made[known_name(section, self.sections(), "section")]
            kinds = _kinds(old)
            key = known_name(key, list(kinds), f"setting of [{section}]")
            read = from_text(name, value, kinds[key]) if isinstance(value, str) else value
            try:
                kept = checked(name, read, kinds[key], old.__dataclass_fields__[key].metadata)
            except TypeError as error:
                raise (ValueError if isinstance(value, str) else TypeError)(str(error)) from None
            made[section] = replace(old, **{key: kept})
        return replace(self, **made)

    def save(self, path: str | Path) -> None:
        """Writes the file, with a comment for each setting. It appears complete or not at all."""
        write_whole(given_path("path", path), as_toml(self).encode())

    @classmethod
    def load(cls, path: str | Path) -> Settings:
        """Reads the file. Settings that it lacks have their defaults.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no TOML, of a newer release, or holds an unknown name or a value that cannot be.
        """
        path = given_path("path", path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: make a voice by `spear-tts new {path.parent} CORPUS`")
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path} is larger than {LARGEST_FILE} bytes: it is no voice.toml")
        try:
            read: dict[str, Any] = tomlkit.parse(path.read_text(encoding="utf-8-sig")).unwrap()
        except (TOMLKitError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is not valid TOML ({error}): mend that line") from error
        number = read.pop("format", FORMAT)
        if number != FORMAT:
            raise ValueError(f"{path} has format {number!r}, this release reads {FORMAT}: upgrade it, or make another")
        try:
            return cls().replaced(dict(_flat(read)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def as_toml(settings: Settings) -> str:
    """The contents of voice.toml."""
    document = tomlkit.document()
    document.add(tomlkit.comment("A voice of spear-tts. Change what you like: the next `spear-tts run` repeats the"))
    document.add(tomlkit.comment("stages that a change concerns, and says why."))
    document.add("format", tomlkit.item(FORMAT))
    for section in fields(settings):
        values = getattr(settings, section.name)
        table = tomlkit.table()
        first_line, _, _ = (type(values).__doc__ or "").partition("\n")
        table.add(tomlkit.comment(first_line))
        for name, value, about in _values(values):
            table.add(tomlkit.nl())
            table.add(tomlkit.comment(about.metadata["comment"]))
            table.add(name, tomlkit.item(plain(value)))
        document.add(tomlkit.nl())
        document.add(section.name, table)
    return tomlkit.dumps(document)  # pyright: ignore[reportUnknownMemberType] (its argument is Mapping)


def change_file(path: str | Path, changes: Mapping[str, Any]) -> None:
    """Writes changed settings into a voice.toml. Comments and all other lines stay as they are.

    Args:
        path: the file.
        changes: values by "section.setting"; texts are read as the kind of the setting.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError, ValueError: the file is not valid, or a change that cannot be.
    """
    settings = Settings.load(path).replaced(changes)
    document: Any = tomlkit.parse(Path(path).read_text(encoding="utf-8-sig"))
    for name in changes:
        section, _, key = name.partition(".")
        if section not in document:
            document.add(section, tomlkit.table())
        document[section][key] = settings.section(section)[key]
    write_whole(path, tomlkit.dumps(document).encode())  # pyright: ignore[reportUnknownMemberType] (its argument is Mapping)


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The differences of two nested dictionaries of settings, in words: "pretrain.steps was 450 and is 600"."""
    old, new = dict(_flat(before)), dict(_flat(after))
    differing = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    pairs = [(name, old.get(name, "unset"), new.get(name, "unset")) for name in differing]
    return [
        f"{name} changed"
        if FINGERPRINT.fullmatch(f"{was}") or FINGERPRINT.fullmatch(f"{now}")
        else f"{name} was {was} and is {now}"
        for name, was, now in pairs
    ]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _values(section: Any) -> Iterator[tuple[str, Any, Field[Any]]]:
    for about in fields(section):
        yield about.name, getattr(section, about.name), about


def _kinds(section: Any) -> dict[str, Any]:
    return get_type_hints(cast("type[object]", type(section)))


def _check_choices(settings: Settings) -> None:
    if settings.model.dim % (2 * settings.model.heads):
        raise ValueError(f"model.dim must be a multiple of twice model.heads, got {settings.model.dim}")
    columns = settings.evaluate.columns
    if not columns or set(columns) - set(COLUMNS) or len(set(columns)) != len(columns):
        raise ValueError(f"evaluate.columns must be letters of {''.join(COLUMNS)}, each once, got {columns!r}")
    for section, key, (one, other) in (("training", "precision", ("no", "bf16")), ("evaluate", "split", SPLITS)):
        if (value := settings.section(section)[key]) not in (one, other):
            raise ValueError(f"{section}.{key} must be {one!r} or {other!r}, got {value!r}")
    if settings.evaluate.recogniser and not settings.resynthesis.steps:
        raise ValueError(
            f"evaluate.recogniser, {settings.evaluate.recogniser!r}, reads resynthesised speech: set resynthesis.steps, too, "
            "such as 1500"
        )
    if settings.data.longest <= settings.data.shortest:
        raise ValueError(f"data.longest must be above data.shortest, got {settings.data.longest}")
