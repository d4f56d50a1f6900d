"""Sweeps: the only place where options with several values become one request for each combination."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from tasks.job import Job, JobKind, types_of
from tasks.problem import Problem
from tasks.submit import KnownArtifacts, Wishes, plan

#: A sweep of more jobs is taken for a mistake.
MOST_JOBS = 1000


class Swept(tuple[Any, ...]):
    """The values that one option takes, one after the other."""


def can_be_swept(spec: dataclasses.Field[Any], params: type) -> bool:
    """Whether a list with commas is several values: of numbers and chosen words; text may hold commas."""
    return bool(spec.metadata.get("choices")) or not {int, float}.isdisjoint(types_of(params)[spec.name])


def swept_options(values: dict[str, Any]) -> dict[str, Swept]:
    """The options that have several values."""
    return {name: value for name, value in values.items() if isinstance(value, Swept)}


def plan_sweep(
    known: KnownArtifacts, kind: JobKind, values: dict[str, Any], *, name: str | None = None, wishes: Wishes
) -> list[Job]:
    """A job for each combination of the swept options, with those that must come first; nothing is submitted.

    What several of them need is made once. Each job's name tells its values. Problem when one of them cannot work.
    """
    jobs = []
    for combination in _combinations(swept_options(values)):
        marks = [_mark(kind, option, value) for option, value in combination.items()]
        jobs += plan(known, kind.name, {**values, **combination}, name=name, marks=marks, wishes=wishes)
    return jobs


def _combinations(swept: dict[str, Swept]) -> Iterator[dict[str, Any]]:
    count = math.prod(map(len, swept.values()))
    if count > MOST_JOBS:
        sizes = " x ".join(f"{len(values)} {option}" for option, values in swept.items())
        raise Problem(f"The sweep ({sizes}) has {count} jobs, more than {MOST_JOBS}.", "Give fewer values")
    for chosen in itertools.product(*swept.values()):
        yield dict(zip(swept, chosen, strict=True))


def _mark(kind: JobKind, option: str, value: Any) -> str:
    """What tells the value in a name: lr0.0003 or l1-2 for a number, the word itself where it is one of few."""
    spec = next(spec for spec in dataclasses.fields(kind.params) if spec.name == option)
    if spec.metadata.get("choices"):
        return str(value)
    between = "-" if option[-1].isdigit() else ""
    return option.replace("_", "-") + between + _number(value)


def _number(value: float) -> str:
    """A number as short as it can be told apart, without the plus sign that a name may not have."""
    short = f"{value:g}"
    return (short if float(short) == value else repr(value)).replace("e+", "e")
