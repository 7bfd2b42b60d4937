"""Decoding strategies over `step(ids [r, n], cache) -> logits [r, n', v]`; nothing here knows models."""
