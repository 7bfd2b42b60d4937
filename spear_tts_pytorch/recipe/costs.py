"""What pieces of a voice's work cost on this machine: a few clips and a few updates on made-up ids, timed.

In: settings and clips. Out: `Costs`, and the file `estimate.json` in the voice folder that keeps them.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from spear_tts_pytorch.data.corpora.corpus import Utterance
from spear_tts_pytorch.data.tokenized import TokenizedSpeech, tokenize_corpus
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.backtranslation import speak
from spear_tts_pytorch.recipe.clips import Clips
from spear_tts_pytorch.recipe.estimate import Costs, Estimate, estimated
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.records import digest
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.stages import Pair, Stages, Trained, backtranslator
from spear_tts_pytorch.recipe.starts import copy_units
from spear_tts_pytorch.recipe.survey import survey
from spear_tts_pytorch.recipe.units import fit_units, on_gpu
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer, load_semantic_tokenizer
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.tokenizers.unit_fit import UnitFitOptions, hear, train_network
from spear_tts_pytorch.tokenizers.unit_network import UnitNetwork
from spear_tts_pytorch.tokens import pad_sequences
from spear_tts_pytorch.training.state import random_state, restore_random_state
from spear_tts_pytorch.training.trainer import Trainer
from spear_tts_pytorch.utils.distributed import rank_and_world
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import field as field_of
from spear_tts_pytorch.utils.json_files import read_object

FILE = "estimate.json"
UPDATES = 3  # of each training that are timed, after a first one
CLIPS, SECONDS = 8, 20.0  # that are tokenized, at least
TEXTS = 16  # clips that are labelled
STEPS = 16  # ids of each text that are said
CANNOT = (ValueError, OSError, ImportError, RuntimeError, ArithmeticError)  # faults for which nothing can be timed


def estimate(settings: Settings, clips: Clips, folder: Path) -> Estimate | None:
    """How long the stages take here. Costs are read from the voice folder, or measured if the sizes are others than then.

    Args:
        settings: of the voice.
        clips: its clips.
        folder: the voice folder, which keeps the costs.

    Returns:
        None if nothing can be measured: no clip can be tokenized, a package is missing, a loss is not finite, or several
        processes work together and no costs are kept.
    """
    key, machine = _key(settings), _machine()
    costs = _kept(folder / FILE, key)
    if costs is None:
        if rank_and_world()[1] > 1:
            return None
        try:
            costs = measured(settings, clips, folder)
        except CANNOT:  # the stage that meets the fault names it
            return None
    found = estimated(settings, survey(clips), costs, machine)
    if rank_and_world()[0] == 0:
        kept = {"key": key, "machine": machine, "costs": asdict(costs), "seconds": dict(found.seconds)}
        with suppress(OSError):  # then they are measured the next time, too
            write_whole(folder / FILE, (json.dumps(kept, indent=2) + "\n").encode())
    return found


def measured(settings: Settings, clips: Clips, folder: Path) -> Costs:
    """Times pieces of the work. Random generators are left as they were.

    Raises:
        ValueError, OSError: no clip can be tokenized.
    """
    state = random_state()
    try:
        return _measured(settings, clips, folder)
    finally:
        restore_random_state(state)


def _measured(settings: Settings, clips: Clips, folder: Path) -> Costs:
    sample = _sample(clips, settings.units.clusters)
    seconds = sum(one.seconds for one in sample)
    tokenizer, fit = _timed(lambda: _tokenizer(settings, sample, folder))
    speech, tokenize = _timed(lambda: _tokenized(sample, tokenizer))
    rate = sum(map(len, speech)) / seconds
    characters = CharacterTokenizer.fit([clips.text(id_) for id_ in clips.labelled])
    letters = sum(len(clips.text(id_)) for id_ in clips.labelled)
    per_letter = max(1.0, clips.seconds(clips.labelled) * rate / max(1, letters))
    rows = _made_up(clips, settings, rate, tokenizer.codebook_size)
    text = [torch.randint(1, characters.vocab_size, (max(1, int(len(row) / per_letter)),)) for row in rows]
    pairs, stages = list(zip(rows, text, strict=True)), _Timed(settings, tokenizer, characters, per_letter, False)
    reading = stages.read(None, pairs, pairs[:2])
    speaking = stages.speak(None, pairs, None, pairs[:2])[0]
    labels, label = _label(clips, settings, reading.model, rows[:TEXTS])
    return Costs(
        fit=fit,
        tokenize=tokenize / seconds,
        ids=rate,
        pretrain=_of(stages.pretrain(rows, rows[:2])),
        read=_of(reading),
        speak=_of(speaking),
        judge=_judge(settings, characters, tokenizer.codebook_size, pairs),
        label=label * rate / labels,
        say=_say(clips, speaking.model, per_letter),
        resynthesis=_resynthesis(settings, sample, tokenizer) if settings.resynthesis.steps else 0.0,
    )


class _Timed(Stages):
    """The stages, of which each training is a few updates that are timed."""

    def _train(
        self,
        trainer: Callable[..., Trainer],
        model: TextToSemantic,
        steps: int,
        lr: float,
        folder: Path | None,
        **options: Any,
    ) -> Trained:
        training = self._trainer(trainer, model, steps + 2 * UPDATES, lr, folder, **options)
        training.train_step()
        seconds = [_timed(training.train_step)[1] for _ in range(UPDATES)]
        training.batches.end()
        return Trained(model, [], {"seconds": min(seconds)})


def _of(trained: Trained) -> float:
    return trained.valid["seconds"]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    made = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return made, time.perf_counter() - start


def _sample(clips: Clips, clusters: int) -> list[Utterance]:
    """Evenly spaced clips that can be read, long enough for the clusters."""
    every = [one for one in clips.every.values() if one.sample_hz]
    wanted, heard, sample = max(SECONDS, clusters / 10), 0.0, list[Utterance]()
    mean = sum(one.seconds for one in every) / max(1, len(every))
    for one in every[:: max(1, len(every) // max(CLIPS, round(wanted / max(mean, 0.1))))]:
        sample.append(one)
        heard += one.seconds
        if len(sample) >= CLIPS and heard >= wanted:
            break
    if not sample:
        raise ValueError("no clip can be read")
    return sample


def _tokenizer(settings: Settings, sample: Sequence[Utterance], folder: Path) -> SemanticTokenizer:
    if not settings.units.init:
        return fit_units(sample, settings, folder, progress=False)
    with tempfile.TemporaryDirectory() as place:
        copy_units(settings.units.init, folder, Path(place) / "tokenizer")
        return on_gpu(load_semantic_tokenizer(Path(place) / "tokenizer"))


def _tokenized(sample: Sequence[Utterance], tokenizer: SemanticTokenizer) -> list[Tensor]:
    with tempfile.TemporaryDirectory() as place:
        tokenize_corpus(sample, tokenizer, place, progress=False)
        return list(cast("Sequence[Tensor]", TokenizedSpeech(place)))


def _made_up(clips: Clips, settings: Settings, rate: float, ids: int) -> list[Tensor]:
    """Random speech ids of the clips' lengths, for some batches."""
    every = [one.seconds for one in clips.every.values() if one.sample_hz]
    wanted, total, rows = settings.training.batch_tokens * (UPDATES + 3), 0, list[Tensor]()
    chosen = cast("list[int]", torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist())
    for index in chosen:
        rows.append(torch.randint(0, ids, (max(4, int(every[index] * rate)),)))
        total += len(rows[-1])
        if total >= wanted:
            break
    return rows


