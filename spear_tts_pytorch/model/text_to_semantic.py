"""The model: one encoder-decoder over speech and text ids, for all four pairs of modalities.

In: ids `[b, n]` (or raw texts, or waveforms where a tokenizer was given). Out: logits `[b, n, v]`, losses, or generated
ids. This file holds the learned parts and the forward pass; the other methods are functions of `decoding` and of this room.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from spear_tts_pytorch.decoding import accelerate, batching, stream
from spear_tts_pytorch.decoding import generate as generation
from spear_tts_pytorch.decoding import score as scoring
from spear_tts_pytorch.decoding.accelerate import Acceleration
from spear_tts_pytorch.model import attributes, embedding, freezing, heads, inputs, pretrained, saving
from spear_tts_pytorch.model.config import ModelConfig, ModelKeywords, vocabulary_size
from spear_tts_pytorch.model.export import EncoderModule
from spear_tts_pytorch.nn.dropout import Dropout
from spear_tts_pytorch.nn.linear import linear
from spear_tts_pytorch.nn.transformer import EarlyExit, Transformer
from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer
from spear_tts_pytorch.tokenizers.text import openai_tokenizer
from spear_tts_pytorch.tokens import MODALITIES, Batch, Modality, append_eos, valid_mask, with_start
from spear_tts_pytorch.utils.arguments import check_keywords, show_keywords
from spear_tts_pytorch.utils.values import given_path, switch


class TextToSemantic(
    nn.Module,
    ModelHubMixin,
    library_name="spear-tts-pytorch",
    license="mit",
    tags=["text-to-speech", "spear-tts"],
    paper_url="https://arxiv.org/abs/2302.03540",
):
    """Text to semantic ids, and back: the first stage of SPEAR-TTS (arXiv 2302.03540).

    Args:
        dim: model width.
        source_depth, target_depth: encoder and decoder layers.
        num_text_token_ids: V; text ids are `1..V-1`, 0 is padding. Taken from `tokenizer_encode.vocab_size` if None.
        tokenizer_encode: list of strings to ids `[b, n]` padded with 0. A `TextTokenizer`, or a fast tokenizer of
            `transformers`, also decodes and is saved with the model.
        use_openai_tokenizer: CLIP's byte pairs instead (`pip install "spear-tts-pytorch[clip]"`).
        wav2vec: tokenizer of waveforms, see `SemanticTokenizer`; never a part of the state dict.
        num_semantic_token_ids: K; speech ids are `0..K-1`. None is `wav2vec.codebook_size`; more leave room for a `mask_id`.
        dim_head, heads: width of an attention head (even), and heads of each attention.
        target_kv_heads: fewer key/value heads in the decoder's self-attention (grouped-query attention).
        attn_dropout, ff_dropout, emb_dropout: dropout of attention weights, in feedforwards, and of embeddings, 0 to 1.
        ff_mult: inner width of feedforwards is `dim * ff_mult * 2 / 3`.
        semantic_pad_id, text_pad_id: padding of speech and text ids.
        autoset_semantic_eos_id, autoset_text_eos_id: whether sequences end in an end-of-sequence id (K, V).
        attn_flash: allows flash kernels on GPUs; never changes results beyond rounding.
        cond_drop_prob: share of training rows that do not see their source, for classifier-free guidance.
        target_early_exit_layer: decoder layer (from 1) with an early exit head for speculative decoding.
        detach_early_exit_embed: the early exit's loss trains its head alone.
        align_reg_loss_weight, align_reg_use_logsumexp_pool, align_reg_logsumexp_pool_temp: weight and pooling of the alignment
            regulariser (arXiv 2309.08773), active with `cond_drop_prob`.
        label_smoothing: of the cross entropy, in training.
        add_positions: adds sinusoidal positions on the speech timeline; off in checkpoints up to 0.4.8.
        cross_attention_prior: adds a diagonal prior on the same timeline to cross-attention scores.
        text_position_rate: mean number of semantic ids per text id, for these two.
        ctc: gives the encoder a CTC head over text ids (blank 0), for backtranslation.

    Raises:
        TypeError, ValueError: an argument of another type or out of range, vocabularies not given or contradictory.
    """

    wav2vec: Any
    tokenizer_encode: Any
    acceleration = Acceleration()

    @show_keywords(ModelKeywords, ModelConfig)
    def __init__(
        self,
        dim: int,
        *,
        tokenizer_encode: Callable[[list[str]], Any] | None = None,
        use_openai_tokenizer: bool = False,
        wav2vec: Any = None,
        num_text_token_ids: int | None = None,
        num_semantic_token_ids: int | None = None,
        **sizes: Unpack[ModelKeywords],
    ):
        super().__init__()
        check_keywords("TextToSemantic", ModelKeywords, sizes)
        if switch("use_openai_tokenizer", use_openai_tokenizer):
            tokenizer_encode, num_text_token_ids = openai_tokenizer(tokenizer_encode)
        if hasattr(tokenizer_encode, "backend_tokenizer"):  # one of transformers, whose padding is not 0
            tokenizer_encode = HuggingFaceTokenizer(tokenizer_encode)
        self.config = config = ModelConfig(
            dim=dim,
            num_text_token_ids=vocabulary_size(
                "num_text_token_ids", num_text_token_ids, tokenizer_encode, "vocab_size"
            ),
            num_semantic_token_ids=vocabulary_size(
                "num_semantic_token_ids", num_semantic_token_ids, wav2vec, "codebook_size", may_add=True
            ),
            **sizes,
        )
        self.use_openai_tokenizer = bool(use_openai_tokenizer)
        self.tokenizer_encode, self.wav2vec = tokenizer_encode, wav2vec
        self._set_attributes(config.sized())
        self.token_emb = nn.ModuleDict({m: nn.Embedding(self.vocabulary[m].size, config.dim) for m in MODALITIES})
        self.start_token = nn.ParameterDict({m: nn.Parameter(torch.randn(config.dim)) for m in MODALITIES})
        self.emb_dropout = Dropout(config.emb_dropout)
        self.source_transformer = Transformer(depth=config.source_depth, **config.stack())
        self.target_transformer = Transformer(
            depth=config.target_depth, kv_heads=config.target_kv_heads, causal=True, cross_attend=True, **config.stack()
        )
        self.early_exit = EarlyExit(config.dim, self.vocabulary["speech"].size) if self.target_has_early_exit else None
        self.to_ctc_logits = nn.Linear(dim, config.num_text_token_ids) if config.ctc else None
        embedding.initialise(self, self.target_transformer.final_norm.gamma)

    def _set_attributes(self, config: ModelConfig) -> None:
        """Attributes that users and other packages read, under the names of release 0.4.8."""
        self.dim, self.early_exit_layer = config.dim, config.target_early_exit_layer
        self.vocabulary = vocabulary = config.vocabulary()
        self.pad_id = {m: vocabulary[m].pad_id for m in MODALITIES}
        self.eos_id = {m: vocabulary[m].eos_id for m in MODALITIES}
        self.autoset_eos_id = {m: vocabulary[m].autoset_eos for m in MODALITIES}
        self.num_semantic_token_ids, self.num_text_token_ids = config.num_semantic_token_ids, config.num_text_token_ids
        self.semantic_pad_id, self.text_pad_id = config.semantic_pad_id, config.text_pad_id
        self.label_smoothing, self.cond_drop_prob = config.label_smoothing, config.cond_drop_prob
        self.align_reg_use_logsumexp_pool = config.align_reg_use_logsumexp_pool
        self.align_reg_logsumexp_pool_temp = config.align_reg_logsumexp_pool_temp
        self.add_positions, self.cross_attention_prior = config.add_positions, config.cross_attention_prior
        self.text_position_rate, self.align_reg_loss_weight = config.text_position_rate, config.align_reg_loss_weight
        self.detach_early_exit_embed = config.detach_early_exit_embed

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "wav2vec":
            self.__dict__[name] = value  # past nn.Module, which would make its weights the model's own
        else:
            super().__setattr__(name, attributes.assigned(self, name, value))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(attributes.state_of_today(state))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        pretrained.rename_old_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __repr__(self) -> str:
        config, parameters = self.config, sum(parameter.numel() for parameter in self.parameters())
        return (
            f"{type(self).__name__}(dim {config.dim}, {config.source_depth} + {config.target_depth} layers, "
            f"{config.heads} heads, {parameters / 1e6:.1f} M parameters, on {self.device})\n"
            f"  speech: {config.num_semantic_token_ids} ids, {_in_a_line(self.wav2vec)}\n"
            f"  text: {config.num_text_token_ids} ids, {_in_a_line(self.tokenizer_encode)}"
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments but for the tokenizers, as JSON types."""
        changed = {"num_text_token_ids": None} if self.use_openai_tokenizer else {}
        return {**self.config.to_dict(), "use_openai_tokenizer": self.use_openai_tokenizer, **changed}

    @property
    def device(self) -> torch.device:
        return self.start_token["speech"].device

    @property
    def semantic_token_emb(self) -> nn.Embedding:
        return cast(nn.Embedding, self.token_emb["speech"])

    @property
    def target_has_early_exit(self) -> bool:
        return self.early_exit_layer is not None

    @property
    def text_tokenizer(self) -> Any:
        """The text tokenizer if it can decode, else None."""
        return self.tokenizer_encode if hasattr(self.tokenizer_encode, "decode") else None

    def table(self, modality: Modality) -> Tensor:
        """Embeddings of a modality's ids, `[v, dim]`, which also give its logits."""
        return cast(nn.Embedding, self.token_emb[modality]).weight

    to_ids = inputs.batch_ids
    source_ids = inputs.source_ids

    def encode(
        self,
        source: Batch,
        source_type: Modality,
        *,
        source_mask: Tensor | None = None,
        source_lengths: Tensor | None = None,
        source_position_rate: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes a batch of sources.

        Returns:
            Embeddings `[b, n, dim]`, their mask `[b, n]` and their positions on the speech timeline `[1, n]`.
        """
        ids = self.source_ids(source, source_type, source_mask, source_lengths)
        return self.encode_ids(ids, source_type, source_position_rate)

    def encode_ids(
        self, ids: Tensor, modality: Modality, position_rate: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`encode` for ids `[b, n]` that `to_ids` returned: appends end-of-sequence, embeds, runs the encoder."""
        vocabulary = self.vocabulary[modality]
        if vocabulary.autoset_eos:
            ids = append_eos(ids, vocabulary.eos_id, vocabulary.pad_id)
        mask = valid_mask(ids, vocabulary.pad_id)
        rate = embedding.position_rate(self, modality) if position_rate is None else position_rate
        positions = embedding.timeline([0], ids.shape[1], rate, ids.device)
        x = self.emb_dropout(embedding.embed(self, ids, modality, positions))
        return self.source_transformer(x, mask=mask), mask, positions

    def encoder(self, source_type: Modality) -> nn.Module:
        """The encoder as a module from unchecked int64 ids `[b, n]` to embeddings and mask, for `torch.export`."""
        return EncoderModule(self, source_type)

    def ctc_logits(self, semantic_ids: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities `[b, n + 1, V]` of text ids (blank 0) at each semantic id `[b, n]` and its end; lengths `[b]`."""
        encoded, mask, _ = self.encode(semantic_ids, "speech")
        return heads.ctc_log_probs(self, encoded), mask.sum(dim=-1)

    embed_target = embedding.embed_target
    cross_mask = embedding.cross_mask

    def to_logits(self, x: Tensor, modality: Modality) -> Tensor:
        """Decoder outputs `[b, n, dim]` to logits `[b, n, v]`: products with the token embeddings."""
        return linear(x, self.table(modality))

    def forward(
        self,
        source: Batch,
        target: Batch,
        *,
        source_type: Modality,
        target_type: Modality,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        return_loss: bool = False,
        return_logits: bool = False,
        cond_drop_prob: float | None = None,
        should_sim_regularize: bool = True,
        return_early_exit_loss: bool = False,
        source_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
        source_position_rate: float | None = None,
        ctc_weight: float = 0.0,
        row_keys: Tensor | None = None,
        check_ids: bool = True,
        end: bool = True,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or the loss, of targets given sources.

        Args:
            source, target: texts, ids `[b, n]`, or (speech) waveforms `[b, t]`, padded on the right; arrays and lists too.
            source_type, target_type: "speech" or "text".
            source_mask, target_mask: `[b, n]`, True at real ids; by default, ids that are not padding.
            return_loss, return_logits: return the loss, and with it the logits that it is of.
            cond_drop_prob: share of rows that do not see their source; by default the model's, in training only.
            should_sim_regularize: whether these rows also bring the alignment regulariser.
            return_early_exit_loss: adds the early exit head's loss.
            source_lengths, target_lengths: of waveforms, in samples, `[b]`.
            source_position_rate: steps of the speech timeline between source ids, if not the modality's own.
            ctc_weight: share of the CTC head's loss, for speech to text; the rest is attention's. At 1 the decoder is not
                run, and the logits are the CTC head's, `[b, source length, V]`.
            row_keys: `[b]`, decide which rows do not see their source (`noise.row_keys`); else torch's generator does.
            check_ids: False takes checked int64 ids `[b, n]` on the model's device. The checks wait for the device.
            end: False is for crops: end-of-sequence is no target of the loss.

        Returns:
            Logits `[b, n + 1, v]`: entry i predicts target id i, the last one the id after all of them. With `return_loss`, the
            loss; with `return_logits` too, also its logits: one for each target id and for end-of-sequence, if there is one.

        Raises:
            ValueError, TypeError: see `to_ids`; batches that differ; an early exit or CTC loss without that head.
        """
        kinds = source_type, target_type, return_early_exit_loss, should_sim_regularize
        parts = heads.LossParts(*kinds, ctc_weight, cond_drop_prob, end).checked(self)
        if check_ids:
            inputs.check_rows(inputs.number_of_rows(source), inputs.number_of_rows(target))
            teaches = not return_loss or (end and self.vocabulary[target_type].autoset_eos)  # an empty row, too
            target = self.to_ids(target, target_type, "target", target_lengths, target_mask, empty_rows=teaches)
            source = self.source_ids(source, source_type, source_mask, source_lengths)
        else:
            inputs.check_plain(source, target, source_mask, target_mask, source_lengths, target_lengths)
        ids = cast(Tensor, source), cast(Tensor, target)
        loss, logits = self._run(*ids, parts, return_loss, source_position_rate, row_keys)
        return logits if loss is None else (loss, logits) if return_logits else loss

    def _run(
        self,
        source: Tensor,
        target: Tensor,
        parts: heads.LossParts,
        with_loss: bool,
        position_rate: float | None,
        row_keys: Tensor | None,
    ) -> tuple[Tensor | None, Tensor]:
        """The loss, if asked for, and the logits, for source ids `[b, m]` and target ids `[b, n]`."""
        inputs.check_rows(len(source), len(target))
        vocabulary = self.vocabulary[parts.target_type]
        if with_loss and parts.end and vocabulary.autoset_eos:
            target = append_eos(target, vocabulary.eos_id, vocabulary.pad_id)
        encoded = self.encode_ids(source, parts.source_type, position_rate)
        if parts.ctc_weight == 1 and with_loss:
            return heads.ctc_loss(self, *encoded[:2], target)
        dropped = heads.drop_condition(encoded[1], parts.drop_prob(self), row_keys)
        decoded = self._decode(target, parts.target_type, *encoded, dropped)
        if not with_loss:
            return None, decoded.logits
        return heads.loss_of(self, decoded, target, parts), decoded.logits[:, :-1]

    def _decode(
        self,
        target: Tensor,
        target_type: Modality,
        source: Tensor,
        source_mask: Tensor,
        source_positions: Tensor,
        dropped: Tensor | None,
    ) -> heads.Decoded:
        """Runs the decoder over target ids `[b, n]`, with encoded sources `[b, m, dim]` as context."""
        x, positions = self.embed_target(target, target_type, [0], dropout=True)
        seen = source_mask if dropped is None else source_mask & ~dropped[:, None]
        allowed = with_start(seen)[:, None, None, :]
        context_mask = self.cross_mask(allowed, source_positions, positions)
        hidden, hiddens = self.target_transformer(x, context=source, context_mask=context_mask, return_hiddens=True)
        return heads.Decoded(source, source_mask, hidden, hiddens, self.to_logits(hidden, target_type), dropped)

    # generation and scoring: decoding/

    generate = generation.generate
    generate_n_best = generation.generate_n_best
    generate_stream = stream.generate_stream
    generate_many = batching.generate_many
    alignment = generation.alignment
    score = scoring.score
    quantize = accelerate.quantize

    def compile(self, *, batch_sizes: tuple[int, ...] = (1, 2), warm_up: bool = True) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]  (release 0.5.0 gave the name this meaning)
        """Compiles decoding steps: see `decoding.accelerate.compile_steps`."""
        return accelerate.compile_steps(self, batch_sizes=batch_sizes, warm_up=warm_up)

    # which parameters train: freezing.py

    unfreeze_all = freezing.unfreeze_all
    freeze_encoder = freezing.freeze_encoder
    freeze_encoder_below_layer = freezing.freeze_encoder_below_layer
    freeze_encoder_above_layer = freezing.freeze_encoder_above_layer
    freeze_decoder = freezing.freeze_decoder
    freeze_speech_emb = freezing.freeze_speech_emb
    freeze_text_emb = freezing.freeze_text_emb

    # files: pretrained.py

    load = pretrained.load
    load_weights = pretrained.load_weights
    write_pretrained = saving.write_pretrained

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes a folder that `from_pretrained` opens. `options` are huggingface_hub's: `push_to_hub`, `repo_id`, ..."""
        here, hub = saving.split_options(options, given_path("save_directory", save_directory).name)
        with saving.replaced_model(save_directory) as folder:
            super().save_pretrained(folder, **here)
        return self.push_to_hub(**here, **hub) if hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        saving.write_files(self, save_directory, self.state_dict())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """The model saved in a folder or on the Hub, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder written by `save_pretrained`, or a Hub id such as "someone/model".
            kwargs: huggingface_hub's (`revision`, `token`, `cache_dir`, `force_download`, `local_files_only`), or
                constructor arguments to replace.

        Raises:
            FileNotFoundError: there is no such folder, or it is not a model's.
            ValueError: damaged files, or a model of a newer release.
        """
        hub = {name: kwargs.pop(name) for name in pretrained.HUB_KEYWORDS if name in kwargs}
        folder = pretrained.model_folder(pretrained_model_name_or_path, hub)
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        arguments = pretrained.saved_arguments(folder, kwargs, known)
        model = cls(**pretrained.check_sizes(folder, TextToSemantic, arguments))
        model.load_weights(pretrained.read_weights(folder), source=str(folder))
        return model.eval()


def _in_a_line(tokenizer: object) -> str:
    return "no tokenizer" if tokenizer is None else " ".join(repr(tokenizer).split())
