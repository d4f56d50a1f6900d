"""dictionary_learning's side: its trainers, with activations of mean squared length 1, as its loop can have them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.p_anneal import PAnnealTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from benchmarks.contest import Task

TRAINERS: dict[str, Any] = {
    "standard": StandardTrainer,
    "gated": GatedSAETrainer,
    "jumprelu": JumpReluTrainer,
    "p_anneal": PAnnealTrainer,
    "topk": TopKTrainer,
    "batchtopk": BatchTopKTrainer,
    "matryoshka": MatryoshkaBatchTopKTrainer,
}
#: The weights of its penalties by the names of its attributes.
WEIGHTS = {
    "standard": "l1_penalty",
    "gated": "l1_penalty",
    "jumprelu": "sparsity_coefficient",
    "p_anneal": "sparsity_coeff",
}


def enter(task: Task, sample: Tensor) -> DictionaryLearning:
    """A training with its defaults."""
    return DictionaryLearning(task, sample)


def _options(task: Task) -> dict[str, Any]:
    rises = {"sparsity_warmup_steps": task.warmup}
    if task.architecture == "p_anneal":
        return {**rises, "anneal_start": task.steps // 4, "anneal_end": task.steps - 1, "p_end": 0.2}
    if task.architecture == "jumprelu":
        return {**rises, "target_l0": float(task.k)}
    if task.architecture in WEIGHTS:
        return rises
    options: dict[str, Any] = {"k": task.k, "threshold_start_step": task.steps // 2}
    if task.architecture == "matryoshka":
        ends = [0, *task.widths]
        sizes = [end - begin for begin, end in pairwise(ends)]
        options["group_fractions"] = [size / task.d_sae for size in sizes]
    return options


class DictionaryLearning:
    """One of its trainers."""

    def __init__(self, task: Task, sample: Tensor) -> None:
        torch.manual_seed(task.seed)
        self._weight = WEIGHTS.get(task.architecture)
        options = _options(task)
        if task.lr is not None:
            options["lr"] = task.lr
        self.trainer = TRAINERS[task.architecture](
            steps=task.steps,
            activation_dim=task.d_in,
            dict_size=task.d_sae,
            layer=0,
            lm_name="none",
            warmup_steps=task.warmup,
            decay_start=task.steps - task.decay,
            device="cpu",
            **options,
        )
        self.sae = self.trainer.ae
        self.scale = 1 / float(sample.square().sum(1).mean().sqrt())
        self.at = 0

    @property
    def penalty(self) -> float:
        """See `Side`."""
        return getattr(self.trainer, self._weight) if self._weight else 0.0

    @penalty.setter
    def penalty(self, weight: float) -> None:
        setattr(self.trainer, self._weight or "", weight)

    @property
    def bias(self) -> Tensor:
        """See `Side`."""
        for name in ("gate_bias", "b_enc"):
            if hasattr(self.sae, name):
                return getattr(self.sae, name).data
        return self.sae.encoder.bias.data

    def step(self, x: Tensor) -> None:
        """See `Side`."""
        self.trainer.update(self.at, x * self.scale)
        self.at += 1

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """See `Side`."""
        return self.sae.encode(x * self.scale)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """See `Side`."""
        return self.sae.decode(self.codes(x)) / self.scale

    def directions(self) -> Tensor:
        """See `Side`."""
        return (self.sae.W_dec if hasattr(self.sae, "W_dec") else self.sae.decoder.weight.T).detach()
