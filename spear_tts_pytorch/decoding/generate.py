"""Generation: from texts, waveforms or ids to target ids `[b, n]`, all at once or the n best.

In: a model, sources, and options. Out: ids with end-of-sequence where it came and padding after it. One call goes: source ids,
encoder, a `DecoderStep` with its cache, a strategy over it, the result. `stream.py` and `batching.py` go the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor
from tqdm.auto import tqdm
from typing_extensions import Unpack

from spear_tts_pytorch.decoding.accelerate import Accelerated, fused_decoder
from spear_tts_pytorch.decoding.beam import BeamSearch
from spear_tts_pytorch.decoding.loop import (
    DecodeResult,
    Hypothesis,
    Limits,
    Progress,
    Strategy,
    admit_all,
    collected,
    decode,
    drained,
)
from spear_tts_pytorch.decoding.options import (
    BeamKeywords,
    DecodingKeywords,
    DecodingOptions,
    options_of,
    with_options,
)
from spear_tts_pytorch.decoding.restriction import Prompts
from spear_tts_pytorch.decoding.sampling import Sampling, seed_of
from spear_tts_pytorch.decoding.speculative import Speculation
from spear_tts_pytorch.decoding.step import DecoderStep
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.tokens import Batch, Modality, strip, valid_mask
from spear_tts_pytorch.utils.checks import in_evaluation
from spear_tts_pytorch.utils.values import switch


class BatchKeywords(DecodingKeywords, total=False):
    """Keywords of `generate` about one batch."""

    source_mask: Tensor | None
    source_lengths: Tensor | None
    prompt: Batch | None
    generator: torch.Generator | None
    progress: bool


class Run(NamedTuple):
    """A batch under way: the progress of each step, and the result that the hypotheses of all sources make."""

    steps: Iterator[Progress]
    result: Callable[[Mapping[int, list[Hypothesis]]], DecodeResult]


@overload
def generate(
    model: Accelerated, source: Batch, *, return_result: Literal[True], **options: Unpack[BatchKeywords]
) -> DecodeResult: ...


@overload
def generate(
    model: Accelerated,
    source: Batch,
    *,
    return_scores: Literal[True],
    return_source: bool = False,
    return_target_mask: bool = False,
    **options: Unpack[BatchKeywords],
) -> tuple[Tensor, ...]: ...


@overload
def generate(
    model: Accelerated,
    source: Batch,
    *,
    return_target_mask: Literal[True],
    return_source: bool = False,
    **options: Unpack[BatchKeywords],
) -> tuple[Tensor, ...]: ...


@overload
def generate(
    model: Accelerated, source: Batch, *, return_source: Literal[True], **options: Unpack[BatchKeywords]
) -> tuple[Tensor, ...]: ...


@overload
def generate(
    model: Accelerated,
    source: Batch,
    *,
    return_source: Literal[False] = False,
    return_target_mask: Literal[False] = False,
    return_scores: Literal[False] = False,
    return_result: Literal[False] = False,
    **options: Unpack[BatchKeywords],
) -> Tensor: ...


@with_options(DecodingKeywords)
@torch.no_grad()
def generate(
    model: Accelerated,
    source: Batch,
    *,
    source_mask: Tensor | None = None,
    source_lengths: Tensor | None = None,
    prompt: Batch | None = None,
    generator: torch.Generator | None = None,
    return_source: bool = False,
    return_target_mask: bool = False,
    return_scores: bool = False,
    return_result: bool = False,
    progress: bool = False,
    **options: Unpack[DecodingKeywords],
) -> Tensor | tuple[Tensor, ...] | DecodeResult:
    """Generates target ids.

    Args:
        source: texts, ids `[b, n]` of any integer dtype, or (speech) waveforms `[b, t]`; arrays and lists of rows too.
        source_mask: `[b, n]`, True at real ids; by default, ids that are not padding.
        source_lengths: of waveforms, in samples, `[b]`.
        prompt: target ids `[b, n]` that the rows begin with, padded on the right, at least one in each row. They are
            not part of the result.
        generator: makes draws reproducible. Each row draws noise of its own, made of a seed from the generator and of the
            row's index: `generate_many` with the same generator draws the same ids.
        return_source, return_target_mask, return_scores: also return the source ids, the mask of real ids, and each row's
            mean log-probability (beam search: its score).
        return_result: returns a `DecodeResult` instead: ids, scores, and which rows `max_length` cut; with speculation a
            `SpeculativeResult`, which also tells how many drafts were accepted.
        progress: shows a bar, on terminals.
        options: see `decoding.options.DecodingOptions`: `source_type` ("text"), `target_type` ("speech"), `temperature` (1; 0
            is greedy), `filter_logits_fn` (`top_k`), `filter_fn_kwargs`, `max_length` (2048 ids), `min_length` (0),
            `repetition_penalty` (1), `no_repeat_ngram_size` (0 = off), `beam_search_decode`, `beam_size` (4),
            `length_penalty` (0), `spec_decode`, `spec_decode_gamma` (5), `spec_decode_lenience` (1), `cond_scale` (1).

    Returns:
        Ids `[b, n]`, int64, end-of-sequence where it came and padding after it. With `return_source` the source ids
        come before; with `return_target_mask` the mask of real ids, and with `return_scores` the scores `[b]`, after.

    Raises:
        ValueError, TypeError: options out of range, or that exclude each other or do not fit the model; sources as in
            `to_ids`.
    """
    how = options_of("generate", DecodingKeywords, options)
    how.check(model)
    returned = dict(return_source=return_source, return_target_mask=return_target_mask, return_scores=return_scores)
    _check_returned(return_result, progress, returned)
    with tqdm(unit="step", disable=None if progress else True, leave=False) as bar:
        source = model.source_ids(source, how.source_type, source_mask, source_lengths)
        run = begin(model, source, how, prompt=prompt, seed=seed_of(generator))
        result = run.result(drained(run.steps, bar.update))
    if return_result:
        return result
    found = (source,) if return_source else ()
    found += (result.ids,)
    found += (valid_mask(result.ids, model.vocabulary[how.target_type].pad_id),) if return_target_mask else ()
    found += (result.scores,) if return_scores else ()
    return found if len(found) > 1 else result.ids


def _check_returned(return_result: object, progress: object, returned: Mapping[str, object]) -> None:
    switch("progress", progress)
    alone = switch("return_result", return_result)
    for name, value in returned.items():
        if switch(name, value) and alone:
            raise ValueError(f"return_result returns a DecodeResult alone: leave {name} out")


@with_options(BeamKeywords)
@torch.no_grad()
def generate_n_best(
    model: Accelerated,
    source: Batch,
    *,
    n_best: int = 4,
    source_mask: Tensor | None = None,
    source_lengths: Tensor | None = None,
    prompt: Batch | None = None,
    **options: Unpack[BeamKeywords],
) -> list[list[Hypothesis]]:
    """The `n_best` hypotheses of a beam search for each source, best first, none twice, with scores.

    Args:
        n_best: hypotheses for each source, at most `beam_size`; fewer are returned if there are no more.
        source, source_mask, source_lengths, prompt, options: as in `generate`.

    Raises:
        ValueError, TypeError: as `generate`.
    """
    fixed: dict[str, Any] = dict(beam_search_decode=True, n_best=n_best)
    how = options_of("generate_n_best", BeamKeywords, options, **fixed)
    how.check(model)
    source = model.source_ids(source, how.source_type, source_mask, source_lengths)
    run = begin(model, source, how, prompt=prompt, seed=0)
    return run.result(drained(run.steps)).n_best


def begin(
    model: Accelerated,
    source: Tensor,
    options: DecodingOptions,
    *,
    prompt: Batch | None = None,
    seed: int | Sequence[int] = 0,
    numbers: Sequence[int] | None = None,
) -> Run:
    """Encodes source ids `[b, n]`, reads the prompt, and begins to decode.

    Args:
        seed: of the noise, see `sampling.keys_of`.
        numbers: the sources' numbers; 0, 1, ... by default.
    """
    rows, limits = len(source), Limits.of(model.vocabulary[options.target_type])
    numbers = range(rows) if numbers is None else numbers
    prompt = None if prompt is None else prompt_ids(model, prompt, options.target_type, rows)
    given = (
        None if prompt is None else {n: strip(row, limits.pad_id, None) for n, row in zip(numbers, prompt, strict=True)}
    )
    step, cache = encoded(model, source, options, prompt)
    if options.spec_decode:
        speculation = Speculation(
            step,
            cache,
            numbers,
            options=options,
            limits=limits,
            seed=seed,
            device=model.device,
            draft_cost=draft_cost(model),
            prompts=given,
        )
        return Run(iter(speculation), speculation.result)
    admit = admit_all(step, cache, numbers, model.device)
    steps = decode(step, admit, strategy_of(options, limits, seed, model.device, given), rows)
    return Run(steps, partial(collected, pad_id=limits.pad_id))


def encoded(
    model: Accelerated, source: Tensor, options: DecodingOptions, prompt: Tensor | None = None
) -> tuple[DecoderStep, KVCache]:
    """The step for source ids `[b, n]`, and a cache that holds the encoded sources and the prompt's ids `[b, m]`."""
    context, mask, positions = in_evaluation(model).encode_ids(source, options.source_type)
    step = decoder_step(model, options, len(source))
    return step, step.new_cache(context, mask, positions.expand(len(source), -1), prompt)


