"""Decoding speed at width 512, 6 + 6 layers, 64 source ids: ours, and what a user would pick instead, in one run.

    pip install transformers tokenizers ctranslate2         # adds HuggingFace T5 and CTranslate2 (float32), same size
    pip install --target old --no-deps spear-tts-pytorch==0.4.8 rotary-embedding-torch==0.6.5
    python benchmarks/decode.py --predecessor old           # adds release 0.4.8
    python benchmarks/decode.py --cases sample:1x1000 trained:4x250 --only fp32 int8 speculative plain CTranslate2

Each contestant is a process of its own that stays loaded and takes turns with the others, case by case. A case is
STRATEGY:ROWSxTOKENS. Weights are random and end-of-sequence is never drawn, so every run makes all its tokens; but
`trained` cases compare speculative with plain sampling on a model with an early exit that is given (`--trained`) or
trained here once, in 2 to 3 minutes on a made-up task, and kept in the folder `--work`. The peers sample there as ever.
Who would need longer than `--slow` for a turn has 2 rounds, in beam search of 100 tokens a row, and its row says so.

Columns: tokens per second, median (least to most); ratios to others, medians of the rounds' ratios; the share of the
machine's streaming bandwidth (`torch.sum` over 256 MB, measured in every round) that plain decoding at that speed needs
to read the decoder's weights once a step; most memory held in a turn beyond what the imports took.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from workers import (
    Contestant,
    ContestantError,
    build,
    convert_t5,
    forget_peak_memory,
    peak_memory,
    random_source,
    serve,
    stand_in_modules,
    streaming_read,
    t5_model,
    take_turns,
    train,
    utterances,
    weights_of_a_step,
)

CASES = "sample:1x200 sample:1x1000 sample:1x2000 sample:8x250 sample:8x500 beam:1x500 beam:4x250 trained:1x500 trained:4x250"
BEAM_SIZE, DRAFTS = 4, 5
OURS = ("fp32", "compiled", "bf16", "int8", "int8, compiled")
TRAINED = ("plain", "speculative")
RELEASE, T5, CT2 = PEERS = ("release 0.4.8", "HuggingFace T5", "CTranslate2")
NAMES = (*OURS, *TRAINED, *PEERS)
SHORT = {RELEASE: "0.4.8", T5: "T5", CT2: "CT2"}
STREAM = "streaming read"
WARM_UP = 20  # tokens
SLOW_ROUNDS, SLOW_BEAM_TOKENS = 2, 100  # for a contestant whose turn would take longer than --slow seconds

Generate = Callable[[str, int, int], dict[str, Any]]
"""`generate(strategy, rows, tokens)` -> `{"ids": number of ids made in all rows}`; `"accepted"`: share of drafts."""


# contestants: each function returns `generate` and the bytes of weights that a decoding step has to read


def text_to_semantic(name: str, trained: str, text: str) -> tuple[Generate, int]:
    """Ours and release 0.4.8, whose `generate` takes the same arguments."""
    from spear_tts_pytorch import TextToSemantic

    first, *parts = name.split(", ")
    if first in TRAINED:
        model = TextToSemantic.from_pretrained(trained)
        encode = model.tokenizer_encode or (lambda texts: utterances(len(texts), seed=0)[0])
    else:
        model, parts = build(TextToSemantic), [] if name == RELEASE else [first, *parts]
        encode = None
    weights = weights_of_a_step(model.target_transformer, model.token_emb["speech"])
    for part in parts:
        model = reduced(model, part)
    options = {
        "sample": {},
        "beam": {"beam_search_decode": True, "beam_size": BEAM_SIZE},
        "speculative": {"spec_decode": True, "spec_decode_gamma": DRAFTS, "return_result": True},
    }

    def generate(strategy: str, rows: int, tokens: int) -> dict[str, Any]:
        source = random_source(rows) if encode is None else encode([text] * rows)
        made = model.generate(source, source_type="text", target_type="speech", max_length=tokens, **options[strategy])
        ids = made.ids if strategy == "speculative" else made
        if encode is None and ids.shape != (rows, tokens):
            raise RuntimeError(f"{list(ids.shape)} ids instead of {[rows, tokens]}")
        accepted = {"accepted": made.accepted} if strategy == "speculative" else {}
        return {"ids": int((ids != model.pad_id["speech"]).sum()), **accepted}

    return generate, weights // (2 if "bf16" in parts else 4 if "int8" in parts else 1)


def reduced(model, part: str):
    """The model quantized or compiled, in place or not."""
    from torch import nn

    if part == "fp32":
        return model
    method = "compile" if part == "compiled" else "quantize"
    if getattr(type(model), method, None) in (None, getattr(nn.Module, method, None)):
        raise NotImplementedError(f"this version has no model.{method}()")
    changed = model.compile() if part == "compiled" else model.quantize(part)
    return model if changed is None else changed


def huggingface() -> tuple[Generate, int]:
    import torch

    model = t5_model()
    options = {"sample": {"do_sample": True, "top_k": 50}, "beam": {"num_beams": BEAM_SIZE, "do_sample": False}}

    @torch.inference_mode()
    def generate(strategy: str, rows: int, tokens: int) -> dict[str, Any]:
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        ids = model.generate(random_source(rows), **length, **options[strategy])
        if ids.shape != (rows, 1 + tokens):
            raise RuntimeError(f"{list(ids.shape)} ids instead of {[rows, 1 + tokens]}")
        return {"ids": rows * tokens}

    return generate, weights_of_a_step(model.decoder)


def ctranslate(threads: int) -> tuple[Generate, int]:
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--convert", folder]
        weights = int(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])
        options = {"compute_type": "float32", "intra_threads": threads, "inter_threads": 1}
        translator = ctranslate2.Translator(f"{folder}/ct2", **options)
    options = {"sample": {"beam_size": 1, "sampling_topk": 50}, "beam": {"beam_size": BEAM_SIZE}}

    def generate(strategy: str, rows: int, tokens: int) -> dict[str, Any]:
        source = [[*(f"w{index}" for index in row), "</s>"] for row in random_source(rows).tolist()]
        length = {"max_decoding_length": tokens, "min_decoding_length": tokens}
        results = translator.translate_batch(source, **length, **options[strategy])
        made = [len(result.hypotheses[0]) for result in results]
        if made != [tokens] * rows:
            raise RuntimeError(f"{made} ids instead of {tokens} in each row")
        return {"ids": rows * tokens}

    return generate, weights


def load(args: argparse.Namespace) -> Callable[[Any], Any]:
    """In a contestant's process: what takes its turns."""
    import torch

    torch.set_num_threads(args.threads)
    name = args.worker
    if name == STREAM:
        return streaming_read()
    if name == RELEASE:
        sys.path.insert(0, args.predecessor)
        stand_in_modules()
    modules = {T5: "transformers.models.t5.modeling_t5", CT2: "ctranslate2"}
    importlib.import_module(modules.get(name, "spear_tts_pytorch"))
    forget_peak_memory()
    imports = peak_memory()
    if name == T5:
        generate, weights = huggingface()
    else:
        generate, weights = ctranslate(args.threads) if name == CT2 else text_to_semantic(name, args.trained, args.text)

    def turn(task: Any) -> dict[str, Any]:
        forget_peak_memory()
        start = time.perf_counter()
        made = generate(*task)
        seconds = time.perf_counter() - start
        return {**made, "seconds": seconds, "weights": weights, "memory": peak_memory() - imports}

    return turn


