"""The file of a recipe: TOML, its variables, and in which line each of its steps stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio_cli.profile.profile_keys import near
from mistudio_cli.submission.options import Fault
from tasks.errors import Problem
from tasks.parsing.documents import Malformed, decode, parse_toml, read_bounded
from tasks.parsing.parameters import read_number
from tasks.text.dataset_ref import slug

_EXAMPLE = "See one: mistudio submit pipeline --example"
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*step[ \t]*\]\]", re.MULTILINE)
_ID = re.compile(r"[A-Za-z0-9_-]+")
_KEYS = ("name", "vars", "step")
_SCALARS = (str, int, float, bool)


@dataclass(frozen=True)
class Step:
    """One step: its id, what it says, the line where it begins (0: unknown), and those of its keys."""

    id: str
    told: dict[str, Any]
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
class Recipe:
    """A recipe as it was read. With `faults` the rest is what could be understood."""

    path: Path
    name: str
    variables: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    faults: tuple[Fault, ...] = ()


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """What the file says, with its variables as `settings` (key=value) change them. OSError when it cannot be read."""
    name = slug(path.stem)
    try:
        text = decode(read_bounded(path), fix=_EXAMPLE)
        told = parse_toml(text, fix=_EXAMPLE)
    except Malformed as malformed:
        where = str(path) if malformed.line is None else f"{path}:{malformed.line}"
        return Recipe(path, name, faults=(Fault(where, malformed),))
    faults = [Fault(str(path), problem) for problem in _faults_at_the_top(told)]
    if faults:
        return Recipe(path, name, faults=tuple(faults))
    variables = dict(told.get("vars", {}))
    for setting in settings:
        try:
            variables |= _read_setting(setting, variables)
        except Problem as problem:
            faults.append(Fault(f"--set {setting}", problem))
    steps = _steps(told["step"], text)
    for place, step in enumerate(steps):
        faults += [Fault(step.where(path, "id"), problem) for problem in _faults_of_id(step, steps[:place], variables)]
    return Recipe(path, told.get("name", name), variables, steps, tuple(faults))


def _faults_at_the_top(told: dict[str, Any]) -> Iterator[Problem]:
    for key in told.keys() - set(_KEYS):
        yield Problem(f"A recipe has no {key!r} outside its steps.", f"{near(key, _KEYS)}It has: {', '.join(_KEYS)}")
    if not isinstance(told.get("name", ""), str) or not _ID.fullmatch(told.get("name", "x")):
        yield Problem(f"{told['name']!r} cannot be a recipe's name.", "Use letters, digits, - and _")
    variables, steps = told.get("vars", {}), told.get("step")
    if not isinstance(variables, dict) or not all(type(value) in _SCALARS for value in variables.values()):
        yield Problem("[vars] must hold text, numbers, true or false.", "For instance: steps = 200")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        yield Problem("A recipe needs steps, each below a line [[step]].", _EXAMPLE)


def _read_setting(setting: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """One key=value; the recipe's own value says whether it is text or what TOML makes of it."""
    key, equals, word = setting.partition("=")
    if not equals or key not in variables:
        known = f"It has: {', '.join(variables)}" if variables else "It has none"
        raise Problem(f"The recipe has no variable {key!r}.", f"{near(key, list(variables))}{known}")
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
        raise Problem(
            f"{key} is {variables[key]!r} in the recipe, and {word!r} is nothing like it.", "Give a like value"
        )
    return {key: value}


def _number_or_text(word: str) -> Any:
    for of in (int, float):
        with suppress(ValueError):
            return read_number(word, of)
    return word


def _steps(told: Sequence[dict[str, Any]], text: str) -> tuple[Step, ...]:
    starts = [match.start() for match in _HEADER.finditer(text)]
    if len(starts) != len(told):  # written as an inline list, or in a text of several lines
        return tuple(Step(_id_of(step), step) for step in told)
    ends = [*starts[1:], len(text)]
    steps = []
    for step, start, end in zip(told, starts, ends, strict=True):
        first = text.count("\n", 0, start) + 1
        lines = {
            match[1].replace("-", "_"): number
            for number, line in enumerate(text[start:end].splitlines(), first)
            if (match := re.match(r"""[ \t]*["']?([\w-]+)["']?[ \t]*=""", line))
        }
        steps.append(Step(_id_of(step), step, first, lines))
    return tuple(steps)


def _id_of(told: dict[str, Any]) -> str:
    return str(told.get("id", told.get("kind", "?")))


def _faults_of_id(step: Step, earlier: Sequence[Step], variables: Mapping[str, Any]) -> Iterator[Problem]:
    if not _ID.fullmatch(step.id) and "kind" in step.told:
        yield Problem(f"{step.id!r} cannot be a step's id.", "Use letters, digits, - and _")
    if step.id in variables:
        yield Problem(f"{step.id} is a variable too.", 'Give the step another id, for instance: id = "first"')
    if any(step.id == other.id for other in earlier):
        yield Problem(f"There is a step {step.id} before it.", 'Give it an id of its own, for instance: id = "second"')
