"""The shapes of answers on kinds of job; see `results`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ParameterJson:
    """A parameter: `type` is a word of JSON Schema, `flag` its name in messages, `artifact` the family that it names.

    `main` are those to ask for first: required, naming an artifact, or part of the names of what is made.
    """

    name: str
    flag: str
    type: str
    nullable: bool
    required: bool
    main: bool
    default: Any
    choices: list[str] | None
    minimum: float | None
    maximum: float | None
    artifact: str | None
    help: str


@dataclass(frozen=True)
class KindJson:
    """A kind of job with its parameters; `produces` is the family of what it makes, null for none."""

    name: str
    queue: str
    summary: str
    produces: str | None
    params: list[ParameterJson]


@dataclass(frozen=True)
class Kinds:
    """The kinds of job; `options` are what a submission of any kind has beside `params`."""

    kinds: list[KindJson]
    options: list[ParameterJson]
