"""What a training tells while it runs: the only place that hands its metrics on, to the ledger and to whoever is asked.

`metrics.jsonl` follows from the seed alone, so that a resumed training leaves the same bytes; what depends on the clock
is in `pace.jsonl` beside it, a line whenever metrics were written.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tasks.sae import checkpoint

if TYPE_CHECKING:
    from tasks.job import Context
    from tasks.sae.trainer import Trainer

PACE = "pace.jsonl"


class Watch:
    """Hears of the lines that a trainer adds to its metrics."""

    def __init__(self, context: Context, trainer: Trainer) -> None:
        self.context, self.trainer = context, trainer
        trainer.on_metrics = self.hear

    def hear(self, lines: list[dict[str, Any]]) -> None:
        """Tell of new lines of the metrics."""
        speed = asdict(self.trainer.pace.lap())
        checkpoint.append(self.context.workdir, PACE, [{"step": lines[-1]["step"], **speed}])
        self.context.metrics(lines[-1]["step"], {**live(lines[-1], self.trainer.config.coder.d_sae), **speed})

    def result(self) -> dict[str, Any]:
        """How fast this attempt was; None where an earlier one had done it all."""
        speed, peak = self.trainer.pace.whole(), self.trainer.pace.peak
        return {
            "tokens_per_s": None if speed.tokens_per_s is None else round(speed.tokens_per_s),
            "gemm_share": None if speed.gemm_share is None else round(speed.gemm_share, 4),
            "gemm_peak_gflops": None if peak is None else round(peak / 1e9, 1),
        }


def live(line: dict[str, Any], d_sae: int) -> dict[str, Any]:
    """A line of the metrics as one looks at it, what matters most first: dead features as their share."""
    first = {name: line[name] for name in ("loss", "fvu", "l0")}
    rest = {name: value for name, value in line.items() if name not in (*first, "step", "dead")}
    return {**first, "dead_share": line["dead"] / d_sae, **rest}
