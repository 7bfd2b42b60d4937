"""What each stage of a voice depends on, and the work that it does in the voice folder.

In: `Results`, of which a stage reads those of earlier stages. Out: `CAUSES`, from which a change is noticed; and `WORK`, which
makes the files of a stage and returns its figures. All processes do the work together; the first one writes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from spear_tts_pytorch.data.tokenized import TokenizedSpeech, tokenize_corpus
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.recipe.aligning import align, write_aligned
from spear_tts_pytorch.recipe.backtranslation import CTCBacktranslator
from spear_tts_pytorch.recipe.columns import figures_of, keep_model
from spear_tts_pytorch.recipe.hearing import heard_pairs, learn, listens
from spear_tts_pytorch.recipe.judging import evaluate, evaluate_causes
from spear_tts_pytorch.recipe.records import RUN, Made, clear, digest, write, write_history
from spear_tts_pytorch.recipe.results import FUSION, MODEL, NETWORK, RESYNTHESIS, TEXTS, TOKENIZER, Results
from spear_tts_pytorch.recipe.resynthesis import copy_network, resynthesis, resynthesis_causes
from spear_tts_pytorch.recipe.stages import Pair, SpeechIds, backtranslator, surest
from spear_tts_pytorch.recipe.starts import copy_units, starting
from spear_tts_pytorch.recipe.units import fit_units, on_gpu
from spear_tts_pytorch.tokenizers.text import normalize_text
from spear_tts_pytorch.tokens import pad_sequences
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import digest_of_file, write_whole
from spear_tts_pytorch.utils.json_files import read_object
from spear_tts_pytorch.utils.metrics import character_error_rate

CLIPS, FILES = "clips.json", "files.json"
EXAMPLES = 10


# what the stages depend on


def _units_causes(results: Results) -> dict[str, Any]:
    return {"units": _own(results.settings.section("units")), "seed": results.settings.training.seed}


def _pretrain_causes(results: Results) -> dict[str, Any]:
    section = results.settings.section
    own = {name: value for name, value in _own(section("pretrain")).items() if name != "again_at"}
    return {
        "units": results.output("units"),
        "model": section("model"),
        "training": results.training_options(),
        "pretrain": own,
        "test clips": digest(results.clips.test),
        "clips": digest(_heard(results)),
    }


def _backtranslate_causes(results: Results) -> dict[str, Any]:
    section = results.settings.section
    return {
        "pretrain": results.output("pretrain"),
        "training": results.training_options(),
        "backtranslate": section("backtranslate"),
        "alphabet": digest(results.characters.symbols),
        "label": {name: section("label")[name] for name in ("lm_weight", "lm_order", "length_bonus", "beam_size")},
        "labelled clips": digest(results.keys(results.clips.labelled, texts=True)),
        "test clips": digest(results.clips.test),
        "unpaired text": digest(results.sentences),
        "transcripts": digest(f"{one.text}:{results.keys(one.clips)}" for one in results.clips.transcripts.values()),
    }


def _label_causes(results: Results) -> dict[str, Any]:
    return {
        "backtranslate": results.output("backtranslate"),
        "label": {name: value for name, value in results.settings.section("label").items() if name != "keep"},
        "clips": digest(results.keys(results.chosen_unlabelled().ids)),
    }


def _train_causes(results: Results) -> dict[str, Any]:
    section = results.settings.section
    return {
        "pretrain": results.output("pretrain"),
        "label": results.output("label"),
        "training": results.training_options(),
        "train": section("train"),
        "keep": results.settings.label.keep,
        "labelled clips": digest(results.keys(results.clips.labelled, texts=True)),
    }


def _own(section: dict[str, Any]) -> dict[str, Any]:
    """The settings of a stage that is not shared."""
    return {name: value for name, value in section.items() if name != "shared"}


def _heard(results: Results) -> list[str]:
    """Names and fingerprints of all clips but the test's."""
    test = set(results.clips.test)
    return results.keys(id_ for id_ in results.clips.every if id_ not in test)


def grown(results: Results) -> tuple[int, float]:
    """Clips that pretraining used and that are gone or changed, and added clips as a share of the former ones."""
    path = results.place("pretrain") / CLIPS
    if not path.is_file():
        return 0, float("inf")
    before: set[str] = set(read_object(path, "a list of clips", "remove it")["clips"])
    now = set(_heard(results))
    return len(before - now), len(now - before) / max(1, len(before))


# the work


def _units(results: Results) -> Made:
    in_first_process(lambda: _fit(results))
    files = sorted((results.place("units") / TOKENIZER).rglob("*"))
    sync_ids(results)
    return described(results, digest(digest_of_file(path) for path in files if path.is_file()))


def _fit(results: Results) -> None:
    """Fits the tokenizer, if there is none, and removes the ids of a former one."""
    folder, clips = results.place("units") / TOKENIZER, results.clips
    if not (folder / "tokenizer.json").is_file():
        clear(results.ids_folder)
        test, init = set(clips.test), results.settings.units.init
        every = [one for id_, one in clips.every.items() if id_ not in test]
        if init:
            copy_units(init, results.folder, folder)
        else:
            cast(Any, fit_units(every, results.settings, results.folder, results.progress)).save(folder)


