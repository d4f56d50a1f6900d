"""The training loop: the only place an SAE's parameters change.

Nothing in it is random but the start: weights follow from the seed, batches from the step. So a checkpoint holds the
weights, Adam's moments, the dead-feature counts and the step, and a resumed training equals an uninterrupted one bit
for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tasks.problem import Problem
from tasks.sae import checkpoint
from tasks.sae.architectures import build
from tasks.sae.coder import CoderConfig, Step

#: Batch number `step` (from 0) as a fresh (batch, d_in) float32 tensor.
Source = Callable[[int], torch.Tensor]

#: Batches from which the scale and the first decoder bias are measured.
MEASURED_BATCHES = 8
#: Steps between two looks for dead features: finding them waits for the device.
DEAD_EVERY = 16
#: Steps between two writes of the metrics, and the most lines they may have.
FLUSH_EVERY, METRIC_LINES = 100, 10_000


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training depends on besides its batches."""

    coder: CoderConfig
    steps: int
    batch: int = 4096
    lr: float = 1e-3
    warmup: float = 0.05  # share of the steps in which the rate and the sparsity pressure rise
    decay: float = 0.2  # share of the steps at the end in which the rate falls to 0
    dead_after: int = 10_000_000  # vectors without firing that make a feature dead (Gao et al. 2024, A.2)
    seed: int = 0

    def fingerprint(self) -> str:
        """Equal for equal configurations, so that no checkpoint of another one is taken up."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def rise(self, step: int) -> float:
        """0…1 over the warm-up."""
        return min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear rise, plateau, linear fall."""
        return self.lr * self.rise(step) * min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))


def default_lr(d_sae: int) -> float:
    """Adam's rate by width: it falls with the square root of the number of features (Gao et al. 2024, figure 3).

    Four times theirs, which is tuned for hundreds of thousands of steps: a training of a thousand steps at theirs
    leaves twice the error.
    """
    return 8e-4 / math.sqrt(d_sae / 2**14)


class Trainer:
    """One training, from its first or a later step."""

    def __init__(self, config: TrainConfig, source: Source, device: str = "cpu") -> None:
        self.config, self.source, self.device = config, source, device
        self.coder = build(config.coder, config.seed).to(device)
        self.optimizer = torch.optim.Adam(self.coder.parameters(), lr=config.lr, fused=True)
        self.quiet = torch.zeros(config.coder.d_sae, dtype=torch.int64, device=device)  # vectors since it fired
        self.dead = torch.zeros(0, dtype=torch.int64, device=device)
        self.step = 0
        self.scale = 0.0  # what activations are multiplied by, so that their mean length is sqrt(d_in)
        self._log_every = -(-config.steps // METRIC_LINES)
        self._unwritten: list[tuple[int, torch.Tensor]] = []

    def run(self, folder: Path, after_step: Callable[[], None] | None = None) -> None:
        """Train from where it is to the last step, writing metrics into `folder`.

        `after_step` may call `save` and may raise to leave. Raises Problem when the loss is no longer a number.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not self.scale:
            self._measure()
        checkpoint.cut_metrics(folder, self.step)
        while self.step < self.config.steps:
            self._train()
            if len(self._unwritten) >= FLUSH_EVERY:
                self._write_metrics(folder)
            if after_step:
                after_step()
        self._write_metrics(folder)

    @torch.no_grad()
    def _measure(self) -> None:
        """Scale to a mean length of sqrt(d_in) (Anthropic, April 2024); start the decoder bias at the mean."""
        vectors = torch.cat([self.source(step) for step in range(min(MEASURED_BATCHES, self.config.steps))])
        mean_length = float(vectors.norm(dim=1).mean())
        if not 0 < mean_length < math.inf:
            raise Problem(f"The activations have a mean length of {mean_length}: nothing can be learned from them.")
        self.scale = math.sqrt(self.config.coder.d_in) / mean_length
        self.coder.b_dec.copy_(vectors.mean(0) * self.scale)

    def _train(self) -> None:
        config = self.config
        if self.step % DEAD_EVERY == 0:
            self.dead = (self.quiet >= config.dead_after).nonzero().flatten()
        x = self.source(self.step).to(self.device).mul_(self.scale)
        told = self.coder.step(x, self.dead, config.rise(self.step))
        self.coder.constrain_gradient()
        self.optimizer.param_groups[0]["lr"] = config.rate(self.step)
        self.optimizer.step()
        self.coder.constrain()
        self.quiet.add_(len(x)).masked_fill_(told.fired, 0)
        self.step += 1
        if self.step % self._log_every == 0 or self.step == config.steps:
            self._unwritten.append((self.step, self._row(told)))

    def _row(self, told: Step) -> torch.Tensor:
        dead = (self.quiet >= self.config.dead_after).sum()
        return torch.stack([told.loss, told.reconstruction, told.penalty, told.l0, dead])

    def _write_metrics(self, folder: Path) -> None:
        """Read the waiting rows off the device, at once, and append them."""
        if not self._unwritten:
            return
        steps, rows = zip(*self._unwritten, strict=True)
        self._unwritten = []
        names = ("loss", "reconstruction", "penalty", "l0", "dead")
        values = torch.stack(rows).tolist()
        checkpoint.append_metrics(
            folder,
            [{"step": step, **dict(zip(names, row, strict=True))} for step, row in zip(steps, values, strict=True)],
        )
        if not all(math.isfinite(row[0]) for row in values):
            raise Problem(f"The loss was no longer a number by step {steps[-1]}.", "Submit again with a lower --lr")

    def save(self, folder: Path) -> None:
        """Write a checkpoint of the state after the last step; nothing before there is any."""
        if not self.scale:
            return
        self._write_metrics(folder)
        state: dict[str, Any] = {"fingerprint": self.config.fingerprint(), "scale": self.scale}
        checkpoint.save(folder, self.step, self.state_tensors(), state)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that training changes, by name."""
        tensors = {"quiet": self.quiet, "dead": self.dead}
        for name, parameter in self.coder.named_parameters():
            tensors[name] = parameter
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = value
        return tensors

    @torch.no_grad()
    def resume(self, folder: Path) -> int:
        """Take up the newest checkpoint of this configuration in `folder`, if any; the step reached, 0 for none."""
        found = checkpoint.newest(folder, self.config.fingerprint())
        if found is None:
            return 0
        tensors, state = found
        self.step, self.scale = state["step"], state["scale"]
        self.quiet, self.dead = tensors["quiet"].to(self.device), tensors["dead"].to(self.device)
        for name, parameter in self.coder.named_parameters():
            parameter.copy_(tensors[name])
            self.optimizer.state[parameter] = {
                key.split(".")[1]: value.to(self.device) for key, value in tensors.items() if _is_adam_of(key, name)
            }
        return self.step


def _is_adam_of(key: str, name: str) -> bool:
    return key.startswith("adam.") and key.split(".", 2)[2] == name