# the parent's side


class Case:
    """`STRATEGY:ROWSxTOKENS`; what each contestant's turns came to, and what there is to say about them."""

    def __init__(self, text: str):
        if not re.fullmatch(r"(sample|beam|trained):[1-9]\d*x[1-9]\d*", text):
            raise argparse.ArgumentTypeError(f"{text!r} is no case: sample, beam or trained, as in sample:8x250")
        self.text, (self.strategy, size) = text, text.split(":")
        self.rows, self.tokens = map(int, size.split("x"))
        self.names: list[str] = []
        self.speeds: dict[str, list[float]] = {}
        self.shares: dict[str, list[float]] = {}
        self.memory: dict[str, int] = {}
        self.notes: dict[str, str] = {}

    def takes(self, name: str) -> bool:
        return name in PEERS or (name.split(", ")[0] in TRAINED) == (self.strategy == "trained")

    def warm_up(self, contestant: Contestant, rounds: int, slow: float) -> tuple[Any, int]:
        """The contestant's task and the number of its rounds. One that compiles gets to see all lengths first."""
        name, strategy = contestant.name, self.strategy
        if strategy == "trained":
            strategy = "speculative" if name.startswith("speculative") else "sample"
        short = self.tokens if "compiled" in name else min(self.tokens, WARM_UP)
        contestant.turn([strategy, self.rows, short])
        seconds = contestant.turn([strategy, self.rows, min(self.tokens, WARM_UP)])["seconds"]
        tokens = self.tokens
        if seconds * tokens / min(tokens, WARM_UP) > slow:
            rounds = min(rounds, SLOW_ROUNDS)
            tokens = min(tokens, SLOW_BEAM_TOKENS) if strategy == "beam" else tokens
            self.notes[name] = f"slow: {rounds} x {tokens} tokens a row"
        return [strategy, self.rows, tokens], rounds

    def run(self, contestants: list[Contestant], stream: Contestant, rounds: int, slow: float) -> None:
        self.names = [contestant.name for contestant in contestants]
        plans: dict[Contestant, tuple[Any, int]] = {stream: (None, rounds)}
        for contestant in contestants:
            try:
                plans[contestant] = self.warm_up(contestant, rounds, slow)
            except ContestantError as error:
                self.notes[contestant.name] = f"failed: {error}"
        answers, failures = take_turns(plans)
        self.notes.update({name: f"failed: {why}" for name, why in failures.items()})
        bandwidths = answers.pop(STREAM)
        for name, turns in answers.items():
            if name in failures:
                continue
            speeds = self.speeds[name] = [turn["ids"] / turn["seconds"] for turn in turns]
            needed = turns[0]["weights"] / self.rows  # bytes per token: a step reads them for a token of every row
            self.shares[name] = [needed * x / most for x, most in zip(speeds, bandwidths, strict=False)]
            self.memory[name] = max(turn["memory"] for turn in turns)
            if "accepted" in turns[0]:
                share = f"{100 * median(turn['accepted'] for turn in turns):.0f} % of drafts accepted"
                self.notes[name] = f"{self.notes[name]}; {share}" if name in self.notes else share

    def table(self) -> dict[str, dict[str, Any]]:
        references = [name for name in self.speeds if name in ("fp32", "plain", *PEERS)]
        rows: dict[str, dict[str, Any]] = {}
        for name in self.names:
            note = {"note": self.notes[name]} if name in self.notes else {}
            rows[name] = note
            if name not in self.speeds:
                continue
            speeds = self.speeds[name]
            ratios = {other: [a / b for a, b in zip(speeds, self.speeds[other], strict=False)] for other in references}
            rows[name] = {
                "tokens_per_second": median(speeds),
                "least": min(speeds),
                "most": max(speeds),
                "ratios": {other: median(values) for other, values in ratios.items()},
                "share_of_bandwidth": median(self.shares[name]),
                "peak_mb": self.memory[name] / 1e6,
                **note,
            }
        return rows

    def show(self) -> None:
        rows = self.table()
        references = next((list(row["ratios"]) for row in rows.values() if "ratios" in row), [])
        columns = "".join(f"{'x ' + SHORT.get(name, name):>9}" for name in references)
        print(f"\n{self.text:20}{'tokens/s':>9}{'':22}{columns}{'bandwidth':>11}{'MB':>7}")
        for name, row in rows.items():
            if "ratios" not in row:
                print(f"{name:20}  {row['note']}")
                continue
            spread = f"({row['least']:.1f} to {row['most']:.1f})"
            ratios = "".join(f"{row['ratios'][other]:9.2f}" for other in references)
            share = f"{100 * row['share_of_bandwidth']:9.0f} %"
            note = row.get("note", "")
            print(f"{name:20}{row['tokens_per_second']:9.1f}  {spread:20}{ratios}{share}{row['peak_mb']:7.0f}  {note}")
        sys.stdout.flush()