def decoder_step(model: Accelerated, options: DecodingOptions, sources: int) -> DecoderStep:
    """The step for a batch of so many sources."""
    rows = sources * options.rows_per_source * (1 if options.cond_scale == 1 else 2)
    decoder = fused_decoder(model, options.target_type, rows=rows, steps=options.max_length, drafts=options.spec_decode)
    return DecoderStep(model, decoder, options.target_type, options.cond_scale)


def strategy_of(
    options: DecodingOptions,
    limits: Limits,
    seed: int | Sequence[int],
    device: torch.device,
    prompts: Prompts = None,
) -> Callable[[list[int]], Strategy]:
    """Makes the state of sources with these numbers: beam search, or sampling."""
    if options.beam_search_decode:
        return partial(BeamSearch, options=options, limits=limits, device=device, prompts=prompts)
    return partial(Sampling, options=options, limits=limits, seed=seed, device=device, prompts=prompts)


def draft_cost(model: Accelerated) -> float:
    """Cost of a draft as a share of a full step: the layers below the exit, and head and draw as one more layer."""
    return ((model.early_exit_layer or 0) + 1) / len(model.target_transformer.layers)


def prompt_ids(model: Accelerated, prompt: Batch, target_type: Modality, rows: int | None = None) -> Tensor:
    """A prompt as checked ids `[b, n]`: at least one in each row, and no end-of-sequence; `rows` checks b."""
    ids = model.to_ids(prompt, target_type, "prompt", empty_rows=False)
    if rows is not None and len(ids) != rows:
        raise ValueError(f"source has {rows} rows and prompt {len(ids)}: they must agree")
    vocabulary = model.vocabulary[target_type]
    if vocabulary.autoset_eos and bool((ids == vocabulary.eos_id).any()):
        raise ValueError(
            f"prompt holds end-of-sequence ({vocabulary.eos_id}), after which nothing follows: leave it out"
        )
    return ids


@torch.no_grad()
def alignment(
    model: Accelerated,
    source: Batch,
    target: Batch,
    *,
    source_type: Modality = "text",
    target_type: Modality = "speech",
    source_position_rate: float | None = None,
) -> Tensor:
    """Cross-attention weights of every layer, `[layers, b, h, n + 1, 1 + m]`, for targets `[b, n]` and sources `[b, m]`.

    The start token comes before the target ids, and the null key before the source ids.

    Args:
        source, target: as the model's forward pass takes them.
        source_position_rate: steps of the speech timeline between source ids, if not the modality's own.
    """
    weights: list[Tensor] = []

    def note(layer: Any, inputs: tuple[Any, ...]) -> None:
        weights.append(layer.weights(*inputs[:3]))

    layers = [block.cross_attention for block in model.target_transformer.blocks]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers if layer is not None]
    try:
        in_evaluation(model)(
            source,
            target,
            source_type=source_type,
            target_type=target_type,
            source_position_rate=source_position_rate,
        )
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(weights)
