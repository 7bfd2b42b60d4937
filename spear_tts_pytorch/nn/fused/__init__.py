"""The transformer's layers as decoding runs them, a few ids at a time."""
