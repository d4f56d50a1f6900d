"""Gated SAE: one path decides which features are active, the other how much (Rajamanoharan et al. 2024,
arXiv:2404.16014).

Both paths share the encoder's directions: the gate reads z + b_gate, the magnitude exp(r_mag) z + b_mag, where z =
W_enc (x - b_dec) (section 3.2). The L1 penalty and an auxiliary reconstruction act on the gate alone; the latter
through a frozen copy of the decoder (section 3.3, equation 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.jobs.kind import option
from tasks.lazy_import import torch
from tasks.sae.coder import Coder, CoderOptions, StepLosses, StepState
from tasks.sae.ops.active_pairs import Pairs
from tasks.sae.ops.gradients import Sums

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options(CoderOptions):
    """What can be chosen."""

    l1: float = option(4.0, help="L1 coefficient", minimum=0)

    def label(self) -> str:
        """The sparsity, for a name."""
        return f"l1-{self.l1:g}"


class Gated(Coder):
    """[gate > 0] max(0, magnitude) as the code."""

    Options = Options
    saved_as = "gated"
    parameter_names = ("W_enc", "b_gate", "r_mag", "b_mag", "W_dec", "b_dec")
    encoder_init = 0.1

    b_gate: Tensor
    r_mag: Tensor
    b_mag: Tensor

    def begin(self) -> None:
        """A bias for each path, and by how much the magnitude's rows are longer than the gate's."""
        self.b_gate, self.r_mag, self.b_mag = (torch.zeros(self.config.d_sae) for _ in range(3))

    def own_bias(self) -> Tensor:
        """Pre-activations are z: each path adds its own bias."""
        return torch.zeros_like(self.b_gate)

    def activate_at(self, pairs: Pairs, pre: Tensor) -> Tensor:
        """See `Coder.activate_at`."""
        scale, by_mag, by_gate = (pairs.of_features(each) for each in (self.r_mag.exp(), self.b_mag, self.b_gate))
        return (pre * scale + by_mag).relu() * (pre + by_gate > 0)

    def floor(self) -> Tensor:
        """See `Coder.floor`: where the gate opens."""
        return -self.b_gate

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """See `Coder.step`."""
        weight = step_state.pressure * self.options.l1 / len(x)
        scale = self.r_mag.exp()
        pre = self.project(x)
        sums, to_gate, to_scale, to_mag = Sums(self, x, target), *(torch.zeros_like(self.b_gate) for _ in range(3))
        for pairs in pre.exceeding(self.floor()):
            z, lengths = pre.at(pairs), pairs.of_features(scale)
            gate = (z + pairs.of_features(self.b_gate)).relu()
            is_open = gate.sign()
            codes = (z * lengths).add_(pairs.of_features(self.b_mag)).relu().mul_(is_open)
            active = codes.sign()
            upstream = sums.reconstruct(pairs, codes)
            from_output = pairs.pull(upstream, self.W_dec).mul_(active)
            left = self._explain_by_gate(sums, pairs.rows, pairs.decode(gate, self.W_dec))
            from_gate = pairs.pull(left, self.W_dec).add_(weight).mul_(is_open)
            sums.through_decoder(pairs, codes, upstream)
            sums.through_encoder(pairs, (from_output * lengths).add_(from_gate))
            sums.count(pairs, active)
            sums.sparsity = sums.sparsity + weight * gate.sum()
            to_gate += pairs.per_feature(from_gate)
            to_mag += pairs.per_feature(from_output)
            to_scale += pairs.per_feature(from_output * z)
        return sums.write(b_gate=to_gate, b_mag=to_mag, r_mag=to_scale * scale)

    def _explain_by_gate(self, sums: Sums, rows: slice, decoded: Tensor) -> Tensor:
        """Count how far the gate's own values are from the target, and return that loss's gradient: (rows, d_out).

        The decoder, its bias included, is frozen in this.
        """
        error = (decoded + self.b_dec).sub_(sums.target[rows])
        if self.config.skip:
            error.addmm_(sums.x[rows], self.W_skip.T)
        sums.auxiliary = sums.auxiliary + error.square().sum() / len(sums.x)
        return error.mul_(2 / len(sums.x))

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The same loss, all at once."""
        pre = self.preactivations(x)
        gate = (pre + self.b_gate).relu()
        loss = (self.complete(self.activate(pre), x) - target).square().sum(1).mean()
        frozen = self.W_skip.detach() if self.config.skip else None
        by_gate = gate @ self.W_dec.detach() + self.b_dec.detach() + (0 if frozen is None else x @ frozen.T)
        auxiliary = (by_gate - target).square().sum(1).mean()
        return loss + auxiliary + step_state.pressure * self.options.l1 * gate.sum(1).mean()


CODER = Gated
