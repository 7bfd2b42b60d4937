"""All options of decoding, declared and checked once.

In: the keywords that users give to `generate` and its kin. Out: a frozen `DecodingOptions`, which every function below the
model's methods takes. Options that belong to one batch (masks, lengths, a prompt, a generator) are arguments of these methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Protocol, TypeVar

from typing_extensions import TypedDict

from spear_tts_pytorch.decoding.filters import LogitsFilter, top_k
from spear_tts_pytorch.tokens import MODALITIES, Modality, Vocabulary
from spear_tts_pytorch.utils.arguments import check_keywords, show_keywords

F = TypeVar("F", bound=Callable[..., Any])
LEAST_TEMPERATURE = 1e-6


class DecodableModel(Protocol):
    """A model, as far as the check of options is concerned."""

    cond_drop_prob: float

    @property
    def vocabulary(self) -> Mapping[Modality, Vocabulary]: ...

    @property
    def target_has_early_exit(self) -> bool: ...


class CommonKeywords(TypedDict, total=False):
    """Keywords of every method that generates, see `DecodingOptions`."""

    source_type: Modality
    target_type: Modality
    temperature: float
    max_length: int
    cond_scale: float


class SamplingKeywords(CommonKeywords, total=False):
    """Keywords of sampling, greedy decoding and speculation, see `DecodingOptions`."""

    filter_logits_fn: LogitsFilter | None
    filter_fn_kwargs: Mapping[str, Any] | None
    spec_decode: bool
    spec_decode_gamma: int
    spec_decode_lenience: float


class BeamKeywords(CommonKeywords, total=False):
    """Keywords of beam search, see `DecodingOptions`."""

    beam_size: int
    length_penalty: float


class DecodingKeywords(SamplingKeywords, BeamKeywords, total=False):
    """Keywords of `generate`, see `DecodingOptions`."""

    beam_search_decode: bool


class ManyKeywords(DecodingKeywords, total=False):
    """Keywords of `generate_many` and of the label generator, see `DecodingOptions`."""

    n_best: int


@dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """How target ids are decoded. Creating one checks all that can be checked without a model.

    Args:
        source_type, target_type: "speech" or "text".
        temperature: divides the logits. 0 is greedy decoding; beam search needs a temperature above 0.
        filter_logits_fn, filter_fn_kwargs: leaves ids out of sampling, see `decoding.filters`. The default, `top_k`, keeps the
            best tenth of the ids; None keeps all. Beam search and greedy decoding take no filter.
        max_length: most ids of a row. End-of-sequence counts, a prompt does not.
        beam_search_decode: beam search instead of sampling.
        beam_size: hypotheses that beam search follows for each source, at most the number of target ids.
        length_penalty: beam search divides log-probabilities by `length ** length_penalty`.
        n_best: hypotheses of a beam search that are returned for each source, at most `beam_size`.
        spec_decode: speculative decoding, for text to speech with a model that has an early exit. The exit drafts ids, the
            whole model checks them. The ids have the same distribution as those of sampling.
        spec_decode_gamma: most ids that are drafted before a check.
        spec_decode_lenience: at least 1. Above 1, more drafts are accepted, and the distribution is no longer exact.
        cond_scale: scale of classifier-free guidance (arXiv 2207.12598), for models trained with `cond_drop_prob` above 0.
            1 is no guidance.

    Raises:
        TypeError: `filter_logits_fn` is no function.
        ValueError: an option out of range, or options that exclude each other.
    """

    source_type: Modality = "text"
    target_type: Modality = "speech"
    temperature: float = 1.0
    filter_logits_fn: LogitsFilter | None = top_k
    filter_fn_kwargs: Mapping[str, Any] | None = None
    max_length: int = 2048
    beam_search_decode: bool = False
    beam_size: int = 4
    length_penalty: float = 0.0
    n_best: int = 1
    spec_decode: bool = False
    spec_decode_gamma: int = 5
    spec_decode_lenience: float = 1.0
    cond_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("source_type", self.source_type), ("target_type", self.target_type)):
            if value not in MODALITIES:
                raise ValueError(f"{name} must be 'speech' or 'text', got {value!r}")
        if not is_whole(self.max_length) or self.max_length < 1:
            raise ValueError(f"max_length must be at least 1 id, a whole number, got {self.max_length!r}")
        if not is_number(self.cond_scale) or not 1 <= self.cond_scale < math.inf:
            raise ValueError(f"cond_scale must be at least 1 (1 = no guidance), got {self.cond_scale!r}")
        if self.filter_logits_fn is not None and not callable(self.filter_logits_fn):
            raise TypeError(f"filter_logits_fn must be a function or None, got {self.filter_logits_fn!r}")
        if self.beam_search_decode and self.spec_decode:
            raise ValueError("choose beam_search_decode or spec_decode, not both")
        if self.n_best != 1 and not self.beam_search_decode:
            raise ValueError("n_best is for beam search: give beam_search_decode=True as well")
        if self.beam_search_decode:
            self._check_beam()
            return
        check_temperature(self.temperature)
        if self.spec_decode:
            self._check_speculation()

    def _check_beam(self) -> None:
        if not is_whole(self.beam_size) or self.beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, got {self.beam_size!r}")
        if not is_whole(self.n_best) or not 1 <= self.n_best <= self.beam_size:
            raise ValueError(f"n_best must be between 1 and beam_size = {self.beam_size}, got {self.n_best!r}")
        if not is_number(self.length_penalty) or not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty must be a finite number, got {self.length_penalty!r}")
        if not is_number(self.temperature) or not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise ValueError(
                f"temperature must be above 0 for beam search, got {self.temperature!r}: for greedy use beam_size 1"
            )

    def _check_speculation(self) -> None:
        gamma, lenience = self.spec_decode_gamma, self.spec_decode_lenience
        if not is_whole(gamma) or gamma < 1:
            raise ValueError(f"spec_decode_gamma must be a whole number, at least 1 draft per cycle, got {gamma!r}")
        if not is_number(lenience) or not 1 <= lenience < math.inf:
            raise ValueError(
                f"spec_decode_lenience must be a number >= 1 (1 = exact, more accepts more drafts), got {lenience!r}"
            )

    def check(self, model: DecodableModel) -> None:
        """Checks what depends on the model.

        Raises:
            ValueError: guidance, speculation or a beam that this model cannot do.
        """
        if self.cond_scale > 1 and model.cond_drop_prob == 0:
            raise ValueError(
                f"cond_scale {self.cond_scale} needs a model trained with cond_drop_prob > 0, this one was not: use "
                "cond_scale 1"
            )
        size = model.vocabulary[self.target_type].size
        if self.beam_search_decode and self.beam_size > size:
            raise ValueError(
                f"beam_size must be at least 1 and at most the {size} ids there are to choose from, got {self.beam_size}"
            )
        if self.spec_decode and not model.target_has_early_exit:
            raise ValueError("spec_decode needs a model with target_early_exit_layer")
        if self.spec_decode and (self.source_type, self.target_type) != ("text", "speech"):
            raise ValueError(f"spec_decode is for text to speech, not {self.source_type} to {self.target_type}")

    @property
    def strategy(self) -> Literal["sampling", "beam", "speculation"]:
        return "beam" if self.beam_search_decode else "speculation" if self.spec_decode else "sampling"

    @property
    def rows_per_source(self) -> int:
        """Rows, or with speculation positions, of a source in a decoding step; speed depends on it."""
        return {"sampling": 1, "beam": self.beam_size, "speculation": self.spec_decode_gamma + 1}[self.strategy]


def options_of(method: str, keywords: type, values: Mapping[str, Any], **fixed: Any) -> DecodingOptions:
    """The options that a method's keywords give.

    Args:
        method: its name, for errors.
        keywords: the TypedDict of the keywords it takes.
        values: the keywords that its caller gave.
        fixed: options that the method itself decides.

    Raises:
        TypeError: a keyword that the method does not take.
        ValueError: as `DecodingOptions`.
    """
    check_keywords(method, keywords, values)
    return DecodingOptions(**values, **fixed)


def with_options(keywords: type) -> Callable[[F], F]:
    """Shows the options in `keywords`, with their defaults, in the signature of a function that takes `**options`."""
    return show_keywords(keywords, DecodingOptions)


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless `temperature` is finite, and 0 or large enough that logits do not overflow."""
    if not is_number(temperature) or not math.isfinite(temperature) or 0 != temperature < LEAST_TEMPERATURE:
        raise ValueError(
            f"temperature must be a number >= 0 (0 = greedy, else at least {LEAST_TEMPERATURE:g}), got {temperature!r}"
        )


def is_number(value: object) -> bool:
    """Whether a value is a number, NumPy's included; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, NumPy's included; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)