def longer_texts(cases: list[Case]) -> dict[str, float]:
    """Of each contestant, the time per token at 2,000 tokens over that at 200."""
    speeds = {case.text: case.speeds for case in cases}
    short, long = speeds.get("sample:1x200", {}), speeds.get("sample:1x2000", {})
    return {name: median(short[name]) / median(long[name]) for name in short if name in long}


def missing_peers(args: argparse.Namespace) -> dict[str, str]:
    """Why a peer cannot take part."""
    reasons = {}
    if not args.predecessor:
        reasons[RELEASE] = "no --predecessor"
    for name, modules in {T5: ["transformers"], CT2: ["ctranslate2", "transformers", "tokenizers"]}.items():
        absent = [module for module in modules if not importlib.util.find_spec(module)]
        if absent:
            reasons[name] = "pip install " + " ".join(absent)
    return reasons


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predecessor", metavar="FOLDER", help="where release 0.4.8 was installed with --target")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each in a case (default %(default)s)")
    parser.add_argument("--cases", nargs="+", type=Case, default=[Case(x) for x in CASES.split()], metavar="CASE")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(map(repr, NAMES))}")
    parser.add_argument("--trained", metavar="FOLDER", help="a saved model with an early exit")
    parser.add_argument("--text", default="alice sees seven red cars", help="said by a model that has a text tokenizer")
    parser.add_argument("--work", metavar="FOLDER", default=str(Path.home() / ".cache" / "spear-tts-benchmarks"))
    parser.add_argument("--train-steps", type=int, default=150, metavar="N", help="(default %(default)s)")
    parser.add_argument("--slow", type=float, default=30.0, metavar="SECONDS", help="fewer rounds of longer turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="prints the figures as JSON")
    for hidden in ("--worker", "--convert", "--train"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.predecessor and not Path(args.predecessor, "spear_tts_pytorch").is_dir():
        parser.error(f"{args.predecessor} holds no spear_tts_pytorch: install release 0.4.8 there with pip --target")
    known = {*NAMES, *OURS[:4], *(f"{x}, {y}" for x in (*TRAINED, "bf16") for y in OURS[1:])}
    unknown = [name for name in args.only or () if name not in known]
    if unknown:
        parser.error(f"--only: nobody is called {unknown[0]!r}, but {', '.join(map(repr, NAMES))}")
    if args.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {args.rounds}")
    return args


def trained_model(args: argparse.Namespace) -> str:
    """The folder of the model with an early exit, trained in a process of its own if there is none yet."""
    folder = args.trained or str(Path(args.work) / f"early_exit_{args.train_steps}_steps")
    if args.trained is None and not Path(folder, "config.json").exists():
        print(f"training a model for speculative decoding into {folder}", file=sys.stderr)
        options = ["--train-steps", str(args.train_steps), "--threads", str(args.threads)]
        subprocess.run([sys.executable, __file__, "--train", folder, *options], check=True)
    return folder


def contestants_of(args: argparse.Namespace) -> tuple[list[Contestant], dict[str, str]]:
    """Those that take part, and why the others do not."""
    absent = missing_peers(args)
    names = [name for name in args.only or (*OURS, *TRAINED, *PEERS) if any(case.takes(name) for case in args.cases)]
    options = ["--threads", str(args.threads), "--text", args.text]
    options += ["--predecessor", args.predecessor] if args.predecessor else []
    if any(name.split(", ")[0] in TRAINED for name in names):
        options += ["--trained", trained_model(args)]
    contestants = []
    for name in names:
        if name in absent:
            continue
        print(f"loading {name}", file=sys.stderr)
        try:
            contestants.append(Contestant(__file__, name, options))
        except ContestantError as error:
            absent[name] = str(error)
    return contestants, {name: why for name, why in absent.items() if name in names}


def main() -> None:
    args = arguments()
    if args.worker:
        return serve(lambda: load(args))
    if args.convert:
        return convert_t5(args.convert)
    if args.train:
        return train(args.train, args.train_steps, args.threads)
    contestants, absent = contestants_of(args)
    stream = Contestant(__file__, STREAM, ["--threads", str(args.threads)])
    packages = {x: version(x) for x in ("torch", "transformers", "ctranslate2") if importlib.util.find_spec(x)}
    if not args.json:
        print(", ".join(f"{name} {number}" for name, number in packages.items()) + f"; {args.threads} threads")
        for name, why in absent.items():
            print(f"left out: {name}: {why}")
    for case in args.cases:
        case.run([one for one in contestants if case.takes(one.name)], stream, args.rounds, args.slow)
        if not args.json:
            case.show()
    longer = longer_texts(args.cases)
    if args.json:
        result = {"versions": packages, "threads": args.threads, "rounds": args.rounds, "left_out": absent}
        cases = {case.text: case.table() for case in args.cases}
        print(json.dumps({**result, "cases": cases, "time_per_token_2000_over_200": longer}, indent=2))
    elif longer:
        print("\ntime per token at 2,000 over 200: " + ", ".join(f"{name} {x:.2f}" for name, x in longer.items()))
    for contestant in (*contestants, stream):
        contestant.close()


if __name__ == "__main__":
    main()
