"""What happens around the steps of a job's trainings: progress, checkpoints and the wish to stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tasks.job import Context
from tasks.sae import kernels
from tasks.training import logs

if TYPE_CHECKING:
    from tasks.training.one import Training

#: Checkpoints may take up to this share of the time.
_CHECKPOINT_SHARE = 0.05


class Pulse:
    """Looked at after each step and each forward pass; `trainings` are set before the first."""

    trainings: Sequence[Training] = ()

    def __init__(self, checkpoint_s: float, context: Context) -> None:
        self.checkpoint_s, self.context = checkpoint_s, context
        self.next_save = time.monotonic() + checkpoint_s

    def beat(self) -> None:
        """Write checkpoints if it is time or the job was told to stop; tell the progress. Raises Stopped then."""
        began = time.monotonic()
        if self.context.stopping() or began >= self.next_save:
            self._save()
            now = time.monotonic()
            self.next_save = now + max(self.checkpoint_s, (now - began) / _CHECKPOINT_SHARE)
        config = self.trainings[0].trainer.config
        self.context.progress("training", self._reached() * config.batch, config.steps * config.batch, "tokens")

    def train(self) -> None:
        """Train all to the end and keep that; a batch is read once for all."""
        if (told := kernels.to_tell(self.context.device)) is not None:
            self.context.note(told)
        with ExitStack() as stack:
            stack.callback(logs.let_go)
            for training in self.trainings:
                stack.enter_context(training.going_on())
            while going := [training for training in self.trainings if training.goes_on]:
                step = self._reached()
                for training in going:
                    if training.trainer.step == step:
                        training.advance()
                        self.beat()
            self._save()

    def _reached(self) -> int:
        """The step up to which all have come that go on: a kill while they are saved leaves some behind."""
        steps = [training.trainer.step for training in self.trainings if training.goes_on]
        return min(steps) if steps else max(training.trainer.step for training in self.trainings)

    def _save(self) -> None:
        for training in self.trainings:
            training.save()
