"""Values of parameters: how each is written on a command line, and what is wrong with one."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable
from functools import cache
from typing import Any

from tasks.parsing.documents import fault_of
from tasks.parsing.safe_text import shown

#: The largest whole number that a parameter may be: what counts and draws has 64 bits.
LARGEST = 2**63 - 1

_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a table",
}
_NUMBER = re.compile(r"([+-]?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,2})?)([kKMBGT]?)")
_FACTORS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


def flag_of(name: str, params: type | None = None) -> str:
    """The flag of a parameter on the command line. `params`, the class that declares it, may give it a flag of its own.

    Any name is answered: an unknown one with the flag that it would have.
    """
    declared = {} if params is None else {spec.name: spec.metadata.get("flag") for spec in dataclasses.fields(params)}
    return declared.get(name) or "--" + name.replace("_", "-")


def field_of(name: str, params: type) -> str:
    """The parameter that a name in a file means: its own, or that of its flag, as `d_sae` or `d-sae` for `width`.

    Any other name is its own answer.
    """
    return _fields_by_word(params).get(name.replace("-", "_"), name)


@cache
def _fields_by_word(params: type) -> dict[str, str]:
    """The parameters by the names of their flags and by their own, which take precedence."""
    fields = [spec.name for spec in dataclasses.fields(params)]
    by_flag = {flag_of(field, params).removeprefix("--").replace("-", "_"): field for field in fields}
    return by_flag | {field: field for field in fields}


def by_parameter(names: Iterable[str], params: type) -> tuple[dict[str, str], str | None]:
    """By parameter: which of these names means it, as `field_of` reads them; and the first name that repeats one."""
    found: dict[str, str] = {}
    twice = [name for name in names if found.setdefault(field_of(name, params), name) != name]
    return found, next(iter(twice), None)


@cache
def types_of(params: type) -> dict[str, tuple[type, ...]]:
    """The types that the value of each parameter may have."""
    hints = typing.get_type_hints(params)
    alternatives = {name: typing.get_args(hint) or (hint,) for name, hint in hints.items()}
    return {name: tuple(typing.get_origin(one) or one for one in found) for name, found in alternatives.items()}


def read_number(word: str, of: type) -> Any:
    """A number as people type it: 32, 2e-4, and for large ones 10k, 1.5M, 2B. ValueError for what is none."""
    try:
        return of(word)
    except ValueError:
        if not (found := _NUMBER.fullmatch(word.strip())):
            raise
    from decimal import Decimal  # slow to import, and few numbers are written so

    value = Decimal(found[1]) * _FACTORS[found[2]]
    if of is int and value != value.to_integral_value():
        raise ValueError(f"{word} is not a whole number")
    return of(value)


def wrong_value(value: Any, types: tuple[type, ...], metadata: typing.Mapping[str, Any]) -> str:
    """What is wrong with a value for these types and this declaration of `option`; nothing for a sound one."""
    return _wrong_type(value, types) or _wrong_text(value) or _out_of_bounds(value, metadata)


def _wrong_type(value: Any, types: tuple[type, ...]) -> str:
    if type(value) in types or (type(value) is int and float in types):
        return ""
    wanted = " or ".join(_WORDS[known] for known in types if known in _WORDS)
    return f"must be {wanted}, not {shown(value)}"


def _wrong_text(value: Any) -> str:
    """A path or a name with such a byte is none to the system, and cannot be written into a manifest."""
    if isinstance(value, str) and "\0" in value:
        return f"must have no NUL character, not {shown(value)}"
    fault = fault_of(value) if isinstance(value, (str, dict)) else None
    return "" if fault is None else f"must be UTF-8 text: it {fault}" if isinstance(value, str) else f"is {fault}"


def _out_of_bounds(value: Any, metadata: typing.Mapping[str, Any]) -> str:
    choices = metadata.get("choices")
    if choices and value is not None and value not in choices:
        return f"{shown(value)} is not one of: {', '.join(choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    return (
        _out_of_range(value, metadata.get("minimum"), metadata.get("maximum")) if isinstance(value, int | float) else ""
    )


def _out_of_range(value: float, minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and value < minimum:
        return f"must be at least {minimum:g}, not {shown(value)}"
    if maximum is not None and value > maximum:
        return f"must be at most {maximum:g}, not {shown(value)}"
    if isinstance(value, int) and value > LARGEST:
        return f"must be at most {LARGEST}, not {shown(value)}"
    return ""
