"""The model: one encoder-decoder over speech and text ids, for all four pairs of modalities.

In: ids `[b, n]` (or raw texts, or waveforms where a tokenizer was given). Out: logits `[b, n, v]`, losses, or generated
ids. Padding and end-of-sequence are `tokens.py`'s business, the choice of ids `decoding`'s, files `pretrained.py`'s.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spear_tts_pytorch.decoding.accelerate import AccelerationMixin
from spear_tts_pytorch.decoding.batching import ThroughputMixin
from spear_tts_pytorch.decoding.continuous import ContinuousMixin
from spear_tts_pytorch.decoding.generate import GenerationMixin
from spear_tts_pytorch.decoding.score import ScoringMixin
from spear_tts_pytorch.model import losses
from spear_tts_pytorch.model.freezing import FreezingMixin
from spear_tts_pytorch.model.inputs import Batch, number_of_rows, to_ids
from spear_tts_pytorch.model.objectives import ObjectiveMixin
from spear_tts_pytorch.model.positions import add_sinusoids, diagonal_prior, timeline
from spear_tts_pytorch.model.pretrained import PretrainedMixin, rename_old_keys
from spear_tts_pytorch.nn.linear import linear
from spear_tts_pytorch.nn.transformer import EarlyExit, Transformer
from spear_tts_pytorch.tokenizers.text import openai_tokenizer
from spear_tts_pytorch.tokens import MODALITIES, Modality, Vocabulary, append_eos, valid_mask
from spear_tts_pytorch.utils.checks import typechecked


class TextToSemantic(
    GenerationMixin,
    ContinuousMixin,
    ThroughputMixin,
    ScoringMixin,
    AccelerationMixin,
    ObjectiveMixin,
    FreezingMixin,
    nn.Module,
    PretrainedMixin,
):
    """Text to semantic ids, and back: the first stage of SPEAR-TTS (arXiv 2302.03540).

    Args:
        dim: model width.
        source_depth, target_depth: encoder and decoder layers.
        num_text_token_ids: V; text ids are `1..V-1`, 0 is padding. Taken from `tokenizer_encode.vocab_size` if None.
        tokenizer_encode: list of strings to ids `[b, n]` padded with 0; a `TextTokenizer`, or a fast tokenizer of
            `transformers`, also decodes and is saved with the model.
        use_openai_tokenizer: CLIP's byte pairs instead (`pip install "spear-tts-pytorch[clip]"`).
        wav2vec: tokenizer of waveforms, see `SemanticTokenizer`; never a part of the state dict.
        num_semantic_token_ids: K; speech ids are `0..K-1`. Taken from `wav2vec.codebook_size` if None; may be larger, for
            ids of one's own such as a `mask_id`.
        target_kv_heads: fewer key/value heads in the decoder's self-attention (grouped-query attention).
        autoset_semantic_eos_id, autoset_text_eos_id: whether sequences end in an end-of-sequence id (K, V).
        attn_flash: allows flash kernels on GPUs; never changes results beyond rounding.
        cond_drop_prob: share of training rows that do not see their source, for classifier-free guidance.
        target_early_exit_layer: decoder layer (from 1) with an early exit head for speculative decoding.
        align_reg_*: the regulariser of arXiv 2309.08773, active with `cond_drop_prob`.
        label_smoothing: of the cross entropy.
        emb_dropout: dropout of embedded sources and targets.
        add_positions: adds sinusoidal positions on the speech timeline; off in checkpoints up to 0.4.8.
        cross_attention_prior: adds a diagonal prior on the same timeline to cross-attention scores.
        text_position_rate: mean number of semantic ids per text id, for these two.
        ctc: gives the encoder a CTC head over text ids (blank 0), for backtranslation.

    Raises:
        ValueError: vocabularies not given or contradictory, `heads` not a multiple of `target_kv_heads`, a probability
            or layer out of range.
    """

    @typechecked
    def __init__(
        self,
        dim: int,
        *,
        source_depth: int,
        target_depth: int,
        num_text_token_ids: int | None = None,
        tokenizer_encode: Callable[[list[str]], Tensor] | None = None,
        use_openai_tokenizer: bool = False,
        wav2vec: Any = None,
        num_semantic_token_ids: int | None = None,
        dim_head: int = 64,
        heads: int = 8,
        target_kv_heads: int | None = None,
        attn_dropout: float = 0.0,
        ff_mult: float = 4,
        ff_dropout: float = 0.0,
        semantic_pad_id: int = -1,
        text_pad_id: int = 0,
        autoset_semantic_eos_id: bool = True,
        autoset_text_eos_id: bool = True,
        attn_flash: bool = False,
        cond_drop_prob: float = 0.0,
        target_early_exit_layer: int | None = None,
        detach_early_exit_embed: bool = False,
        align_reg_loss_weight: float = 0.1,
        align_reg_use_logsumexp_pool: bool = True,
        align_reg_logsumexp_pool_temp: float = 0.1,
        label_smoothing: float = 0.0,
        emb_dropout: float = 0.0,
        add_positions: bool = False,
        cross_attention_prior: bool = False,
        text_position_rate: float = 1.0,
        ctc: bool = False,
    ):
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__", "tokenizer_encode", "wav2vec")}
        super().__init__()
        if use_openai_tokenizer:
            tokenizer_encode, num_text_token_ids = openai_tokenizer(tokenizer_encode)
        if hasattr(tokenizer_encode, "backend_tokenizer"):  # one of transformers, whose padding is not 0
            from spear_tts_pytorch.tokenizers.huggingface import HuggingFaceTokenizer

            tokenizer_encode = HuggingFaceTokenizer(tokenizer_encode)
        num_text_token_ids = _size("num_text_token_ids", num_text_token_ids, tokenizer_encode, "vocab_size")
        num_semantic_token_ids = _size("num_semantic_token_ids", num_semantic_token_ids, wav2vec, "codebook_size", True)
        if min(dim, heads, dim_head, source_depth, target_depth) < 1 or dim_head % 2:
            raise ValueError(
                f"dim {dim}, heads {heads}, dim_head {dim_head}, source_depth {source_depth} and target_depth {target_depth} "
                "must be at least 1, and dim_head even for rotary positions"
            )
        shares = dict(cond_drop_prob=cond_drop_prob, attn_dropout=attn_dropout, ff_dropout=ff_dropout)
        for name, value in {**shares, "emb_dropout": emb_dropout, "label_smoothing": label_smoothing}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {value}")
        positive = dict(ff_mult=ff_mult, text_position_rate=text_position_rate)
        for name, value in {**positive, "align_reg_logsumexp_pool_temp": align_reg_logsumexp_pool_temp}.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0, got {value}")
        if target_early_exit_layer is not None and not 0 < target_early_exit_layer <= target_depth:
            raise ValueError(
                f"target_early_exit_layer must be 1 to target_depth ({target_depth}), got {target_early_exit_layer}"
            )
        if 0 <= semantic_pad_id <= num_semantic_token_ids or text_pad_id == num_text_token_ids:
            raise ValueError(
                f"semantic_pad_id {semantic_pad_id} must be no speech id or end-of-sequence (0 to {num_semantic_token_ids}), "
                f"and text_pad_id {text_pad_id} not the text's end-of-sequence ({num_text_token_ids}): leave them at -1 and 0"
            )
        if ctc and not 0 <= text_pad_id < num_text_token_ids:
            raise ValueError(f"ctc takes text_pad_id for its blank, which must be a text id then, got {text_pad_id}")
        self.arguments = {
            **arguments,
            "num_text_token_ids": None if use_openai_tokenizer else num_text_token_ids,
            "num_semantic_token_ids": num_semantic_token_ids,
        }
        self.dim = dim
        self.tokenizer_encode = tokenizer_encode
        self.__dict__["wav2vec"] = wav2vec  # past nn.Module, which would make its weights the model's own
        self.num_semantic_token_ids, self.num_text_token_ids = num_semantic_token_ids, num_text_token_ids
        self.semantic_pad_id, self.text_pad_id = semantic_pad_id, text_pad_id
        self.vocabulary: dict[str, Vocabulary] = {
            "speech": Vocabulary("speech", num_semantic_token_ids, semantic_pad_id, autoset_semantic_eos_id),
            "text": Vocabulary("text", num_text_token_ids, text_pad_id, autoset_text_eos_id),
        }
        self.pad_id = {m: self.vocabulary[m].pad_id for m in MODALITIES}
        self.eos_id = {m: self.vocabulary[m].eos_id for m in MODALITIES}
        self.autoset_eos_id = {m: self.vocabulary[m].autoset_eos for m in MODALITIES}
        self.cond_drop_prob = cond_drop_prob
        self.align_reg_loss_weight = align_reg_loss_weight
        self.align_reg_use_logsumexp_pool = align_reg_use_logsumexp_pool
        self.align_reg_logsumexp_pool_temp = align_reg_logsumexp_pool_temp
        self.label_smoothing, self.text_position_rate = label_smoothing, text_position_rate
        self.add_positions, self.cross_attention_prior = add_positions, cross_attention_prior
        self.early_exit_layer = target_early_exit_layer
        self.detach_early_exit_embed = detach_early_exit_embed

        shared = dict(
            dim=dim,
            dim_head=dim_head,
            heads=heads,
            attn_dropout=attn_dropout,
            ff_mult=ff_mult,
            ff_dropout=ff_dropout,
            attn_flash=attn_flash,
        )
        self.token_emb = nn.ModuleDict({m: nn.Embedding(self.vocabulary[m].size, dim) for m in MODALITIES})
        self.start_token = nn.ParameterDict({m: nn.Parameter(torch.randn(dim)) for m in MODALITIES})
        self.emb_dropout = nn.Dropout(emb_dropout)
        self.source_transformer = Transformer(depth=source_depth, **shared)
        self.target_transformer = Transformer(
            depth=target_depth, kv_heads=target_kv_heads, causal=True, cross_attend=True, **shared
        )
        self.early_exit = EarlyExit(dim, self.vocabulary["speech"].size) if self.target_has_early_exit else None
        self.to_ctc_logits = nn.Linear(dim, num_text_token_ids) if ctc else None
        self._initialise_embeddings()

    def _initialise_embeddings(self) -> None:
        """Small tied embeddings and a small last gain: logits near 0, so a first loss of ln(vocabulary) at any width."""
        for modality in MODALITIES:
            nn.init.normal_(self.token_emb[modality].weight, std=self.dim**-0.5)
            nn.init.normal_(self.start_token[modality], std=self.dim**-0.5)
        nn.init.constant_(self.target_transformer.final_norm.gamma, min(1.0, 4 * self.dim**-0.5))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        rename_old_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def device(self) -> torch.device:
        return self.start_token["speech"].device

    @property
    def semantic_token_emb(self) -> nn.Embedding:
        return self.token_emb["speech"]

    @property
    def target_has_early_exit(self) -> bool:
        return self.early_exit_layer is not None

    @property
    def text_tokenizer(self) -> Any:
        """The text tokenizer if it can decode, else None."""
        return self.tokenizer_encode if hasattr(self.tokenizer_encode, "decode") else None

    # inputs

    def to_ids(
        self,
        x: Batch,
        modality: Modality,
        name: str,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        empty_rows: bool = True,
        right_padded: bool = True,
    ) -> Tensor:
        """Texts, waveforms or ids, as tensors, arrays or lists of rows, to checked ids `[b, n]`: see `inputs.to_ids`."""
        if modality not in MODALITIES:
            raise ValueError(f"{name}_type must be 'speech' or 'text', got {modality!r}")
        return to_ids(
            x,
            self.vocabulary[modality],
            name,
            tokenizer=self.wav2vec if modality == "speech" else self.tokenizer_encode,
            device=self.device,
            lengths=lengths,
            mask=mask,
            empty_rows=empty_rows,
            right_padded=right_padded,
        )

    def source_ids(self, source: Batch, source_type: Modality, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """Checked ids of sources: every row has some; a mask may leave out ids inside a row."""
        return self.to_ids(source, source_type, "source", lengths, mask, empty_rows=False, right_padded=mask is None)

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

    def encoder(self, source_type: Modality) -> nn.Module:
        """The encoder as a module from ids `[b, n]` to embeddings and mask, for `torch.export` and its runtimes.

        It shares its weights with the model, expects int64 ids padded on the right, and does not check them.
        """
        if source_type not in MODALITIES:
            raise ValueError(f"source_type must be 'speech' or 'text', got {source_type!r}")
        return _Encoder(self, source_type)

    def encode_ids(
        self, ids: Tensor, modality: Modality, position_rate: float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`encode` for ids `[b, n]` that `to_ids` returned: appends end-of-sequence, embeds, runs the encoder."""
        vocabulary = self.vocabulary[modality]
        if vocabulary.autoset_eos:
            ids = append_eos(ids, vocabulary.eos_id, vocabulary.pad_id)
        mask = valid_mask(ids, vocabulary.pad_id)
        rate = self._rate(modality) if position_rate is None else position_rate
        positions = timeline([0], ids.shape[1], rate, ids.device)
        x = self._embed(ids, mask, modality, positions)
        return self.source_transformer(x, mask=mask), mask, positions

    def _embed(self, ids: Tensor, mask: Tensor | None, modality: Modality, positions: Tensor) -> Tensor:
        ids = ids if mask is None else ids.masked_fill(~mask, 0)  # padding has no row in the table
        x = self.token_emb[modality](ids)
        x = add_sinusoids(x, positions) if self.add_positions else x
        return self.emb_dropout(x)

    def _rate(self, modality: Modality) -> float:
        return self.text_position_rate if modality == "text" else 1.0

    # outputs

    def _cross_mask(self, mask: Tensor, source_positions: Tensor, target_positions: Tensor) -> Tensor:
        """Which source each target position may read, null first: `[s, 1, 1, 1 + m]`, or with the prior additive."""
        allowed = F.pad(mask, (1, 0), value=True)[:, None, None, :]
        if not self.cross_attention_prior:
            return allowed
        prior = F.pad(diagonal_prior(target_positions, source_positions), (1, 0))[:, None]
        prior = prior.to(self.start_token["text"].dtype)
        return prior.masked_fill(~allowed, float("-inf"))

    def to_logits(self, x: Tensor, modality: Modality) -> Tensor:
        """Decoder outputs `[b, n, dim]` to logits `[b, n, v]`: products with the token embeddings."""
        return linear(x, self.token_emb[modality].weight)

    def _embed_target(self, ids: Tensor, modality: Modality, first: list[int]) -> tuple[Tensor, Tensor]:
        """Ids `[r, n]` that stand at `first`; the start token comes before those that stand at 0."""
        vocabulary, starts = self.vocabulary[modality], first[0] == 0
        positions = timeline(first, ids.shape[1] + int(starts), self._rate(modality), ids.device)
        own = positions[:, 1:] if starts else positions
        x = self._embed(ids, valid_mask(ids, vocabulary.pad_id), modality, own)
        if starts:
            start = self.start_token[modality].expand(x.shape[0], 1, -1)
            start = add_sinusoids(start, positions[:, :1]) if self.add_positions else start
            x = torch.cat((start.to(x.dtype), x), dim=1)
        return x, positions

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
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or the loss, of targets given sources.

        Args:
            source, target: texts, ids `[b, n]`, or (speech) waveforms `[b, t]`, padded on the right; arrays and lists
                of rows are taken too.
            source_mask, target_mask: `[b, n]`, True at real ids; by default, what is not padding.
            cond_drop_prob: share of rows that do not see their source; by default the model's, in training only.
            should_sim_regularize: whether rows dropped also bring the alignment regulariser.
            return_early_exit_loss: adds the early exit head's loss.
            source_lengths, target_lengths: of waveforms, in samples, `[b]`.
            source_position_rate: steps of the speech timeline between source ids, if not the modality's own.
            ctc_weight: this share of the loss is the CTC head's, the rest attention's; speech to text only. At 1 the
                decoder is not run, and the logits are the CTC head's, `[b, source length, V]`.
            row_keys: `[b]`, decide with `cond_drop_prob` which rows do not see their source, see `noise.row_keys`; by
                default torch's generator does.
            check_ids: False takes source and target as they are: int64 ids `[b, n]` on the model's device, padded on the
                right, that were checked before. The checks wait for the device.

        Returns:
            Logits `[b, n + 1, v]`: entry i predicts target id i, the last what follows. With `return_loss`, the loss and,
            with `return_logits`, the logits that it is of: one for each target id and for end-of-sequence, if there is one.

        Raises:
            ValueError, TypeError: see `to_ids`; batches that differ; an early exit or CTC loss without that head.
        """
        self._check_call(source_type, target_type, return_early_exit_loss, ctc_weight)
        rows, target_rows = number_of_rows(source), number_of_rows(target)
        if rows and target_rows and rows != target_rows:
            raise ValueError(f"source has {rows} rows and target {target_rows}: they must agree")
        drop_prob = self._drop_probability(cond_drop_prob)
        vocabulary = self.vocabulary[target_type]
        if check_ids:
            may_be_empty = not return_loss or vocabulary.autoset_eos  # else nothing is learned from such a row
            target = self.to_ids(target, target_type, "target", target_lengths, target_mask, empty_rows=may_be_empty)
            source = self.source_ids(source, source_type, source_mask, source_lengths)
        if source.shape[0] != target.shape[0]:
            raise ValueError(f"source has {source.shape[0]} rows and target {target.shape[0]}: they must agree")
        if vocabulary.autoset_eos and return_loss:
            target = append_eos(target, vocabulary.eos_id, vocabulary.pad_id)
        source_emb, source_mask, source_positions = self.encode_ids(source, source_type, source_position_rate)

        if ctc_weight == 1 and return_loss:
            loss, logits = self._ctc_loss(source_emb, source_mask, target)
            return (loss, logits) if return_logits else loss
        dropped = self._drop_condition(source_mask, drop_prob, row_keys)
        x, positions = self._embed_target(target, target_type, [0])
        seen = source_mask if dropped is None else source_mask & ~dropped[:, None]
        x, hiddens = self.target_transformer(
            x,
            context=source_emb,
            context_mask=self._cross_mask(seen, source_positions, positions),
            return_hiddens=True,
        )
        logits = self.to_logits(x, target_type)
        if not return_loss:
            return logits

        loss = losses.cross_entropy(logits[:, :-1], target, vocabulary.pad_id, self._smoothing)
        if ctc_weight > 0:
            loss = (1 - ctc_weight) * loss + ctc_weight * self._ctc_loss(source_emb, source_mask, target)[0]
        if return_early_exit_loss:
            loss = loss + self._early_exit_loss(hiddens, target)
        if should_sim_regularize and dropped is not None and source_type != target_type:
            target_mask = F.pad(valid_mask(target, vocabulary.pad_id), (1, 0), value=True)
            loss = loss + self._alignment_loss(source_emb, x, source_mask, target_mask, dropped, drop_prob)
        return (loss, logits[:, :-1]) if return_logits else loss


class _Encoder(nn.Module):
    def __init__(self, model: TextToSemantic, source_type: Modality):
        super().__init__()
        self.model, self.source_type = model, source_type

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x, mask, _ = self.model.encode_ids(ids, self.source_type)
        return x, mask


def _size(name: str, given: int | None, tokenizer: Any, attribute: str, may_add: bool = False) -> int:
    """A vocabulary's size: given, or read off its tokenizer, to which it may add ids."""
    own = getattr(tokenizer, attribute, None)
    if given is None and own is None:
        raise ValueError(f"{name} is missing: give it, or a tokenizer that has {attribute}")
    if given is not None and own is not None and (given < own or (given > own and not may_add)):
        raise ValueError(f"{name} is {given}, but the tokenizer's {attribute} is {own}: leave one of them out")
    if (own if given is None else given) < 1:
        raise ValueError(f"{name} must be at least 1, got {own if given is None else given}")
    return int(own if given is None else given)
