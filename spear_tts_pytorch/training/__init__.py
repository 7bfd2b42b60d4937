"""Training: options, the loop and its parts, checkpoints, and a trainer for each stage of the recipe."""
