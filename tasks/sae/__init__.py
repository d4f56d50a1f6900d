"""Sparse autoencoders: the coder, its architectures, the training loop, the measures and the saved form."""
