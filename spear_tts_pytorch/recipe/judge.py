"""The judge of a voice: a recogniser that is trained once, on all known texts, and kept in `judge/` of the voice folder.

In: `Results` whose units are made. Out: a `Judge`. It is trained again only if units, texts, or its own settings change; not
if models or columns do. The setting `evaluate.judge` takes the judge of another voice instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spear_tts_pytorch.recipe.columns import known_ids, measured_ids
from spear_tts_pytorch.recipe.converging import Fit
from spear_tts_pytorch.recipe.evaluate import SemanticASR
from spear_tts_pytorch.recipe.records import digest
from spear_tts_pytorch.recipe.results import Results, random_place
from spear_tts_pytorch.recipe.settings import changed
from spear_tts_pytorch.recipe.stages import Pair, Rows
from spear_tts_pytorch.tokenizers.text import CharacterTokenizer
from spear_tts_pytorch.utils.distributed import in_first_process
from spear_tts_pytorch.utils.files import digest_of_file, locked, write_whole
from spear_tts_pytorch.utils.json_files import field, read_object, texts

FOLDER, CONFIG, WEIGHTS, CHECKPOINT = "judge", "judge.json", "judge.safetensors", "training.safetensors"
FORMAT = 1
HELD_OUT, FEWEST, MOST = 0.05, 40, 200  # pairs to validate on: their share, and bounds of their number
LARGEST_SHARE = 0.2


@dataclass(frozen=True)
class Judge:
    """A trained judge.

    Attributes:
        network: reads semantic ids.
        characters: its alphabet.
        fingerprint: of its weights.
        made_of: fingerprints of units, pairs and alphabet, and its settings.
        heard: fingerprints of the clips that it was trained or validated on.
        figures: how many clips it was trained and validated on; its last and best step; its error rate in held-out clips;
            whether it converged.
        curve: its validations, as `Fit.curve`.
    """

    network: SemanticASR
    characters: CharacterTokenizer
    fingerprint: str
    made_of: Mapping[str, Any]
    heard: frozenset[str]
    figures: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]

    def __repr__(self) -> str:
        return f"Judge({in_words(self.figures)})"


def in_words(figures: Mapping[str, Any]) -> str:
    """How a judge was trained, in a sentence without a full stop."""
    error = "" if figures["valid_error"] is None else f", {figures['valid_error']:.1f} % wrong in held-out ones"
    ended = "converged" if figures["converged"] else "ran out of steps"
    return f"{figures['clips']} clips{error}, best at step {figures['best_step']} of {figures['steps']}: it {ended}"


def judge_causes(results: Results) -> dict[str, Any]:
    """What the judge of a voice depends on."""
    options = results.settings.evaluate
    if options.judge:
        path = _shared(results) / CONFIG
        return {"shared": digest_of_file(path) if path.is_file() else "missing"}
    return {
        "format": FORMAT,
        "units": results.output("units"),
        "alphabet": digest(results.characters.symbols),
        "pairs": digest(results.keys(known_ids(results), texts=True)),
        "steps": options.judge_steps,
        "patience": options.judge_patience,
        "width": options.judge_width,
        "seed": results.settings.training.seed,
    }


def judge_of(results: Results) -> Judge:
    """The judge of a voice, which is trained if it must be. Collective.

    Raises:
        FileNotFoundError: `evaluate.judge` names a voice that has no judge.
        ValueError: that judge has other units or another alphabet, or has learned clips that it is to judge.
    """
    if results.settings.evaluate.judge:
        return _checked(results, read_judge(_shared(results), results.settings.evaluate.judge))
    folder, causes = results.folder / FOLDER, judge_causes(results)

    def make() -> None:
        if _is_made_of(folder, causes):
            results.tell(f"judge: kept ({in_words(read_judge(folder, folder).figures)})")
        else:
            _train(results, folder, causes)

    in_first_process(make)
    return read_judge(folder, folder)


def check_shared(results: Results) -> None:
    """Raises FileNotFoundError if `evaluate.judge` names a voice without a judge."""
    if results.settings.evaluate.judge:
        _config(_shared(results), results.settings.evaluate.judge)


def _is_made_of(folder: Path, causes: Mapping[str, Any]) -> bool:
    if not (folder / CONFIG).is_file():
        return False
    try:
        return not changed(field(_config(folder, folder), "made_of", dict), causes)
    except ValueError:  # damaged: it is trained anew
        return False


def _train(results: Results, folder: Path, causes: Mapping[str, Any]) -> None:
    """Trains the judge and writes it. A training of the same causes that was interrupted goes on."""
    with locked(folder):
        begun = digest([json.dumps(causes, sort_keys=True)])
        checkpoint = folder / f"{begun}-{CHECKPOINT}"
        for path in (folder / CONFIG, *folder.glob(f"*-{CHECKPOINT}")):
            if path != checkpoint:
                path.unlink(missing_ok=True)
        rows = results.rows(known_ids(results))
        learned, held_out = divided(rows, results.settings.training.seed)
        results.tell(f"judge: it is trained on {len(learned)} clips and validated on {len(held_out)}")
        network = _new_network(results)
        options, common = results.settings.evaluate, results.settings.training
        done = network.fit(
            learned,
            held_out,
            checkpoint=checkpoint,
            steps=options.judge_steps,
            patience=options.judge_patience,
            seed=common.seed,
            save_every=common.save_every,
            progress=results.progress,
        )
        figures = _figures(done, len(learned), len(held_out))
        heard = [results.digests[id_] for id_ in rows.ids]
        write_judge(folder, network, results.characters, {"made_of": causes, "heard": heard, "figures": figures}, done)
        checkpoint.unlink(missing_ok=True)
        results.tell(f"judge: {in_words(figures)}")


def _new_network(results: Results) -> SemanticASR:
    """An untrained judge, on the GPU if there is one."""
    tokenizer: Any = results.tokenizer
    centroids = getattr(getattr(tokenizer, "tokenizer", tokenizer), "centroids", None)
    set_seed(results.settings.training.seed + 1)
    network = SemanticASR(
        results.settings.units.clusters,
        results.characters.vocab_size,
        dim=results.settings.evaluate.judge_width,
        centroids=centroids if isinstance(centroids, Tensor) else None,
    )
    return network.to("cuda") if torch.cuda.is_available() else network


def divided(rows: Rows, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs to learn from, and those to validate on, drawn by the seed."""
    named = zip(rows.ids, rows.semantic, rows.text, strict=True)
    usable = [(id_, (speech, text)) for id_, speech, text in named if len(speech) and len(text)]
    count = min(max(round(HELD_OUT * len(usable)), FEWEST), MOST, int(LARGEST_SHARE * len(usable)))
    drawn = set(sorted((id_ for id_, _ in usable), key=lambda id_: random_place(f"judge {id_}", seed))[:count])
    return [pair for id_, pair in usable if id_ not in drawn], [pair for id_, pair in usable if id_ in drawn]


