"""Any number of sources: sorted by length, decoded under a budget of ids, results in the order of the sources.

In: texts, waveforms or rows of ids. Out: a list of `Generated`. All sources are checked, and tokenized in chunks, before any is
decoded. Then they go through one batch, the longest first, so that sources that do not fit into memory fail at once. Where a
source has ended, the next one takes its slot (`continuous.py`). A source that goes on to `max_length` holds up no other, but
for sources less than half as long: of these more fit into a batch, which begins when this one is empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, overload

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import Unpack

from spear_tts_pytorch.decoding.accelerate import Accelerated
from spear_tts_pytorch.decoding.continuous import Rows, generate_each
from spear_tts_pytorch.decoding.generate import prompt_ids
from spear_tts_pytorch.decoding.loop import Hypothesis, Limits
from spear_tts_pytorch.decoding.options import DecodingOptions, ManyKeywords, options_of, with_options
from spear_tts_pytorch.decoding.plan import SAMPLES_PER_ID, in_batches, in_shifts, size_in_ids
from spear_tts_pytorch.decoding.sampling import seed_of
from spear_tts_pytorch.tokens import Batch, strip
from spear_tts_pytorch.utils.values import MOST_INTEGER, listed, one_of, plain, switch, whole_number

OnError = Literal["raise", "skip"]
MOST_SEED = 2**64 - 1
FAILURES = (RuntimeError, MemoryError)  # errors that a batch may meet because of its sources; others are about options
SHOWN = 20  # indices and reasons that a warning lists


@dataclass(frozen=True, eq=False)
class Generated:
    """The generated ids of one source.

    Attributes:
        ids: int64 `[n]` on the CPU, without padding and end-of-sequence; n may be 0.
        score: as `generate(return_scores=True)` gives it: mean log-probability per id, or the beam search's score.
        truncated: `max_length` came before end-of-sequence.
        others: of a beam search with `n_best` above 1 the other hypotheses, best first.
    """

    ids: Tensor
    score: float
    truncated: bool
    others: list[Generated] = field(default_factory=list["Generated"])


class JobKeywords(ManyKeywords, total=False):
    """Keywords of `generate_many`, see there."""

    max_tokens: int
    max_batch_size: int
    progress: bool
    seed: int | Sequence[int] | None
    generator: torch.Generator | None
    prompt: Batch | None


@overload
def generate_many(
    model: Accelerated,
    sources: Batch | Iterable[Any],
    *,
    on_error: Literal["raise"] = "raise",
    **options: Unpack[JobKeywords],
) -> list[Generated]: ...


@overload
def generate_many(
    model: Accelerated, sources: Batch | Iterable[Any], *, on_error: OnError, **options: Unpack[JobKeywords]
) -> list[Generated | None]: ...


@with_options(ManyKeywords)
def generate_many(
    model: Accelerated,
    sources: Batch | Iterable[Any],
    *,
    max_tokens: int = 8192,
    max_batch_size: int = 32,
    on_error: OnError = "raise",
    progress: bool = True,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    prompt: Batch | None = None,
    **options: Unpack[ManyKeywords],
) -> list[Generated] | list[Generated | None]:
    """Generates for any number of sources, through one batch that is kept full; see the module's docstring.

    Each source has noise of its own, made of the seed and its index: its draws do not depend on other sources or on batches.
    With the same generator, `generate` draws the same ids for the same sources. (With `spec_decode`, the number of drafts
    follows the whole batch: other sources change the draws, not their distribution.)

    Args:
        sources: list of texts, of ids `[n]`, or (speech) of waveforms `[t]`, as tensors, arrays or lists; or a
            padded batch of ids `[b, n]`, or waveforms `[b, t]` that are audio up to their end.
        max_tokens: most source ids in the batch, with padding and ends. As many are encoded ahead. A longer source is alone.
        max_batch_size: most sources in the batch. Memory for generated ids grows with it and `max_length`.
        on_error: "raise" names a source that cannot be used, before any work. "skip" puts None in its place and warns. If a
            batch fails (memory runs out), "raise" names its sources, "skip" goes on in smaller batches.
        progress: shows a bar, on terminals.
        seed: at least 0; makes draws reproducible. A seed for each source makes its draws independent of its index.
        generator: gives a seed instead. Without either, `torch.manual_seed` decides.
        prompt: as in `generate`, one row for each source, or one for all.
        options: as in `generate`, and `n_best` (1) for beam search.

    Returns:
        One `Generated` for each source, in their order; an empty list if there are none.

    Raises:
        ValueError, TypeError: as `generate`; a source that `to_ids` refuses.
        RuntimeError: a tokenizer or a batch failed otherwise.
    """
    max_tokens, max_batch_size = _check_limits(max_tokens, max_batch_size, on_error, progress)
    return decode_many(
        model,
        sources,
        _options(options),
        max_tokens=max_tokens,
        max_batch_size=max_batch_size,
        on_error=on_error,
        progress=progress,
        seed=seed,
        generator=generator,
        prompt=prompt,
    )


def decode_many(
    model: Accelerated,
    sources: Batch | Iterable[Any],
    options: DecodingOptions,
    *,
    max_tokens: int,
    max_batch_size: int,
    on_error: OnError = "raise",
    progress: bool = True,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    prompt: Batch | None = None,
) -> list[Generated | None]:
    """`generate_many` with options that are made already; arguments, results and errors are the same."""
    options.check(model)
    first_seed = _first_seed(seed, generator)
    rows = _as_rows(sources)
    _check_seeds(first_seed, len(rows))
    job = _Job(
        model=model,
        sources=rows,
        options=options,
        max_tokens=max_tokens,
        max_rows=max_batch_size,
        skip=on_error == "skip",
        progress=progress,
        seed=first_seed,
        prompts=_prompt_rows(model, prompt, options, len(rows)),
    )
    results = job.run() if rows else []
    if job.problems:
        warnings.warn(_summary(job.problems, len(rows)), stacklevel=3)  # the caller of generate_many
    return results


def _prompt_rows(
    model: Accelerated, prompt: Batch | None, options: DecodingOptions, number: int
) -> list[Tensor] | None:
    if prompt is None or not number:
        return None
    pad_id = model.vocabulary[options.target_type].pad_id
    rows = [strip(row, pad_id, None) for row in prompt_ids(model, prompt, options.target_type)]
    if len(rows) not in (1, number):
        raise ValueError(f"prompt has {len(rows)} rows for {number} sources: give one for each, or one for all")
    return rows * number if len(rows) == 1 else rows


@dataclass
class _Job:
    """One call: sources as they came, then as ids, then the results."""

    model: Accelerated
    sources: list[Any]
    options: DecodingOptions
    max_tokens: int
    max_rows: int
    skip: bool
    progress: bool
    seed: int | list[int]
    prompts: list[Tensor] | None
    ids: list[Tensor | None] = field(init=False)
    results: list[Generated | None] = field(init=False)
    problems: dict[int, str] = field(default_factory=dict[int, str])  # why a source was skipped
    succeeded: bool = False

    def __post_init__(self) -> None:
        self.ids, self.results = [None] * len(self.sources), [None] * len(self.sources)

    def run(self) -> list[Generated | None]:
        self.tokenize()
        source = self.model.vocabulary[self.options.source_type]
        lengths = {i: len(row) + int(source.autoset_eos) for i, row in enumerate(self.ids) if row is not None}
        with self.bar("generating", initial=len(self.problems)) as shown:
            for slots, queue in in_shifts(lengths, self.max_tokens, self.max_rows):
                self.generate(queue, slots, shown)
        return self.results

    def bar(self, what: str, initial: int = 0, leave: bool = True) -> tqdm[Any]:
        hidden = None if self.progress else True
        return tqdm(total=len(self.sources), initial=initial, desc=what, unit="source", disable=hidden, leave=leave)

    # tokenizing

    def tokenize(self) -> None:
        """Fills `ids` with rows `[n]` on the CPU, None where a source cannot be used."""
        per_id = getattr(self.model.wav2vec, "downsample_factor", SAMPLES_PER_ID)
        sizes = {i: size_in_ids(source, per_id) for i, source in enumerate(self.sources)}
        with self.bar("reading", leave=False) as bar:
            for chunk in in_batches(sizes, self.max_tokens, self.max_rows):
                try:
                    rows = self.to_rows([self.sources[i] for i in chunk])
                except Exception:  # tokenizers raise any kind of error; one by one shows which source it is about
                    rows = None
                for place, i in enumerate(chunk):
                    self.ids[i] = self.tokenize_one(i) if rows is None else rows[place]
                bar.update(len(chunk))

    def tokenize_one(self, index: int) -> Tensor | None:
        try:
            return self.to_rows([self.sources[index]])[0]
        except Exception as error:
            if not self.skip:
                kind = next((kind for kind in (ValueError, TypeError) if isinstance(error, kind)), RuntimeError)
                raise kind(f"sources[{index}]: {_reason(error)}") from error
            self.problems[index] = _reason(error)
            return None

    @torch.no_grad()
    def to_rows(self, sources: list[Any]) -> list[Tensor]:
        modality = self.options.source_type
        ids = self.model.to_ids(sources, modality, "source", empty_rows=False).cpu()
        return [strip(row, self.model.vocabulary[modality].pad_id, None) for row in ids]

    # generating

    def generate(self, queue: list[int], slots: int, shown: tqdm[Any]) -> None:
        """Fills `results` for the sources of a queue, the longest first, at most `slots` of them at a time."""
        queue = list(reversed(queue))  # the next one last
        while queue:
            begun: dict[int, None] = {}  # those without a result yet, in order
            error = self.attempt(queue, begun, slots, shown)
            if error is None:
                continue
            failed = list(begun)
            if not self.skip or not failed:
                if not failed or (not self.succeeded and not isinstance(error, FAILURES)):
                    raise error  # about the options
                if not isinstance(error, FAILURES):
                    raise type(error)(f"among sources {_listing(failed)}: {_reason(error)}") from error
                raise RuntimeError(
                    f"sources {_listing(failed)} could not be generated together: {_reason(error)}. If memory ran out, "
                    f"lower max_batch_size, max_tokens or max_length; on_error='skip' tries smaller batches"
                ) from error
            if len(failed) > 1:
                half = (len(failed) + 1) // 2
                for part in (failed[:half], failed[half:]):
                    self.generate(part, half, shown)
                slots = min(slots, half)
            else:
                self.problems[failed[0]] = _reason(error)
                shown.update()
            if not self.succeeded and not isinstance(error, FAILURES):
                raise error  # every source so far met it: it is about the options, not about one of them

    def attempt(self, queue: list[int], begun: dict[int, None], slots: int, shown: tqdm[Any]) -> Exception | None:
        """Works through the queue; returns the error if it failed, without the frames that would keep its tensors alive.

        Sources leave `queue` when they are encoded, and stand in `begun` until they have a result.
        """

        def rows() -> Rows:
            while queue:
                number = queue.pop()
                begun[number], ids = None, self.ids[number]
                assert ids is not None
                yield number, ids

        how: dict[str, Any] = dict(slots=min(slots, len(queue)), seed=self.seed, prompts=self.prompts)
        try:
            for index, found in generate_each(self.model, rows(), self.options, **how):
                self.results[index] = self.generated(found)
                self.succeeded = True
                del begun[index]
                shown.update()
        except Exception as error:
            return error.with_traceback(None) if self.skip else error
        return None

    def generated(self, found: list[Hypothesis]) -> Generated:
        limits = Limits.of(self.model.vocabulary[self.options.target_type])
        best, *others = (
            Generated(strip(one.ids.cpu(), limits.pad_id, limits.eos_id), one.score, one.truncated) for one in found
        )
        return replace(best, others=others)


def _check_limits(max_tokens: int, max_batch_size: int, on_error: OnError, progress: bool) -> tuple[int, int]:
    switch("progress", progress)
    one_of("on_error", on_error, ("raise", "skip"))
    return (
        whole_number("max_tokens", max_tokens, 1, MOST_INTEGER),
        whole_number("max_batch_size", max_batch_size, 1, MOST_INTEGER),
    )


def _options(given: Mapping[str, Any]) -> DecodingOptions:
    for name in given:
        if name in ("source_mask", "source_lengths"):
            raise ValueError(f"{name} is for one padded batch: give generate_many a list of rows without padding")
        if name.startswith("return_"):
            raise ValueError(f"{name} cannot be passed on to generate: the results hold ids, score and truncated")
    return options_of("generate_many", ManyKeywords, given)


def _first_seed(seed: int | Sequence[int] | None, generator: torch.Generator | None) -> int | list[int]:
    if seed is not None and generator is not None:
        raise ValueError("give seed or generator, not both")
    if seed is None:
        return seed_of(generator)
    given = plain(seed)
    each = ", or one for each source"
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        return whole_number("seed", given, 0, MOST_SEED, also=each)
    return [whole_number("seed", one, 0, MOST_SEED, also=each) for one in cast("Iterable[object]", given)]


def _check_seeds(seed: int | list[int], sources: int) -> None:
    if isinstance(seed, list) and len(seed) != sources:
        raise ValueError(f"seed has {len(seed)} numbers for {sources} sources: give one, or one for each")


def _as_rows(sources: Any) -> list[Any]:
    if isinstance(sources, str):
        raise TypeError("sources is a single text: give a list of texts")
    sources = listed("sources", sources)
    if isinstance(sources, (Tensor, np.ndarray)) and sources.ndim != 2:
        raise ValueError(
            f"sources must be a list of rows, or have the shape [b, n], got {list(cast(Any, sources).shape)}"
        )
    if not isinstance(sources, Iterable):
        raise TypeError(f"sources must be a list of texts, ids or waveforms, got {type(sources).__name__}")
    return list(cast("Iterable[Any]", sources))


def _reason(error: BaseException) -> str:
    plain = isinstance(error, (ValueError, TypeError)) and str(error)
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _listing(indices: Sequence[int]) -> str:
    shown = ", ".join(str(index) for index in indices[:SHOWN])
    return shown if len(indices) <= SHOWN else f"{shown} and {len(indices) - SHOWN} more"


def _summary(problems: dict[int, str], total: int) -> str:
    indices = sorted(problems)
    reasons = "; ".join(f"sources[{index}]: {problems[index]}" for index in indices[:SHOWN])
    return f"{len(indices)} of {total} sources were skipped, with None in their places: {_listing(indices)}. {reasons}"
