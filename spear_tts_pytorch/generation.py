"""Generation: from texts, waveforms or ids to ids, by the strategies in `decoding`.

`GenerationMixin` asks the model for `encode`, its decoder and its vocabularies. Out: ids `[b, n]` with padding after
end-of-sequence. How ids are chosen is the strategies' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spear_tts_pytorch.checks import evaluating
from spear_tts_pytorch.decoder_step import DecoderStep
from spear_tts_pytorch.decoding.beam import beam_search
from spear_tts_pytorch.decoding.loop import sample_ids
from spear_tts_pytorch.decoding.sampling import top_k
from spear_tts_pytorch.inputs import Batch
from spear_tts_pytorch.nn.kv_cache import KVCache
from spear_tts_pytorch.tokens import MODALITIES, Modality, valid_mask


class GenerationMixin:
    """`generate` and what it is made of, for `TextToSemantic`."""

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
        length_penalty: float = 0.0,
        generator: torch.Generator | None = None,
        return_scores: bool = False,
        progress: bool = False,
    ) -> Tensor | tuple[Tensor, ...]:
        """Generates target ids.

        Args:
            source: texts, ids `[b, n]` of any integer dtype, or (speech) waveforms `[b, t]`; arrays and lists of rows too.
            temperature: 0 is greedy. Beam search divides its logits by it, and takes no filter.
            filter_logits_fn, filter_fn_kwargs: see `decoding.sampling`; the default keeps the best tenth of the ids.
            source_mask: `[b, n]`, True at real ids; by default, what is not padding.
            max_length: most ids a row may have, end-of-sequence included.
            beam_search_decode, beam_size, length_penalty: beam search; scores are divided by `length ** length_penalty`.
            spec_decode, spec_decode_gamma, spec_decode_lenience: accepted for text to speech on a model with an early
                exit layer; ids are drawn by plain sampling, which has the distribution that exact speculation has.
            cond_scale: classifier-free guidance, for models trained with `cond_drop_prob` > 0.
            source_lengths: of waveforms, in samples, `[b]`.
            generator: makes draws reproducible.
            return_scores: also returns each row's mean log-probability (beam search: its score).

        Returns:
            Ids `[b, n]`, int64, end-of-sequence where it came and padding after it. With `return_source` the source ids
            come before; with `return_target_mask` the mask of real ids, and with `return_scores` the scores `[b]`, after.

        Raises:
            ValueError, TypeError: options that contradict each other or the model; sources as in `to_ids`.
        """
        self._check_generate(source_type, target_type, cond_scale, beam_search_decode, spec_decode)
        with evaluating(self):
            source = self.source_ids(source, source_type, source_mask, source_lengths)
            step, cache = self._start(source, source_type, target_type, cond_scale)
            vocabulary = self.vocabulary[target_type]
            options = dict(
                eos_id=vocabulary.eos_id if vocabulary.autoset_eos else None,
                pad_id=vocabulary.pad_id,
                max_length=max_length,
                temperature=temperature,
                forbid_ids=[vocabulary.pad_id] if vocabulary.pad_id >= 0 else [],
                device=self.device,
            )
            if beam_search_decode:
                result = beam_search(
                    step, cache, len(source), beam_size=beam_size, length_penalty=length_penalty, **options
                )
            else:
                bar = tqdm(total=max_length, unit="id", disable=None if progress else True, leave=False)
                with bar:
                    result = sample_ids(
                        step,
                        cache,
                        len(source),
                        filter_logits_fn=filter_logits_fn if temperature > 0 else None,
                        filter_fn_kwargs=filter_fn_kwargs,
                        generator=generator,
                        on_token=(lambda _: bar.update()) if progress else None,
                        **options,
                    )
        returned = (source,) if return_source else ()
        returned += (result.ids,)
        returned += (valid_mask(result.ids, vocabulary.pad_id),) if return_target_mask else ()
        returned += (result.scores,) if return_scores else ()
        return returned if len(returned) > 1 else result.ids

    def _check_generate(
        self, source_type: Modality, target_type: Modality, cond_scale: float, beam: bool, speculative: bool
    ) -> None:
        for name, value in (("source_type", source_type), ("target_type", target_type)):
            if value not in MODALITIES:
                raise ValueError(f"{name} must be 'speech' or 'text', got {value!r}")
        if cond_scale < 1:
            raise ValueError(f"cond_scale must be at least 1 (1 = no guidance), got {cond_scale}")
        if cond_scale > 1 and self.cond_drop_prob == 0:
            raise ValueError(
                f"cond_scale {cond_scale} needs a model trained with cond_drop_prob > 0, this one was not: use cond_scale 1"
            )
        if beam and speculative:
            raise ValueError("choose beam_search_decode or spec_decode, not both")
        if speculative and not self.target_has_early_exit:
            raise ValueError("spec_decode needs a model with target_early_exit_layer")
        if speculative and (source_type, target_type) != ("text", "speech"):
            raise ValueError(f"spec_decode is for text to speech, not {source_type} to {target_type}")

    def _start(
        self, source: Tensor, source_type: Modality, target_type: Modality, cond_scale: float
    ) -> tuple[DecoderStep, KVCache]:
        """Encodes checked source ids; the step and its empty cache."""
        context, mask, positions = self.encode_ids(source, source_type)
        step = self.decoder_step(target_type, cond_scale)
        positions = positions.expand(context.shape[0], -1)
        return step, step.new_cache(len(self.target_transformer.layers), context, mask, positions)

    def decoder_step(self, target_type: Modality, cond_scale: float = 1.0) -> DecoderStep:
        """`step(ids, cache) -> logits` of the decoder, for the strategies in `decoding`."""

        def attend(embedded: tuple[Tensor, Tensor], cache: KVCache) -> Tensor:
            x, positions = embedded
            if positions.shape[0] > 1:  # rows of one source are queries of it, one after the other
                positions = positions.reshape(cache.sources, -1)
            elif self.cross_attention_prior:
                positions = positions.repeat(1, x.shape[0] // cache.sources)
            mask = self._cross_mask(cache.context_mask, cache.context_positions, positions)
            return self.target_transformer(x, context=cache.context, context_mask=mask, cache=cache)

        return DecoderStep(
            lambda ids, first: self._embed_target(ids, target_type, first),
            attend,
            lambda x: self.to_logits(x, target_type),
            cond_scale,
        )

    @torch.no_grad()
    def alignment(self, source: Batch, target: Batch, *, source_type: Modality, target_type: Modality) -> Tensor:
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
                self(source, target, source_type=source_type, target_type=target_type)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(weights)
