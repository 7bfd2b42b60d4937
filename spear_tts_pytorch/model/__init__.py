"""The model: its learned parts, its inputs and losses, its files."""
