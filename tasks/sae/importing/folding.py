"""Folds what is done to activations into an SAE's weights, so that it takes them as they are; codes stay the same.

Each function changes a dictionary of float64 tensors by SAELens' names: W_enc (d_in, d_sae), W_dec (d_sae, d_out),
biases (d_sae,), W_skip (d_out, d_in).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy_import import torch

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]


def fold_lengths(tensors: Tensors) -> None:
    """Codes that were chosen and counted times their decoder row's norm are so by themselves."""
    lengths = tensors["W_dec"].norm(dim=1).clamp_min(1e-30)
    tensors["W_enc"] = tensors["W_enc"] * lengths
    tensors["b_enc"] = tensors["b_enc"] * lengths
    tensors["W_dec"] = tensors["W_dec"] / lengths[:, None]


def fold_input_bias(tensors: Tensors) -> None:
    """An encoder that reads x becomes one that reads x - b_dec: its biases take b_dec up."""
    _add_to_biases(tensors, tensors["b_dec"] @ tensors["W_enc"])


def fold_scale(tensors: Tensors, scale: float) -> None:
    """Activations that were multiplied with `scale`, and reconstructions divided by it (SAELens' own folding)."""
    tensors["W_enc"] = tensors["W_enc"] * scale
    tensors["W_dec"] = tensors["W_dec"] / scale
    tensors["b_dec"] = tensors["b_dec"] / scale


def fold_whitening(tensors: Tensors, whitening: Tensors, reads_less_bias: bool) -> None:
    """Activations whitened as z = (x - mean) @ matrix, and reconstructions turned back (arXiv:2511.13981).

    `reads_less_bias`: whether the encoder reads z - b_dec rather than z.
    """
    tensors["W_enc"] = whitening["matrix"] @ tensors["W_enc"]
    if not reads_less_bias:
        _add_to_biases(tensors, -(whitening["mean"] @ tensors["W_enc"]))
    tensors["W_dec"] = tensors["W_dec"] @ whitening["inverse_matrix"]
    tensors["b_dec"] = tensors["b_dec"] @ whitening["inverse_matrix"] + whitening["mean"]


def fold_centering(tensors: Tensors, reads_less_bias: bool) -> None:
    """Activations without their mean over dimensions: x -> (I - 11^T/d) x, as TransformerLens' centered weights write.

    The encoder becomes (I - 11^T/d) W_enc. Where it reads x - b_dec the mean of b_dec is still read: the biases keep
    it. Reconstructions stay those of centered activations.
    """
    means = tensors["W_enc"].mean(dim=0)
    tensors["W_enc"] = tensors["W_enc"] - means
    if reads_less_bias:
        _add_to_biases(tensors, -tensors["b_dec"].sum() * means)
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"] - tensors["W_skip"].mean(dim=1, keepdim=True)


def _add_to_biases(tensors: Tensors, shift: Tensor) -> None:
    """Add `shift` (d_sae,) to what the encoder's product is before biases; a gated SAE has two paths from there."""
    for name, share in (("b_enc", 1.0), ("b_gate", 1.0), ("b_mag", tensors.get("r_mag", torch.zeros(())).exp())):
        if name in tensors:
            tensors[name] = tensors[name] + shift * share
