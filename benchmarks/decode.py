"""Sampling speed: tokens per second at width 512, 6 + 6 layers, batch 1, 1,000 tokens.

    python benchmarks/decode.py
    pip install --target old --no-deps spear-tts-pytorch==0.4.8 rotary-embedding-torch==0.6.5
    python benchmarks/decode.py --predecessor old

Prints the median of several runs and, with the predecessor, the ratio of runs that took turns. Each run is a process of
its own, as both packages have one name. Random weights; end-of-sequence is never drawn, so every run has 1,000 tokens.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from types import ModuleType

WIDTH, DEPTH, SOURCE = 512, 6, 64


def build(model_class: type, **options):
    import torch

    torch.manual_seed(0)
    return model_class(
        WIDTH,
        source_depth=DEPTH,
        target_depth=DEPTH,
        num_text_token_ids=256,
        num_semantic_token_ids=500,
        heads=8,
        dim_head=64,
        target_kv_heads=2,
        **{"autoset_semantic_eos_id": False, **options},
    ).eval()


def stand_in_modules() -> None:
    """Empty classes in place of what the predecessor imports for HuBERT, trainers and CLIP, none of which is used here."""
    names = {
        "audiolm_pytorch": ["FairseqVQWav2Vec", "HubertWithKmeans"],
        "audiolm_pytorch.data": ["get_dataloader"],
        "audiolm_pytorch.optimizer": ["get_optimizer"],
        "x_clip": [],
        "x_clip.tokenizer": ["tokenizer"],
    }
    for name, members in names.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {}))
        sys.modules[name] = module


def worker(tokens: int, batch: int, predecessor: str | None) -> None:
    """One run, in a process of its own: prints tokens per second as JSON."""
    if predecessor is not None:
        sys.path.insert(0, predecessor)
        stand_in_modules()
    import torch

    from spear_tts_pytorch import TextToSemantic

    torch.set_num_threads(os.cpu_count() or 1)
    model = build(TextToSemantic)
    source = torch.randint(1, 256, (batch, SOURCE), generator=torch.Generator().manual_seed(0))

    def generate(n: int) -> None:
        ids = model.generate(source, source_type="text", target_type="speech", max_length=n)
        assert ids.shape == (batch, n), f"{list(ids.shape)} ids instead of {[batch, n]}"

    generate(20)
    start = time.perf_counter()
    generate(tokens)
    print(json.dumps(batch * tokens / (time.perf_counter() - start)))


def run(options: list[str]) -> float:
    command = [sys.executable, __file__, "--worker", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"a run failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1000, help="per row (default %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="rows (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="of each (default %(default)s)")
    parser.add_argument("--predecessor", metavar="FOLDER", help="where release 0.4.8 was installed with --target")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.tokens, args.batch, args.predecessor)
    size = ["--tokens", str(args.tokens), "--batch", str(args.batch)]
    if args.predecessor is not None and not Path(args.predecessor, "spear_tts_pytorch").is_dir():
        parser.error(f"{args.predecessor} holds no spear_tts_pytorch: install release 0.4.8 there with pip --target")
    ours, theirs = [], []
    for _ in range(args.runs):
        ours.append(run(size))
        if args.predecessor is not None:
            theirs.append(run([*size, "--predecessor", args.predecessor]))
    print(f"width {WIDTH}, {DEPTH} + {DEPTH} layers, batch {args.batch}, {args.tokens} tokens, {args.runs} runs")
    print(f"ours           {median(ours):8.1f} tokens/s  ({min(ours):.1f} to {max(ours):.1f})")
    if theirs:
        print(f"predecessor    {median(theirs):8.1f} tokens/s  ({min(theirs):.1f} to {max(theirs):.1f})")
        print(f"ratio, paired  {median(a / b for a, b in zip(ours, theirs, strict=True)):8.2f}")


if __name__ == "__main__":
    main()
