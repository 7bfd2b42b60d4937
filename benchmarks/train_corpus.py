"""Training on real speech of all lengths: useful tokens per second, and steps and seconds until a given loss.

    pip install --target old --no-deps spear-tts-pytorch==0.4.8 rotary-embedding-torch==0.6.5 audiolm-pytorch==2.4.0
    SPEAR_TTS_CORPORA=corpora python benchmarks/train_corpus.py --predecessor old

The corpus is asterisk_en in the folder SPEAR_TTS_CORPORA, or any that `read_corpus` reads. Each contestant trains a model
of width 192, 3 + 3 layers, with the trainer, the batches and the optimizer that its users get. Ours has batches by tokens,
as many in an epoch as 0.4.8 has batches of --batch-size clips. Useful tokens are ids that are not padding. All contestants
stay loaded, each in a process of its own, and take turns of a few steps. Speeds are medians over the turns, ratios medians
of the turns' ratios.

Losses are compared after each turn, untimed, on the same clips of the training set. They are computed one clip at a time,
because 0.4.8 counts its padding of speech as speech. There is no validation and no checkpoint. Clips of more than --longest
seconds are left out for all, because 0.4.8 pads whole batches to them, with attention matrices of gigabytes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

from workers import Contestant, audiolm_modules, serve, take_turns

WIDTH, DEPTH, CLUSTERS, VOCABULARY = 192, 3, 100, 64
OURS = ("fp32", "bf16")
RELEASE = "release 0.4.8"
STAGES = {"pretraining": "SpeechSpeechPretrainer", "speech to text": "SemanticToTextTrainer"}
LR, WARMUP, WATCHED = 3e-4, 20, 16


def prepare(corpus: str, longest: float, path: str) -> list[tuple[int, int]]:
    """Writes the corpus as ids that both sides take, and returns the lengths of its pairs.

    Speech ids are moved up by one: 0, with which 0.4.8 pads speech, can be told from speech then.
    """
    import torch

    from spear_tts_pytorch import CharacterTokenizer
    from spear_tts_pytorch.data.corpora.readers import read_corpus
    from spear_tts_pytorch.data.tokenized import fit_tokenizer

    clips = [one for one in read_corpus(corpus) if one.text and one.seconds <= longest]
    tokenizer = fit_tokenizer(clips, CLUSTERS, progress=False)
    characters = CharacterTokenizer.fit([one.text for one in clips])
    speech = [tokenizer(torch.from_numpy(one.audio()))[0] + 1 for one in clips]
    text = [characters([one.text])[0] for one in clips]
    torch.save({"speech": speech, "text": text}, path)
    return [(len(row), len(other)) for row, other in zip(speech, text, strict=True)]


def dataset(path: str, stage: str) -> Any:
    import torch

    rows = torch.load(path, weights_only=True)
    items = rows["speech"] if stage == "pretraining" else list(zip(rows["speech"], rows["text"], strict=True))

    class Items(torch.utils.data.Dataset):  # 0.4.8 takes no list
        def __len__(self) -> int:
            return len(items)

        def __getitem__(self, index: int) -> Any:
            return items[index]

    return Items()


def build(model_class: type) -> Any:
    import torch

    torch.manual_seed(0)
    return model_class(
        WIDTH,
        source_depth=DEPTH,
        target_depth=DEPTH,
        heads=3,
        dim_head=64,
        num_text_token_ids=VOCABULARY,
        num_semantic_token_ids=CLUSTERS + 1,
    )


def options(steps: int) -> dict[str, Any]:
    return dict(num_train_steps=steps, num_warmup_steps=min(WARMUP, steps), lr=LR, valid_frac=0.0)


def ours(name: str, stage: str, items: Any, steps: int, batch_tokens: int) -> Any:
    import spear_tts_pytorch

    return getattr(spear_tts_pytorch, STAGES[stage])(
        build(spear_tts_pytorch.TextToSemantic),
        dataset=items,
        batch_tokens=batch_tokens,
        accelerate_kwargs={"mixed_precision": "bf16"} if name == "bf16" else {},
        results_folder=None,
        save_results_every=None,
        progress=False,
        **options(steps),
    )


def predecessor(folder: str, stage: str, items: Any, steps: int, batch_size: int) -> Any:
    """The trainer of release 0.4.8, with the loader and the optimizer that audiolm-pytorch gives it."""
    sys.path.insert(0, folder)
    audiolm_modules(folder)
    from spear_tts_pytorch import TextToSemantic, trainer

    extra = {"wav2vec": None} if stage == "pretraining" else {}
    made = getattr(trainer, STAGES[stage])(
        build(TextToSemantic),
        dataset=items,
        batch_size=batch_size,
        results_folder=tempfile.mkdtemp(),
        save_results_every=10**9,
        save_model_every=10**9,
        **extra,
        **options(steps),
    )
    made.steps += 1  # it validates at step 0, in a way that breaks training on longer clips
    return made


class Counted:
    """An iterator over batches. It counts their ids: `padded` all, `useful` without padding."""

    def __init__(self, batches: Iterator[Any]):
        self.batches, self.useful, self.padded = batches, 0, 0

    def __iter__(self) -> "Counted":
        return self

    def __next__(self) -> Any:
        batch = next(self.batches)
        rows = [batch[name] for name in ("semantic", "text") if name in batch] if isinstance(batch, dict) else batch
        for ids in rows:
            self.useful += int((ids > 0).sum())
            self.padded += ids.numel()
        return batch


def watched_loss(trainer: Any, items: Any) -> float:
    """The mean loss per target id of a few clips, none of them padded."""
    import torch

    wrapper, total, weight = trainer.train_wrapper, 0.0, 0
    wrapper.eval()
    with torch.no_grad(), torch.random.fork_rng():
        for number in range(0, len(items), max(1, len(items) // WATCHED)):
            torch.manual_seed(number)
            item = items[number]
            rows = [row[None] for row in (item if isinstance(item, tuple) else (item,))]
            ids = rows[-1].shape[1] + 1
            total, weight = total + float(wrapper(*rows)[0]) * ids, weight + ids
    return total / weight


def load(name: str, args: argparse.Namespace) -> Callable[[int], dict[str, Any]]:
    """In a contestant's process: a function from a number of training steps to their seconds, ids and loss."""
    items = dataset(args.pairs, args.stage)
    if name == RELEASE:
        trainer = predecessor(args.predecessor, args.stage, items, args.steps + 1, args.batch_size)
    else:
        trainer = ours(name, args.stage, items, args.steps, args.batch_tokens)
    trainer.train_step()  # the first is slow
    batches = trainer.dl_iter = Counted(trainer.dl_iter)

    def turn(steps: int) -> dict[str, Any]:
        useful, padded, start = batches.useful, batches.padded, time.perf_counter()
        for _ in range(steps):
            trainer.train_step()
        seconds = time.perf_counter() - start
        ids = dict(useful=batches.useful - useful, padded=batches.padded - padded)
        return dict(seconds=seconds, loss=watched_loss(trainer, items), **ids)

    return turn


