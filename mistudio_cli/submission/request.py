"""A request in a file, a step of a recipe or a line of many: its kind, its submit options, and its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import JobKind, by_parameter, kind_named
from tasks.parsing.parameters import read_number, types_of
from tasks.submission.plan import SubmitOptions

#: What a request may say beside its parameters, each with its type in words and an example.
_KEYS: dict[str, tuple[type, str, str]] = {
    "kind": (str, "text", '"train"'),
    "name": (str, "text", '"my-sae"'),
    "priority": (int, "a whole number", "5"),
    "tags": (list, "a list of words", '["mine"]'),
    "after": (list, "a list of ids", '["01kg9t2tzzh7mq"]'),
    "gpu": (str, "text", '"any"'),
}


@dataclass(frozen=True)
class SubmitRequest:
    """One request. `after` names what it waits for, in the words of its file."""

    kind: JobKind
    name: str | None
    after: tuple[str, ...]
    submit_options: SubmitOptions
    values: dict[str, Any]


def read_request(fields: dict[str, Any], submit_options: SubmitOptions) -> SubmitRequest | list[tuple[str, UserError]]:
    """The request, or all its errors, each with its key. Its own options take precedence over `submit_options`."""
    fields = {key.replace("-", "_"): value for key, value in fields.items()}
    if faults := list(_faults_of_keys(fields)):
        return faults
    try:
        kind = kind_named(fields["kind"])
    except UserError as problem:
        return [("kind", problem)]
    own = {key: fields[key] for key in ("priority", "gpu") if key in fields}
    submit_options = dataclasses.replace(submit_options, tags=(*submit_options.tags, *fields.get("tags", ())), **own)
    keys = [key for key in fields if key not in _KEYS]
    typed, twice = by_parameter(keys, kind.params)
    if twice is not None:
        return [(twice, UserError(f"{twice} sets a parameter that another key sets too.", "Leave one of them out"))]
    types = types_of(kind.params)
    values = {name: _number(fields[key], types.get(name, ())) for name, key in typed.items()}
    faults = [(typed.get(name, name), problem) for name, problem in kind.faults_of(values)]
    return faults or SubmitRequest(kind, fields.get("name"), tuple(fields.get("after", ())), submit_options, values)


def _number(value: Any, types: tuple[type, ...]) -> Any:
    """A number that is written as on the command line, "10M"; every other value as it is."""
    of = next((of for of in (int, float) if of in types), None)
    if not isinstance(value, str) or of is None or str in types or not value[-1:].isalpha():
        return value
    try:
        return read_number(value, of)
    except ValueError:
        return value


def _faults_of_keys(fields: dict[str, Any]) -> Iterator[tuple[str, UserError]]:
    if "kind" not in fields:
        yield "kind", UserError("A kind is missing.", "See: mistudio submit --help")
    for key, (wanted, words, example) in _KEYS.items():
        if key in fields and not _is_a(fields[key], wanted):
            yield key, UserError(f"{key} must be {words}, not {fields[key]!r}.", f"For instance {example}")


def _is_a(value: Any, wanted: type) -> bool:
    fits = type(value) is wanted
    return fits and (wanted is not list or all(type(word) is str for word in value))
