"""Training: schedules, checkpoints, one loop, and a trainer for each stage of the recipe."""