def sync_ids(results: Results) -> int:
    """Tokenizes the clips that have no ids yet; all of them again if the audio of one has changed. Collective.

    Ids that are shared are left as they are.

    Returns:
        The number of clips that were tokenized; 0 in all processes but the first.
    """
    counts = [0]
    if not results.shares("units"):
        in_first_process(lambda: counts.append(_tokenize(results)))
    results.forget("ids", "labelled", "development", "unlabelled", "test", "stages")
    return counts[-1]


def _tokenize(results: Results) -> int:
    folder = results.ids_folder
    path = folder / FILES
    there: dict[str, str] = read_object(path, "a list of clips", f"remove {folder}") if path.is_file() else {}
    if any(results.digests.get(id_, digest_) != digest_ for id_, digest_ in there.items()):
        clear(folder)
        there = {}
    new = [one for id_, one in results.clips.every.items() if id_ not in there]
    if new:
        every, tokenizer = list(results.clips.every.values()), on_gpu(results.saved_tokenizer())
        tokenize_corpus(every, tokenizer, folder, progress=results.progress)
        write_whole(path, json.dumps(there | results.digests).encode())
    return len(new)


def described(results: Results, output: str) -> Made:
    """The first stage's result in figures, of all clips that have ids."""
    speech = TokenizedSpeech(results.ids_folder)
    counts = Counter[int]()
    for row in speech:
        counts.update(cast("list[int]", row.tolist()))
    shares = np.array(list(counts.values()), dtype=float) / max(1, counts.total())
    perplexity = float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
    seconds = float(speech.seconds.sum())
    figures = {
        "clips": len(speech),
        "hours": round(seconds / 3600, 4),
        "ids": results.settings.units.clusters,
        "used_ids": len(counts),
        "ids_per_second": round(counts.total() / max(seconds, 1e-9), 2),
        "perplexity": round(perplexity, 1),
    }
    says = (
        f"{figures['clips']} clips, {_time(seconds)}; {figures['ids']} ids, {figures['ids_per_second']:.1f} a second, "
        f"perplexity {perplexity:.0f}"
    )
    return Made(output, figures, says)


def _pretrain(results: Results) -> Made:
    folder = results.place("pretrain")
    speech = [row for part in (results.unlabelled, results.labelled) for row in part.semantic]
    valid = results.development.semantic or results.labelled.semantic
    begun, start = starting(results, "pretrain", None)
    trained = results.stages.pretrain(speech, valid, folder / RUN, begun)
    output = keep_model(trained.model, folder / MODEL)
    write(folder / CLIPS, json.dumps({"clips": _heard(results)}).encode())
    write_history(folder, {"pretraining": trained.history})
    accuracy = 100 * trained.valid["accuracy"]
    says = f"accuracy {accuracy:.1f} %, loss {trained.valid['valid_loss']:.2f}"
    return Made(output, figures_of(trained) | start, says)


def _backtranslate(results: Results) -> Made:
    folder, stages, real = results.place("backtranslate"), results.stages, results.labelled.pairs()
    valid, texts = results.development.pairs() or real, results.texts_for_lm()
    chosen, options = results.chosen_unlabelled(), results.settings.backtranslate
    begun, start = starting(results, "backtranslate", results.pretrained)
    by_features, labels = bool(chosen.ids) and listens(results), list[Pair]()
    heard = learn(results, folder) if by_features else {}
    if by_features:
        labels = surest(heard_pairs(results, chosen, folder / "pairs-0"), options.sure_labels)
    trained = stages.read(begun, real, valid, labels, folder / f"{RUN}-0")
    history = {"backtranslator": trained.history}
    reader, aligned = _fused(results, trained.model, texts), dict[str, str]()
    rounds = max(0 if by_features else options.rounds, 1 if results.clips.transcripts else 0)
    for number in range(1, rounds + 1 if chosen.ids else 1):
        aligned = _aligned(results, reader)
        found = stages.label(reader, SpeechIds(chosen.semantic, chosen.ids), folder / f"pairs-{number}")
        others = set(found.ids) - set(aligned)
        labels = results.aligned_pairs(aligned) + (surest(found, options.sure_labels, others) if others else [])
        trained = stages.read(begun, real, valid, labels, folder / f"{RUN}-{number}")
        history[f"backtranslator, round {number}"] = trained.history
        reader = _fused(results, trained.model, texts)
    output = keep_model(trained.model, folder / MODEL)
    write_history(folder, history)
    write(folder / TEXTS, "".join(f"{text}\n" for text in texts).encode())
    fusion = {"lm_weight": reader.fusion.lm_weight, "length_bonus": reader.fusion.length_bonus}
    write(folder / FUSION, json.dumps(fusion).encode())
    if results.clips.transcripts:
        aligned = _aligned(results, reader)
        in_first_process(partial(write_aligned, folder, aligned))
        output = digest([output, *(f"{id_} {text}" for id_, text in aligned.items())])
    rows = results.development
    figures = figures_of(trained) | {"aligned": len(aligned)} | heard | start
    if not rows.ids:
        return Made(output, figures, f"loss {figures['valid_loss']:.2f}; no held-out clips to read")
    read = [results.characters.decode(ids)[0] for ids, _ in _read(reader, rows.semantic)]
    figures["cer"] = round(character_error_rate(read, rows.texts), 2)
    kind = "held-out labelled" if results.development_ids else "test"
    return Made(output, figures, f"{figures['cer']:.1f} % character errors in reading {len(rows)} {kind} clips")