def _figures(done: Fit, clips: int, held_out: int) -> dict[str, Any]:
    error = None if done.best_error is None else round(done.best_error, 2)
    best = done.best_step if done.best_step > 0 else done.step
    return {
        "clips": clips,
        "valid_clips": held_out,
        "steps": done.step,
        "best_step": best,
        "valid_error": error,
        "converged": done.converged,
    }


def write_judge(
    folder: Path, network: SemanticASR, characters: CharacterTokenizer, record: Mapping[str, Any], done: Fit
) -> None:
    """Writes weights, and then the file that says that they are complete.

    Args:
        folder: of the judge.
        network: its weights.
        characters: its alphabet.
        record: "made_of", "heard" and "figures", as in `Judge`.
        done: its training.
    """
    weights = save({name: value.cpu().clone() for name, value in network.state_dict().items()})
    fingerprint = hashlib.sha256(weights).hexdigest()[:16]
    config = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "arguments": network.arguments(),
        "symbols": list(characters.symbols),
        "curve": done.curve,
        **record,
    }
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / CONFIG, (json.dumps(config, ensure_ascii=False) + "\n").encode())


def read_judge(folder: Path, source: str | Path) -> Judge:
    """A judge as `write_judge` wrote it.

    Args:
        folder: of the judge.
        source: the judge's name in errors.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    config = _config(folder, source)
    try:
        weights = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest()[:16] != config["fingerprint"]:
            raise ValueError("its weights are those of another one")
        arguments = field(config, "arguments", dict)
        sizes = {name: field(arguments, name, int) for name in SemanticASR.SIZES}
        characters = CharacterTokenizer(texts(config, "symbols"))
        ids = sizes.pop("num_semantic_token_ids"), sizes.pop("num_text_token_ids")
        network = SemanticASR(*ids, **sizes)
        network.load_state_dict(load(weights))
        return Judge(
            network=network.eval(),
            characters=characters,
            fingerprint=field(config, "fingerprint", str),
            made_of=field(config, "made_of", dict),
            heard=frozenset(texts(config, "heard")),
            figures=field(config, "figures", dict),
            curve=field(config, "curve", list),
        )
    except (ValueError, RuntimeError, SafetensorError, OSError) as error:
        raise ValueError(
            f"the judge in {folder} is damaged ({error}): remove the folder, and it is trained anew"
        ) from error


def _config(folder: Path, source: str | Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"evaluate.judge: {source} holds no judge: run `spear-tts evaluate {source}` first")
    config = read_object(folder / CONFIG, "a judge", f"remove {folder}, and it is trained anew")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder / CONFIG} has format {config.get('format')!r}, this release reads {FORMAT}: remove {folder}"
        )
    return config


def _shared(results: Results) -> Path:
    """The folder of another voice's judge."""
    return results.folder / Path(results.settings.evaluate.judge).expanduser() / FOLDER


def _checked(results: Results, judge: Judge) -> Judge:
    """The judge of another voice, if this voice can use it."""
    name = f"evaluate.judge: the judge of {results.settings.evaluate.judge}"
    remedy = "take another voice's, or train one by evaluate.judge = ''"
    if judge.made_of.get("units") != results.output("units"):
        raise ValueError(f"{name} has other units than this voice: {remedy}")
    if list(judge.characters.symbols) != list(results.characters.symbols):
        differing = sorted(set(judge.characters.symbols) ^ set(results.characters.symbols))
        raise ValueError(f"{name} has another alphabet (they differ in {''.join(differing)!r}): {remedy}")
    learned = [id_ for id_ in measured_ids(results) if results.digests[id_] in judge.heard]
    if learned:
        split = results.settings.evaluate.split
        raise ValueError(
            f"{name} has learned {len(learned)} of the clips of evaluate.split = {split!r} ({learned[0]}): {remedy}"
        )
    return judge
