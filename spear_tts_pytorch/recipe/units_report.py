"""How good the units of a voice are, and whether another layer or number of clusters would be better.

In: `Results` whose units are made. Out: figures of the voice's units, and of each combination that is asked for, fitted on a
sample; `units/report.md`, `units/report.json` and a picture. Each combination is kept when it is measured.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.labelled_frames import Span, character_spans, frame_labels, given_spans
from spear_tts_pytorch.recipe.records import Record, begin, digest, reasons
from spear_tts_pytorch.recipe.results import Results, random_place
from spear_tts_pytorch.recipe.settings import Settings
from spear_tts_pytorch.recipe.units import fit_units, on_gpu, place_of_encoder
from spear_tts_pytorch.tokenizers.consecutive import frame_ids
from spear_tts_pytorch.tokenizers.encoder_files import open_encoder
from spear_tts_pytorch.tokenizers.semantic import SemanticTokenizer
from spear_tts_pytorch.tokens import remove_repeats
from spear_tts_pytorch.utils.checks import in_evaluation
from spear_tts_pytorch.utils.distributed import in_first_process, locked_for_all
from spear_tts_pytorch.utils.files import write_whole
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.metrics import character_error_rate
from spear_tts_pytorch.utils.plots import plot_histograms
from spear_tts_pytorch.utils.unit_metrics import Ints, agreement, unit_figures
from spear_tts_pytorch.utils.values import absolute_path, whole_number

FOLDER, JSON, MARKDOWN, PICTURE = "report", "report.json", "report.md", "run_lengths.png"
STEPS, BATCH = 300, 2500  # of the small reader
HELD_OUT, FEWEST, MOST = 0.1, 3, 100  # labelled clips that it is tested on: their share, and bounds of their number
LARGEST_SHARE = 0.34
CLIPS = 1000  # labelled clips that are heard at most
FIT_CLIPS = 200  # that a combination is fitted on at most
OWN = "this voice"
FIGURES = {
    "ids": "ids",
    "used_ids": "used",
    "perplexity": "perplexity",
    "ids_per_second": "a second",
    "ids_per_character": "a character",
    "run_frames": "frames of a run",
    "purity": "purity",
    "cluster_purity": "cluster purity",
    "pnmi": "PNMI",
    "nmi": "NMI",
    "reader_cer": "reader's CER, %",
}


@dataclass(frozen=True)
class Sample:
    """The labelled clips by which units are measured.

    Attributes:
        train, test: ids of the clips that the small reader learns from, and of those that it is tested on.
        spans: what is said when, by clip.
        kind: "phones" or "characters".
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    spans: Mapping[str, Sequence[Span]]
    kind: str


def report_units(
    results: Results, layers: Sequence[int] = (), clusters: Sequence[int] = (), alignments: object = None
) -> dict[str, Any]:
    """Measures the units, and writes the report.

    Args:
        results: of a voice whose units are made.
        layers: of the encoder, to be compared.
        clusters: numbers of clusters, to be compared.
        alignments: folder of TextGrids with a tier of phones, `ID.TextGrid` for labelled clips; None aligns characters.

    Returns:
        The contents of report.json: "units", a row of figures for this voice and for each combination; "labels", what they
        are compared with; "advice", the settings of the best combination, "" without combinations.

    Raises:
        FileNotFoundError, ImportError: alignments that are missing, or a package.
        ValueError: layers without an encoder, numbers out of range, or too few labelled clips.
    """
    combinations = _combinations(results.settings, layers, clusters, results.folder)
    folder = results.place("units") / FOLDER
    in_first_process(lambda: folder.mkdir(exist_ok=True))
    with locked_for_all(folder):
        return _reported(results, combinations, alignments, folder)


