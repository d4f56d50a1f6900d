"""What happens around a training's steps: progress, checkpoints and the wish to stop."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tasks.job import Context
from tasks.training.watch import Watch

if TYPE_CHECKING:
    from tasks.sae.trainer import Trainer

#: A checkpoint may take up to this share of the time.
_CHECKPOINT_SHARE = 0.05


class Pulse:
    """Looked at after each step and each forward pass; `trainer` is set before the first."""

    trainer: Trainer

    def __init__(self, checkpoint_s: float, context: Context) -> None:
        self.checkpoint_s, self.context = checkpoint_s, context
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

    def train(self) -> dict[str, Any]:
        """Train to the end and keep it; how fast it was."""
        trainer, watch = self.trainer, Watch(self.context, self.trainer)
        trainer.resume(self.context.workdir)
        watch.begin()
        trainer.run(self.context.workdir, self.beat)
        trainer.save(self.context.workdir)
        return watch.result()
