"""How a coder in training does on rows it never sees: measured a few times, at steps that are known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.sae import checkpoint
from tasks.sae.densities import histogram
from tasks.sae.metrics import measure
from tasks.splice import can_splice, splice
from tasks.training.logs import COUNTS, DENSITIES, EVALUATED_TOKENS, PREDICTED_TOKENS

if TYPE_CHECKING:
    from tasks.sae.trainer import Trainer
    from tasks.training.reading import Seen

EVALUATIONS = "evaluations.jsonl"
#: What is told of the model's predictions: its cross-entropy as it is, with the coder, with zeros; see tasks.splice.
LOSSES = ("ce_loss", "ce_loss_with_sae", "ce_loss_with_zeros", "ce_loss_recovered", "kl")
#: Vectors that are measured on each time, and tokens that the model predicts with the coder in its place.
VECTORS, PREDICTED = 8192, 2048


class Evaluation:
    """Measures a trainer's coder on held-out rows: FVU, L0, how often features fire, what the model loses by it."""

    def __init__(self, trainer: Trainer, seen: Seen, times: int) -> None:
        """`times` is how often, the end included, over the whole training."""
        self.trainer, self.seen = trainer, seen
        rows, context = seen.reading.held_rows, seen.shape[1]
        self.rows: np.ndarray = rows[: max(1, VECTORS // context)]
        self.predicted = rows[: max(1, PREDICTED // context)]
        steps = trainer.config.steps
        self.steps = {steps * (n + 1) // times for n in range(times)} if times else set()

    def is_due(self) -> bool:
        """Whether this is a step after which it measures."""
        return self.trainer.step in self.steps

    def write(self, folder: Path) -> float:
        """Measure, and add a line to the file in `folder`; the FVU."""
        told = self()
        checkpoint.append(folder, EVALUATIONS, [{"step": self.trainer.step, **told}])
        return told["fvu"]

    @torch.no_grad()
    def __call__(self) -> dict[str, Any]:
        """What is measured, by name; None for what a model must predict when there is none that does."""
        read, written = self.trainer.scaled(self.seen.rows_again(self.rows))
        found = measure(self.trainer.coder, read, written)
        return {
            "fvu": found.fvu,
            "l0": found.l0,
            "dead_share": found.dead_share,
            DENSITIES: histogram(found.density).told(),
            EVALUATED_TOKENS: len(read),
            **self._in_the_model(),
        }

    def of(self, step: int, folder: Path) -> dict[str, Any]:
        """The model's losses at that step, where the FVU was best, on how many tokens; nothing if none was measured."""
        lines = checkpoint.read(folder, EVALUATIONS)
        if not lines:
            return {}
        best = min(lines, key=lambda line: line["fvu"])
        then = next((line for line in lines if line["step"] == step), lines[-1])
        told = {name: then.get(name) for name in (*LOSSES, *COUNTS)}
        return {**told, "best_step": best["step"], "best_fvu": best["fvu"]}

    def since_best(self, folder: Path) -> int:
        """How many measurements came after the one with the least FVU."""
        found = [line["fvu"] for line in checkpoint.read(folder, EVALUATIONS) if line["step"] <= self.trainer.step]
        return len(found) - 1 - found.index(min(found)) if found else 0

    def _in_the_model(self) -> dict[str, float | None]:
        names, source = (*LOSSES, PREDICTED_TOKENS), self.seen.source
        if not can_splice(source):
            return dict.fromkeys(names)
        found = splice(source, self.predicted, len(self.seen.wired.reads), self.trainer.reconstruct)
        if found is None:
            return dict.fromkeys(names)
        told = (found.clean, found.spliced, found.ablated, found.recovered, found.kl, found.tokens)
        return dict(zip(names, told, strict=True))