def _reported(results: Results, combinations: Sequence[Settings], alignments: object, folder: Path) -> dict[str, Any]:
    train, test = divided(results)
    ids = (*train, *test)
    if alignments is None:
        made = _kept(folder / "characters", _reader_causes(results, ids), partial(_spans, results, train, test))
        spans, kind = cast("Mapping[str, Sequence[Span]]", made["spans"]), "characters"
    else:
        spans, kind = given_spans(absolute_path("alignments", alignments), ids), "phones"
    sample = Sample(train, test, spans, kind)
    causes = _causes(results, sample)
    results.tell("units: those of the voice")
    rows = [{"name": OWN, **_kept(folder / "own", causes, partial(_own, results, sample))}]
    for number, settings in enumerate(combinations, 1):
        name = _name(settings)
        results.tell(f"units: {number} of {len(combinations)}: {name}")
        place = folder / name.replace(", ", "-").replace(" ", "-")
        rows.append({"name": name, **_kept(place, causes, partial(_fitted, results, settings, sample))})
        _write(results, rows, sample, combinations)
    summary = _write(results, rows, sample, combinations)
    results.tell(f"units: report written to {results.place('units') / MARKDOWN}")
    return summary


def _combinations(settings: Settings, layers: Sequence[int], clusters: Sequence[int], folder: Path) -> list[Settings]:
    if layers and not settings.units.encoder:
        raise ValueError("layers are those of an encoder, and units.encoder is '': compare clusters alone")
    numbers = [whole_number("clusters", one, 2) for one in clusters] or [settings.units.clusters]
    places = [whole_number("layers", one, 1) for one in layers] or [settings.units.layer]
    if not layers and not clusters:
        return []
    if layers:  # there are so many
        open_encoder(place_of_encoder(settings.units.encoder, folder), max(places))
    changes = {"units.init": "", "units.shared": "", "units.fit_clips": min(FIT_CLIPS, settings.units.fit_clips)}
    return [
        settings.replaced({**changes, "units.layer": place, "units.clusters": number})
        for place in dict.fromkeys(places)
        for number in dict.fromkeys(numbers)
    ]


def _name(settings: Settings) -> str:
    layer = f"layer {settings.units.layer}, " if settings.units.layer else "middle layer, "
    layer = layer if settings.units.encoder else ""
    return f"{layer}{settings.units.clusters} clusters"


def divided(results: Results) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labelled clips for the small reader to learn from and to be tested on, drawn by the seed.

    Raises:
        ValueError: there are too few.
    """
    seed = results.settings.training.seed
    ids = sorted(results.clips.labelled, key=lambda id_: random_place(id_, seed))[:CLIPS]
    count = min(MOST, max(FEWEST, round(HELD_OUT * len(ids))), int(LARGEST_SHARE * len(ids)))
    if count < 1:
        raise ValueError(f"{len(ids)} labelled clips are too few to measure units by: label some more")
    return tuple(ids[count:]), tuple(ids[:count])


def _heard(results: Results, tokenizer: SemanticTokenizer, ids: Sequence[str]) -> dict[str, Tensor]:
    """An id for each frame of clips, `[n]`. Clips that cannot be used are left out."""
    found: dict[str, Tensor] = {}
    tokenizer = on_gpu(tokenizer)
    for id_ in tqdm(ids, desc="clips", disable=None if results.progress else True, leave=False):
        one = results.clips.every[id_]
        try:
            wav = torch.as_tensor(one.audio())[None]
            found[id_] = frame_ids(tokenizer, wav, one.sample_hz, speakers=[one.speaker])[0].cpu()
        except (ValueError, OSError):
            continue
    return found


def _reader_causes(results: Results, ids: Sequence[str]) -> dict[str, Any]:
    """What the times of characters depend on."""
    reader = results.output("backtranslate") if _has_reader(results) else ""
    return {"units": results.output("units"), "reader": reader, "clips": digest(results.keys(ids, texts=True))}


def _has_reader(results: Results) -> bool:
    """Whether the voice's reader is trained, on the units as they are."""
    record = results.record("backtranslate")
    pretrain = results.record("pretrain")
    if record is None or pretrain is None or not (record.done and pretrain.done):
        return False
    return pretrain.causes.get("units") == results.output("units") and record.causes.get("pretrain") == pretrain.output


