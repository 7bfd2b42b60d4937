"""Training speed: useful tokens per second at width 512, 6 + 6 layers, batch 8 x (64 + 250), forward to optimizer step.

    pip install transformers                                # adds HuggingFace T5 of the same size
    pip install --target old --no-deps spear-tts-pytorch==0.4.8 rotary-embedding-torch==0.6.5
    python benchmarks/train_step.py --predecessor old       # adds release 0.4.8
    python benchmarks/train_step.py --against ../before     # another checkout of this library in turn with this one

All contestants stay loaded, each in a process of its own, and take turns. Figures are medians over the rounds, ratios
medians of the rounds' ratios. All use fused AdamW. Nothing is padded, so every token is useful. With `--against`, each of
ours has a twin "before: NAME" from the other checkout ("x before" is the ratio to it), and the others do not take part.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from statistics import median

from workers import (
    BEFORE,
    SOURCE,
    Contestant,
    against,
    build,
    check_checkout,
    serve,
    stand_in_modules,
    t5_model,
    take_turns,
    use_checkout,
)

BATCH, TARGET = 8, 250
OURS = ("fp32", "bf16 autocast", "bf16 autocast, compiled", "bf16 weights", "bf16 weights, compiled")
OTHERS = ("release 0.4.8", "release 0.4.8, attn_flash", "HuggingFace T5")


def ours(name: str) -> Callable[[], None]:
    import torch

    from spear_tts_pytorch import TextToSemantic, TextToSemanticWrapper

    model = build(TextToSemantic).train()
    if "bf16 weights" in name:
        model.bfloat16()
    step = TextToSemanticWrapper(model)
    if "compiled" in name:
        step = torch.compile(step, fullgraph=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    text, speech = torch.randint(1, 256, (BATCH, SOURCE)), torch.randint(0, 500, (BATCH, TARGET))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in name):
            loss, _ = step(text, speech)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def predecessor(name: str, folder: str) -> Callable[[], None]:
    import torch

    sys.path.insert(0, folder)
    stand_in_modules()
    from spear_tts_pytorch import TextToSemantic

    model = build(TextToSemantic, attn_flash="flash" in name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    text, speech = torch.randint(1, 256, (BATCH, SOURCE)), torch.randint(0, 500, (BATCH, TARGET))

    def run() -> None:
        model(text, speech, source_type="text", target_type="speech", return_loss=True).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def huggingface() -> Callable[[], None]:
    import torch

    model = t5_model(dropout_rate=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    text, speech = torch.randint(3, 256, (BATCH, SOURCE)), torch.randint(256, 756, (BATCH, TARGET))

    def run() -> None:
        model(input_ids=text, labels=speech).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def load(args: argparse.Namespace) -> Callable[[int], float]:
    """In a contestant's process: a function from a number of training steps to the seconds that they take."""
    name = args.worker
    if name.startswith(BEFORE):
        use_checkout(args.against)
        name = name.removeprefix(BEFORE)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if name in OURS:
        run = ours(name)
    else:
        run = huggingface() if "HuggingFace" in name else predecessor(name, args.predecessor)
    run()

    def turn(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            run()
        return time.perf_counter() - start

    return turn


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predecessor", metavar="FOLDER", help="folder that holds release 0.4.8")
    parser.add_argument("--against", metavar="FOLDER", help="another checkout of this library to compare with")
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--steps", type=int, default=2, help="training steps of a turn (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=OURS, metavar="NAME", help="contestants of ours, such as fp32")
    parser.add_argument("--threads", type=int, help="default: PyTorch's own choice")
    parser.add_argument("--json", action="store_true", help="prints the figures as JSON")
    parser.add_argument("--worker", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.against:
        try:
            check_checkout(args.against)
        except ValueError as error:
            parser.error(str(error))
    return args


def names_of(args: argparse.Namespace) -> list[str]:
    """The contestants that take part, twins next to each other."""
    names = [name for name in OURS if not args.only or name in args.only]
    if args.against:
        return [one for name in names for one in (name, BEFORE + name)]
    names += [name for name in OTHERS if args.predecessor and "0.4.8" in name]
    return names + [name for name in OTHERS if "T5" in name and importlib.util.find_spec("transformers")]


def measured(args: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of each contestant, round by round."""
    options: list[str] = []
    for flag in ("predecessor", "against", "threads"):
        if getattr(args, flag):
            options += [f"--{flag}", str(getattr(args, flag))]
    contestants: list[Contestant] = []
    for name in names_of(args):
        print(f"loading {name}", file=sys.stderr)
        contestants.append(Contestant(__file__, name, options))
    for contestant in contestants:
        contestant.turn(args.steps)  # the first steps are slow
    seconds, failures = take_turns({contestant: (args.steps, args.rounds) for contestant in contestants})
    if failures:
        raise SystemExit(f"failed: {failures}")
    for contestant in contestants:
        contestant.close()
    tokens = BATCH * (SOURCE + TARGET) * args.steps
    return {name: [tokens / taken for taken in turns] for name, turns in seconds.items()}


def main() -> None:
    args = arguments()
    if args.worker:
        return serve(lambda: load(args))
    figures = measured(args)
    best = max((name for name in figures if name in OTHERS), key=lambda name: median(figures[name]), default=None)
    table: dict[str, dict[str, float]] = {}
    for name, values in figures.items():
        table[name] = {"tokens_per_second": round(median(values))}
        if best:
            table[name]["ratio"] = round(median(v / b for v, b in zip(values, figures[best], strict=True)), 2)
    for name, ratio in against(figures).items():
        table[name]["against"] = round(ratio, 3)
    if args.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{'':34} tokens/s" + (f"   x {best}" if best else "") + ("   x before" if args.against else ""))
    for name, row in table.items():
        ratios = "".join(f"   {row[key]}" for key in ("ratio", "against") if key in row)
        print(f"{name:34} {row['tokens_per_second']:8,d}{ratios}")


if __name__ == "__main__":
    main()
