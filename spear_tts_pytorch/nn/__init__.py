"""Transformer parts: tensors in, tensors out; no knowledge of modalities, vocabularies or decoding."""
