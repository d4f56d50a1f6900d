"""The job context of one of several SAEs: its own folders and name, and its part of progress and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.jobs.kind import MAX_METRICS, Context
from tasks.train_job.params import PARTS

if TYPE_CHECKING:
    from tasks.train_job.sae_group import Member


@dataclass
class Board:
    """The latest FVU of each SAE, reported as the job's metrics; with more than MAX_METRICS SAEs, of the first ones."""

    context: Context
    words: list[str]
    _values: dict[str, float | None] = field(default_factory=dict)
    _reported_step: int = -1

    def put(self, words: str, at: int, value: float | None) -> None:
        """Store the value of one SAE at step `at`; reports unless another is further."""
        self._values[words] = value
        if at >= self._reported_step:
            self._reported_step = at
            self.context.metrics(at, {f"fvu {other}": self._values.get(other) for other in self.words[:MAX_METRICS]})


class Part:
    """A `tasks.jobs.kind.Context` of one SAE, in folders of its name in those of the job."""

    def __init__(self, job: Context, member: Member[Any], board: Board) -> None:
        self.job, self.words, self.board = job, member.words, board
        self.name, self.attempt, self.device = member.name, job.attempt, job.device
        self.job_id = f"{job.job_id}-{member.words}"  # for logs that others keep
        self.workdir, self.output = _made(job.workdir / PARTS / member.name), _made(job.output / member.name)
        self.home, self.store = job.home, job.store

    def progress(self, phase: str, done: int, total: int | None = None, unit: str = "") -> None:
        """See `Context`."""
        self.job.progress(phase, done, total, unit)

    def metrics(self, at: int, values: Mapping[str, float | None]) -> None:
        """Its share of the job's metrics."""
        self.board.put(self.words, at, values["fvu"])

    def note(self, sentence: str) -> None:
        """See `Context`."""
        self.job.note(f"{self.name} {sentence}")

    def live_jobs(self) -> set[str]:
        """See `Context`."""
        return self.job.live_jobs()

    def seconds_since_end(self, job_ids: Sequence[str]) -> dict[str, float | None]:
        """See `Context`."""
        return self.job.seconds_since_end(job_ids)

    def stopping(self) -> bool:
        """See `Context`."""
        return self.job.stopping()


def parts_of(context: Context, members: Sequence[Member[Any]]) -> list[Part]:
    """The part that each of the SAEs of a job has in it."""
    board = Board(context, [member.words for member in members])
    return [Part(context, member, board) for member in members]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
