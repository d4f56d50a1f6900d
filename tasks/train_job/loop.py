"""The training loop of a job: steps, progress, checkpoints, stop requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tasks.jobs.kind import Context
from tasks.jobs.stop_grace import FACTOR, LONGEST_S, record_stop_time
from tasks.sae.ops import backend
from tasks.sae.training import device_to_host
from tasks.train_job import loggers

if TYPE_CHECKING:
    from tasks.train_job.single_sae import SaeTraining

#: Checkpoints may take up to this share of the time.
_CHECKPOINT_SHARE = 0.05


#: Times to stop under this, and changes by less than this factor, make no difference to anybody.
_LEAST_S, _CHANGE = 1.0, 1.1


class TrainingLoop:
    """Looked at after each step and each forward pass; `trainings` are set before the first."""

    trainings: Sequence[SaeTraining] = ()

    def __init__(self, checkpoint_s: float, context: Context) -> None:
        self.checkpoint_s, self.context = checkpoint_s, context
        self.next_save = time.monotonic() + checkpoint_s
        self._looked_at: float | None = None
        self._longest_gap = self._stop_time = 0.0  # between two looks, such as an evaluation takes; of a whole stop

    def after_step(self) -> None:
        """Write checkpoints when due or when asked to stop, and report progress. Raises Stopped when asked to stop."""
        began = time.monotonic()
        if self._looked_at is not None:
            self._longest_gap = max(self._longest_gap, began - self._looked_at)
        try:
            self._after_step(began)
        finally:
            self._looked_at = time.monotonic()

    def _after_step(self, began: float) -> None:
        if self.context.stopping() or began >= self.next_save:
            self._save()
            now = time.monotonic()
            self.next_save = now + max(self.checkpoint_s, (now - began) / _CHECKPOINT_SHARE)
        config = self.trainings[0].trainer.config
        self.context.progress("training", self._reached() * config.batch, config.steps * config.batch, "tokens")

    def train(self) -> None:
        """Train all to the end and keep that; a batch is read once for all."""
        for reason in (
            backend.describe_fallback(self.context.device),
            device_to_host.describe_fallback(self.context.device),
        ):
            if reason is not None:
                self.context.note(reason)
        with ExitStack() as stack:
            stack.callback(loggers.let_go)
            for training in self.trainings:
                stack.enter_context(training.resuming())
            while unfinished := [training for training in self.trainings if training.is_unfinished]:
                step = self._reached()
                for training in unfinished:
                    if training.trainer.step == step:
                        training.advance()
                        self.after_step()
            self._save()

    def _reached(self) -> int:
        """The step that all unfinished SAEs have reached: a kill while they are saved leaves some behind."""
        steps = [training.trainer.step for training in self.trainings if training.is_unfinished]
        return min(steps) if steps else max(training.trainer.step for training in self.trainings)

    def _save(self) -> None:
        """Write checkpoints of all, and how long that takes: of the rest as long as of those that are written.

        The first time may be as long as any: nothing was measured yet.
        """
        began, all_of_them = time.monotonic(), len(self.trainings)
        if not self._stop_time:
            self._report_stop_time(LONGEST_S / FACTOR)
        for done, training in enumerate(self.trainings, 1):
            training.save()
            seconds = (time.monotonic() - began) * all_of_them / done + self._longest_gap
            if done == all_of_them or seconds > self._stop_time:
                self._report_stop_time(seconds)

    def _report_stop_time(self, seconds: float) -> None:
        known = max(self._stop_time, _LEAST_S)
        if not known / _CHANGE <= max(seconds, _LEAST_S) <= known * _CHANGE:
            self._stop_time = seconds
            record_stop_time(self.context.workdir, seconds)
