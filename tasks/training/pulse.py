"""What happens around a training's steps: progress, checkpoints and the wish to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tasks.job import Context
from tasks.kinds.train import goes_on_at
from tasks.sae import kernels
from tasks.training.watch import Watch

if TYPE_CHECKING:
    from tasks.sae.trainer import Trainer
    from tasks.training.evaluation import Evaluation

#: A checkpoint may take up to this share of the time.
_CHECKPOINT_SHARE = 0.05


class Pulse:
    """Looked at after each step and each forward pass; `trainer` and `evaluation` are set before the first."""

    trainer: Trainer
    evaluation: Evaluation
    watch: Watch | None = None  # while it trains
    first = 0  # the step from which this attempt goes on

    def __init__(self, checkpoint_s: float, patience: int, context: Context) -> None:
        """`patience` is after how many measurements without a better one the training ends; 0: it does not."""
        self.checkpoint_s, self.patience, self.context = checkpoint_s, patience, context
        self.next_save = time.monotonic() + checkpoint_s

    def beat(self) -> None:
        """Write a checkpoint if it is time or the job was told to stop; tell the progress. Raises Stopped then."""
        began = time.monotonic()
        if self.context.stopping() or began >= self.next_save:
            self.trainer.save(self.context.workdir)
            now = time.monotonic()
            self.next_save = now + max(self.checkpoint_s, (now - began) / _CHECKPOINT_SHARE)
        batch, steps = self.trainer.config.batch, self.trainer.config.steps
        self.context.progress("training", self.trainer.step * batch, steps * batch, "tokens")

    def after_step(self) -> None:
        """Measure on held-out rows when that is due, and keep a checkpoint of it with its score; then `beat`."""
        if self.evaluation.is_due():
            self.trainer.save(self.context.workdir, self.evaluation.write(self.context.workdir))
            if self.watch is not None:
                self.watch.hear_evaluation()
            self._look_whether_it_is_over()
        self.beat()

    def _look_whether_it_is_over(self) -> None:
        if self.patience and self.evaluation.since_best(self.context.workdir) >= self.patience:
            self.trainer.is_over = True

    def train(self, log: str | None, about: dict[str, Any]) -> dict[str, Any]:
        """Train to the end and keep it, logging as asked with these parameters; how fast it was."""
        trainer = self.trainer
        watch = self.watch = Watch(self.context, trainer)
        self.first = trainer.resume(self.context.workdir)
        if not self.first and (left := goes_on_at(self.context.workdir)):
            self.context.note(f"starts from scratch: the checkpoint at {left} was made with other settings")
        if (chosen := kernels.to_tell(self.context.device)) is not None:
            self.context.note(chosen)
        self._look_whether_it_is_over()
        with watch.logging(log, about):
            trainer.run(self.context.workdir, self.after_step)
            trainer.save(self.context.workdir)
        return watch.result()
