"""Our side: the `Trainer` of the product, one step at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from benchmarks.contest import Task
from tasks.models.cpu_backend import chosen
from tasks.sae.architectures import coder_class
from tasks.sae.coder import CoderConfig, default_rate
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer


def enter(task: Task, sample: Tensor) -> Ours:
    """A training with our defaults."""
    kind = coder_class(task.architecture).Options
    values: dict[str, Any] = {"k": task.k} if "k" in {spec.name for spec in dataclasses.fields(kind)} else {}
    if task.aims and task.architecture == "jumprelu":
        values = {"penalty": "target-l0", "target_l0": float(task.k)}
    config = TrainConfig(
        CoderConfig(task.architecture, task.d_in, task.d_sae, kind(**values)),
        steps=task.steps,
        batch=len(sample),
        lr=task.lr or default_rate(task.d_sae),
        dead_after=max(1, task.steps // 8) * 1024,
        seed=task.seed,
    )
    return Ours(config, sample)


class Ours:
    """A trainer whose source is the batch it was given last."""

    def __init__(self, config: TrainConfig, sample: Tensor) -> None:
        self.batch = sample
        self.trainer = Trainer(config, lambda step: self.batch.clone())
        self.trainer._measure()
        self.coder: Any = self.trainer.coder
        names = {spec.name for spec in dataclasses.fields(self.coder.options)}
        self._weight = next((name for name in ("l1", "l0") if name in names), None)

    @property
    def penalty(self) -> float:
        """See `Side`."""
        return getattr(self.coder.options, self._weight) if self._weight else 0.0

    @penalty.setter
    def penalty(self, weight: float) -> None:
        self.coder.options = dataclasses.replace(self.coder.options, **{self._weight: weight})

    @property
    def bias(self) -> Tensor:
        """See `Side`."""
        return self.coder.b_gate if "b_gate" in self.coder.parameters else self.coder.b_enc

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        """See `Side`."""
        self.batch = x
        with chosen():  # as in a job of ours; the peers leave it at what torch does by itself
            self.trainer._train()

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """See `Side`."""
        return self.coder.encode(x * self.trainer.scales.read[0])

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """See `Side`."""
        return self.trainer.reconstruct(x)

    def directions(self) -> Tensor:
        """See `Side`."""
        return self.coder.W_dec
