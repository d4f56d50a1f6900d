"""The file of a recipe: TOML, its variables, and in which line each of its steps stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio_cli.profile.profile_keys import near
from mistudio_cli.submission.options import RequestFault
from tasks.errors import UserError
from tasks.parsing.documents import Malformed, decode, parse_toml, read_bounded
from tasks.parsing.parameters import read_number
from tasks.text.dataset_ref import slug

_EXAMPLE = "See one: mistudio submit pipeline --example"
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*step[ \t]*\]\]", re.MULTILINE)
_ID = re.compile(r"[A-Za-z0-9_-]+")
_KEYS = ("name", "vars", "step")
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True)
class PipelineStep:
    """One step: its id, what it says, the line where it begins (0: unknown), and those of its keys."""

    id: str
    table: dict[str, Any]
    line: int = 0
    key_lines: Mapping[str, int] = field(default_factory=dict)

    def where(self, path: Path, key: str = "") -> str:
        """The place in the file, for a person: that of the key, else that of the step."""
        line = self.line_of(key)
        return f"{path}{f':{line}' if line else ''} (step {self.id})"

    def line_of(self, key: str) -> int:
        """The line of the key, else that of the step; 0 when it is not known."""
        return self.key_lines.get(key.replace("-", "_"), self.line)


@dataclass(frozen=True)
class Pipeline:
    """A recipe as it was read. With `faults` the rest is what could be understood."""

    path: Path
    name: str
    variables: dict[str, Any] = field(default_factory=dict)
    steps: tuple[PipelineStep, ...] = ()
    faults: tuple[RequestFault, ...] = ()


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Pipeline:
    """What the file says, with its variables as `settings` (key=value) change them. OSError when it cannot be read."""
    name = slug(path.stem)
    try:
        text = decode(read_bounded(path), fix=_EXAMPLE)
        document = parse_toml(text, fix=_EXAMPLE)
    except Malformed as malformed:
        where = str(path) if malformed.line is None else f"{path}:{malformed.line}"
        return Pipeline(path, name, faults=(RequestFault(where, malformed),))
    faults = [RequestFault(str(path), problem) for problem in _faults_at_the_top(document)]
    if faults:
        return Pipeline(path, name, faults=tuple(faults))
    variables = dict(document.get("vars", {}))
    for setting in settings:
        try:
            variables |= _read_setting(setting, variables)
        except UserError as problem:
            faults.append(RequestFault(f"--set {setting}", problem))
    steps = _steps(document["step"], text)
    for place, step in enumerate(steps):
        faults += [
            RequestFault(step.where(path, "id"), problem) for problem in _faults_of_id(step, steps[:place], variables)
        ]
    return Pipeline(path, document.get("name", name), variables, steps, tuple(faults))


def _faults_at_the_top(document: dict[str, Any]) -> Iterator[UserError]:
    for key in document.keys() - set(_KEYS):
        yield UserError(f"A recipe has no {key!r} outside its steps.", f"{near(key, _KEYS)}It has: {', '.join(_KEYS)}")
    if not isinstance(document.get("name", ""), str) or not _ID.fullmatch(document.get("name", "x")):
        yield UserError(f"{document['name']!r} cannot be a recipe's name.", "Use letters, digits, - and _")
    variables, steps = document.get("vars", {}), document.get("step")
    if not isinstance(variables, dict) or not all(type(value) in _SCALARS for value in variables.values()):
        yield UserError("[vars] must hold text, numbers, true or false.", "For instance: steps = 200")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        yield UserError("A recipe needs steps, each below a line [[step]].", _EXAMPLE)


def _read_setting(setting: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """One key=value; the recipe's own value says whether it is text or what TOML makes of it."""
    key, equals, word = setting.partition("=")
    if not equals and key in variables:
        raise UserError(f"The value of {key} is missing.", f"Write {key}=VALUE")
    if key not in variables:
        known = f"It has: {', '.join(variables)}" if variables else "It has none"
        raise UserError(f"The recipe has no variable {key!r}.", f"{near(key, list(variables))}{known}")
    if isinstance(variables[key], str):
        return {key: word}
    try:
        value = parse_toml(f"value = {word}")["value"]
    except Malformed:
        value = _number_or_text(word)
    if type(value) is not type(variables[key]) and (type(value), type(variables[key])) not in (
        (int, float),
        (float, int),
    ):
        raise UserError(
            f"{key} is {variables[key]!r} in the recipe, and {word!r} is not of that type.",
            "Give a value of the same type",
        )
    return {key: value}


def _number_or_text(word: str) -> Any:
    for of in (int, float):
        with suppress(ValueError):
            return read_number(word, of)
    return word


def _steps(tables: Sequence[dict[str, Any]], text: str) -> tuple[PipelineStep, ...]:
    starts = [match.start() for match in _HEADER.finditer(text)]
    if len(starts) != len(tables):  # written as an inline list, or in a text of several lines
        return tuple(PipelineStep(_id_of(step), step) for step in tables)
    ends = [*starts[1:], len(text)]
    steps = []
    for step, start, end in zip(tables, starts, ends, strict=True):
        first = text.count("\n", 0, start) + 1
        lines = {
            match[1].replace("-", "_"): number
            for number, line in enumerate(text[start:end].splitlines(), first)
            if (match := re.match(r"""[ \t]*["']?([\w-]+)["']?[ \t]*=""", line))
        }
        steps.append(PipelineStep(_id_of(step), step, first, lines))
    return tuple(steps)


def _id_of(table: dict[str, Any]) -> str:
    return str(table.get("id", table.get("kind", "?")))


def _faults_of_id(
    step: PipelineStep, earlier: Sequence[PipelineStep], variables: Mapping[str, Any]
) -> Iterator[UserError]:
    if not _ID.fullmatch(step.id) and "kind" in step.table:
        yield UserError(f"{step.id!r} cannot be a step's id.", "Use letters, digits, - and _")
    if step.id in variables:
        yield UserError(f"{step.id} is a variable too.", 'Give the step another id, for instance: id = "first"')
    if any(step.id == other.id for other in earlier):
        yield UserError(
            f"There is a step {step.id} before it.", 'Give it an id of its own, for instance: id = "second"'
        )
