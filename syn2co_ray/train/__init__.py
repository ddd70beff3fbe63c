"""The distributed training run: loop, optimizer, checkpoints, run folder, Ray Train workers."""
