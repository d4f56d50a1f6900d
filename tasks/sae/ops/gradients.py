"""The gradient and losses of one step, summed over its active pairs; no other module writes `.grad`.

The loss of every architecture begins with the mean over the batch of |x_hat - target|^2, where x_hat = codes W_dec +
b_dec, and its codes come from pre-activations W_enc (x - b_dec) + bias. What an architecture must say itself is how the
gradient to its codes becomes one to its pre-activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.lazy_import import torch
from tasks.sae.coder import Coder, StepLosses
from tasks.sae.ops.active_pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor


class Sums:
    """What is known of a step so far; `x` is (batch, d_in), `target` (batch, d_out).

    The gradient of the weights takes the place of the last step's, if it is still there.
    """

    def __init__(self, coder: Coder, x: Tensor, target: Tensor) -> None:
        self.coder, self.x, self.target = coder, x, target
        zero = coder.b_dec.new_zeros(())
        self.reconstruction, self.sparsity, self.auxiliary = zero, zero.clone(), zero.clone()
        self.error = zero.clone()  # of the whole dictionary
        self.active = coder.W_enc.new_zeros(coder.config.d_sae)  # on how many vectors each feature is active
        self.to_pre = torch.zeros_like(self.active)  # (d_sae,): gradient to the pre-activations, over the vectors
        self._to_output = torch.zeros_like(coder.b_dec)
        self._to_skip = torch.zeros_like(coder.W_skip) if coder.config.skip else None
        self.w_enc: Tensor | None = None
        self.w_dec: Tensor | None = None

    def reconstruct(self, pairs: Pairs, codes: Tensor) -> Tensor:
        """Count the error of what these codes decode to, and return its gradient to the output: (rows, d_out)."""
        coder, rows = self.coder, pairs.rows
        if self._to_skip is not None:
            return self.measure(rows, pairs.decode(codes, coder.W_dec))
        target, scale = self.target[rows], 2 / len(self.x)
        upstream, squared = pairs.residual(codes, coder.W_dec, coder.b_dec, target, scale)
        return self._add_error(rows, upstream, squared)

    def measure(self, rows: slice, decoded: Tensor, share: float = 1.0, is_whole: bool = True) -> Tensor:
        """The same for codes that are decoded already, without bias; `share` is what it counts in the loss.

        `is_whole` says whether they are all that the dictionary has, or those of a nested one.
        `decoded` (rows, d_out) is not changed.
        """
        error = (decoded + self.coder.b_dec).sub_(self.target[rows])
        if self._to_skip is not None:
            error.addmm_(self.x[rows], self.coder.W_skip.T)
        squared = error.square().sum()
        upstream = error.mul_(2 * share / len(self.x))
        return self._add_error(rows, upstream, squared, share, is_whole)

    def _add_error(
        self, rows: slice, upstream: Tensor, squared: Tensor, share: float = 1.0, is_whole: bool = True
    ) -> Tensor:
        """Add an error's square and its gradient to the output, which is what comes back: (rows, d_out)."""
        self.reconstruction = self.reconstruction + squared * (share / len(self.x))
        if is_whole:
            self.error = self.error + squared / len(self.x)
        self._to_output += upstream.sum(0)
        if self._to_skip is not None:
            self._to_skip.addmm_(upstream.T, self.x[rows])
        return upstream

    def count(self, pairs: Pairs, active: Tensor) -> None:
        """`active`, as values at the pairs, is 1 where a feature fired and 0 elsewhere."""
        self.active += pairs.per_feature(active)

    def through_decoder(self, pairs: Pairs, codes: Tensor, upstream: Tensor) -> None:
        """Add the gradient to W_dec of decoding these codes."""
        self.w_dec = pairs.spread(codes, upstream, self.w_dec, out=self.coder.W_dec.grad)

    def through_encoder(self, pairs: Pairs, to_pre: Tensor) -> None:
        """Add the gradient to W_enc and to the biases of what has this gradient to its pre-activations."""
        self.w_enc = pairs.spread(to_pre, self.x[pairs.rows], self.w_enc, out=self.coder.W_enc.grad)
        self.to_pre += pairs.per_feature(to_pre)

    def write(self, **own: Tensor) -> StepLosses:
        """Set `.grad` of every parameter, of an architecture's `own` to the value given, and return the losses of the
        step.

        The encoder reads x - b_dec, and W_enc's gradient was accumulated as if it read x: one outer product corrects
        that.
        """
        coder = self.coder
        assert self.w_enc is not None
        assert self.w_dec is not None
        to_output = self._to_output
        if not coder.is_transcoder:
            self.w_enc.addr_(self.to_pre, coder.b_dec, alpha=-1)
            to_output = to_output - self.to_pre @ coder.W_enc
        gradients = {"W_enc": self.w_enc, "b_enc": self.to_pre, "W_dec": self.w_dec, "b_dec": to_output, **own}
        if self._to_skip is not None:
            gradients["W_skip"] = self._to_skip
        for name, parameter in coder.parameters.items():
            parameter.grad = gradients[name]
        loss = self.reconstruction + self.sparsity + self.auxiliary
        l0 = self.active.sum() / len(self.x)
        return StepLosses(loss, self.reconstruction, self.sparsity, self.auxiliary, l0, self.error, self.active > 0)
