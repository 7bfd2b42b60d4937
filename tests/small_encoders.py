"""Small speech encoders of transformers with random weights, of all families that `EncoderKmeans` takes."""

import torch
import transformers

DIM, DEPTH = 16, 3
SIZES = dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=32)
CONVOLUTIONS = dict(conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, **SIZES)
LARGE = dict(do_stable_layer_norm=True, feat_extract_norm="layer", **CONVOLUTIONS)
WHISPER = dict(
    d_model=DIM, encoder_layers=DEPTH, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
)
WHISPER |= dict(encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=50, num_mel_bins=20, pad_token_id=0)
WHISPER |= dict(bos_token_id=1, eos_token_id=2, decoder_start_token_id=3)
# mHuBERT-147 is a HuBERT base that takes normalised audio; MMS and XLS-R are large wav2vec 2.0.
FAMILIES = {
    "hubert": ("Hubert", CONVOLUTIONS, dict(do_normalize=False)),
    "mhubert": ("Hubert", CONVOLUTIONS, dict(do_normalize=True)),
    "hubert-large": ("Hubert", LARGE, dict(do_normalize=True)),
    "hubert-batch-norm": ("Hubert", dict(conv_pos_batch_norm=True, **CONVOLUTIONS), dict(do_normalize=False)),
    "wavlm": ("WavLM", CONVOLUTIONS, dict(do_normalize=False)),
    "wavlm-large": ("WavLM", LARGE, dict(do_normalize=True)),
    "wav2vec2": ("Wav2Vec2", CONVOLUTIONS, dict(do_normalize=True)),
    "mms": ("Wav2Vec2", LARGE, dict(do_normalize=True)),
    "unispeech": ("UniSpeech", dict(num_codevectors_per_group=4, **CONVOLUTIONS), dict(do_normalize=True)),
    "w2v-bert": ("Wav2Vec2Bert", SIZES, None),
    "w2v-bert-rotary": ("Wav2Vec2Bert", dict(position_embeddings_type="rotary", **SIZES), None),
    "whisper": ("Whisper", WHISPER, None),
}


def make(family, path):
    """Saves a small model with random weights and its feature extractor in a folder, and returns that."""
    torch.manual_seed(0)
    kind, sizes, preprocessing = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for name, value in model.named_parameters():
        if name.endswith("weight") and value.ndim > 1:  # random models barely hear their input otherwise
            torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
    model.save_pretrained(path)
    _extractor(family, config, preprocessing).save_pretrained(path)
    return path


def _extractor(family, config, preprocessing):
    if family == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
    if preprocessing is None:
        return transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, padding_value=1)
    return transformers.Wav2Vec2FeatureExtractor(**preprocessing)


def recogniser(path, bands=80, languages=()):
    """Saves a small Whisper with random weights and a tokenizer of bytes in a folder, and returns that."""
    import tokenizers

    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{one}|>" for one in languages), "<|transcribe|>"]
    special += ["<|notimestamps|>"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({one: place for place, one in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    text = transformers.WhisperTokenizerFast(tokenizer_object=bpe, unk_token=special[0], bos_token=special[0])
    text.add_special_tokens({"eos_token": special[0], "pad_token": special[0]})
    text.add_tokens(special[1:], special_tokens=True)
    ids = {one: text.convert_tokens_to_ids(one) for one in special}
    torch.manual_seed(0)
    sizes = {**WHISPER, "vocab_size": len(text), "num_mel_bins": bands, "max_target_positions": 448}
    sizes |= dict(pad_token_id=ids[special[0]], bos_token_id=ids[special[0]], eos_token_id=ids[special[0]])
    config = transformers.WhisperConfig(**sizes | {"decoder_start_token_id": ids[special[1]]})
    model = transformers.WhisperForConditionalGeneration(config).eval()
    for name, value in model.named_parameters():
        if name.endswith("weight") and value.ndim > 1:
            torch.nn.init.normal_(value, std=2 * value[0].numel() ** -0.5)
    made = model.generation_config
    made._from_model_config, made.max_length, made.is_multilingual = False, 448, bool(languages)
    made.no_timestamps_token_id = ids["<|notimestamps|>"]
    made.lang_to_id = {f"<|{one}|>": ids[f"<|{one}|>"] for one in languages}
    made.task_to_id = {"transcribe": ids["<|transcribe|>"]}
    model.save_pretrained(path)
    text.save_pretrained(path)
    return path