def table(answers: dict[str, list[dict[str, Any]]], turn: int) -> dict[str, dict[str, Any]]:
    """The figures of all turns, by contestant."""
    speeds = {name: [one["useful"] / one["seconds"] for one in turns] for name, turns in answers.items()}
    goal = answers[RELEASE][-1]["loss"] if RELEASE in answers else None
    found = {}
    for name, turns in answers.items():
        useful, padded = (sum(one[key] for one in turns) for key in ("useful", "padded"))
        row = found[name] = {
            "useful_tokens_per_second": round(median(speeds[name])),
            "useful_tokens_per_step": round(useful / (turn * len(turns))),
            "padding": round(1 - useful / padded, 3),
            "loss": round(turns[-1]["loss"], 3),
        }
        if goal is None:
            continue
        row["ratio"] = round(median(a / b for a, b in zip(speeds[name], speeds[RELEASE], strict=True)), 2)
        reached = next((i for i, one in enumerate(turns, start=1) if one["loss"] <= goal), None)
        row["steps_to_loss"] = reached and 1 + reached * turn
        row["seconds_to_loss"] = reached and round(sum(one["seconds"] for one in turns[:reached]), 1)
    return found


def same_batches(lengths: list[tuple[int, ...]], batch_size: int) -> int:
    """The smallest `batch_tokens` with which an epoch has no more batches than with `batch_size` items in each."""
    from spear_tts_pytorch.data.loader import TokenBudgetBatchSampler

    budget = round(batch_size * mean(sum(one) for one in lengths))
    while len(TokenBudgetBatchSampler(lengths, budget).batches(0)) > -(-len(lengths) // batch_size):
        budget = round(1.01 * budget)
    return budget


def run_stage(stage: str, args: argparse.Namespace, lengths: list[tuple[int, int]]) -> dict[str, dict[str, Any]]:
    own = [one[:1] if stage == "pretraining" else one for one in lengths]
    passed = ["--stage", stage, "--pairs", args.pairs, "--steps", str(args.steps)]
    passed += ["--batch-size", str(args.batch_size), "--batch-tokens", str(same_batches(own, args.batch_size))]
    names = [name for name in OURS if not args.only or name in args.only]
    if args.predecessor:
        names.append(RELEASE)
        passed += ["--predecessor", args.predecessor]
    contestants = []
    for name in names:
        print(f"{stage}: loading {name}", file=sys.stderr)
        contestants.append(Contestant(__file__, name, passed))
    turns = -(-args.steps // args.turn)
    answers, failures = take_turns({contestant: (args.turn, turns) for contestant in contestants})
    if failures:
        raise SystemExit(f"failed: {failures}")
    for contestant in contestants:
        contestant.close()
    return table(answers, args.turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predecessor", metavar="FOLDER", help="folder that holds release 0.4.8 and audiolm-pytorch")
    parser.add_argument("--corpus", metavar="FOLDER", help="another corpus than asterisk_en")
    parser.add_argument("--longest", type=float, default=20.0, metavar="SECONDS", help="default %(default)s")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=200, help="of 0.4.8, and at most of ours (default %(default)s)")
    parser.add_argument("--turn", type=int, default=5, help="steps of a turn (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="of 0.4.8 (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=OURS, help="contestants of ours")
    parser.add_argument("--json", action="store_true", help="prints the figures as JSON")
    for name, kind in (("worker", str), ("stage", str), ("pairs", str), ("batch-tokens", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return serve(lambda: load(args.worker, args))
    if not args.corpus and "SPEAR_TTS_CORPORA" not in os.environ:
        parser.error("give --corpus, or set SPEAR_TTS_CORPORA to the folder that holds asterisk_en")
    corpus = args.corpus or str(Path(os.environ["SPEAR_TTS_CORPORA"]) / "asterisk_en")
    with tempfile.TemporaryDirectory() as temporary:
        args.pairs = f"{temporary}/pairs.pt"
        lengths = prepare(corpus, args.longest, args.pairs)
        tables = {stage: run_stage(stage, args, lengths) for stage in args.stages}
    if args.json:
        print(json.dumps(tables, indent=2))
        return
    for stage, rows in tables.items():
        print(f"\n{stage}, {len(lengths)} clips")
        for name, row in rows.items():
            print(f"  {name:14} " + "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
