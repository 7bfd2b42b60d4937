"""Module paths of release 0.5.0 that have moved: importing one warns and gives the module at its present path."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __name__.rpartition(".")[0]

MOVED = {
    "acceleration": "decoding.accelerate",
    "arguments": "cli.arguments",
    "backtranslation": "recipe.backtranslation",
    "checks": "utils.checks",
    "continuous": "decoding.continuous",
    "data.clip_files": "data.corpora.clip_files",
    "data.dataset_items": "data.corpora.dataset_items",
    "data.files": "utils.files",
    "data.legacy_pairs": "data.pairs.legacy",
    "data.pair_cache": "data.pairs.cache",
    "data.pair_files": "data.pairs.shards",
    "data.pair_tools": "data.pairs.tools",
    "data.pair_writer": "data.pairs.writer",
    "data.readers": "data.corpora.readers",
    "data.synthetic": "data.corpora.synthetic",
    "decoder_step": "decoding.step",
    "demo": "recipe.demo",
    "distributed": "utils.distributed",
    "evaluation": "recipe.evaluate",
    "freezing": "model.freezing",
    "generation": "decoding.generate",
    "inputs": "model.inputs",
    "label_command": "cli.label",
    "losses": "model.losses",
    "nn.fused_decoder": "nn.fused.fused_decoder",
    "nn.kv_cache": "nn.fused.kv_cache",
    "nn.packed": "nn.fused.packed",
    "noise": "utils.noise",
    "pair_commands": "cli.pairs",
    "plots": "utils.plots",
    "positions": "model.embedding",
    "pretrained": "model.pretrained",
    "restricted": "utils.restricted",
    "scoring": "decoding.score",
    "stages": "recipe.stages",
    "streaming": "decoding.stream",
    "text_to_semantic": "model.text_to_semantic",
    "throughput": "decoding.batching",
    "training.checkpoint": "training.run",
    "training.loop": "training.trainer",
    "training.seeing": "training.plots",
    "training.trainers": "training.stages",
    "wrappers": "objectives",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds modules by their former paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(f"{PACKAGE}.")
        if name == fullname or name not in MOVED:
            return None
        message = f"{fullname} has moved to {PACKAGE}.{MOVED[name]}: the old path will go in release 0.7"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(f"{PACKAGE}.")
        sys.modules[module.__name__] = import_module(f"{PACKAGE}.{MOVED[name]}")


def install() -> None:
    """Lets Python find modules by their former paths from now on."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
