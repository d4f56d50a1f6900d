"""What every sparse autoencoder is: weights, encoder, decoder, and the contract of one training step.

An architecture adds how pre-activations become codes, its loss, and a hand-written gradient of that loss. The gradient
is written out because it can be several times faster than autograd on a CPU; `slow_loss` is the same loss in plain
autograd, and the tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn


@dataclass(frozen=True)
class CoderConfig:
    """The shape of a coder. `k` is read by TopK only, `l1` by the standard SAE only."""

    architecture: str
    d_in: int
    d_sae: int
    k: int = 32
    l1: float = 2.0


class Step(NamedTuple):
    """What one training step saw; 0-dimensional tensors, so that reading them can wait."""

    loss: torch.Tensor
    reconstruction: torch.Tensor  # mean over the batch of the squared L2 error
    penalty: torch.Tensor  # what the architecture adds to it, weighted
    l0: torch.Tensor  # mean number of active features
    fired: torch.Tensor  # (d_sae,) bool: features active anywhere in the batch


class Coder(nn.Module):
    """A dictionary of `d_sae` unit directions in R^d_in, and an encoder to it.

    `W_enc` and `W_dec` are both kept as (d_sae, d_in), one row a feature: the layout that the sparse passes read
    row by row. Encoder input is x - b_dec (Bricken et al. 2023, "Towards Monosemanticity", appendix; Gao et al. 2024,
    "Scaling and evaluating sparse autoencoders", section 2).
    """

    #: Length of the encoder's rows at the start, relative to the decoder's.
    encoder_init = 1.0

    def __init__(self, config: CoderConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(config.d_sae, config.d_in, generator=generator)
        directions /= directions.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(directions * self.encoder_init)
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        self._scratch: dict[str, torch.Tensor] = {}

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of (n, d_in) activations: (n, d_sae), non-negative, mostly zero."""
        raise NotImplementedError

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(n, d_sae) codes -> (n, d_in) reconstructions."""
        return codes @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, d_in) -> its reconstruction."""
        return self.decode(self.encode(x))

    def step(self, x: torch.Tensor, dead: torch.Tensor, pressure: float = 1.0) -> Step:
        """Write the loss's gradient into `.grad` of every parameter.

        `x` is (batch, d_in); `dead` holds the int64 indices of features that have not fired for long; `pressure`
        in 0…1 scales the sparsity penalty while it warms up.
        """
        raise NotImplementedError

    def slow_loss(self, x: torch.Tensor, dead: torch.Tensor, pressure: float = 1.0) -> torch.Tensor:
        """The loss whose gradient `step` writes, for autograd: the oracle of the tests."""
        raise NotImplementedError

    def saved_options(self) -> dict[str, Any]:
        """What this architecture adds to the saved `cfg.json`."""
        return {}

    def preactivations(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """(n, d_in) -> W_enc (x - b_dec) + b_enc, (n, d_sae): b_dec is folded into the bias, so x is read once."""
        return torch.addmm(self.b_enc - self.W_enc @ self.b_dec, x, self.W_enc.T, out=out)

    def scratch(self, name: str, rows: int) -> torch.Tensor:
        """A (rows, d_sae) buffer that is used again at each step: fresh memory costs more than filling it."""
        held = self._scratch.get(name)
        if held is None or len(held) < rows or held.device != self.W_enc.device:
            held = self._scratch[name] = self.W_enc.detach().new_empty(rows, self.config.d_sae)
        return held[:rows]

    def write_gradient(
        self, w_enc: torch.Tensor, b_enc: torch.Tensor, w_dec: torch.Tensor, error: torch.Tensor
    ) -> None:
        """Set `.grad` from the parts of the gradient.

        `w_enc` (d_sae, d_in) as if the encoder read x rather than x - b_dec: mended here by one outer product.
        `error` is the gradient to the reconstruction, (batch, d_in).
        """
        self.W_enc.grad = w_enc.addr_(b_enc, self.b_dec.detach(), alpha=-1)
        self.b_enc.grad = b_enc
        self.W_dec.grad = w_dec
        self.b_dec.grad = error.sum(0) - b_enc @ self.W_enc

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Remove what would only change the length of decoder rows (Bricken et al. 2023; Gao et al. 2024, A.1)."""
        assert self.W_dec.grad is not None
        along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
        self.W_dec.grad.addcmul_(self.W_dec, along[:, None], value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the decoder's rows back to length 1."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True).clamp_min_(1e-8))
