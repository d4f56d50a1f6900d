"""Types of settings: each reads the raw value of a file or of the environment, or says what it expects instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: Seconds of each unit of a duration.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)?")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

#: An owner's name; the letters of Redis users and of OS users, and of e-mail addresses.
_OWNER = re.compile(r"[^\s,:*?\[\]\\/\x00-\x1f\x7f]{1,100}")

#: What such a name may not be.
OWNER_RULE = "up to 100 characters without spaces and \\ , : * ? [ ] /"

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")

#: What the prefix of the keys in a shared Redis may be.
PREFIX_RULE = "1 to 32 letters, digits, _ and -, the first a letter or digit"

#: No text that anybody means as a setting is longer; a file with one is damaged.
_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class Type:
    """What values a setting may have. `read` raises ValueError for any other; `expected` describes them."""

    expected: str
    read: Callable[[Any], Any]


def seconds(text: str) -> float:
    """The seconds of a duration such as 90, 90s, 30m, 1.5h, 2d; ValueError for any other text."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    return float(match[1]) * UNITS[(match[2] or "s")[0]]


def duration_text(length_s: float) -> str:
    """A duration as `seconds` reads it, in the largest unit that divides it."""
    unit = next(unit for unit in ("d", "h", "m", "s") if length_s % UNITS[unit] == 0 or unit == "s")
    return f"{length_s / UNITS[unit]:g}{unit}"


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw or len(raw) > _LONGEST_TEXT or not raw.isprintable():
        raise ValueError(raw)
    return raw


def owner_name(raw: Any) -> str:
    """The name, if it can be an owner's; ValueError for any other."""
    if not isinstance(raw, str) or not _OWNER.fullmatch(raw) or not raw.isprintable():
        raise ValueError(raw)
    return raw


def key_prefix(raw: Any) -> str:
    """The prefix, if it can be one of keys in Redis; ValueError for any other."""
    if not isinstance(raw, str) or not _PREFIX.fullmatch(raw):
        raise ValueError(raw)
    return raw


def _folder(raw: Any) -> str:
    if "://" in _text(raw):
        raise ValueError(raw)
    return str(raw)


def _duration(raw: Any) -> float:
    found = float(raw) if type(raw) in (int, float) else seconds(_text(raw))
    if not 0 < found < math.inf:
        raise ValueError(raw)
    return found


def _number(raw: Any) -> float:
    if isinstance(raw, bool):
        raise ValueError(raw)
    return float(_text(raw) if isinstance(raw, str) else raw)


def _switch(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if (word := _text(raw).lower()) in (*_YES, *_NO):
        return word in _YES
    raise ValueError(raw)


def _octal(raw: Any) -> str:
    if not re.fullmatch("[0-7]{1,4}", _text(raw)) or int(raw, 8) > 0o777:
        raise ValueError(raw)
    return raw


def number(minimum: float, *, above: bool = False) -> Type:
    """Finite numbers from `minimum`, or only those above it."""

    def read(raw: Any) -> float:
        found = _number(raw)
        if not (minimum < found if above else minimum <= found) or not found < math.inf:
            raise ValueError(raw)
        return found

    return Type(f"a number {'above' if above else 'from'} {minimum:g}", read)


def count(minimum: int, maximum: int = 2**53) -> Type:
    """Whole numbers from `minimum` to `maximum`."""

    def read(raw: Any) -> int:
        found = _number(raw)
        if not minimum <= found <= maximum or found != int(found):
            raise ValueError(raw)
        return int(found)

    bound = f" to {maximum}" if maximum < 2**53 else ""
    return Type(f"a whole number from {minimum}{bound}", read)


def choice(words: Sequence[str]) -> Type:
    """One of these words, in any case."""

    def read(raw: Any) -> str:
        if (word := _text(raw).lower()) not in words:
            raise ValueError(raw)
        return word

    return Type(f"one of {', '.join(words)}", read)


def optional(of: Type) -> Type:
    """What `of` reads, or "none", which is None."""
    return Type(f'{of.expected}, or "none"', lambda raw: None if raw == "none" else of.read(raw))


FOLDER = Type("a folder on this host, and no URL", _folder)
TEXT = Type("text", _text)
OWNER = Type(f"an owner's name: {OWNER_RULE}", owner_name)
PREFIX = Type(f"a prefix: {PREFIX_RULE}", key_prefix)
DURATION = Type('a duration such as "30m", or seconds', _duration)
SWITCH = Type("true or false", _switch)
OCTAL = Type('an octal number such as "002"', _octal)
