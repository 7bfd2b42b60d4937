"""Transformer layers. In: tensors, masks and positions. Out: tensors. They serve any modality and vocabulary."""