def _spans(results: Results, train: Sequence[str], test: Sequence[str]) -> dict[str, Any]:
    """Characters aligned by the voice's reader if it is trained, else by a small one."""
    frames = _heard(results, results.tokenizer, (*train, *test))
    texts = {id_: results.clips.text(id_) for id_ in frames}
    if _has_reader(results):
        log_probs = _of_reader(results.reader)
    else:
        log_probs = _of_judge(_small_reader(results, frames, train, results.tokenizer.codebook_size))
    tokenizer = results.tokenizer
    hz = tokenizer.target_sample_hz / tokenizer.downsample_factor
    return {"spans": character_spans(frames, texts, lambda text: results.characters.encode([text])[0], log_probs, hz)}


def _of_reader(reader: CTCBacktranslator) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def log_probs(ids: Tensor) -> Tensor:
        found, lengths = in_evaluation(reader.model).ctc_logits(ids[None])
        return found[0, : int(lengths[0])].cpu()

    return log_probs


def _of_judge(reader: SemanticASR) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def log_probs(ids: Tensor) -> Tensor:
        found, lengths = reader(ids[None].to(reader.device))
        return found[0, : int(lengths[0])].cpu()

    return log_probs


def _small_reader(results: Results, frames: Mapping[str, Tensor], train: Sequence[str], ids: int) -> SemanticASR:
    """A plain CTC reader that learns for a short, fixed time."""
    pairs = [
        (remove_repeats(frames[id_])[0], results.characters.encode([results.clips.text(id_)])[0])
        for id_ in train
        if len(frames.get(id_, ()))
    ]
    seed = results.settings.training.seed
    set_seed(seed)
    reader = SemanticASR(ids, results.characters.vocab_size)
    reader.fit(pairs, steps=STEPS, batch_tokens=BATCH, seed=seed, progress=results.progress)
    return reader.eval()


def _own(results: Results, sample: Sample) -> dict[str, Any]:
    """The figures of the voice's units."""
    frames = _heard(results, results.tokenizer, (*sample.train, *sample.test))
    return _measured(results, results.tokenizer, frames, sample)


def _fitted(results: Results, settings: Settings, sample: Sample) -> dict[str, Any]:
    """The figures of a combination, which is fitted on a sample of all clips but the test's."""
    test = set(results.clips.test)
    every = [one for id_, one in results.clips.every.items() if id_ not in test]
    tokenizer = fit_units(every, settings, results.folder, results.progress)
    frames = _heard(results, tokenizer, (*sample.train, *sample.test))
    return _measured(results, tokenizer, frames, sample)


def _measured(
    results: Results, tokenizer: SemanticTokenizer, frames: Mapping[str, Tensor], sample: Sample
) -> dict[str, Any]:
    """The figures of a tokenizer whose ids of the sample's frames are given."""
    rows = {id_: row.numpy().astype(np.int64) for id_, row in frames.items()}
    letters = sum(len(results.clips.text(id_)) for id_ in rows)
    figures = {
        "ids": tokenizer.codebook_size,
        **unit_figures(list(rows.values()), results.clips.seconds(rows), letters),
    }
    numbers: dict[str, int] = {}
    for spans in sample.spans.values():
        for _, _, label in spans:
            numbers.setdefault(label, len(numbers))
    hz = tokenizer.target_sample_hz / tokenizer.downsample_factor
    both = [id_ for id_ in rows if id_ in sample.spans]
    if both:
        labels = [frame_labels(sample.spans[id_], len(rows[id_]), hz, numbers) for id_ in both]
        figures |= agreement([rows[id_] for id_ in both], labels)
    reader = _small_reader(results, frames, sample.train, tokenizer.codebook_size)
    tested = [id_ for id_ in sample.test if id_ in frames]
    read = reader.transcribe([remove_repeats(frames[id_])[0] for id_ in tested])
    texts = [results.characters.decode(ids)[0] if len(ids) else "" for ids in read]
    cer = character_error_rate(texts, [results.clips.text(id_) for id_ in tested])
    return {**figures, "labels": len(numbers), "reader_cer": round(cer, 2)}


