"""Standard SAE: ReLU codes under an L1 penalty, unit decoder rows (Bricken et al. 2023, "Towards Monosemanticity").

The penalty's scale is that of Anthropic's April 2024 update: inputs scaled to a mean length of sqrt(d_in), squared
error summed over the dimensions. With unit rows its decoder-norm weighting falls away. They advise l1 = 5; the default
here is 2, because short trainings lose more to shrinkage than they gain in sparsity.

The step costs five dense products, one slice of the batch after another, in two buffers that are used again.
"""

from __future__ import annotations

import torch

from tasks.sae.coder import Coder, Step

#: Vectors that are worked on together: two buffers of (SLICE, d_sae) instead of two of (batch, d_sae).
SLICE = 1024


class Standard(Coder):
    """max(0, pre-activation) as the code."""

    #: Features start quiet, or d_sae / d_in of them add up to far too much.
    encoder_init = 0.1

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of (n, d_in) activations: (n, d_sae), not negative."""
        return self.preactivations(x).relu()

    @torch.no_grad()
    def step(self, x: torch.Tensor, dead: torch.Tensor, pressure: float = 1.0) -> Step:
        """See `Coder.step`; dead features get no help beyond the penalty's warm-up."""
        upstream = torch.empty_like(x)
        w_enc, w_dec = torch.zeros_like(self.W_enc), torch.zeros_like(self.W_dec)
        b_enc, active = torch.zeros_like(self.b_enc), torch.zeros_like(self.b_enc)
        error_sum, code_sum = x.new_zeros(()), x.new_zeros(())
        weight = pressure * self.config.l1
        to_code = torch.full_like(self.b_enc, weight / len(x))
        for start in range(0, len(x), SLICE):
            part = x[start : start + SLICE]
            codes = self.preactivations(part, out=self.scratch("codes", len(part))).relu_()
            code_sum += codes.sum()
            error = torch.addmm(self.b_dec, codes, self.W_dec).sub_(part)
            error_sum += error.square().sum()
            up = upstream[start : start + SLICE]
            torch.mul(error, 2 / len(x), out=up)
            w_dec.addmm_(codes.T, up)
            to_pre = torch.addmm(to_code, up, self.W_dec.T, out=self.scratch("gradient", len(part)))
            to_pre.mul_(codes.sign_())
            active += codes.sum(0)
            w_enc.addmm_(to_pre.T, part)
            b_enc += to_pre.sum(0)
        self.write_gradient(w_enc, b_enc, w_dec, upstream)
        reconstruction, penalty = error_sum / len(x), weight * code_sum / len(x)
        return Step(reconstruction + penalty, reconstruction, penalty, active.sum() / len(x), active > 0)

    def slow_loss(self, x: torch.Tensor, dead: torch.Tensor, pressure: float = 1.0) -> torch.Tensor:
        """The same loss, all at once."""
        codes = ((x - self.b_dec) @ self.W_enc.T + self.b_enc).relu()
        return (self.decode(codes) - x).square().sum(1).mean() + pressure * self.config.l1 * codes.sum(1).mean()


CODER = Standard
