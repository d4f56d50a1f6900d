"""Activations of a model at its hooks: as batches, on disk, and replaced by an SAE's reconstruction."""
