"""Reports a training's metrics to the ledger and to the configured loggers.

`metrics.jsonl` follows from the seed alone, so that a resumed training leaves the same bytes; what depends on the clock
is in `pace.jsonl` beside it, a line whenever metrics were written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from tasks.sae.training import checkpoint
from tasks.train_job import loggers
from tasks.train_job.evaluation import EVALUATIONS

if TYPE_CHECKING:
    from tasks.jobs.kind import Context
    from tasks.sae.training.trainer import Trainer

PACE = "pace.jsonl"
#: What a line of the job's log says of an evaluation, by the names of docs/metrics.md.
_LOGGED = ("fvu", "explained_variance", "l0", "dead_fraction", "ce_loss_recovered")

log = logging.getLogger("mistudio.train")

_Lines = list[dict[str, Any]]


class MetricsReporter:
    """Receives the lines that a trainer adds to its metrics, and its evaluations."""

    def __init__(self, context: Context, trainer: Trainer) -> None:
        self.context, self.trainer = context, trainer
        self._logs: list[loggers.Log] = []
        trainer.on_metrics = self.receive

    @contextmanager
    def logging(self, wanted: str | None, about: dict[str, Any]) -> Iterator[None]:
        """Inside, lines go to these loggers too, after those of earlier attempts up to the step that was reached."""
        folder = self.context.workdir
        self._logs = loggers.open_logs(wanted, self.context, about)
        try:
            if self._logs:
                self._report(
                    checkpoint.read(folder, checkpoint.METRICS),
                    checkpoint.read(folder, PACE),
                    checkpoint.read(folder, EVALUATIONS),
                )
            yield
        finally:
            for log in self._logs:
                log.close()

    def receive(self, lines: list[dict[str, Any]]) -> None:
        """Report new lines of the metrics."""
        step, speed = lines[-1]["step"], asdict(self.trainer.pace.lap())
        pace = {"step": step, **speed}
        checkpoint.append(self.context.workdir, PACE, [pace])
        self.context.metrics(step, {**loggers.shown(lines[-1]), **speed})
        self._report(lines, [pace], [])

    def report_evaluation(self, line: dict[str, Any]) -> None:
        """Log a held-out evaluation, after the metrics up to its step."""
        values = ", ".join(f"{name} {line[name]:.4g}" for name in _LOGGED if isinstance(line.get(name), float))
        log.info("%s: evaluation at step %d: %s", self.context.name, line["step"], values)
        self._report([], [], [line])

    def result(self) -> dict[str, Any]:
        """How fast this attempt was; None where an earlier one had done it all."""
        speed, peak = self.trainer.pace.whole(), self.trainer.pace.peak
        return {
            "tokens_per_s": None if speed.tokens_per_s is None else round(speed.tokens_per_s),
            "gemm_share": None if speed.gemm_share is None else round(speed.gemm_share, 4),
            "gemm_peak_gflops": None if peak is None else round(peak / 1e9, 1),
        }

    def _report(self, lines: _Lines, paces: _Lines, evaluations: _Lines) -> None:
        rows = [*loggers.rows_of(lines, paces), *loggers.held_out(evaluations)]
        for log in self._logs:
            log.write(sorted(rows, key=itemgetter(0)))
