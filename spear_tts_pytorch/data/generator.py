"""Pseudo-labels: a model transcribes speech, and the pairs of semantic and text ids are written to a folder.

In: a model, a dataset of waveforms `[t]` or semantic ids `[n]`. Out: Parquet shards in a folder (`data/pairs`).
An interrupted run continues with the items that the folder lacks.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from torch import nn
from tqdm.auto import tqdm
from typing_extensions import Unpack

from spear_tts_pytorch.data.label_writer import LabelWriter, ids_in, remove_pairs
from spear_tts_pytorch.data.label_writer import model_hash as model_hash
from spear_tts_pytorch.data.labelling import Decode, Labeller, read_items
from spear_tts_pytorch.data.loader import SizedDataset
from spear_tts_pytorch.data.pairs.shards import list_shards, read_column, update_counts
from spear_tts_pytorch.data.tokenized import check_made_by
from spear_tts_pytorch.decoding.options import DecodingOptions, RestrictionKeywords, with_options
from spear_tts_pytorch.model.text_to_semantic import TextToSemantic
from spear_tts_pytorch.utils.arguments import check_keywords
from spear_tts_pytorch.utils.distributed import locked_for_all, rank_and_world, wait_for_everyone
from spear_tts_pytorch.utils.values import absolute_path, instance, number_of_items, one_of, shown, switch, whole_number

WINDOW_BATCHES = 32  # number of batches whose items are read, and sorted by length, together
SHOWN = 5  # most items that a warning names
RESERVED = (
    "source",
    "source_type",
    "target_type",
    "source_mask",
    "source_lengths",
    "return_source",
    "return_target_mask",
    "return_scores",
    "generator",
)


class LabelKeywords(RestrictionKeywords, total=False):
    """Further keywords of the label generator, see `DecodingOptions`."""

    temperature: float
    beam_size: int
    length_penalty: float
    n_best: int
    cond_scale: float


class ForwardKeywords(LabelKeywords, total=False):
    """All options of decoding that the label generator takes."""

    max_length: int
    beam_search_decode: bool


class SemanticToTextDatasetGenerator(nn.Module):
    """Transcribes a dataset of speech into a folder of pairs, which `GeneratedAudioTextDataset` reads.

    Args:
        model: a `TextToSemantic` trained on speech to text.
        dataset: waveforms `[t]` at the tokenizer's rate, or semantic ids `[n]`, bare or in a tuple of one. Items are
            named by `dataset.ids` (unique strings) if it exists, else by their index.
        folder: folder of the pairs; made if it does not exist.
        batch_size: most items that are decoded together.
        delimiter_id: of the file format up to 0.4.8, without effect.
        audio_pad_id, text_pad_id: must be the padding ids of the model; None is the model's.
        decode: replaces `model.generate_many`: from semantic ids `[b, n]`, padded with -1, to a list of (text ids `[m]`,
            score).
        rows_per_shard: pairs after which a shard is written; a killed process loses those of its unfinished shard.
        progress: shows a bar, on terminals.
        batch_tokens: most semantic ids, with padding, that are decoded together.
        num_workers: number of processes that read the dataset; 0 reads in this process.
        on_error: "skip" leaves out items that cannot be read or labelled, and counts and names them; if this concerns all
            items so far, the error is raised. "raise" raises the error of the first such item.
        n_best_folder: folder for the other hypotheses of a beam search with `n_best` above 1, written as pairs with the
            ids "{id}#2", "{id}#3" and so on.

    Attributes:
        problems: reasons why items of the last call were left out, by id.

    Raises:
        TypeError, ValueError: an empty dataset, ids of another tokenizer than the model's, an option of a wrong kind or
            out of range, or pads that are not the model's.
    """

    model: TextToSemantic

    def __init__(
        self,
        model: TextToSemantic,
        *,
        dataset: SizedDataset,
        folder: str | Path = "./generated-audio-text-pairs",
        batch_size: int = 4,
        delimiter_id: int = -1,
        audio_pad_id: int | None = None,
        text_pad_id: int = 0,
        decode: Decode | None = None,
        rows_per_shard: int = 1000,
        progress: bool = True,
        batch_tokens: int = 32_768,
        num_workers: int = 0,
        on_error: Literal["skip", "raise"] = "skip",
        n_best_folder: str | Path | None = None,
    ):
        super().__init__()
        self.model, self.dataset = instance("model", model, TextToSemantic), dataset
        if number_of_items("dataset", dataset) == 0:
            raise ValueError("dataset is empty: give at least one item to label")
        check_made_by(model.wav2vec, dataset)
        self.on_error = one_of("on_error", on_error, ("skip", "raise"))
        if decode is not None and not callable(decode):
            raise TypeError(f"decode must be a function or None, got {shown(decode)}")
        pads = model.pad_id["speech"], model.pad_id["text"]
        self.audio_pad_id = pads[0] if audio_pad_id is None else whole_number("audio_pad_id", audio_pad_id)
        self.text_pad_id = whole_number("text_pad_id", text_pad_id)
        if (self.audio_pad_id, self.text_pad_id) != pads:
            raise ValueError(
                f"audio_pad_id {self.audio_pad_id} and text_pad_id {self.text_pad_id} must be the model's, {model.pad_id}"
            )
        self.folder = absolute_path("folder", folder)
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.rows_per_shard = whole_number("rows_per_shard", rows_per_shard, 1)
        self.batch_tokens = whole_number("batch_tokens", batch_tokens, 1)
        self.num_workers = whole_number("num_workers", num_workers, 0)
        self.progress = switch("progress", progress)
        self.delimiter_id = whole_number("delimiter_id", delimiter_id)
        self.n_best_folder = None if n_best_folder is None else absolute_path("n_best_folder", n_best_folder)
        self.decode = decode
        self.problems: dict[str, str] = {}

    def __repr__(self) -> str:
        return (
            f"SemanticToTextDatasetGenerator({len(self.dataset)} items to {self.folder}, batches of {self.batch_size})"
        )

    @with_options(LabelKeywords)
    def forward(
        self,
        max_length: int = 2048,
        beam_search_decode: bool = True,
        *,
        overwrite: bool = False,
        seed: int | None = None,
        **generate_kwargs: Unpack[LabelKeywords],
    ) -> dict[str, int]:
        """Labels the items that the folder does not hold yet.

        Args:
            max_length: most ids of a text, end-of-sequence included.
            beam_search_decode: True decodes by beam search, False by sampling.
            overwrite: True removes the pairs in the folder first.
            seed: fixes the draws of sampling; None is 0.
            generate_kwargs: further options of decoding, as in `model.generate`: `temperature` (1.0), `filter_logits_fn`,
                `filter_fn_kwargs`, `min_length` (0), `repetition_penalty` (1.0), `no_repeat_ngram_size` (0), `beam_size`
                (4), `length_penalty` (0.0), `n_best` (1) and `cond_scale` (1.0).

        Returns:
            Numbers of items of this process: `written`; `skipped`, because the folder held them; `empty`, without
            semantic ids; `failed`, which `problems` names.

        Raises:
            TypeError, ValueError: wrong options; two items of one id; a folder with pairs of another model, other options
                or other speech.
            RuntimeError: another process writes to the folder.
        """
        overwrite, seed = switch("overwrite", overwrite), None if seed is None else whole_number("seed", seed, 0)
        options = {"max_length": max_length, "beam_search_decode": beam_search_decode, **generate_kwargs}
        how = self._how(options)
        options |= {} if seed is None else {"seed": seed}
        rank, world = rank_and_world()
        ids = self._ids()
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked_for_all(self.folder):
            labeller = Labeller(self.model, self.batch_size, self.batch_tokens, how, seed or 0)
            if rank == 0 and overwrite:
                remove_pairs(self.folder)
            wait_for_everyone()
            done = ids_in(self.folder)
            self._check_same_speech(ids, labeller)
            wait_for_everyone()  # no process writes before all have read the folder
            own = range(rank, len(ids), world)
            todo = [index for index in own if ids[index] not in done]
            counts = {"written": 0, "skipped": len(own) - len(todo), "empty": 0, "failed": 0}
            writer = self._writer(rank, options, overwrite)
            with writer, self._bar(len(ids), counts["skipped"] * world, rank) as bar:
                self._run(todo, ids, labeller, writer, bar, counts, world)
            wait_for_everyone()
            if rank == 0:
                for folder in filter(None, (self.folder, self.n_best_folder)):
                    update_counts(folder)
        self._warn(counts)
        return counts

    def _how(self, options: dict[str, Any]) -> DecodingOptions | Decode:
        """The options of decoding, or the user's function; raises ValueError for options that are not possible here."""
        wrong = [name for name in RESERVED if name in options]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be passed on to model.generate: the generator sets it, leave it out")
        check_keywords("the generator", ForwardKeywords, options)
        how = DecodingOptions(**options, source_type="speech", target_type="text")
        how.check(self.model)
        if (self.n_best_folder is not None) != (how.n_best > 1):
            raise ValueError("n_best above 1 and n_best_folder go together: give both, or neither")
        if self.n_best_folder is not None and self.n_best_folder.resolve() == self.folder.resolve():
            raise ValueError(f"n_best_folder must be another than folder, {self.folder}: choose another")
        return how if self.decode is None else self.decode

    def _run(
        self,
        todo: list[int],
        ids: list[str],
        labeller: Labeller,
        writer: LabelWriter,
        bar: tqdm[Any],
        counts: dict[str, int],
        world: int,
    ) -> None:
        """Labels the items at `todo` and writes them, a window at a time."""
        self.problems, hours, met = {}, 0.0, 0
        items = read_items(self.dataset, todo, ids, self.num_workers)
        for window in labeller.windows(items, self.batch_size * WINDOW_BATCHES):
            writer.write(window)
            failed = [item.problem for item in window if item.problem is not None]
            met += len(window)
            hopeless = len(failed) == met and not counts["skipped"]  # the cause is the model or an option, not an item
            if failed and (self.on_error == "raise" or hopeless):
                raise failed[0]
            for item in window:
                if item.problem is not None:
                    counts["failed"] += 1
                    self.problems[item.id] = f"{type(item.problem).__name__}: {item.problem}"
                else:
                    counts["empty" if item.label is None else "written"] += 1
            hours += sum(item.seconds for item in window) * world / 3600
            bar.update(len(window) * world)
            if hours:
                bar.set_postfix_str(f"{hours:.2f} h of audio")

    def _warn(self, counts: dict[str, int]) -> None:
        if counts["empty"]:
            warnings.warn(f"{counts['empty']} items have no semantic ids (too short?) and were left out", stacklevel=3)
        if self.problems:
            named = "; ".join(f"{id!r} ({reason})" for id, reason in list(self.problems.items())[:SHOWN])
            more = f" and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            warnings.warn(
                f"{len(self.problems)} items could not be labelled and were left out: {named}{more}", stacklevel=3
            )

    def _ids(self) -> list[str]:
        """The names of all items."""
        given: Any = getattr(self.dataset, "ids", None)
        given = given.tolist() if hasattr(given, "tolist") else given
        ids = [str(i) for i in (range(len(self.dataset)) if given is None else given)]
        if len(ids) != len(self.dataset) or len(set(ids)) != len(ids):
            raise ValueError(
                f"dataset.ids must be {len(self.dataset)} different strings, got {len(set(ids))} of {len(ids)}"
            )
        return ids

    def _check_same_speech(self, ids: list[str], labeller: Labeller) -> None:
        """Raises ValueError if the first pair in the folder has other semantic ids than the item of its name."""
        shards = [path for path in list_shards(self.folder) if len(read_column(path, "id"))]
        if not shards:
            return
        name, there = (read_column(shards[0], column)[0].as_py() for column in ("id", "semantic_ids"))
        if name not in ids:
            return
        item = next(read_items(self.dataset, [ids.index(name)], ids))
        if item.problem is None:
            labeller.tokenize([item])
        if item.problem is not None:
            raise item.problem
        if item.speech.tolist() != there:
            raise ValueError(
                f"{self.folder} holds pairs of another dataset: its item {name!r} is other speech. Choose another folder, "
                "give the dataset ids of its own, or remove these pairs by overwrite=True"
            )

    def _writer(self, rank: int, options: dict[str, Any], overwrite: bool) -> LabelWriter:
        """Opens the folders to write to."""
        done, others = set[str](), self.n_best_folder
        if others is not None:
            others.mkdir(parents=True, exist_ok=True)
            if rank == 0 and overwrite:
                remove_pairs(others)
            wait_for_everyone()
            done = ids_in(others)
            wait_for_everyone()
        return LabelWriter(
            self.model,
            self.folder,
            others,
            done=done,
            rank=rank,
            rows_per_shard=self.rows_per_shard,
            options=options,
            decode=self.decode,
        )

    def _bar(self, total: int, done: int, rank: int) -> tqdm[Any]:
        hidden = True if not self.progress or rank != 0 else None
        return tqdm(total=total, initial=done, disable=hidden, desc="labelling", unit="utt")
