"""Decoding speed at width 512, 6 + 6 layers, 64 source ids: ours and the alternatives, in one run.

    pip install transformers tokenizers ctranslate2         # adds HuggingFace T5 and CTranslate2 (float32), same size
    pip install --target old --no-deps spear-tts-pytorch==0.4.8 rotary-embedding-torch==0.6.5
    python benchmarks/decode.py --predecessor old           # adds release 0.4.8
    python benchmarks/decode.py --cases sample:1x1000 trained:4x250 --only fp32 int8 speculative plain CTranslate2
    python benchmarks/decode.py --against ../before         # another checkout of this library in turn with this one

Each contestant is a process of its own that stays loaded and takes turns with the others, case by case. A case is
STRATEGY:ROWSxTOKENS. Weights are random and end-of-sequence is never drawn, so every run makes all its tokens. Only the
`trained` cases have a trained model with an early exit, and compare speculative with plain sampling. It is given by
`--trained`, or trained once on a made-up task in 2 to 3 minutes and kept in the folder `--work`. Peers sample there.
A contestant that needs longer than `--slow` for a turn has 2 rounds, and in beam search 100 tokens a row; its row says so.
With `--against`, each of ours has a twin "before: NAME" from the other checkout, and peers take part only if `--only` names
them. Two processes that run the same code can differ by several per cent, as their weights lie elsewhere in memory. With
`--loads` all contestants are loaded that many times, and the rounds of all loads count.

Columns: tokens per second, median (least to most); ratios to others, medians of the rounds' ratios ("x before" is the ratio
to the twin); the share of the machine's streaming bandwidth (`torch.sum` over 256 MB, measured in every round) that plain
decoding at that speed needs to read the decoder's weights once a step; most memory held in a turn beyond the imports.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from decoders import CT2, OURS, PEERS, RELEASE, STREAM, T5, TRAINED, load
from workers import BEFORE, Contestant, ContestantError, against, check_checkout, convert_t5, serve, take_turns, train

CASES = "sample:1x200 sample:1x1000 sample:1x2000 sample:8x250 sample:8x500 beam:1x500 beam:4x250 trained:1x500 trained:4x250"
NAMES = (*OURS, *TRAINED, *PEERS)
SHORT = {RELEASE: "0.4.8", T5: "T5", CT2: "CT2"}
WARM_UP = 20  # tokens
SLOW_ROUNDS, SLOW_BEAM_TOKENS = 2, 100  # for a contestant whose turn would take longer than --slow seconds


class Case:
    """`STRATEGY:ROWSxTOKENS`, with the figures of each contestant's turns and notes about them."""

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
        """Whether the contestant takes part in this case."""
        kind = name.removeprefix(BEFORE).split(", ")[0]
        return name in PEERS or (kind in TRAINED) == (self.strategy == "trained")

    def warm_up(self, contestant: Contestant, rounds: int, slow: float) -> tuple[Any, int]:
        """The contestant's task and the number of its rounds. One that compiles decodes all lengths once before."""
        name, strategy = contestant.name, self.strategy
        if strategy == "trained":
            strategy = "speculative" if "speculative" in name else "sample"
        short = self.tokens if "compiled" in name else min(self.tokens, WARM_UP)
        contestant.turn([strategy, self.rows, short])
        seconds = contestant.turn([strategy, self.rows, min(self.tokens, WARM_UP)])["seconds"]
        tokens = self.tokens
        if seconds * tokens / min(tokens, WARM_UP) > slow:
            rounds = min(rounds, SLOW_ROUNDS)
            tokens = min(tokens, SLOW_BEAM_TOKENS) if strategy == "beam" else tokens
            self.notes[name] = f"slow: {rounds} x {tokens} tokens a row"
        return [strategy, self.rows, tokens], rounds

    def same_for_twins(self, plans: dict[Contestant, tuple[Any, int]]) -> None:
        """Gives a contestant and its twin the same task: the smaller one, if only one of them is slow."""
        named = {contestant.name: contestant for contestant in plans}
        for name, one in named.items():
            twin = named.get(BEFORE + name)
            if twin is not None and plans[one] != plans[twin]:
                slow, other = (one, twin) if plans[one][1] < plans[twin][1] else (twin, one)
                plans[other] = plans[slow]
                self.notes[other.name] = self.notes[slow.name]

    def run(self, contestants: list[Contestant], stream: Contestant, rounds: int, slow: float) -> None:
        self.names = [contestant.name for contestant in contestants]
        plans: dict[Contestant, tuple[Any, int]] = {stream: (None, rounds)}
        for contestant in contestants:
            try:
                plans[contestant] = self.warm_up(contestant, rounds, slow)
            except ContestantError as error:
                self.notes[contestant.name] = f"failed: {error}"
        self.same_for_twins(plans)
        answers, failures = take_turns(plans)
        self.notes.update({name: f"failed: {why}" for name, why in failures.items()})
        bandwidths = answers.pop(STREAM)
        for name, turns in answers.items():
            if name in failures:
                continue
            speeds = [turn["ids"] / turn["seconds"] for turn in turns]
            needed = turns[0]["weights"] / self.rows  # bytes per token: a step reads them for a token of every row
            shares = [needed * x / most for x, most in zip(speeds, bandwidths, strict=False)]
            self.speeds.setdefault(name, []).extend(speeds)
            self.shares.setdefault(name, []).extend(shares)
            self.memory[name] = max(self.memory.get(name, 0), *(turn["memory"] for turn in turns))
            if "accepted" in turns[0]:
                share = f"{100 * median(turn['accepted'] for turn in turns):.0f} % of drafts accepted"
                self.notes[name] = f"{self.notes[name]}; {share}" if name in self.notes else share

    def table(self) -> dict[str, dict[str, Any]]:
        references = [name for name in self.speeds if name in ("fp32", "plain", *PEERS)]
        before = against(self.speeds)
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
                **({"against": before[name]} if name in before else {}),
                **note,
            }
        return rows

    def show(self) -> None:
        rows = self.table()
        references = next((list(row["ratios"]) for row in rows.values() if "ratios" in row), [])
        columns = "".join(f"{'x ' + SHORT.get(name, name):>9}" for name in references)
        twins = any("against" in row for row in rows.values())
        columns += f"{'x before':>10}" if twins else ""
        print(f"\n{self.text:24}{'tokens/s':>9}{'':22}{columns}{'bandwidth':>11}{'MB':>7}")
        for name, row in rows.items():
            if "ratios" not in row:
                print(f"{name:24}  {row['note']}")
                continue
            spread = f"({row['least']:.1f} to {row['most']:.1f})"
            ratios = "".join(f"{row['ratios'][other]:9.2f}" for other in references)
            ratios += f"{row['against']:10.3f}" if "against" in row else " " * 10 * twins
            share = f"{100 * row['share_of_bandwidth']:9.0f} %"
            note = row.get("note", "")
            print(f"{name:24}{row['tokens_per_second']:9.1f}  {spread:20}{ratios}{share}{row['peak_mb']:7.0f}  {note}")
        sys.stdout.flush()


