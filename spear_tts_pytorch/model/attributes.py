"""What happens when attributes of a model are assigned after it was built, and models that release 0.5.0 pickled whole.

In: a model, a name and a value, or the state in a pickle. Out: the value to keep, or the state as it is today. Options of
the loss are checked and go into the model's config, so they are saved with it. Sizes cannot change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast

from torch import nn

from spear_tts_pytorch.model.config import ModelConfig
from spear_tts_pytorch.utils.values import shown

# Attributes that may change, and their names in the config.
CHANGEABLE: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "cond_drop_prob",
            "label_smoothing",
            "align_reg_loss_weight",
            "align_reg_use_logsumexp_pool",
            "align_reg_logsumexp_pool_temp",
            "add_positions",
            "cross_attention_prior",
            "text_position_rate",
            "detach_early_exit_embed",
        )
    },
    "early_exit_layer": "target_early_exit_layer",
}
LASTING = (
    "config",
    "dim",
    "vocabulary",
    "pad_id",
    "eos_id",
    "autoset_eos_id",
    "num_semantic_token_ids",
    "num_text_token_ids",
    "semantic_pad_id",
    "text_pad_id",
)


def assigned(model: nn.Module, name: str, value: Any) -> Any:
    """The value that an attribute gets when `value` is assigned to it.

    Raises:
        AttributeError: the attribute is one of the model's sizes, or `early_exit_layer` of a model without that head.
        TypeError, ValueError: an option of a wrong kind or out of range.
    """
    held = model.__dict__
    no_head = name == "early_exit_layer" and name in held and (value is None) != (held[name] is None)
    if (name in LASTING and name in held) or no_head:
        raise AttributeError(f"{name} of a model cannot be changed to {shown(value)}: build another model with it")
    if name in CHANGEABLE and name in held:
        changed: dict[str, Any] = {CHANGEABLE[name]: value}
        held["config"] = replace(cast(ModelConfig, held["config"]), **changed)
        return getattr(held["config"], CHANGEABLE[name])
    return value


def state_of_today(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a model that was pickled whole, by this release or by 0.5.0, which had no config.

    Raises:
        ValueError: a release before 0.5.0 pickled it.
    """
    if "config" in state:
        return dict(state)
    arguments = state.get("arguments")
    if not isinstance(arguments, dict):
        raise ValueError(
            "the model was pickled by a release before 0.5.0: load it there and keep torch.save(model.state_dict(), path), "
            "which model.load(path) reads"
        )
    known = {one.name for one in fields(ModelConfig)}
    given: dict[str, Any] = {name: value for name, value in cast("dict[str, Any]", arguments).items() if name in known}
    now = {name: state[name] for name in ("num_text_token_ids", "num_semantic_token_ids")}
    now |= {field: state[name] for name, field in CHANGEABLE.items()}
    openai = bool(cast("dict[str, Any]", arguments).get("use_openai_tokenizer", False))
    rest = {name: value for name, value in state.items() if name != "arguments"}
    return {**rest, "config": ModelConfig(**{**given, **now}), "use_openai_tokenizer": openai}
