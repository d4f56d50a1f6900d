"""JumpReLU SAE: a code is its pre-activation where that exceeds the feature's own threshold (Rajamanoharan et al. 2024,
arXiv:2407.14435).

The thresholds learn through straight-through estimators: where a pre-activation lies within half a bandwidth of its
threshold, the jump counts as a slope of 1 / bandwidth (section 3, equations 11 and 12). The penalty is one of

- `step`: the number of active features (section 3, equation 9);
- `target-l0`: its squared distance to a wanted number, relative to that (appendix F, with the weight of Gemma Scope 2);
- `tanh`: sum tanh(c f), which also reaches the encoder (Conerly et al., Anthropic, January 2025).

Thresholds are trained as they are, not as logarithms: Adam would hardly move a small one's logarithm in a short
training. With `--pre-act` a term sum max(0, threshold - pre) over dead features brings them back (the same update).
The decoder's rows have length 1, so the lengths that update multiplies with fall away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.errors import UserError
from tasks.jobs.kind import flag_of, option
from tasks.lazy_import import torch
from tasks.sae.coder import Coder, CoderOptions, StepLosses, StepState
from tasks.sae.ops.active_pairs import Pairs
from tasks.sae.ops.gradients import Sums
from tasks.sae.ops.preactivations import Preactivations

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options(CoderOptions):
    """What can be chosen."""

    l0: float = option(1.0, help="L0 coefficient", minimum=0)
    penalty: str = option(
        "step", help="Sparsity penalty: step (L0), target-l0 or tanh", choices=("step", "target-l0", "tanh")
    )
    target_l0: float = option(32.0, help="Target L0, with --penalty target-l0", minimum=0.01)
    threshold: float = option(0.2, help="Initial JumpReLU threshold", minimum=0)
    bandwidth: float = option(0.1, help="Bandwidth of the straight-through estimator (KDE width)", minimum=1e-6)
    tanh_scale: float = option(4.0, help="Scale c in tanh(c f), with --penalty tanh", minimum=0)
    pre_act: float = option(0.0, help="Pre-activation loss coefficient (revives dead features)", minimum=0)

    def __post_init__(self) -> None:
        """UserError for a choice that only another penalty looks at."""
        for name, penalty in (("target_l0", "target-l0"), ("tanh_scale", "tanh")):
            if self.penalty != penalty and getattr(self, name) != getattr(Options, name):
                raise UserError(
                    f"{flag_of(name)} does nothing with --penalty {self.penalty}.", f"Give --penalty {penalty} too"
                )

    def label(self) -> str:
        """The sparsity, for a name."""
        return f"target{self.target_l0:g}" if self.penalty == "target-l0" else f"l0-{self.l0:g}"

    def check(self, d_sae: int) -> None:
        """No more active features wanted than there are."""
        if self.penalty == "target-l0" and self.target_l0 > d_sae:
            raise UserError(
                f"--target-l0 {self.target_l0:g} is more than the {d_sae} features of the SAE.",
                "Give a smaller --target-l0 or more features",
            )


class JumpReLU(Coder):
    """pre [pre > threshold] as the code."""

    Options = Options
    saved_as = "jumprelu"
    parameter_names = ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")
    encoder_init = 0.1

    threshold: Tensor

    def begin(self) -> None:
        """A threshold for each feature."""
        self.threshold = torch.full((self.config.d_sae,), float(self.options.threshold))

    def activate_at(self, pairs: Pairs, pre: Tensor) -> Tensor:
        """See `Coder.activate_at`."""
        return pre * (pre > pairs.of_features(self.threshold))

    def floor(self) -> Tensor:
        """See `Coder.floor`."""
        return self.threshold

    def constrain(self) -> None:
        """Keep thresholds from falling below zero, where negative pre-activations would become codes."""
        super().constrain()
        self.threshold.clamp_(min=0)

    def step(self, x: Tensor, target: Tensor, step_state: StepState) -> StepLosses:
        """See `Coder.step`."""
        width = self.options.bandwidth
        pre = self.project(x)
        sums, to_threshold = Sums(self, x, target), torch.zeros_like(self.threshold)
        for pairs in pre.exceeding(self.threshold - width / 2):
            here, threshold = pre.at(pairs), pairs.of_features(self.threshold)
            is_active = here > threshold
            active = is_active.to(here.dtype)
            codes = here * active
            firing, chosen = pairs.among(is_active)  # the others only move their threshold
            written = codes[chosen]
            upstream = sums.reconstruct(firing, written)
            to_codes = pairs.pull(upstream, self.W_dec)
            jump = self._penalise(sums, pairs, codes, active, to_codes, step_state.pressure)
            is_near = (here - threshold).abs_().lt_(width / 2)
            to_threshold -= pairs.per_feature((threshold * to_codes).add_(jump).mul_(is_near)) / width
            sums.through_decoder(firing, written, upstream)
            sums.through_encoder(firing, to_codes.mul_(active)[chosen])
            sums.count(firing, active[chosen])
        if self.options.pre_act and len(step_state.dead):
            to_threshold += self._wake(sums, pre, step_state.dead)
        return sums.write(threshold=to_threshold)

    def _penalise(
        self, sums: Sums, pairs: Pairs, codes: Tensor, active: Tensor, to_codes: Tensor, pressure: float
    ) -> Tensor | float:
        """Count the penalty and add its slope to `to_codes`; what one more active feature costs, for each pair."""
        weight = pressure * self.options.l0 / len(sums.x)
        if self.options.penalty == "tanh":
            counted = (codes * self.options.tanh_scale).tanh_()
            sums.sparsity = sums.sparsity + weight * counted.sum()
            to_codes.add_(1 - counted.square(), alpha=weight * self.options.tanh_scale)
            return 0.0
        if self.options.penalty == "step":
            sums.sparsity = sums.sparsity + weight * active.sum()
            return weight
        wanted = self.options.target_l0
        away = pairs.per_vector(active) - wanted
        sums.sparsity = sums.sparsity + weight * (2 / wanted) * away.square().sum()
        return pairs.of_vectors(away * (weight * 4 / wanted))

    def _wake(self, sums: Sums, pre: Preactivations, dead: Tensor) -> Tensor:
        """Count what dead features lack to their thresholds; that term's gradient to the thresholds."""
        weight = self.options.pre_act / len(sums.x)
        lack = (self.threshold[dead] - pre.of_features(dead, len(sums.x))).relu_()
        sums.auxiliary = weight * lack.sum()
        pull = (lack > 0).to(lack.dtype).mul_(weight)
        assert sums.w_enc is not None
        sums.w_enc[dead] -= pull.T @ sums.x
        sums.to_pre[dead] -= pull.sum(0)
        return torch.zeros_like(self.threshold).index_copy_(0, dead, pull.sum(0))

    def slow_loss(self, x: Tensor, target: Tensor, step_state: StepState) -> Tensor:
        """The same loss, all at once, with the estimators of the paper's appendix J as functions of autograd."""
        from tasks.sae.ops.straight_through import jump, step

        pre = self.preactivations(x)
        width = self.options.bandwidth
        codes = jump(pre, self.threshold, width)
        loss = (self.complete(codes, x) - target).square().sum(1).mean()
        count = step(pre, self.threshold, width).sum(1)
        wanted = self.options.target_l0
        if self.options.penalty == "tanh":
            penalty = (codes * self.options.tanh_scale).tanh().sum(1)
        else:
            penalty = count if self.options.penalty == "step" else (count - wanted).square() * (2 / wanted)
        loss = loss + step_state.pressure * self.options.l0 * penalty.mean()
        if self.options.pre_act and len(step_state.dead):
            lack = (self.threshold - pre).relu()[:, step_state.dead]
            loss = loss + self.options.pre_act * lack.sum(1).mean()
        return loss


CODER = JumpReLU
