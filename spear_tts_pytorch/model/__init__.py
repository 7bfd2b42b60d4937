"""The model: what is learned, its inputs and losses, its files."""
