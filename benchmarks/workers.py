"""Shared by the benchmarks: contestants that take turns, the model they measure, a trained one, the machine's limits.

A `Contestant` is a process of its own and stays loaded. It runs the script that starts it: `script --worker NAME ...` calls
`serve`. Tasks and answers are JSON, one a line, on standard input and output. Everything else that a contestant prints goes
to a temporary file, which is shown if the contestant dies.

A script that imports this file measures the checkout that holds it, even if another version is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WIDTH, DEPTH, SOURCE = 512, 6, 64
BEFORE = "before: "  # the name of a contestant of --against begins with it
READ_ONCE = re.compile(r"cross_attention\.to_kv|\.1\.to_kv|EncDecAttention\.[kv]\.")


class ContestantError(Exception):
    """A contestant could not be loaded or failed in a turn. The message has the reason."""


class Contestant:
    """A process that runs `script --worker name *options`, loaded when the constructor returns.

    Raises:
        ContestantError: it raised an error while loading, or died.
    """

    def __init__(self, script: str, name: str, options: Sequence[str] = ()):
        self.name = name
        self.printed = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        command = [sys.executable, script, "--worker", name, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.printed, text=True
        )
        self._answer()

    def turn(self, task: Any) -> Any:
        """Gives the contestant a task and returns its answer; both are JSON. Raises ContestantError if it fails."""
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: the next line raises the error
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            self.printed.seek(0)
            raise ContestantError(f"{self.name} died: {self.printed.read()[-2000:].strip()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContestantError(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def take_turns(plans: dict[Contestant, tuple[Any, int]]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Rounds in which each contestant takes one turn. Every second round goes through them in reverse order.

    Args:
        plans: the task of each contestant, and its number of rounds.

    Returns:
        The answers of each contestant by name, round by round; and the reasons of failures by name. A contestant that
        fails takes no further turn.
    """
    answers: dict[str, list[Any]] = {one.name: [] for one in plans}
    failures: dict[str, str] = {}
    for index in range(max(rounds for _, rounds in plans.values())):
        for one, (task, rounds) in list(plans.items())[:: -1 if index % 2 else 1]:
            if index < rounds and one.name not in failures:
                try:
                    answers[one.name].append(one.turn(task))
                except ContestantError as error:
                    failures[one.name] = str(error)
    return answers, failures


def serve(load: Callable[[], Callable[[Any], Any]]) -> None:
    """The contestant's side: calls `load` for the function that answers tasks; answers until standard input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # other output must not come between the answers

    def attempt(call: Callable[[], Any]) -> bool:
        try:
            answer = {"answer": call()}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
        return "answer" in answer

    loaded: list[Callable[[Any], Any]] = []
    if attempt(lambda: loaded.append(load())):
        for line in sys.stdin:
            attempt(lambda task=line: loaded[0](json.loads(task)))


def peak_memory() -> int:
    """Most bytes of memory this process has held since `forget_peak_memory`."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def forget_peak_memory() -> None:
    """Makes `peak_memory` count from now on. Only Linux can; elsewhere it counts from the start of the process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass


def streaming_read() -> Callable[[Any], float]:
    """A contestant whose turns return the bytes per second that a plain sum over 256 MB reads."""
    import torch

    numbers = torch.ones(64 * 1024 * 1024)

    def turn(_: Any) -> float:
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            numbers.sum()
            seconds.append(time.perf_counter() - start)
        return 4 * numbers.numel() / median(seconds)

    return turn


def check_checkout(folder: str) -> None:
    """Raises ValueError if the folder holds no version of this library."""
    if not Path(folder, "spear_tts_pytorch").is_dir():
        raise ValueError(f"--against {folder}: it holds no spear_tts_pytorch; give a checkout of this library")


def use_checkout(folder: str) -> None:
    """Makes this process import the library from another folder. Raises RuntimeError if it does not."""
    sys.path.insert(0, str(Path(folder).resolve()))
    import spear_tts_pytorch

    found = Path(spear_tts_pytorch.__file__).parents[1]
    if found != Path(folder).resolve():
        raise RuntimeError(f"spear_tts_pytorch comes from {found} instead of {folder}")


def against(figures: dict[str, list[float]]) -> dict[str, float]:
    """Figures of each turn by contestant; returns the median ratio of each pair (NAME, "before: NAME"), turn by turn."""
    return {
        name: median(a / b for a, b in zip(values, figures[BEFORE + name], strict=False))
        for name, values in figures.items()
        if BEFORE + name in figures
    }


def build(model_class: type, **options):
    """The model of the benchmarks, from any version of this library; end-of-sequence is never drawn."""
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
    """Empty classes for the imports of release 0.4.8 that serve HuBERT, trainers and CLIP, which are not used here."""
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


def audiolm_modules(folder: str) -> None:
    """`stand_in_modules`, but with the loaders and optimizers of audiolm-pytorch in `folder`."""
    stand_in_modules()
    for name in ("data", "optimizer"):  # the package itself would import a great deal
        del sys.modules[f"audiolm_pytorch.{name}"]
    sys.modules["audiolm_pytorch"].__path__ = [f"{folder}/audiolm_pytorch"]
    for name in ("torchaudio", "torchaudio.functional"):  # imported there for sound files
        sys.modules[name] = ModuleType(name)
    sys.modules["torchaudio.functional"].resample = None


def t5_model(**options):
    """HuggingFace's T5 of the same size; its one vocabulary has our 256 + 500 ids and a few."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=768,
        d_model=WIDTH,
        d_kv=64,
        d_ff=1365,
        num_layers=DEPTH,
        num_decoder_layers=DEPTH,
        num_heads=8,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        **options,
    )
    return T5ForConditionalGeneration(config).eval()


