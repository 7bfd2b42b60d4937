"""The contestants of decode.py. Each takes (strategy, rows, tokens) and generates from random source ids.

`load` runs in a contestant's process. It returns a function from a task to the figures of a turn: ids made, seconds, bytes
of weights that a step reads, and bytes of memory held beyond the imports.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from workers import (
    BEFORE,
    build,
    forget_peak_memory,
    peak_memory,
    random_source,
    stand_in_modules,
    streaming_read,
    t5_model,
    use_checkout,
    utterances,
    weights_of_a_step,
)

BEAM_SIZE, DRAFTS = 4, 5
OURS = ("fp32", "compiled", "bf16", "int8", "int8, compiled")
TRAINED = ("plain", "speculative")
RELEASE, T5, CT2 = PEERS = ("release 0.4.8", "HuggingFace T5", "CTranslate2")
STREAM = "streaming read"

Generate = Callable[[str, int, int], dict[str, Any]]
"""`generate(strategy, rows, tokens)` -> `{"ids": number of ids made in all rows}`; `"accepted"`: share of drafts.

The functions below return it with the bytes of weights that a decoding step has to read.
"""


def text_to_semantic(name: str, trained: str, text: str) -> tuple[Generate, int]:
    """A version of this library; the `generate` of release 0.4.8 takes the same arguments."""
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
    """The model quantized or compiled; some versions do it in place and return None."""
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
        command = [sys.executable, sys.argv[0], "--convert", folder]
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
    """In a contestant's process: the function that takes its turns."""
    import torch

    torch.set_num_threads(args.threads)
    name = args.worker
    if name.startswith(BEFORE):
        use_checkout(args.against)
        name = name.removeprefix(BEFORE)
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

    turns = itertools.count()

    def turn(task: Any) -> dict[str, Any]:
        torch.manual_seed(next(turns))  # a contestant and its twin may draw the same
        forget_peak_memory()
        start = time.perf_counter()
        made = generate(*task)
        seconds = time.perf_counter() - start
        return {**made, "seconds": seconds, "weights": weights, "memory": peak_memory() - imports}

    return turn
