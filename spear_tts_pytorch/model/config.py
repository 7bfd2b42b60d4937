"""The arguments that build a model, checked once: `ModelConfig`, which is also what `config.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any, cast

from typing_extensions import TypedDict

from spear_tts_pytorch.tokens import Modality, Vocabulary
from spear_tts_pytorch.utils.json_files import REQUIRED, field
from spear_tts_pytorch.utils.values import MOST_INTEGER, plain, real_number, settle, shown, switch, whole_number

MOST_LAYERS, MOST_PARAMETERS = 2000, 2**33
_SHARES = ("cond_drop_prob", "attn_dropout", "ff_dropout", "emb_dropout", "label_smoothing")
_FACTORS = ("ff_mult", "text_position_rate", "align_reg_logsumexp_pool_temp")
_KINDS: dict[str, type] = {"int": int, "float": float, "bool": bool, "None": type(None)}
_FROM_TOKENIZER = ("num_text_token_ids", "num_semantic_token_ids")  # null stands for the tokenizer's own number


class Depths(TypedDict):
    """Keywords that `TextToSemantic` needs."""

    source_depth: int
    target_depth: int


class ModelKeywords(Depths, total=False):
    """Keywords of `TextToSemantic` beside its tokenizers, see `ModelConfig`."""

    dim_head: int
    heads: int
    target_kv_heads: int | None
    attn_dropout: float
    ff_mult: float
    ff_dropout: float
    semantic_pad_id: int
    text_pad_id: int
    autoset_semantic_eos_id: bool
    autoset_text_eos_id: bool
    attn_flash: bool
    cond_drop_prob: float
    target_early_exit_layer: int | None
    detach_early_exit_embed: bool
    align_reg_loss_weight: float
    align_reg_use_logsumexp_pool: bool
    align_reg_logsumexp_pool_temp: float
    label_smoothing: float
    emb_dropout: float
    add_positions: bool
    cross_attention_prior: bool
    text_position_rate: float
    ctc: bool


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and options of a model; `TextToSemantic` explains them. Creating one checks them.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument out of range, or arguments that contradict each other.
    """

    dim: int
    source_depth: int
    target_depth: int
    num_text_token_ids: int
    num_semantic_token_ids: int
    dim_head: int = 64
    heads: int = 8
    target_kv_heads: int | None = None
    attn_dropout: float = 0.0
    ff_mult: float = 4
    ff_dropout: float = 0.0
    semantic_pad_id: int = -1
    text_pad_id: int = 0
    autoset_semantic_eos_id: bool = True
    autoset_text_eos_id: bool = True
    attn_flash: bool = False
    cond_drop_prob: float = 0.0
    target_early_exit_layer: int | None = None
    detach_early_exit_embed: bool = False
    align_reg_loss_weight: float = 0.1
    align_reg_use_logsumexp_pool: bool = True
    align_reg_logsumexp_pool_temp: float = 0.1
    label_smoothing: float = 0.0
    emb_dropout: float = 0.0
    add_positions: bool = False
    cross_attention_prior: bool = False
    text_position_rate: float = 1.0
    ctc: bool = False

    def __post_init__(self) -> None:
        settle(self, {one.name: _checked(one, getattr(self, one.name)) for one in fields(self)})
        if self.dim_head % 2:
            raise ValueError(f"dim_head must be even for rotary positions, got {self.dim_head}")
        if max(self.dim * self.ff_mult, self.heads * self.dim_head) >= 2**31:
            raise ValueError(
                f"dim {self.dim} with ff_mult {self.ff_mult}, and heads {self.heads} with dim_head {self.dim_head}, must "
                f"multiply to less than {2**31}"
            )
        exit_layer = self.target_early_exit_layer
        if exit_layer is not None and not 0 < exit_layer <= self.target_depth:
            raise ValueError(
                f"target_early_exit_layer must be 1 to target_depth ({self.target_depth}), got {exit_layer}"
            )
        self._check_padding()

    def _check_padding(self) -> None:
        speech, text = self.num_semantic_token_ids, self.num_text_token_ids
        if 0 <= self.semantic_pad_id <= speech or self.text_pad_id == text:
            raise ValueError(
                f"semantic_pad_id {self.semantic_pad_id} must be no speech id or end-of-sequence (0 to {speech}), and "
                f"text_pad_id {self.text_pad_id} not the text's end-of-sequence ({text}): leave them at -1 and 0"
            )
        if self.ctc and not 0 <= self.text_pad_id < text:
            raise ValueError(
                f"with ctc=True, text_pad_id is the CTC blank and must be a text id, got {self.text_pad_id}"
            )

    def sized(self) -> ModelConfig:
        """The same; raises ValueError for a model that is too large to make."""
        inner, ff = self.heads * self.dim_head, self.dim * self.ff_mult * 2 / 3
        if int(ff) < 1:
            raise ValueError(f"ff_mult {self.ff_mult} leaves feedforwards of dim {self.dim} no width: choose it higher")
        layers = self.source_depth + self.target_depth
        ids = self.num_text_token_ids + self.num_semantic_token_ids
        parameters = self.dim * (layers * (4 * inner + 3 * ff) + ids)
        if layers > MOST_LAYERS or parameters > MOST_PARAMETERS:
            sizes = ("dim", "source_depth", "target_depth", "heads", "dim_head", "ff_mult")
            named = (f"{name} {getattr(self, name)}" for name in (*sizes, *_FROM_TOKENIZER))
            raise ValueError(
                f"{', '.join(named)} make {layers} layers and about {parameters:.2g} parameters, more than {MOST_LAYERS} or "
                f"{MOST_PARAMETERS:.2g}: choose smaller ones"
            )
        return self

    def vocabulary(self) -> dict[Modality, Vocabulary]:
        """The ids of both modalities."""
        speech = self.num_semantic_token_ids, self.semantic_pad_id, self.autoset_semantic_eos_id
        text = self.num_text_token_ids, self.text_pad_id, self.autoset_text_eos_id
        return {"speech": Vocabulary("speech", *speech), "text": Vocabulary("text", *text)}

    def stack(self) -> dict[str, Any]:
        """Arguments that encoder and decoder share."""
        names = ("dim", "dim_head", "heads", "attn_dropout", "ff_mult", "ff_dropout", "attn_flash")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON types."""
        return asdict(self)


def _checked(one: Field[Any], value: object) -> Any:
    """The value of a field, as Python's own type; raises TypeError for another type, ValueError out of its range."""
    name, kind = one.name, str(one.type)
    also = " or None" if kind.endswith("None") else ""
    if also and value is None:
        return None
    if kind.startswith("int"):
        return whole_number(name, value, -MOST_INTEGER if name.endswith("pad_id") else 1, MOST_INTEGER, also=also)
    if kind == "bool":
        return switch(name, value)
    if name in _SHARES:
        return real_number(name, value, 0, below=1)
    return real_number(name, value, *((1e-4, 10_000) if name in _FACTORS else (0, MOST_INTEGER)))


