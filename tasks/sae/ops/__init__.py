"""The sparse products that a training step is made of, by torch or by the project's own kernels."""