def _label(clips: Clips, settings: Settings, model: TextToSemantic, rows: Sequence[Tensor]) -> tuple[int, float]:
    """Labels rows: the number of their ids, and the seconds."""
    reader = backtranslator(model, [clips.text(id_) for id_ in clips.labelled], settings)
    padded = pad_sequences(list(rows), model.semantic_pad_id)
    return sum(map(len, rows)), _timed(lambda: reader(padded))[1]


def _say(clips: Clips, model: TextToSemantic, per_letter: float) -> float:
    """Seconds of saying a text of the test, of which a batch is said until the longest ends."""
    texts = [clips.text(id_) for id_ in clips.test[:128]]
    if not texts:
        return 0.0
    known = set(model.text_tokenizer.symbols)
    usable = [text for text in texts if known.issuperset(text)]
    longest = per_letter * max(map(len, texts))
    _, seconds = _timed(lambda: speak(model, usable, max_length=STEPS)) if usable else (None, 0.0)
    return seconds / len(texts) * max(1.0, longest / STEPS)


def _judge(settings: Settings, characters: CharacterTokenizer, ids: int, pairs: Sequence[Pair]) -> float:
    judge = SemanticASR(ids, characters.vocab_size, dim=settings.evaluate.judge_width)
    judge.fit(pairs, steps=1, progress=False)
    return min(_timed(lambda: judge.fit(pairs, steps=1, progress=False))[1] for _ in range(UPDATES))


def _resynthesis(settings: Settings, sample: Sequence[Utterance], tokenizer: SemanticTokenizer) -> float:
    """Seconds of an update of the network from ids to sound."""
    chosen, device = settings.resynthesis, "cuda" if torch.cuda.is_available() else "cpu"
    clips = hear(sample, tokenizer, None, progress=False)
    network = UnitNetwork(tokenizer.codebook_size, chosen.dim, chosen.depth).to(device)
    updates = UnitFitOptions(1, chosen.batch, chosen.lr, 0, False)
    train_network(network, clips, updates)
    return min(_timed(lambda: train_network(network, clips, updates))[1] for _ in range(UPDATES))


def _key(settings: Settings) -> str:
    """A fingerprint of the machine and of the settings that pieces of work depend on; not of how many there are."""
    sizes = {name: settings.section(name) for name in ("units", "model", "training", "label")}
    sizes["judge"] = {"width": settings.evaluate.judge_width}
    if settings.resynthesis.steps:
        sizes["resynthesis"] = {name: settings.section("resynthesis")[name] for name in ("dim", "depth", "batch")}
    return digest([_machine(), json.dumps(sizes, sort_keys=True)])


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{cores} cores" if cores > 1 else "one core"


def _kept(path: Path, key: str) -> Costs | None:
    """The costs in the file, if they are of this machine and these sizes."""
    if not path.is_file():
        return None
    try:
        read = read_object(path, "an estimate", f"remove {path}")
        if read.get("key") != key:
            return None
        costs = field_of(read, "costs", dict)
        return Costs(**{one.name: float(field_of(costs, one.name, float)) for one in fields(Costs)})
    except (ValueError, OSError):  # it is measured anew
        return None
