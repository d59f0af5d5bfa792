"""Training and evaluation machinery: steps, schedules, checkpoints, metrics."""
