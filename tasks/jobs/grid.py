"""Options with several values: which may have them, and how a name marks a combination."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import types_of

#: More combinations than these are taken for a mistake.
MOST = 1000


class Swept(tuple[Any, ...]):
    """The values that one option takes, one after the other."""


def can_be_swept(spec: dataclasses.Field[Any], params: type) -> bool:
    """Whether a list with commas is several values: of numbers and chosen words; text may hold commas."""
    one_of_few = bool(spec.metadata.get("choices"))
    return spec.metadata.get("several", True) and (
        one_of_few or not {int, float}.isdisjoint(types_of(params)[spec.name])
    )


def combinations(swept: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each option, the last option's first. UserError for more than MOST."""
    count = math.prod(map(len, swept.values()))
    if count > MOST:
        sizes = " x ".join(f"{len(values)} {option}" for option, values in swept.items())
        raise UserError(f"The sweep ({sizes}) has {count} jobs, more than {MOST}.", "Give fewer values")
    for chosen in itertools.product(*swept.values()):
        yield dict(zip(swept, chosen, strict=True))


def marks(params: type, chosen: Iterable[tuple[str, Any]]) -> list[str]:
    """Marks of option values for a name: lr0.0003 or l1-2 for a number, the word itself for one of a few choices."""
    specs = {spec.name: spec for spec in dataclasses.fields(params)}
    return [_mark(specs[option], value) for option, value in chosen]


def marked(name: str, wanted: Sequence[str]) -> str:
    """The name, with those of the marks at its end that are not in it already."""
    for mark in wanted:
        if f"-{mark}-" not in f"-{name}-":
            name += f"-{mark}"
    return name


def _mark(spec: dataclasses.Field[Any], value: Any) -> str:
    if spec.metadata.get("choices"):
        return str(value)
    word = spec.metadata.get("mark") or spec.name.replace("_", "-")
    between = "-" if word[-1].isdigit() else ""
    return word + between + _number(value)


def _number(value: float) -> str:
    """A number as short as it stays distinct, without the plus sign that a name may not have."""
    short = f"{value:g}"
    return (short if float(short) == value else repr(value)).replace("e+", "e")
