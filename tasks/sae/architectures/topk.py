"""TopK SAE: each vector is coded by its k largest pre-activations (Gao et al. 2024, arXiv:2406.04093, section 2.3).

Dead features learn from the auxiliary loss of section 2.4 and appendix A.2, which asks them to explain what the live
ones left over. It is estimated on a part of the batch, which keeps its gradient unbiased and its price bearable.

The step costs one dense product (the pre-activations) and four sparse passes, each an `embedding_bag`: the codes to
the reconstruction, the reconstruction's gradient back to the codes, and the codes' gradients to the two matrices. The
last two read the same (vector, feature) pairs sorted by feature.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from tasks.sae.coder import Coder, Step

#: Weight of the auxiliary loss (Gao et al., section 2.4), and the vectors on which it is estimated: the first
#: eighth of the batch, not under so many.
AUX_WEIGHT = 1 / 32
AUX_SHARE, AUX_LEAST = 8, 256


class Codes(NamedTuple):
    """The active features of each vector: `ids` (n, k) int64 and their `values` (n, k), not negative."""

    ids: torch.Tensor
    values: torch.Tensor


class TopK(Coder):
    """Exactly k active features a vector, fewer where pre-activations are negative."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of (n, d_in) activations: (n, d_sae) with at most k positive entries a row."""
        return self._dense(self._select(self.preactivations(x), self.config.k), len(x))

    def saved_options(self) -> dict[str, Any]:
        """The number of active features."""
        return {"k": self.config.k, "rescale_acts_by_decoder_norm": False}

    @torch.no_grad()
    def step(self, x: torch.Tensor, dead: torch.Tensor, pressure: float = 1.0) -> Step:
        """See `Coder.step`; there is no penalty to warm up."""
        pre = self.preactivations(x, out=self.scratch("pre", len(x)))
        codes = self._select(pre, self.config.k)
        error, upstream = self._error(codes, self.b_dec - x)
        w_enc, b_enc, w_dec = self._gradient(x, codes, upstream)
        reconstruction = error.square().sum() / len(x)
        penalty = torch.zeros_like(reconstruction)
        if len(dead):
            part = aux_rows(len(x))
            spare = self._select_dead(pre[:part], dead)
            weight = _aux_weight(x[:part], error[:part])
            aux_error, aux_upstream = self._error(spare, error[:part], weight)
            for grad, more in zip((w_enc, b_enc, w_dec), self._gradient(x[:part], spare, aux_upstream), strict=True):
                grad += more
            penalty = weight * aux_error.square().sum() / part
        self.write_gradient(w_enc, b_enc, w_dec, upstream)
        active = codes.values > 0
        fired = torch.zeros_like(self.b_enc).scatter_add_(0, codes.ids.flatten(), active.flatten().float()) > 0
        return Step(reconstruction + penalty, reconstruction, penalty, active.sum() / len(x), fired)

    def slow_loss(self, x: torch.Tensor, dead: torch.Tensor, pressure: float = 1.0) -> torch.Tensor:
        """The same loss from dense codes."""
        pre = (x - self.b_dec) @ self.W_enc.T + self.b_enc
        error = self.decode(self._dense(self._select(pre, self.config.k), len(x))) - x
        loss = error.square().sum(1).mean()
        if len(dead):
            part = aux_rows(len(x))
            left_over = -error[:part].detach()
            explained = self._dense(self._select_dead(pre[:part], dead), part) @ self.W_dec
            loss = loss + _aux_weight(x[:part], left_over) * (explained - left_over).square().sum(1).mean()
        return loss

    def _select(self, pre: torch.Tensor, k: int) -> Codes:
        values, ids = pre.topk(k, dim=1, sorted=False)
        return Codes(ids, values.relu())

    def _select_dead(self, pre: torch.Tensor, dead: torch.Tensor) -> Codes:
        """The strongest d_in / 2 of the dead features (Gao et al., appendix A.2)."""
        codes = self._select(pre[:, dead], min(len(dead), max(1, self.config.d_in // 2)))
        return Codes(dead[codes.ids], codes.values)

    def _dense(self, codes: Codes, rows: int) -> torch.Tensor:
        return codes.values.new_zeros(rows, self.config.d_sae).scatter(1, codes.ids, codes.values)

    def _error(
        self, codes: Codes, offset: torch.Tensor, weight: torch.Tensor | float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoded codes plus `offset`, and the gradient of `weight` times its mean squared length."""
        error = functional.embedding_bag(codes.ids, self.W_dec, per_sample_weights=codes.values, mode="sum")
        error += offset
        return error, error * (2 * weight / len(error))

    def _gradient(
        self, x: torch.Tensor, codes: Codes, upstream: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients to W_enc (as if it read x), b_enc and W_dec of what decoded `codes` to get `upstream`."""
        to_pre = self._to_values(codes, upstream) * (codes.values > 0)
        order, starts = by_feature(codes.ids, self.config.d_sae)
        vectors = order // codes.ids.shape[1]

        def gather(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            return functional.embedding_bag(
                vectors, rows, starts, per_sample_weights=weights.flatten()[order], mode="sum"
            )

        b_enc = torch.zeros_like(self.b_enc).scatter_add_(0, codes.ids.flatten(), to_pre.flatten())
        return gather(x, to_pre), b_enc, gather(upstream, codes.values)

    def _to_values(self, codes: Codes, upstream: torch.Tensor) -> torch.Tensor:
        """The gradient to each code's value: its decoder row times its vector's gradient, (n, k)."""
        values = codes.values.detach().requires_grad_()
        with torch.enable_grad():
            decoded = functional.embedding_bag(codes.ids, self.W_dec.detach(), per_sample_weights=values, mode="sum")
        return torch.autograd.grad(decoded, values, upstream)[0]


def _aux_weight(x: torch.Tensor, left_over: torch.Tensor) -> torch.Tensor:
    """AUX_WEIGHT relative to the variances of what is explained, as in the code published with the paper.

    The paper's formula leaves the auxiliary loss in the units of the error: so small that dead features hardly move.
    """
    return AUX_WEIGHT * x.var(0, correction=0).sum() / left_over.var(0, correction=0).sum().clamp_min(1e-12)


def aux_rows(batch: int) -> int:
    """How many vectors of a batch the auxiliary loss looks at."""
    return min(batch, max(AUX_LEAST, batch // AUX_SHARE))


def by_feature(ids: torch.Tensor, d_sae: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The order that sorts `ids` by feature, and where each feature's run starts: (ids.numel(),) and (d_sae,) int64.

    NumPy sorts 16-bit keys by radix, ten times faster than torch's CPU sort.
    """
    flat = ids.flatten()
    if flat.device.type == "cpu":
        keys = flat.numpy().astype(np.uint16 if d_sae <= 1 << 16 else np.uint32)
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        counts = torch.from_numpy(np.bincount(keys, minlength=d_sae))
    else:
        order = flat.sort(stable=True).indices
        counts = torch.bincount(flat, minlength=d_sae)
    return order, counts.cumsum(0) - counts


CODER = TopK
