"""All options of decoding, declared and checked once.

In: the keywords that users give to `generate` and its kin. Out: a frozen `DecodingOptions`, which every function below the
model's methods takes. Options that belong to one batch (masks, lengths, a prompt, a generator) are arguments of these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeVar

from typing_extensions import TypedDict

from spear_tts_pytorch.decoding.filters import LogitsFilter, check_filter, sees_ids, top_k
from spear_tts_pytorch.tokens import MODALITIES, Modality, Vocabulary
from spear_tts_pytorch.utils.arguments import check_keywords, show_keywords
from spear_tts_pytorch.utils.values import MOST_INTEGER, one_of, real_number, settle, switch, whole_number

F = TypeVar("F", bound=Callable[..., Any])
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 10**6  # logits divided by others would overflow or vanish
MOST_SCALE, MOST_LENGTH_PENALTY, MOST_PENALTY, MOST_DRAFTS, MOST_LENIENCE = 1000, 10, 1000, 1000, 10**12


class DecodableModel(Protocol):
    """A model, as far as the check of options is concerned."""

    cond_drop_prob: float

    @property
    def vocabulary(self) -> Mapping[Modality, Vocabulary]: ...

    @property
    def target_has_early_exit(self) -> bool: ...


class RestrictionKeywords(TypedDict, total=False):
    """Keywords about which ids may be drawn, see `DecodingOptions`."""

    filter_logits_fn: LogitsFilter | None
    filter_fn_kwargs: Mapping[str, Any] | None
    min_length: int
    repetition_penalty: float
    no_repeat_ngram_size: int


class CommonKeywords(RestrictionKeywords, total=False):
    """Keywords of every method that generates, see `DecodingOptions`."""

    source_type: Modality
    target_type: Modality
    temperature: float
    max_length: int
    cond_scale: float


class SamplingKeywords(CommonKeywords, total=False):
    """Keywords of sampling, greedy decoding and speculation, see `DecodingOptions`."""

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

    Ids so far are a row's generated target ids, behind those of its prompt. The start token is none of them.

    Args:
        source_type, target_type: "speech" or "text".
        temperature: divides the logits. 0 is greedy decoding; beam search needs a temperature above 0.
        filter_logits_fn, filter_fn_kwargs: changes logits, or leaves ids out, see `decoding.filters`. A filter that has an
            argument `ids` sees the ids so far. The default, `top_k`, keeps the best tenth of the ids when ids are drawn;
            greedy decoding and beam search run without it. None keeps all.
        max_length: most ids of a row. End-of-sequence counts, a prompt does not.
        min_length: end-of-sequence can't come before a row has so many ids. A prompt does not count. At most
            `max_length`.
        repetition_penalty: above 0. Logits of ids so far are divided by it if they are positive, else multiplied: above 1,
            repetition becomes rarer (arXiv 1909.05858).
        no_repeat_ngram_size: if n above 0, no n ids in a row come twice among the ids so far.
        beam_search_decode: beam search instead of sampling.
        beam_size: hypotheses that beam search follows for each source, at most the number of target ids.
        length_penalty: beam search divides log-probabilities by `length ** length_penalty`.
        n_best: hypotheses of a beam search that are returned for each source, at most `beam_size`.
        spec_decode: speculative decoding, for text to speech with a model that has an early exit. The exit drafts ids, the
            whole model checks them. The ids have the same distribution as those of sampling.
        spec_decode_gamma: most ids that are drafted before a check.
        spec_decode_lenience: at least 1. Above 1, more drafts are accepted, and the distribution is no longer exact. At
            temperature 0 it changes nothing.
        cond_scale: scale of classifier-free guidance (arXiv 2207.12598), for models trained with `cond_drop_prob` above 0.
            1 is no guidance.

    A row always has end-of-sequence to choose, unless `min_length` or a filter forbids it. If nothing is left to choose, an
    error names the options that forbid all.

    Raises:
        TypeError: an option of another type.
        ValueError: an option out of range, options that exclude each other, or an option of another strategy.
    """

    source_type: Modality = "text"
    target_type: Modality = "speech"
    temperature: float = 1.0
    filter_logits_fn: LogitsFilter | None = top_k
    filter_fn_kwargs: Mapping[str, Any] | None = None
    max_length: int = 2048
    min_length: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    beam_search_decode: bool = False
    beam_size: int = 4
    length_penalty: float = 0.0
    n_best: int = 1
    spec_decode: bool = False
    spec_decode_gamma: int = 5
    spec_decode_lenience: float = 1.0
    cond_scale: float = 1.0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            **{name: one_of(name, getattr(self, name), MODALITIES) for name in ("source_type", "target_type")},
            **{name: switch(name, getattr(self, name)) for name in ("beam_search_decode", "spec_decode")},
            "max_length": whole_number("max_length", self.max_length, 1, MOST_INTEGER),
            "min_length": whole_number("min_length", self.min_length, 0, MOST_INTEGER),
            "no_repeat_ngram_size": whole_number(
                "no_repeat_ngram_size", self.no_repeat_ngram_size, 0, MOST_INTEGER, also=" (0 = off)"
            ),
            "repetition_penalty": real_number(
                "repetition_penalty", self.repetition_penalty, 1 / MOST_PENALTY, MOST_PENALTY, also=" (1 = none)"
            ),
            "cond_scale": real_number("cond_scale", self.cond_scale, 1, MOST_SCALE, also=" (1 = no guidance)"),
            "temperature": checked_temperature(self.temperature),
            "beam_size": whole_number("beam_size", self.beam_size, 1, MOST_INTEGER),
            "length_penalty": real_number(
                "length_penalty", self.length_penalty, -MOST_LENGTH_PENALTY, MOST_LENGTH_PENALTY
            ),
            "n_best": whole_number("n_best", self.n_best, 1, MOST_INTEGER),
            "spec_decode_gamma": whole_number(
                "spec_decode_gamma", self.spec_decode_gamma, 1, MOST_DRAFTS, also=" drafts a cycle"
            ),
            "spec_decode_lenience": real_number(
                "spec_decode_lenience", self.spec_decode_lenience, 1, MOST_LENIENCE, also=" (1 = exact)"
            ),
        }
        settle(self, checked)
        check_filter(self.filter_logits_fn, self.filter_fn_kwargs)
        self._check_together()

    def _check_together(self) -> None:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length {self.min_length} is above max_length {self.max_length}: choose it lower")
        if self.beam_search_decode and self.spec_decode:
            raise ValueError("choose beam_search_decode or spec_decode, not both")
        self._check_unused()
        if self.n_best > self.beam_size:
            raise ValueError(f"n_best must be between 1 and beam_size = {self.beam_size}, got {self.n_best}")
        if self.beam_search_decode and self.temperature == 0:
            raise ValueError("temperature must be above 0 for beam search, got 0.0: for greedy use beam_size 1")

    def _check_unused(self) -> None:
        """Refuses options that this strategy does not look at, unless they have their default."""
        defaults = {one.name: one.default for one in fields(self)}
        of_strategy = {
            "beam search": ("beam_search_decode", "beam_size", "length_penalty", "n_best"),
            "speculation": ("spec_decode", "spec_decode_gamma", "spec_decode_lenience"),
        }
        for words, (chosen, *names) in of_strategy.items():
            unused = [] if getattr(self, chosen) else [name for name in names if getattr(self, name) != defaults[name]]
            if unused:
                raise ValueError(f"{unused[0]} is for {words}: give {chosen}=True as well, or leave {unused[0]} out")

    @property
    def applied_filter(self) -> LogitsFilter | None:
        """The filter that is applied: greedy decoding and beam search go without the default."""
        drawn = self.temperature > 0 and not self.beam_search_decode
        return self.filter_logits_fn if drawn or self.filter_logits_fn is not top_k or self.filter_fn_kwargs else None

    @property
    def filter_sees_ids(self) -> bool:
        """Whether the filter is given the ids so far."""
        return sees_ids(self.filter_logits_fn, self.filter_fn_kwargs)

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


def checked_temperature(temperature: object) -> float:
    """0 for greedy decoding, or a number within bounds in which logits neither overflow nor vanish.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    number = real_number("temperature", temperature, 0, MOST_TEMPERATURE, also=" (0 = greedy)")
    if 0 < number < LEAST_TEMPERATURE:
        raise ValueError(f"temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g}, got {number:g}")
    return number
