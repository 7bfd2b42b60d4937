"""A voice: a folder that holds settings, the results of all stages, and the model.

In: folders of recordings, of which some have a text. Out: `Voice`, whose `run` makes what is missing or outdated, and whose
`say` speaks. The commands `spear-tts new`, `run` and `say` do the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast, overload

from spear_tts_pytorch.recipe import costs
from spear_tts_pytorch.recipe.clips import divide, read_clips
from spear_tts_pytorch.recipe.columns import FOLDER as COLUMNS_KEPT
from spear_tts_pytorch.recipe.columns import measured_ids
from spear_tts_pytorch.recipe.estimate import Estimate, Pace, in_words
from spear_tts_pytorch.recipe.judge import check_shared
from spear_tts_pytorch.recipe.new_voice import check_new, counts, data_settings, draw, undone_on_error
from spear_tts_pytorch.recipe.presets import asked_settings, preset_for
from spear_tts_pytorch.recipe.records import INTERRUPTED, RECORD, Record, begin, clear, reasons, without
from spear_tts_pytorch.recipe.report import warnings_until, write_report
from spear_tts_pytorch.recipe.results import FORGOTTEN, RESYNTHESIS, STAGES, Progress, Results
from spear_tts_pytorch.recipe.resynthesis import with_recogniser
from spear_tts_pytorch.recipe.saying import Said, say
from spear_tts_pytorch.recipe.settings import Settings, change_file, changed
from spear_tts_pytorch.recipe.sounds import resynthesizer_of
from spear_tts_pytorch.recipe.sources import CUTS, read_sources
from spear_tts_pytorch.recipe.starts import beginning
from spear_tts_pytorch.recipe.survey import Survey, survey
from spear_tts_pytorch.recipe.units import with_encoder
from spear_tts_pytorch.recipe.units_report import report_units
from spear_tts_pytorch.recipe.work import CAUSES, WORK, described, grown, sync_ids
from spear_tts_pytorch.utils.distributed import in_first_process, locked_for_all
from spear_tts_pytorch.utils.files import FULL, locked
from spear_tts_pytorch.utils.values import absolute_path, listed, shown, switch, unicode_text

Texts = list[str] | tuple[str, ...]
SETTINGS = "voice.toml"
OURS = (SETTINGS, CUTS, f"*/{RECORD}")  # in a voice folder, or one whose voice.toml was removed


class Voice:
    """A voice folder.

    Args:
        folder: holds `voice.toml`, as `Voice.new` and `spear-tts new` make it.
        progress: True prints a line a stage and shows bars, on terminals; "lines" shows no bars; False does neither.

    Attributes:
        folder: the path.
        settings: what `voice.toml` says.
        results: what the stages have made.
        reports: whether the report is written after each stage.

    Raises:
        FileNotFoundError: the folder has no voice.toml.
        ValueError: voice.toml holds something that cannot be.
    """

    def __init__(self, folder: str | os.PathLike[str], *, progress: Progress = True):
        self.folder = absolute_path("folder", folder).resolve()
        self.settings = Settings.load(self.folder / SETTINGS)
        if progress != "lines":
            switch("progress", progress, also=' or "lines"')
        self.results = Results(self.folder, self.settings, progress)
        self.reports = True
        self._warned = set[str]()  # warnings that were printed
        self._pace: Pace | None = None  # of the run at work

    @classmethod
    def open(cls, folder: str | os.PathLike[str], changes: Mapping[str, Any], *, progress: Progress = True) -> Voice:
        """Opens a voice folder and writes changed settings into its voice.toml, whose other lines stay as they are.

        With `changes`, all processes call it; the first one writes.

        Args:
            folder: the voice folder.
            changes: settings by "section.setting"; texts are read as the kind of the setting.
            progress: as in the constructor.

        Raises:
            FolderInUseError: a run is at work in the folder; nothing was written.
            TypeError, ValueError: an unknown setting, or a value that cannot be.
        """
        if changes:
            in_first_process(lambda: _change(absolute_path("folder", folder).resolve(), changes))
        return cls(folder, progress=progress)

    @classmethod
    def new(
        cls,
        folder: str | os.PathLike[str],
        corpus: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        text: Sequence[str | os.PathLike[str]] = (),
        unpaired_text: Sequence[str | os.PathLike[str]] = (),
        labelled: int | None = None,
        test: int | str | os.PathLike[str] | None = None,
        init: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        recogniser: str | os.PathLike[str] | None = None,
        quick: bool = False,
        changes: Mapping[str, Any] | None = None,
        progress: Progress = True,
    ) -> Voice:
        """Looks at the data and writes `voice.toml`, with every setting, chosen by hours of audio and minutes of text.

        Args:
            folder: the voice folder; it must not hold a voice, nor other files than those that are named here.
            corpus: folders of recordings, with or without texts.
            text: tables of texts for audio in other folders.
            unpaired_text: text files without audio, a sentence a line.
            labelled: number of texts that may be trained on, drawn at random; None is all. Others serve the judge only.
            test: number of clips kept for testing, or a file of their ids, one a line. None is a tenth of those with a text,
                at most 100.
            init: an earlier voice, a model folder, a file of weights or a Hub id. Pretraining starts from its weights; a voice
                or model with a tokenizer of speech gives that, too, and its sizes. Other stages have a setting `init`.
            encoder: a folder of `transformers` or a Hub id of a speech encoder, which gives the units. The voice keeps it.
            recogniser: a folder of `transformers` or a Hub id of Whisper, which judges resynthesised speech, too.
            quick: smaller and shorter, to see that the data go through.
            changes: settings by "section.setting", as for `--set`.
            progress: True prints what is found and how long stages will take, and shows bars, on terminals; "lines" shows none.

        Raises:
            FileExistsError: the folder holds a voice.
            FileNotFoundError: a folder or file is missing.
            TypeError: `labelled` or `test` is no number.
            ValueError: no clip has a text, too few are labelled, a number out of range, or a change that cannot be.
        """
        folder = absolute_path("folder", folder).resolve()
        labelled, test = counts(labelled, test)
        data = data_settings(folder, corpus, text, unpaired_text)
        check_new(folder, OURS, data, test)
        units, remark = with_encoder(encoder, folder, changes or {})
        units |= with_recogniser(recogniser, folder, changes or {})
        asked = data | (beginning(init, folder) if init else {}) | units | dict(changes or {})
        drawn = asked_settings(asked)
        sources = read_sources(drawn.data, folder, progress=progress is True)
        lists = draw(divide(sources, drawn.data, folder), drawn, labelled, test)
        names = {f"data.{name}": f"{name}.txt" for name in lists}
        with undone_on_error(folder, lists):
            sources.save_cuts(folder)
            found = survey(divide(sources, drawn.replaced(names).data, folder))
            preset_for(found, asked, quick=quick).replaced(asked | names).save(folder / SETTINGS)
        voice = cls(folder, progress=progress)
        voice.results.tell(f"{found}{remark}\nwritten to {folder}; timing a few clips and updates here ...")
        if progress:
            voice.results.tell(str(voice.estimate or "how long it will take cannot be told here"))
        return voice

    def __repr__(self) -> str:
        done = [
            stage for stage in self.results.plan if (record := self.results.record(stage)) is not None and record.done
        ]
        known = self.__dict__.get("estimate")
        takes = "" if known is None else f", about {in_words(known.total)}"
        return f"Voice({str(self.folder)!r}, {self.settings!r}{takes}, done: {', '.join(done) or 'nothing'})"

    @cached_property
    def estimate(self) -> Estimate | None:
        """How long the stages take on this machine, from a few clips and updates that are timed when it is first asked for.

        `estimate.json` in the voice folder keeps it. None if nothing can be timed.
        """
        return costs.estimate(self.settings, self.results.clips, self.folder)

    def survey(self) -> Survey:
        """A look at the data."""
        return survey(self.results.clips)

    def status(self) -> dict[str, list[str]]:
        """Why each stage would be run now; empty where it is done."""
        waits: dict[str, list[str]] = {}
        for stage in self.results.plan:
            earlier = [one for one in self._before(stage) if waits[one]]
            waits[stage] = [f"{earlier[0]} comes first"] if earlier else self._reasons(stage)
        return waits

    def run(self, *, again: bool = False) -> Voice:
        """Runs all stages that are not done, or whose settings or data have changed.

        Args:
            again: runs all of them, as in a new folder.

        Raises:
            FolderInUseError: another run is at work in the folder.
            ValueError, OSError: data that cannot be used.
        """
        with self._held():
            development = self.settings.evaluate.split == "development"
            if development:
                measured_ids(self.results)  # raises an error before hours of work
            check_shared(self.results)
            measured = bool(self.results.clips.test) or development
            stages = self.results.plan if measured else self.results.plan[:-1]
            for number, stage in enumerate(stages, 1):
                self._stage(stage, again=again, later=stages[number:])
            if not measured:
                self.results.tell("evaluate: left out, no clips are kept for testing")
        return self

    def units(self, *, again: bool = False) -> Record:
        """Stage 1: fits the tokenizer of speech and turns all clips into ids."""
        return self._one("units", again)

    def units_report(
        self,
        *,
        layers: Sequence[int] = (),
        clusters: Sequence[int] = (),
        alignments: str | os.PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Measures the units, and those of other layers and numbers of clusters: see `recipe.units_report`."""
        self.units()
        return report_units(self.results, layers, clusters, alignments)

    def resynthesis(self, *, again: bool = False) -> Record:
        """After stage 1: a network from ids to sound, from audio alone, if `resynthesis.steps` is above 0."""
        return self._one(RESYNTHESIS, again)

    def pretrain(self, *, again: bool = False) -> Record:
        """Stage 2: a model of speech, from audio alone."""
        return self._one("pretrain", again)

    def backtranslate(self, *, again: bool = False) -> Record:
        """Stage 3: a reader of speech, from the labelled clips."""
        return self._one("backtranslate", again)

    def label(self, *, again: bool = False) -> Record:
        """Stage 4: texts for the clips without one."""
        return self._one("label", again)

    def train(self, *, again: bool = False) -> Record:
        """Stage 5: text to speech."""
        return self._one("train", again)

    def evaluate(self, *, again: bool = False) -> Record:
        """Stage 6: how much of what the model says is understood."""
        return self._one("evaluate", again)

    @overload
    def say(
        self, text: str, *, candidates: int | None = None, temperature: float | None = None, seed: int = 0
    ) -> Said: ...

    @overload
    def say(
        self, text: Texts, *, candidates: int | None = None, temperature: float | None = None, seed: int = 0
    ) -> list[Said]: ...

    def say(
        self, text: str | Texts, *, candidates: int | None = None, temperature: float | None = None, seed: int = 0
    ) -> Said | list[Said]:
        """Says a text, or several: samples each some times, and takes the sample that the backtranslator reads best.

        Args:
            text: a text, or several.
            candidates: samples of each text; None is `evaluate.candidates`.
            temperature: of the samples; None is `evaluate.temperature`.
            seed: of the samples.

        Returns:
            What was said, with ids and sound; a list of it for several texts.

        Raises:
            FileNotFoundError: the voice is not trained yet.
            ValueError: an empty text, or characters that the voice did not learn.
        """
        options = self.settings.evaluate
        texts = [text] if isinstance(text, str) else listed("text", text)
        if not isinstance(texts, (list, tuple)):
            raise TypeError(f"text must be a text or a list of texts, got {shown(text)}")
        said = say(
            self.results.model,
            [unicode_text("text", one) for one in cast("list[object]", texts)],
            reader=self.results.reader,
            resynthesizer=resynthesizer_of(self.results),
            candidates=options.candidates if candidates is None else candidates,
            temperature=options.temperature if temperature is None else temperature,
            seed=seed,
        )
        return said[0] if isinstance(text, str) else said

    def _before(self, stage: str) -> list[str]:
        """The stages that must be done before another one. Sound is needed to be judged only."""
        plan = self.results.plan
        return [one for one in plan[: plan.index(stage)] if one != RESYNTHESIS or stage == STAGES[-1]]

    def _one(self, stage: str, again: bool) -> Record:
        with self._held():
            if stage not in self.results.plan:
                raise ValueError("this voice makes no network from ids to sound: set resynthesis.steps, such as 1500")
            for earlier in self._before(stage):
                if why := self._reasons(earlier):
                    raise ValueError(
                        f"{earlier} comes before {stage} ({why[0]}): run `spear-tts {earlier} {self.folder}`, or all stages "
                        f"by `spear-tts run {self.folder}`"
                    )
                if earlier == "units":
                    sync_ids(self.results)
            return self._stage(stage, again=again)

    def _stage(self, stage: str, *, again: bool, later: Sequence[str] = ()) -> Record:
        """Runs a stage if it must be, and prints some lines. `later` are the stages of the run that come after it."""
        folder, record, shared = self.results.place(stage), self.results.record(stage), self.results.shares(stage)
        why = ["asked for"] if again and not shared else self._reasons(stage)
        if record is not None and not why:
            says, _, _ = record.says.partition("\n")
            self.results.tell(f"{stage}: kept ({says}){self._added(stage)}")
            return record
        if shared:
            owner = self.results.owner(stage)
            raise ValueError(f"{stage}.shared: {why[0]} in {owner}: run `spear-tts {stage} {owner}`")
        self.results.tell(f"{stage}: {'; '.join(why[:3])}{' ...' if len(why) > 3 else ''}")
        self._tell_pace(stage, later)
        causes = CAUSES[stage](self.results)
        growing = "clips" if stage == "label" else ""
        in_first_process(lambda: begin(folder, causes, anew=again, growing=growing))
        if again and stage == "evaluate":
            in_first_process(lambda: clear(self.folder / COLUMNS_KEPT))
        start = time.perf_counter()
        made = WORK[stage](self.results)
        record = Record(causes, True, made.output, made.figures, made.says, round(time.perf_counter() - start, 1))
        in_first_process(lambda: record.save(folder))
        self.results.forget(*FORGOTTEN.get(stage, ()))
        self.results.tell(f"{stage}: {made.says} ({record.seconds:.0f} s)")
        if self.reports:
            in_first_process(lambda: self._report(stage))
        if self._pace is not None and INTERRUPTED not in why:  # of an interrupted one a part was done before
            self._pace.took(stage, time.perf_counter() - start)
        return record

    def _tell_pace(self, stage: str, later: Sequence[str]) -> None:
        """Says how long the stage will take, and the run."""
        if self.results.lines and self.estimate is not None:
            self._pace = self._pace or Pace(self.estimate)
            self.results.tell(self._pace.line(stage, later))

    def _report(self, stage: str) -> None:
        for warning in warnings_until(write_report(self.results, stage), stage):
            if warning not in self._warned:
                self.results.tell(f"warning: {warning}")
                self._warned.add(warning)

    def _reasons(self, stage: str) -> list[str]:
        if self.results.shares(stage):
            missing = [] if self.results.record(stage) else ["it was not run before"]
            return missing or Voice(self.results.owner(stage), progress=False)._reasons(stage)
        causes, folder = CAUSES[stage](self.results), self.results.place(stage)
        why = reasons(folder, causes)
        record = self.results.record(stage)
        if stage == "pretrain" and record is not None and record.done and why:
            if not changed(without(record.causes, "clips"), without(causes, "clips")):
                gone, share = grown(self.results)
                if gone:
                    return [f"{gone} clips that it heard are gone or changed"]
                return [f"{share:.0%} of clips were added"] if share >= self.settings.pretrain.again_at else []
        return why

    def _added(self, stage: str) -> str:
        """Takes up clips that were added under a stage that is done, and says so."""
        if stage == "units" and not self.results.shares(stage):
            count, record = sync_ids(self.results), self.results.record(stage)
            if not count or record is None:
                return ""
            made = described(self.results, record.output)
            replace(record, figures=made.figures, says=made.says).save(self.results.place(stage))
            return f"; {count} clips added"
        if stage == "pretrain" and not self.results.shares(stage) and (share := grown(self.results)[1]):
            return f"; {share:.0%} of clips were added since, `spear-tts pretrain {self.folder} --again` hears them too"
        return ""

    @contextmanager
    def _held(self) -> Generator[None]:
        with locked_for_all(self.folder):
            try:
                in_first_process(lambda: self.results.clips)  # cuts recordings; the others read the cuts
                yield
            except OSError as error:
                if error.errno not in FULL or "make room" in str(error):
                    raise
                words = f"{error.strerror} in {self.folder}: make room and run it again; what is done is kept"
                raise OSError(error.errno, words) from error


def _change(folder: Path, changes: Mapping[str, Any]) -> None:
    """Writes changed settings into a voice.toml, unless they name data that cannot be read."""
    data = Settings.load(folder / SETTINGS).replaced(changes).data
    with locked(folder):
        if any(name.startswith("data.") for name in changes):
            read_clips(data, folder)
        change_file(folder / SETTINGS, changes)
