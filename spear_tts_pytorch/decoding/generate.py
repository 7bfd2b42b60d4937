"""Generation: from texts, waveforms or ids to ids, by the strategies in `decoding`.

`GenerationMixin` asks the model for its inputs, its encoder and its vocabularies. Out: ids `[b, n]` with padding after
end-of-sequence, at once, as a stream, or the n best. How ids are chosen is the strategies' business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.decoding.beam import BeamResult, Hypothesis, beam_search, check_beam
from spear_tts_pytorch.decoding.loop import DecodeResult, check_lengths, sampling_steps
from spear_tts_pytorch.decoding.sampling import check_temperature, top_k
from spear_tts_pytorch.decoding.speculative import check_speculation, speculative_steps
from spear_tts_pytorch.decoding.step import DecoderStep
from spear_tts_pytorch.decoding.stream import TokenStream
from spear_tts_pytorch.model.inputs import Batch
from spear_tts_pytorch.nn.fused.kv_cache import KVCache
from spear_tts_pytorch.tokens import Modality, valid_mask
from spear_tts_pytorch.utils.checks import evaluating


class GenerationMixin:
    """`generate` and its kin, for `TextToSemantic`."""

    @torch.no_grad()
    def generate(
        self,
        source: Batch,
        *,
        source_type: Modality,
        target_type: Modality,
        temperature: float = 1.0,
        filter_logits_fn: Callable[..., Tensor] | None = top_k,
        filter_fn_kwargs: dict[str, Any] | None = None,
        source_mask: Tensor | None = None,
        max_length: int = 2048,
        beam_search_decode: bool = False,
        spec_decode: bool = False,
        spec_decode_gamma: int = 5,
        spec_decode_lenience: float = 1.0,
        beam_size: int = 4,
        return_source: bool = False,
        return_target_mask: bool = False,
        cond_scale: float = 1.0,
        source_lengths: Tensor | None = None,
        prompt: Batch | None = None,
        length_penalty: float = 0.0,
        generator: torch.Generator | None = None,
        return_scores: bool = False,
        return_result: bool = False,
        progress: bool = False,
    ) -> Tensor | tuple[Tensor, ...] | DecodeResult | BeamResult:
        """Generates target ids.

        Args:
            source: texts, ids `[b, n]` of any integer dtype, or (speech) waveforms `[b, t]`; arrays and lists of rows too.
            temperature: 0 is greedy. Beam search divides its logits by it, and takes no filter.
            filter_logits_fn, filter_fn_kwargs: see `decoding.sampling`; the default keeps the best tenth of the ids.
            source_mask: `[b, n]`, True at real ids; by default, what is not padding.
            max_length: most ids a row may have, end-of-sequence included and the prompt not.
            beam_search_decode, beam_size, length_penalty: beam search; scores are divided by `length ** length_penalty`.
            spec_decode: speculative decoding for text to speech, with a model that has an early exit: ids of the same
                distribution, drafted by the exit up to `spec_decode_gamma` at a time. `spec_decode_lenience` above 1
                accepts more drafts and is no longer exact.
            cond_scale: classifier-free guidance, for models trained with `cond_drop_prob` > 0.
            source_lengths: of waveforms, in samples, `[b]`.
            prompt: target ids `[b, n]` that the rows begin with, padded on the right, at least one in each row. They are
                not part of what is returned.
            generator: makes draws reproducible.
            return_scores: also returns each row's mean log-probability (beam search: its score).
            return_result: returns all that is known instead: `DecodeResult` (ids, scores, which rows `max_length` cut),
                with speculation a `SpeculativeResult`, with beam search a `BeamResult`.

        Returns:
            Ids `[b, n]`, int64, end-of-sequence where it came and padding after it. With `return_source` the source ids
            come before; with `return_target_mask` the mask of real ids, and with `return_scores` the scores `[b]`, after.

        Raises:
            ValueError, TypeError: options that contradict each other or the model; sources as in `to_ids`.
        """
        beam = (beam_size, 1, length_penalty) if beam_search_decode else None
        speculation = (spec_decode_gamma, spec_decode_lenience) if spec_decode else None
        types = source_type, target_type
        self._check_generate(*types, cond_scale, max_length, temperature, beam, speculation)
        with evaluating(self):
            source = self.source_ids(source, source_type, source_mask, source_lengths)
            rows = beam_size if beam_search_decode else spec_decode_gamma + 1 if spec_decode else 1
            begun = self._begin(source, source_type, target_type, cond_scale, prompt, max_length, rows, spec_decode)
            if beam_search_decode:
                search = dict(beam_size=beam_size, length_penalty=length_penalty, temperature=temperature)
                result = beam_search(*begun, len(source), **search, **self._limits(target_type, max_length))
            else:
                drawing = dict(
                    temperature=temperature,
                    filter_logits_fn=filter_logits_fn,
                    filter_fn_kwargs=filter_fn_kwargs,
                    generator=generator,
                )
                if spec_decode:
                    drawing |= dict(gamma=spec_decode_gamma, lenience=spec_decode_lenience)
                steps = self._steps(begun, len(source), target_type, max_length, spec_decode, drawing)
                with tqdm(unit="step", disable=None if progress else True, leave=False) as bar:
                    result = _drained(steps, bar)
        if return_result:
            return result
        returned = (source,) if return_source else ()
        returned += (result.ids,)
        returned += (valid_mask(result.ids, self.pad_id[target_type]),) if return_target_mask else ()
        returned += (result.scores,) if return_scores else ()
        return returned if len(returned) > 1 else result.ids

    @torch.no_grad()
    def generate_stream(
        self,
        source: Batch,
        *,
        source_type: Modality,
        target_type: Modality,
        chunk: int = 1,
        temperature: float = 1.0,
        filter_logits_fn: Callable[..., Tensor] | None = top_k,
        filter_fn_kwargs: dict[str, Any] | None = None,
        source_mask: Tensor | None = None,
        source_lengths: Tensor | None = None,
        max_length: int = 2048,
        spec_decode: bool = False,
        spec_decode_gamma: int = 5,
        spec_decode_lenience: float = 1.0,
        cond_scale: float = 1.0,
        prompt: Batch | None = None,
        generator: torch.Generator | None = None,
    ) -> TokenStream:
        """`generate`, in pieces: an iterator over ids `[b, <= chunk]` as they are accepted.

        Put together, the pieces are what `generate` returns with the same arguments and generator. Afterwards, `result`
        holds the scores and `seconds_to_first` how long the first piece took. Beam search has no ids before its end.

        Raises:
            ValueError, TypeError: as `generate`, at the call; a chunk below 1.
        """
        speculation = (spec_decode_gamma, spec_decode_lenience) if spec_decode else None
        self._check_generate(source_type, target_type, cond_scale, max_length, temperature, None, speculation)
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 id, got {chunk}")
        with evaluating(self):
            source = self.source_ids(source, source_type, source_mask, source_lengths)
            rows = spec_decode_gamma + 1 if spec_decode else 1
            begun = self._begin(source, source_type, target_type, cond_scale, prompt, max_length, rows, spec_decode)
        drawing = dict(
            temperature=temperature,
            filter_logits_fn=filter_logits_fn,
            filter_fn_kwargs=filter_fn_kwargs,
            generator=generator,
        )
        if spec_decode:
            drawing |= dict(gamma=spec_decode_gamma, lenience=spec_decode_lenience)
        steps = self._steps(begun, len(source), target_type, max_length, spec_decode, drawing)
        return TokenStream(steps, chunk, self.pad_id[target_type])

    @torch.no_grad()
    def generate_n_best(
        self,
        source: Batch,
        *,
        source_type: Modality,
        target_type: Modality,
        n_best: int = 4,
        beam_size: int = 4,
        length_penalty: float = 0.0,
        temperature: float = 1.0,
        max_length: int = 2048,
        source_mask: Tensor | None = None,
        source_lengths: Tensor | None = None,
        cond_scale: float = 1.0,
        prompt: Batch | None = None,
    ) -> list[list[Hypothesis]]:
        """The `n_best` hypotheses of a beam search for each source, best first, none twice, with scores."""
        self._check_generate(
            source_type, target_type, cond_scale, max_length, temperature, (beam_size, n_best, length_penalty)
        )
        with evaluating(self):
            source = self.source_ids(source, source_type, source_mask, source_lengths)
            begun = self._begin(source, source_type, target_type, cond_scale, prompt, max_length, beam_size)
            search = dict(beam_size=beam_size, length_penalty=length_penalty, temperature=temperature, n_best=n_best)
            return beam_search(*begun, len(source), **search, **self._limits(target_type, max_length)).n_best

    def _check_generate(
        self,
        source_type: Modality,
        target_type: Modality,
        cond_scale: float,
        max_length: int,
        temperature: float,
        beam: tuple[int, int, float] | None = None,
        speculation: tuple[int, float] | None = None,
    ) -> None:
        """Everything that can be wrong but the sources; `beam`: size, n best, penalty, `speculation`: gamma, lenience."""
        self._check_call(source_type, target_type, False, 0.0)
        check_lengths(1, max_length)
        if not 1 <= cond_scale < float("inf"):
            raise ValueError(f"cond_scale must be at least 1 (1 = no guidance), got {cond_scale}")
        if cond_scale > 1 and self.cond_drop_prob == 0:
            raise ValueError(
                f"cond_scale {cond_scale} needs a model trained with cond_drop_prob > 0, this one was not: use cond_scale 1"
            )
        if beam and speculation:
            raise ValueError("choose beam_search_decode or spec_decode, not both")
        if beam:
            beam_size, n_best, length_penalty = beam
            check_beam(beam_size, n_best, temperature, length_penalty, self.vocabulary[target_type].size)
        else:
            check_temperature(temperature)
        if speculation:
            if not self.target_has_early_exit:
                raise ValueError("spec_decode needs a model with target_early_exit_layer")
            if (source_type, target_type) != ("text", "speech"):
                raise ValueError(f"spec_decode is for text to speech, not {source_type} to {target_type}")
            check_speculation(*speculation)

    def _begin(
        self,
        source: Tensor,
        source_type: Modality,
        target_type: Modality,
        cond_scale: float = 1.0,
        prompt: Batch | None = None,
        max_length: int = 1,
        rows_per_source: int = 1,
        drafts: bool = False,
    ) -> tuple[DecoderStep, KVCache]:
        """Encodes checked source ids and reads the prompt: the step, for so many rows of each source, and its cache."""
        if prompt is not None:
            prompt = self.prompt_ids(prompt, target_type)
            if len(prompt) != len(source):
                raise ValueError(f"source has {len(source)} rows and prompt {len(prompt)}: they must agree")
        context, mask, positions = self.encode_ids(source, source_type)
        expected = dict(rows=len(source) * rows_per_source, steps=max_length, drafts=drafts)
        step = DecoderStep(self, target_type, cond_scale, **expected)
        return step, step.new_cache(context, mask, positions.expand(context.shape[0], -1), prompt)

    def prompt_ids(self, prompt: Batch, target_type: Modality) -> Tensor:
        """A prompt as ids `[b, n]`, checked: at least one in each row, and no end-of-sequence."""
        prompt = self.to_ids(prompt, target_type, "prompt", empty_rows=False)
        vocabulary = self.vocabulary[target_type]
        if vocabulary.autoset_eos and bool((prompt == vocabulary.eos_id).any()):
            raise ValueError(f"prompt holds end-of-sequence ({vocabulary.eos_id}), which nothing follows: leave it out")
        return prompt

    def _limits(self, target_type: Modality, max_length: int) -> dict[str, Any]:
        """What every strategy has to know of the target vocabulary."""
        vocabulary = self.vocabulary[target_type]
        return dict(
            eos_id=vocabulary.eos_id if vocabulary.autoset_eos else None,
            pad_id=vocabulary.pad_id,
            max_length=max_length,
            forbid_ids=[vocabulary.pad_id] if vocabulary.pad_id >= 0 else [],
            device=self.device,
        )

    def _steps(
        self,
        begun: tuple[DecoderStep, KVCache],
        rows: int,
        target_type: Modality,
        max_length: int,
        speculative: bool,
        drawing: dict[str, Any],
    ) -> Generator[Any, None, DecodeResult]:
        if drawing["temperature"] == 0:
            drawing = {**drawing, "filter_logits_fn": None}  # the best id always stays
        if speculative:
            # the head and the drawing cost about as much as one more layer
            share = (self.early_exit_layer + 1) / len(self.target_transformer.layers)
            return speculative_steps(*begun, rows, draft_cost=share, **drawing, **self._limits(target_type, max_length))
        return sampling_steps(*begun, rows, **drawing, **self._limits(target_type, max_length))

    @torch.no_grad()
    def alignment(
        self,
        source: Batch,
        target: Batch,
        *,
        source_type: Modality,
        target_type: Modality,
        source_position_rate: float | None = None,
    ) -> Tensor:
        """Cross-attention weights of every layer, `[layers, b, h, n + 1, 1 + m]` (start token and null first)."""
        weights: list[Tensor] = []
        hooks = [
            block.cross_attention.register_forward_pre_hook(
                lambda layer, inputs: weights.append(layer.weights(*inputs[:3]))
            )
            for block in self.target_transformer.layers
        ]
        try:
            with evaluating(self):
                options = dict(source_type=source_type, target_type=target_type)
                self(source, target, source_position_rate=source_position_rate, **options)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(weights)


def _drained(steps: Generator[Any, None, DecodeResult], bar: tqdm) -> DecodeResult:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        bar.update()
