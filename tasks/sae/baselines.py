"""Baselines for an SAE: PCA with as many components, and a random dictionary with as many active directions.

Both are fitted on training activations and measured on the same held-out ones as the SAE, by the same definition of
explained variance.
"""

from __future__ import annotations

from typing import Any

import torch

from tasks.sae.memory_estimate import numbers_coded
from tasks.sae.metrics import Measures, total_variance

#: Numbers held of the vectors that the random dictionary codes together, and products in all that it may cost.
NUMBERS, _PRODUCTS = 1 << 24, 1 << 35


def compare(found: Measures, train: torch.Tensor, held_out: torch.Tensor) -> dict[str, Any]:
    """What the baselines explain of `held_out` with the L0 of the SAE of which that was found.

    Both tensors are (n, d): of a transcoder what it is to write, which the baselines code.
    """
    active = max(1, round(found.l0))
    return {
        "pca_explained_variance": pca_explained_variance(train, held_out, active),
        "random_explained_variance": random_explained_variance(train, held_out, len(found.density), active),
        "baseline_tokens": len(held_out),
    }


@torch.no_grad()
def pca_explained_variance(train: torch.Tensor, held_out: torch.Tensor, components: int) -> float:
    """Explained variance of the best linear code of that size: both tensors are (n, d_in)."""
    mean = train.mean(0)
    centred = (train - mean).double()
    basis = _principal(centred, components).to(train.dtype)
    away = held_out - mean
    return 1 - float((away - (away @ basis) @ basis.T).square().sum() / total_variance(held_out))


def _principal(centred: torch.Tensor, components: int) -> torch.Tensor:
    """The first principal directions of (n, d) float64 vectors: (d, components) or as many as there are, orthonormal.

    By the products of dimensions or of vectors, whichever are fewer: the wide vectors of a crosscoder are few.
    """
    n, d = centred.shape
    _, found = torch.linalg.eigh(centred.T @ centred if d <= n else centred @ centred.T)  # ascending
    last = found[:, max(0, found.shape[1] - components) :]
    return last if d <= n else torch.linalg.qr(centred.T @ last).Q


@torch.no_grad()
def random_explained_variance(
    train: torch.Tensor, held_out: torch.Tensor, d_sae: int, active: int, seed: int = 1
) -> float:
    """Explained variance of `d_sae` random unit directions, of which each vector uses `active`.

    A vector, less the training mean, uses the directions with the largest inner products, and its coefficients are
    those of least squares: no other decoding of the chosen directions explains more. Where `active` is large, fewer
    of the held-out vectors are looked at, never under 512.
    """
    d_in = train.shape[1]
    active = max(1, min(active, d_sae, d_in - 1))
    held_out = held_out[: max(512, _PRODUCTS // (active * active * d_in))]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(d_sae, d_in, generator=generator).to(train.device)
    directions /= directions.norm(dim=1, keepdim=True)
    error = 0.0
    for away in (held_out - train.mean(0)).split(max(1, NUMBERS // numbers_coded(d_in, d_sae, active))):
        inner, ids = (away @ directions.T).topk(active, dim=1)
        chosen = directions[ids]  # (n, active, d_in)
        products = (chosen @ chosen.mT).double()
        products.diagonal(dim1=1, dim2=2).add_(1e-6)
        weights = torch.cholesky_solve(inner.double()[:, :, None], torch.linalg.cholesky(products))
        error += float((away - (chosen.mT @ weights.float())[:, :, 0]).square().sum())
    return 1 - error / float(total_variance(held_out))