def convert_t5(folder: str) -> None:
    """Writes `t5_model` into the folder `ct2` in `folder`, as CTranslate2 wants it, and prints the bytes of its step."""
    import ctranslate2
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = t5_model()
    model.save_pretrained(f"{folder}/t5")
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = [*special.values(), *(f"w{index}" for index in range(3, 768))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(f"{folder}/t5")
    ctranslate2.converters.TransformersConverter(f"{folder}/t5").convert(f"{folder}/ct2")
    print(weights_of_a_step(model.decoder))


def random_source(rows: int):
    """Ids `[rows, 64]` that every contestant takes as text."""
    import torch

    return torch.randint(3, 256, (rows, SOURCE), generator=torch.Generator().manual_seed(0))


def weights_of_a_step(*modules, bytes_each: int = 4) -> int:
    """Bytes of weights that a decoding step reads. The keys and values of the source are made once, so not theirs."""
    named = [pair for module in modules for pair in module.named_parameters()]
    return bytes_each * sum(weight.numel() for name, weight in named if not READ_ONCE.search(name))


def utterances(rows: int, seed: int):
    """Texts `[rows, 64]` of 27 characters, and the units that say them, `[rows, 512]`.

    Each character is two runs of about four equal units. Runs begin up to one unit early or late; one unit in ten is
    another than the run's. So a unit has some 0.67 nats that no model can predict.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    text = torch.randint(1, 28, (rows, SOURCE), generator=random)
    runs = torch.stack((2 * text, 2 * text + 1), dim=-1).flatten(1)
    begins = 4 * torch.arange(2 * SOURCE) + torch.randint(-1, 2, runs.shape, generator=random)
    begins[:, 0] = 0
    run = torch.searchsorted(begins, torch.arange(8 * SOURCE).expand(rows, -1).contiguous(), right=True) - 1
    other = torch.rand(run.shape, generator=random) < 0.1
    variant = torch.randint(1, 3, run.shape, generator=random) * other
    return text, 3 * runs.gather(1, run) + variant


def train(folder: str, steps: int, threads: int) -> None:
    """Trains a model with an early exit on `utterances` in bfloat16 and saves it; about a second a step on two cores."""
    import torch

    from spear_tts_pytorch import TextToSemantic, TextToSemanticWrapper

    torch.set_num_threads(threads)
    timeline = {"add_positions": True, "cross_attention_prior": True, "text_position_rate": 8.0}
    model = build(TextToSemantic, target_early_exit_layer=1, **timeline).train()
    wrapper = TextToSemanticWrapper(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rise = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / rise, (steps - i) / (steps - rise + 1))
    )
    for index in range(steps):
        text, units = utterances(4, seed=100 + index)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = wrapper(text, units)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if index % 10 == 0 or index == steps - 1:
            print(f"training step {index + 1} of {steps}: loss {loss.item():.2f} with the exit's", file=sys.stderr)
    model.eval().save_pretrained(folder)
