"""Evaluation of a coder on held-out rows during training: a few times, at steps that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.activations.intervention import can_splice, splice
from tasks.sae.metrics import Measures, measure
from tasks.sae.training import checkpoint
from tasks.train_job.loggers import ERRORS, EVALUATED_TOKENS, HELD_OUT_TOKENS, PREDICTED_TOKENS

if TYPE_CHECKING:
    from tasks.sae.training.trainer import Trainer
    from tasks.train_job.batches import Seen

EVALUATIONS = "evaluations.jsonl"
#: What is measured of the model's predictions, by the names of docs/metrics.md and by those of
#: `tasks.activations.intervention.Spliced`.
PREDICTIONS = {
    "ce_loss": "clean",
    "ce_loss_with_sae": "spliced",
    "ce_loss_with_zero_ablation": "ablated",
    "ce_loss_with_mean_ablation": "averaged",
    "ce_loss_recovered": "recovered",
    "ce_loss_recovered_mean": "recovered_mean",
    "kl": "kl",
    "kl_with_zero_ablation": "kl_ablated",
    "kl_recovered": "kl_recovered",
}
#: What the last evaluation has besides: the reconstruction at all positions, BOS and the first included.
EVERYWHERE = {"ce_loss_with_sae_everywhere": "everywhere", "ce_loss_recovered_everywhere": "recovered_everywhere"}
#: Vectors that are measured on each time, and tokens that the model predicts with the coder in its place.
VECTORS, PREDICTED = 8192, 2048


class Evaluation:
    """Measures a trainer's coder on held-out rows: FVU, L0, how often features fire, what the model loses by it."""

    def __init__(self, trainer: Trainer, seen: Seen, times: int) -> None:
        """`times` is how often, the end included, over the whole training."""
        self.trainer, self.seen = trainer, seen
        #: Called during training before each pass of the model over some of the rows, with how many are done.
        self.on_rows: Callable[[int, int], None] = lambda done, total: None
        trainer.sample = seen.sample
        self.rows = seen.reading.first_held_rows(VECTORS)
        self.predicted = seen.reading.first_held_rows(PREDICTED)
        steps = trainer.config.steps
        self.steps = {steps * (n + 1) // times for n in range(times)} if times else set()

    def is_due(self) -> bool:
        """Whether this is a step after which it measures."""
        return self.trainer.step in self.steps

    def write(self, folder: Path) -> dict[str, Any]:
        """Measure, and append a line of what was measured to the file in `folder`; returns the line."""
        line = {"step": self.trainer.step, **self()}
        checkpoint.append(folder, EVALUATIONS, [line])
        return line

    @torch.no_grad()
    def __call__(self) -> dict[str, Any]:
        """What is measured, by name; None for what a model must predict when there is none that does."""
        self.trainer.calibrate()
        read, written = self.trainer.scaled(self.seen.rows_again(self.rows))
        found = measure(self.trainer.coder, read, written, self.trainer.unit, self.seen.counts(self.rows))
        return _joined(
            {**found.as_json(), EVALUATED_TOKENS: found.tokens}, self._predictions(self.predicted, on_rows=self.on_rows)
        )

    def final(self, found: Measures, folder: Path, on_rows: Callable[[int, int], None]) -> dict[str, Any]:
        """What was found on all held-out rows, with what the model predicts of them and which evaluation was best.

        Nothing was predicted where nothing was to be evaluated during training.
        """
        values = {**found.as_json(), HELD_OUT_TOKENS: found.tokens}
        lines = checkpoint.read(folder, EVALUATIONS)
        if not lines:
            return values
        best = min(lines, key=lambda line: line["fvu"])
        values |= {"best_step": best["step"], "best_fvu": best["fvu"], EVALUATED_TOKENS: best.get(EVALUATED_TOKENS)}
        return _joined(values, self._predictions(self.seen.reading.held_rows, is_last=True, on_rows=on_rows))

    def since_best(self, folder: Path) -> int:
        """How many measurements came after the one with the least FVU."""
        found = [line["fvu"] for line in checkpoint.read(folder, EVALUATIONS) if line["step"] <= self.trainer.step]
        return len(found) - 1 - found.index(min(found)) if found else 0

    def _predictions(
        self, rows: np.ndarray, is_last: bool = False, on_rows: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, Any]:
        names, source = PREDICTIONS | (EVERYWHERE if is_last else {}), self.seen.source
        reads, found = len(self.seen.wired.reads), None
        if can_splice(source):
            mean = self.seen.mean_written()
            found = splice(source, rows, reads, self.trainer.reconstruct, mean, is_last, on_rows)
        if found is None:
            return dict.fromkeys((*names, PREDICTED_TOKENS))
        errors = {name: found.errors[key] for name, key in names.items() if key in found.errors}
        values = {name: getattr(found, key) for name, key in names.items()}
        return {**values, PREDICTED_TOKENS: found.tokens, ERRORS: errors}


def _joined(values: dict[str, Any], predictions: dict[str, Any]) -> dict[str, Any]:
    """Both, with the standard errors of both."""
    return {**values, **predictions, ERRORS: {**values[ERRORS], **predictions.get(ERRORS, {})}}
