"""Training: batches, the loop, checkpoints, resume."""
