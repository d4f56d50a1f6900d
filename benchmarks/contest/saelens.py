"""SAELens' side: its `SAETrainer`, with activations scaled as its runner does, to a mean length of sqrt(d_in)."""

from __future__ import annotations

import math
from typing import Any

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.contest import Task, scale_to

#: What its configurations call our architectures, and the options they need besides sizes.
NAMES = {name: name for name in ("standard", "gated", "jumprelu", "topk", "batchtopk")}
NAMES["matryoshka"] = "matryoshka_batchtopk"
#: The weights of its penalties by the names of its schedules.
WEIGHTS = {"standard": "l1", "gated": "l1", "jumprelu": "l0"}


def enter(task: Task, sample: Tensor) -> SAELens | None:
    """A training with its defaults."""
    return SAELens(task, sample) if task.architecture in NAMES else None


def _options(task: Task) -> dict[str, Any]:
    if task.architecture in WEIGHTS:
        aim = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": float(task.k)}
        aims = task.aims and task.architecture == "jumprelu"
        return {f"{WEIGHTS[task.architecture]}_warm_up_steps": task.warmup, **(aim if aims else {})}
    nested = {"matryoshka_widths": task.widths} if task.architecture == "matryoshka" else {}
    return {"k": task.k, **nested}


class SAELens:
    """One `SAETrainer`."""

    def __init__(self, task: Task, sample: Tensor) -> None:
        torch.manual_seed(task.seed)
        kind, config = get_sae_training_class(NAMES[task.architecture])
        self.sae: Any = kind(config(d_in=task.d_in, d_sae=task.d_sae, **_options(task)))
        chosen = {} if task.lr is None else {"lr": task.lr, "lr_end": task.lr / 10}
        plan = SAETrainerConfig(
            total_training_samples=task.steps * len(sample),
            train_batch_size_samples=len(sample),
            lr_warm_up_steps=task.warmup,
            lr_decay_steps=task.decay,
            logger=LoggingConfig(log_to_wandb=False),
            **{"lr_end": SAETrainerConfig.lr / 10, **chosen},
        )
        self.trainer: Any = SAETrainer(plan, self.sae, iter(()))
        self.scale = scale_to(math.sqrt(task.d_in), sample)
        self._weight = self.trainer.coefficient_schedulers.get(WEIGHTS.get(task.architecture, ""))
        # What is in use is another class than what is trained where a threshold takes the place of a batch.
        self._threshold = getattr(self.sae, "topk_threshold", None)

    @property
    def penalty(self) -> float:
        """See `Side`."""
        return self._weight.final_value if self._weight else 0.0

    @penalty.setter
    def penalty(self, weight: float) -> None:
        self._weight.final_value = weight

    @property
    def bias(self) -> Tensor:
        """See `Side`."""
        return (self.sae.b_gate if hasattr(self.sae, "b_gate") else self.sae.b_enc).data

    def step(self, x: Tensor) -> None:
        """See `Side`."""
        self.trainer.step(x * self.scale)
        self.trainer.n_training_steps += 1

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """See `Side`."""
        if self._threshold is None:
            return self.sae.encode(x * self.scale)
        pre = self.sae.encode_with_hidden_pre(x * self.scale)[1]
        return pre * (pre > self.sae.topk_threshold)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """See `Side`."""
        return self.sae.decode(self.codes(x)) / self.scale

    def directions(self) -> Tensor:
        """See `Side`."""
        return self.sae.W_dec.detach()