def longer_texts(cases: list[Case]) -> dict[str, float]:
    """The time per token at 2,000 tokens over that at 200, of each contestant."""
    speeds = {case.text: case.speeds for case in cases}
    short, long = speeds.get("sample:1x200", {}), speeds.get("sample:1x2000", {})
    return {name: median(short[name]) / median(long[name]) for name in short if name in long}


def slowest_against(cases: list[Case]) -> str:
    """The case with the least ratio to the twin, in words; empty without twins."""
    ratios = {(case.text, name): ratio for case in cases for name, ratio in against(case.speeds).items()}
    if not ratios:
        return ""
    (case, name), ratio = min(ratios.items(), key=lambda item: item[1])
    return f"{len(ratios)} comparisons with before; the least is {ratio:.3f} ({case}, {name})"


def missing_peers(args: argparse.Namespace) -> dict[str, str]:
    """The reasons for which peers cannot take part, by name."""
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
    parser.add_argument("--against", metavar="FOLDER", help="another checkout of this library to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each in a case (default %(default)s)")
    parser.add_argument("--loads", type=int, default=1, metavar="N", help="processes of each, one after another")
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
    if args.against:
        try:
            check_checkout(args.against)
        except ValueError as error:
            parser.error(str(error))
    known = {*NAMES, *OURS[:4], *(f"{x}, {y}" for x in (*TRAINED, "bf16") for y in OURS[1:])}
    unknown = [name for name in args.only or () if name not in known]
    if unknown:
        parser.error(f"--only: there is no {unknown[0]!r}; there are {', '.join(map(repr, NAMES))}")
    for name in ("rounds", "loads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
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
    """The contestants that take part, and the reasons of the others by name."""
    absent = missing_peers(args)
    names = args.only or ((*OURS, *TRAINED) if args.against else NAMES)
    names = [name for name in names if any(case.takes(name) for case in args.cases)]
    options = ["--threads", str(args.threads), "--text", args.text]
    options += ["--predecessor", args.predecessor] if args.predecessor else []
    if any(name.split(", ")[0] in TRAINED for name in names):
        options += ["--trained", trained_model(args)]
    if args.against:
        options += ["--against", args.against]
        names = [one for name in names for one in ((name,) if name in PEERS else (name, BEFORE + name))]
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


def take_all_turns(args: argparse.Namespace, last: bool) -> dict[str, str]:
    """Loads the contestants, has each case run and closes them. Shows the cases, unless more loads follow.

    Returns the reasons of contestants that cannot take part, by name.
    """
    contestants, absent = contestants_of(args)
    stream = Contestant(__file__, STREAM, ["--threads", str(args.threads)])
    if last and not args.json:
        for name, why in absent.items():
            print(f"left out: {name}: {why}")
    for case in args.cases:
        case.run([one for one in contestants if case.takes(one.name)], stream, args.rounds, args.slow)
        if last and not args.json:
            case.show()
    for contestant in (*contestants, stream):
        contestant.close()
    return absent


def main() -> None:
    args = arguments()
    if args.worker:
        return serve(lambda: load(args))
    if args.convert:
        return convert_t5(args.convert)
    if args.train:
        return train(args.train, args.train_steps, args.threads)
    packages = {x: version(x) for x in ("torch", "transformers", "ctranslate2") if importlib.util.find_spec(x)}
    if not args.json:
        print(", ".join(f"{name} {number}" for name, number in packages.items()) + f"; {args.threads} threads")
    for number in range(1, args.loads + 1):
        absent = take_all_turns(args, last=number == args.loads)
    longer = longer_texts(args.cases)
    if args.json:
        result = {"versions": packages, "threads": args.threads, "rounds": args.rounds, "left_out": absent}
        cases = {case.text: case.table() for case in args.cases}
        print(json.dumps({**result, "cases": cases, "time_per_token_2000_over_200": longer}, indent=2))
    elif longer:
        print("\ntime per token at 2,000 over 200: " + ", ".join(f"{name} {x:.2f}" for name, x in longer.items()))
    if not args.json and args.against:
        print(f"\nagainst {args.against}: {slowest_against(args.cases)}")


if __name__ == "__main__":
    main()
