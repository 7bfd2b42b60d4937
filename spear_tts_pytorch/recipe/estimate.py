"""How long the stages of a voice will take on this machine.

In: settings, a `Survey`, and what pieces of the work cost here, as `costs.py` measures it. Out: an `Estimate`, by arithmetic;
during a run, a line for each stage with the time that is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spear_tts_pytorch.recipe.results import RESYNTHESIS
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.survey import Survey

OVERHEAD = 2.0  # seconds of a stage that are no such piece of work: reading, saving, its part of the report
FEW_SECONDS = 10.0  # that a stage took longer or shorter tells nothing of the next ones


@dataclass(frozen=True)
class Costs:
    """Seconds of pieces of the work on one machine.

    Attributes:
        fit: fitting the clusters, but for hearing the audio.
        tokenize: hearing a second of audio.
        ids: speech ids in a second of audio; the one figure that is no time.
        pretrain, read, speak, judge: an update of each training, on a full batch.
        label: labelling a second of audio.
        say: saying a text of the test once.
        resynthesis: an update of the network from ids to sound; 0 if there is none.
    """

    fit: float
    tokenize: float
    ids: float
    pretrain: float
    read: float
    speak: float
    judge: float
    label: float
    say: float
    resynthesis: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """How long the stages of a voice take.

    Attributes:
        seconds: by stage.
        machine: what the times hold for.
    """

    seconds: Mapping[str, float]
    machine: str

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        size, unit = _unit(self.total)
        parts = ", ".join(f"{stage} {_number(taken / size)}" for stage, taken in self.seconds.items())
        return f"about {_number(self.total / size)} {unit} on this machine ({self.machine}): {parts}"


def estimated(settings: Settings, survey: Survey, costs: Costs, machine: str) -> Estimate:
    """How long each stage takes.

    Args:
        settings: of the voice.
        survey: its data.
        costs: of the pieces of work, at the sizes of the settings.
        machine: what the costs hold for.
    """
    heard = survey.seconds / max(1, survey.clips)  # seconds of a clip
    fitted = min(settings.units.fit_clips, survey.clips) * heard if not settings.units.init else 0.0
    others = survey.unlabelled if not settings.label.most else min(settings.label.most, survey.unlabelled)
    labels = costs.label * others * heard
    full = min(1.0, survey.labelled_seconds * costs.ids / settings.training.batch_tokens)  # of a batch of real pairs
    sound, reader, stage, options = settings.resynthesis, settings.backtranslate, settings.train, settings.evaluate
    rounds = max(reader.rounds, 1 if survey.transcribed_seconds else 0) if others else 0
    alone = costs.speak * full * options.scratch_steps
    columns = {"a": alone, "b": alone, "c": costs.speak * (stage.steps + full * stage.finetune_steps), "d": 0.0}
    columns["A"] = costs.speak * (stage.steps + stage.finetune_steps)
    said = costs.say * survey.test * (1 + (options.candidates if options.candidates > 1 else 0))
    judged = 0.0 if options.judge else costs.judge * options.judge_steps
    work = {
        "units": (0.0 if settings.units.init else costs.fit) + costs.tokenize * (survey.seconds + fitted),
        RESYNTHESIS: costs.resynthesis * sound.steps + costs.tokenize * min(survey.seconds, 3600 * sound.hours),
        "pretrain": costs.pretrain * settings.pretrain.steps,
        "backtranslate": costs.read * reader.steps * (full + rounds) + rounds * labels,
        "label": labels,
        "train": costs.speak * (stage.steps + full * stage.finetune_steps),
        "evaluate": judged + sum(columns[name] + said for name in options.columns),
    }
    if not survey.test:
        del work["evaluate"]
    if not sound.steps:
        del work[RESYNTHESIS]
    shared = {"units": settings.units.shared, RESYNTHESIS: settings.units.shared, "pretrain": settings.pretrain.shared}
    return Estimate({name: 0.0 if shared.get(name) else took + OVERHEAD for name, took in work.items()}, machine)


class Pace:
    """The time that is left of a run: what was estimated, scaled by what the stages so far took.

    Args:
        estimate: of all stages.
    """

    def __init__(self, estimate: Estimate):
        self.estimate = estimate
        self._expected = self._taken = FEW_SECONDS

    def took(self, stage: str, seconds: float) -> None:
        """Notes what a stage took, from its beginning to its end."""
        self._expected += self.estimate.seconds.get(stage, 0.0)
        self._taken += seconds

    def left(self, stages: Sequence[str]) -> float:
        """Seconds that these stages will take."""
        return sum(self.estimate.seconds.get(stage, 0.0) for stage in stages) * self._taken / self._expected

    def line(self, stage: str, later: Sequence[str] = ()) -> str:
        """What is said when a stage begins.

        Args:
            stage: that begins.
            later: stages of the run that come after it.
        """
        number = f"stage {list(self.estimate.seconds).index(stage) + 1} of {len(self.estimate.seconds)}"
        rest = f"; {in_words(self.left([stage, *later]))} left of the run" if later else ""
        return f"{number}: {stage}, about {in_words(self.left([stage]))}{rest}"


def in_words(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    size, unit = _unit(seconds)
    return f"{_number(seconds / size)} {unit}"


def _unit(seconds: float) -> tuple[float, str]:
    if seconds < 100:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 100 * 60 else (3600.0, "hours")


def _number(value: float) -> str:
    """One digit behind the point below 10, none from there on."""
    return f"{value:.0f}" if value >= 9.95 else f"{max(round(value, 1), 0.1 if value else 0.0):g}"