def check_saved(arguments: Mapping[str, Any], complete: bool) -> None:
    """Checks saved arguments of a model field by field, before anything is made with them.

    Args:
        complete: whether none may be missing; files of other formats did not know all of them.

    Raises:
        ValueError: one is missing, of another type or out of range, or some contradict each other.
    """
    values: dict[str, Any] = {}
    for one in fields(ModelConfig):
        kinds = tuple(_KINDS[kind.strip()] for kind in str(one.type).split("|"))
        if one.name in _FROM_TOKENIZER:
            kinds = (int, type(None))
        default: Any = REQUIRED if complete or one.default is MISSING else one.default
        values[one.name] = field(arguments, one.name, kinds, default)
    for name in _FROM_TOKENIZER:
        values[name] = MOST_INTEGER - 1 if values[name] is None else values[name]
    ModelConfig(**values)
    field(arguments, "use_openai_tokenizer", bool, REQUIRED if complete else False)


def vocabulary_size(name: str, given: int | None, tokenizer: Any, attribute: str, may_add: bool = False) -> int:
    """A vocabulary's size: given, or read off its tokenizer, to which it may add ids.

    Raises:
        ValueError: neither gives a size, or they contradict each other.
    """
    argument = {"vocab_size": "tokenizer_encode", "codebook_size": "wav2vec"}[attribute]
    if tokenizer is not None and not callable(tokenizer):
        raise TypeError(f"{argument} must be callable or None, got {shown(tokenizer)}")
    own = plain(getattr(tokenizer, attribute, None))
    given = None if given is None else whole_number(name, given, 1, MOST_INTEGER, also=" or None")
    own = None if own is None else whole_number(f"{attribute} of {argument}", own, 1, MOST_INTEGER)
    if given is None and own is None:
        raise ValueError(f"{name} is missing: give it, or a tokenizer that has {attribute}")
    if given is not None and own is not None and (given < own or (given > own and not may_add)):
        raise ValueError(f"{name} is {given}, but the tokenizer's {attribute} is {own}: leave one of them out")
    return cast(int, own if given is None else given)