def _fused(results: Results, model: TextToSemantic, texts: list[str]) -> CTCBacktranslator:
    """A reader whose language model has the weight that is best on development clips, if there are some."""
    reader = backtranslator(model, texts, results.settings)
    if results.development_ids:
        rows = results.development
        reader.choose(rows.semantic, rows.texts, lambda ids: results.characters.decode(ids)[0] if len(ids) else "")
    return reader


def _aligned(results: Results, reader: CTCBacktranslator) -> dict[str, str]:
    """The texts of the clips whose recordings have a transcript."""
    texts: dict[str, str] = {}
    for name, one in results.clips.transcripts.items():
        rows, text = results.rows(one.clips), normalize_text(one.text)
        try:
            found = align(reader, rows.semantic, text, lambda text: results.characters.encode([text])[0])
        except ValueError as error:
            raise ValueError(
                f"the transcript of {name} does not fit its audio ({error}): correct or remove it"
            ) from error
        texts |= {id_: said for id_, (said, _) in zip(rows.ids, found, strict=True) if said}
    return texts


def _label(results: Results) -> Made:
    chosen = results.chosen_unlabelled()
    if not chosen.ids:
        return Made(digest(["nothing"]), {"clips": 0}, "no clip without a text: text to speech learns from real pairs")
    folder = results.place("label")
    if listens(results):
        pairs = heard_pairs(results, chosen, folder)
    else:
        pairs = results.stages.label(results.reader, SpeechIds(chosen.semantic, chosen.ids), folder)
    results.forget("pairs")
    scores = [score for score in pairs.column("score") if score is not None]
    texts = dict(sorted(zip(pairs.ids, pairs.column("text"), strict=True)))  # several processes write in another order
    figures: dict[str, Any] = {
        "clips": len(pairs),
        "confidence": round(float(np.mean(np.exp(scores))), 4) if scores else None,
        "examples": [{"id": id_, "text": texts[id_]} for id_ in list(texts)[:EXAMPLES]],
        "empty": sum(not text for text in texts.values()),
    }
    known = [(text or "", results.clips.text(id_)) for id_, text in texts.items() if results.clips.text(id_)]
    says = f"{len(pairs)} clips, mean confidence {figures['confidence']}"
    if known:
        figures["cer"] = round(character_error_rate([one for one, _ in known], [one for _, one in known]), 2)
        says += f", {figures['cer']:.1f} % character errors in {len(known)} whose text is known"
    else:
        says += "".join(f"\n    {one['id']}: {one['text']}" for one in figures["examples"][:3])
    return Made(digest(f"{id_} {text}" for id_, text in texts.items()), figures, says)


def _train(results: Results) -> Made:
    folder, labels = results.place("train"), results.labels()
    real = results.labelled.pairs()
    valid = results.development.pairs() or real
    begun, start = starting(results, "train", results.pretrained)
    done = results.stages.speak(begun, real, labels, valid, folder / RUN)
    output = keep_model(done[-1].model, results.folder / MODEL)
    in_first_process(partial(copy_network, results.place(RESYNTHESIS) / NETWORK, results.folder / MODEL))
    names = ("text to speech", "text to speech, real pairs")
    write_history(folder, {name: one.history for name, one in zip(names, done, strict=False)})
    figures = figures_of(done[-1]) | start
    accuracy = 100 * figures["accuracy"]
    return Made(output, figures, f"accuracy {accuracy:.1f} %, loss {figures['valid_loss']:.2f} on held-out clips")


def _read(reader: Any, rows: Sequence[Any]) -> list[tuple[Any, float]]:
    found: list[tuple[Any, float]] = []
    for start in range(0, len(rows), 64):
        found += reader(pad_sequences(list(rows[start : start + 64]), reader.model.semantic_pad_id))
    return found


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


Causes = Callable[[Results], dict[str, Any]]
CAUSES: dict[str, Causes] = {
    "units": _units_causes,
    RESYNTHESIS: resynthesis_causes,
    "pretrain": _pretrain_causes,
    "backtranslate": _backtranslate_causes,
    "label": _label_causes,
    "train": _train_causes,
    "evaluate": evaluate_causes,
}
WORK: dict[str, Callable[[Results], Made]] = {
    "units": _units,
    RESYNTHESIS: resynthesis,
    "pretrain": _pretrain,
    "backtranslate": _backtranslate,
    "label": _label,
    "train": _train,
    "evaluate": evaluate,
}
