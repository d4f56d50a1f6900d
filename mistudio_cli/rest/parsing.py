"""From query, path and body to the dataclasses of a route; a Problem says what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from mistudio_cli.rest.problem import Problem

#: Numbers longer than this are none; converting longer ones costs time.
_MOST_DIGITS = 18

#: Whole numbers in a body are at most this, as they are exact in every reader of JSON.
MOST = 1 << 53


def read_params(of: type, query: bytes, in_path: Mapping[str, str]) -> Any:
    """The params of a request. Problem 400 for a word that is unknown, repeated, missing or out of bounds."""
    given = _words(query)
    hints = typing.get_type_hints(of)
    fields = {spec.name: spec for spec in dataclasses.fields(of)}
    known = [name for name, spec in fields.items() if not spec.metadata["in_path"]]
    if unknown := [name for name in given if name not in known]:
        raise Problem(400, f"Unknown query word {unknown[0][:40]!r}; known: {', '.join(known) or 'none'}.")
    values: dict[str, Any] = dict(in_path)
    for name, words in given.items():
        if _is_list(hints[name]):
            values[name] = [_checked(name, part, str, fields[name]) for word in words for part in word.split(",")]
        elif len(words) > 1:
            raise Problem(400, f"{name} is given more than once.")
        else:
            values[name] = _checked(name, words[0], _scalar(hints[name]), fields[name])
    for name, spec in fields.items():
        if name not in values and spec.default is dataclasses.MISSING:
            raise Problem(400, f"{name} is missing.")
    return of(**values)


def read_body(of: type | None, body: bytes) -> Any:
    """The body of a request. Problem 400 when it is not JSON, 422 when it is not what the route takes."""
    if of is None:
        if body.strip() not in (b"", b"{}"):
            raise Problem(422, "This takes no body, or {}.")
        return None
    try:
        found = json.loads(
            body.decode("utf-8") or "{}", parse_constant=_refuse, parse_int=_integer, parse_float=_number
        )
    except (ValueError, RecursionError):
        raise Problem(400, "The body is not JSON.") from None
    if not isinstance(found, dict):
        raise Problem(422, "The body must be an object.")
    hints = typing.get_type_hints(of)
    fields = {spec.name: spec for spec in dataclasses.fields(of)}
    if unknown := [name for name in found if name not in fields]:
        raise Problem(422, f"Unknown key {unknown[0][:40]!r}; known: {', '.join(fields)}.")
    for name, spec in fields.items():
        if name in found:
            _check_value(name, found[name], hints[name], spec)
        elif spec.default is dataclasses.MISSING:
            raise Problem(422, f"{name} is missing.")
    return of(**found)


def _refuse(word: str) -> Any:
    raise ValueError(word)


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS or abs(int(digits)) > MOST:
        raise ValueError("too large a number")
    return int(digits)


def _number(digits: str) -> int | float:
    """A number with a fraction or an exponent; one without either in truth is a whole one, as in JSON schema."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("too large a number")
    return int(value) if value.is_integer() and abs(value) <= MOST else value


def _words(query: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in query.split(b"&") if query else ():
        name, _, value = pair.partition(b"=")
        found.setdefault(_text(name), []).append(_text(value))
    return found


def _text(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise Problem(400, "The query is not UTF-8.") from None


def _checked(name: str, word: str, of: type, spec: dataclasses.Field[Any]) -> Any:
    value: Any = word
    if of is int:
        if not re.fullmatch(rf"-?[0-9]{{1,{_MOST_DIGITS}}}", word):
            raise Problem(400, f"{name} must be a whole number.")
        value = int(word)
    if of is bool:
        if word not in ("true", "false"):
            raise Problem(400, f"{name} must be true or false.")
        value = word == "true"
    if wrong := _out_of_bounds(value, spec.metadata):
        raise Problem(400, f"{name} {wrong}.")
    return value


def _out_of_bounds(value: Any, bounds: Mapping[str, Any]) -> str | None:
    if bounds.get("choices") and value not in bounds["choices"]:
        return f"must be one of {', '.join(bounds['choices'])}"
    if isinstance(value, str) and bounds.get("pattern") and not re.fullmatch(bounds["pattern"], value):
        return f"must match {bounds['pattern']}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least, most = bounds.get("minimum"), bounds.get("maximum")
        if (least is not None and value < least) or (most is not None and value > most):
            return f"must be from {least} to {most}"
    return None


def _check_value(name: str, value: Any, hint: Any, spec: dataclasses.Field[Any]) -> None:
    if not _fits(value, hint):
        raise Problem(422, f"{name} is of the wrong type.")
    each = value if isinstance(value, list) else [value]
    if any(isinstance(item, str) and "\0" in item for item in each):
        raise Problem(422, f"{name} has a NUL character.")
    for item in each:
        if item is not None and (wrong := _out_of_bounds(item, spec.metadata)):
            raise Problem(422, f"{name} {wrong}.")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(each) is list for each in (hint, *typing.get_args(hint)))


def _scalar(hint: Any) -> type:
    arguments: Sequence[Any] = typing.get_args(hint) or (hint,)
    return next(each for each in (bool, int, str) if each in arguments)
