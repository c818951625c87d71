"""The arithmetic of a training step: its definition in Torch, and compiled kernels."""
