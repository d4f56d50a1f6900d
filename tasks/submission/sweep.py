"""Sweeps: options with several values become one job for each combination, or one job for all."""

from __future__ import annotations

from typing import Any

from tasks.errors import UserError
from tasks.jobs.grid import Swept, combinations, marks
from tasks.jobs.kind import JobKind, flag_of
from tasks.jobs.record import Job
from tasks.submission.plan import ArtifactCatalog, SubmitOptions, plan


def swept_options(values: dict[str, Any]) -> dict[str, Swept]:
    """The options that have several values."""
    return {name: value for name, value in values.items() if isinstance(value, Swept)}


def put_together(values: dict[str, Any], option: str) -> dict[str, Any]:
    """The same with all that has several values in `option`, so that one job is made for all combinations.

    UserError when nothing has several values.
    """
    swept = swept_options(values)
    if not swept:
        flag = flag_of(option)
        raise UserError(f"{flag} needs an option with several values.", "For instance: --layer 2,4,6")
    rest = {name: value for name, value in values.items() if name not in swept}
    return {**rest, option: {name: list(several) for name, several in swept.items()}}


def plan_sweep(
    known: ArtifactCatalog,
    kind: JobKind,
    values: dict[str, Any],
    *,
    name: str | None = None,
    submit_options: SubmitOptions,
) -> list[Job]:
    """A job for each combination of the swept options, with those that must come first; nothing is submitted.

    What several of them need is made once. Each job's name includes its values. UserError when one of them cannot work.
    """
    jobs = []
    for combination in combinations(swept_options(values)):
        own_marks = marks(kind.params, combination.items())
        jobs += plan(
            known, kind.name, {**values, **combination}, name=name, marks=own_marks, submit_options=submit_options
        )
    return jobs