def _causes(results: Results, sample: Sample) -> dict[str, Any]:
    spans = (f"{id_}:{spans}" for id_, spans in sample.spans.items())
    return {
        "units": results.output("units"),
        "seed": results.settings.training.seed,
        "fit_clips": results.settings.units.fit_clips,
        "clips": digest(results.keys((*sample.train, *sample.test), texts=True)),
        "labels": digest(spans),
    }


def _kept(folder: Path, causes: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures in a folder, or those of the work, which is done in the first process."""

    def make() -> None:
        if not reasons(folder, causes):
            return
        begin(folder, causes)
        start = time.perf_counter()
        figures = work()
        Record(causes, True, "", figures, "", round(time.perf_counter() - start, 1)).save(folder)

    in_first_process(make)
    record = Record.load(folder)
    assert record is not None
    return dict(record.figures)


def best_of(rows: Sequence[Mapping[str, Any]], combinations: Sequence[Settings]) -> str:
    """The settings of the combination of the lowest error; of equals that of fewer clusters."""
    if not combinations:
        return ""
    made = list(zip(rows[1:], combinations, strict=False))
    _, settings = min(made, key=lambda one: (one[0]["reader_cer"], one[1].units.clusters))
    layer = f"--set units.layer={settings.units.layer} " if settings.units.encoder else ""
    return f"{layer}--set units.clusters={settings.units.clusters}"


def _write(
    results: Results, rows: Sequence[Mapping[str, Any]], sample: Sample, combinations: Sequence[Settings]
) -> dict[str, Any]:
    """Writes the report of what is measured so far, and returns its contents."""
    summary = {
        "voice": results.folder.name,
        "labels": sample.kind,
        "aligned_clips": len(sample.spans),
        "reader": {"steps": STEPS, "train_clips": len(sample.train), "test_clips": len(sample.test)},
        "minutes": round(results.clips.seconds(sample.train) / 60, 2),
        "units": list(rows),
        "advice": best_of(rows, combinations),
    }
    folder = results.place("units")

    def write() -> None:
        write_whole(folder / JSON, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
        write_whole(folder / MARKDOWN, markdown(summary).encode())
        if importlib.util.find_spec("matplotlib"):
            columns = {f"frames of a run, {row['name']}": _spread_out(row["runs"]) for row in rows}
            plot_histograms(columns, folder / PICTURE, title=results.folder.name)

    in_first_process(write)
    return read_object(folder / JSON, "a report of units", "make it again")


def _spread_out(runs: Sequence[int]) -> Ints:
    return np.repeat(np.arange(1, len(runs) + 1), runs).astype(np.int64)


def markdown(summary: Mapping[str, Any]) -> str:
    """The contents of report.md."""
    reader = summary["reader"]
    lines = [
        f"# Units of {summary['voice']}",
        "",
        f"Ids a second and a character are counted without repeats. Purity, PNMI (mutual information over the entropy of "
        f"labels) and NMI are those of the frames of {summary['aligned_clips']} clips with {summary['labels']}. The reader "
        f"is a plain CTC network that learns for {reader['steps']} updates from {reader['train_clips']} labelled clips "
        f"({summary['minutes']:.1f} minutes) and is tested on {reader['test_clips']} others.",
        "",
        table(summary),
        "",
    ]
    if summary["advice"]:
        lines += [f"Lowest error of the combinations: `{summary['advice']}`.", ""]
    return "\n".join([*lines, f"![lengths of runs]({PICTURE})", ""])


def table(summary: Mapping[str, Any]) -> str:
    """The figures as a table of Markdown."""
    rows = [[row["name"], *(f"{row[name]:g}" if name in row else "" for name in FIGURES)] for row in summary["units"]]
    lines = [["units", *FIGURES.values()], ["---"] * (1 + len(FIGURES)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
