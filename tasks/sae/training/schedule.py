"""The schedule of a training: its hyperparameters, and their values at each step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from tasks.sae.coder import CoderConfig

#: Held-out tokens of the final evaluation, if nothing else is said.
EVAL_TOKENS = 1 << 16


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training depends on besides its batches.

    Gradients are clipped to norm 1 (Conerly et al., Anthropic, April 2024): those of the first steps have the largest
    norms by far, and would keep Adam's second moments large, and so its steps short, for the thousand steps it
    remembers.
    """

    coder: CoderConfig
    steps: int
    batch: int = 4096
    lr: float = 1e-3
    warmup: float = 0.05  # share of the steps in which the rate rises
    decay: float = 0.2  # share of the steps at the end in which the rate falls to 0
    sparsity_warmup: float = 0.05  # share of the steps in which the sparsity penalty rises
    clip: float = 1.0  # longest gradient, over all parameters; 0: any
    accumulate: int = 1  # parts in which a batch goes through the coder, whose gradients are added up
    dead_after: int = 10_000_000  # vectors without firing that make a feature dead (Gao et al. 2024, A.2)
    resample: int = 0  # how often, in the first half, dead features are resampled
    seed: int = 0

    def fingerprint(self) -> str:
        """Equal for equal configurations, so that no checkpoint of another one is taken up."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def resamples_at(self, step: int) -> bool:
        """Whether dead features are resampled before this step."""
        return any(step == self.steps * (n + 1) // (2 * self.resample) for n in range(self.resample))

    def pressure(self, step: int) -> float:
        """0…1: how much of the sparsity penalty is in force."""
        return min(1.0, (step + 1) / max(1.0, self.sparsity_warmup * self.steps))

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear rise, plateau, linear fall."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))
        return self.lr * rise * min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
