"""JSON and TOML from outside: whatever a parser can raise becomes one sentence that names file and line."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.safe_text import shown, visible

#: A document of mistudio's own kinds has a few levels; a model's configuration may have some more.
DEEPEST = 64

#: Larger files are read by what streams them.
LARGEST = 64 << 20

#: The time tomllib takes grows with the square of a dotted key's length.
_LARGEST_TOML = 1 << 20
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")

#: Of a parser's message.
_REASON_CHARS = 200

_LONG_NUMBER = re.compile(r"[0-9][0-9_]{4299}")
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class Malformed(UserError, ValueError):
    """A document that cannot be used; `reason` is why, `line` where (None: unknown)."""

    def __init__(self, where: str, reason: str, line: int | None = None, fix: str = "") -> None:
        place = f"{where}:{line}" if where and line else where
        sentence = f"{place}: {reason}." if place else f"{reason[0].upper()}{reason[1:]}."
        super().__init__(sentence, fix)
        self.reason, self.line = reason, line


def parse_json(text: str | bytes, where: str = "", fix: str = "", *, strict: bool = True) -> Any:
    """The value in a JSON text. Malformed, and nothing else, for a text that is none or could not be written again.

    Unless `strict`, NaN and Infinity are numbers, and the last of several values of one name holds: as Python's own
    parser has it, and some files of models need it.
    """
    decoded = decode(text, where, fix, codec="utf-8")  # other readers of the same file take no byte order mark
    hooks: dict[str, Any] = {"object_pairs_hook": unique, "parse_constant": _no_number} if strict else {}
    try:
        found = json.loads(decoded, **hooks)
    except json.JSONDecodeError as error:
        reason = f"not valid JSON: {error.msg} (column {error.colno})"
        raise Malformed(where, reason, error.lineno, fix) from None
    except RecursionError:
        raise Malformed(where, "nested too deeply", _line_of_depth(decoded), fix) from None
    except ValueError as error:
        reason, line = _number_or(f"not valid JSON: {error}", decoded)
        raise Malformed(where, reason, line, fix) from None
    if (fault := _fault(found, 0, finite=strict)) is not None:
        raise Malformed(where, fault, _line_of_depth(decoded), fix)
    return found


def parse_json_object(text: str | bytes, where: str = "", fix: str = "", *, strict: bool = True) -> dict[str, Any]:
    """The object in a JSON text; Malformed for everything else."""
    found = parse_json(text, where, fix, strict=strict)
    if not isinstance(found, dict):
        raise Malformed(where, f"a JSON object was expected, not {shown(found, 40)}", None, fix)
    return found


def read_json_object(path: Path, fix: str = "", *, strict: bool = True, largest: int = LARGEST) -> dict[str, Any]:
    """The object in a JSON file. Malformed for everything else, OSError for a file that cannot be read."""
    return parse_json_object(read_bounded(path, largest), str(path), fix, strict=strict)


def parse_toml(text: str | bytes, where: str = "", fix: str = "") -> dict[str, Any]:
    """What a TOML text says. Malformed, and nothing else, for a text that is none."""
    import tomllib  # slow to import, and most commands need none

    decoded = decode(text, where, fix)
    if len(decoded) > _LARGEST_TOML:
        raise Malformed(where, f"larger than {_LARGEST_TOML >> 20} MiB", None, fix)
    if long := _LONG_KEY.search(decoded):
        raise Malformed(where, "nested too deeply", _line_at(decoded, long.start()), fix)
    try:
        found = tomllib.loads(decoded)
    except tomllib.TOMLDecodeError as error:
        place = _AT_LINE.search(str(error))
        at = int(place[1]) if place and place[1] else decoded.count("\n") + 1
        raise Malformed(where, f"not valid TOML: {_reason(error, place)}", at, fix) from None
    except RecursionError:
        raise Malformed(where, "nested too deeply", _line_of_depth(decoded), fix) from None
    except (ValueError, OverflowError) as error:
        reason, line = _number_or(f"not valid TOML: {error}", decoded)
        raise Malformed(where, reason, line, fix) from None
    if (fault := _fault(found, 0, finite=False)) is not None:
        raise Malformed(where, fault, _line_of_depth(decoded), fix)
    return found


def read_toml(path: Any, fix: str = "") -> dict[str, Any]:
    """What a TOML file says. Malformed for a text that is none, OSError for a file that cannot be read."""
    return parse_toml(read_bounded(path, _LARGEST_TOML), str(path), fix)


def read_bounded(path: Any, largest: int = LARGEST) -> bytes:
    """The bytes of a file, whatever it is; Malformed for more than `largest`: a device may have no end."""
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise Malformed(str(path), f"larger than {largest >> 20} MiB")
    return data


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of pairs, for `json.loads`; ValueError where a name is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return found


def _reason(error: Exception, place: re.Match[str] | None) -> str:
    """The message of a parser without the place, which is said before it."""
    text = str(error)
    return visible(text[: place.start()] if place else text)[:_REASON_CHARS]


def fault_of(value: Any) -> str | None:
    """What would keep a value from being written as JSON and UTF-8 again; None when nothing would."""
    return _fault(value, 0)


def decode(text: str | bytes, where: str = "", fix: str = "", codec: str = "utf-8-sig") -> str:
    """The text, by default without a byte order mark; Malformed for bytes that are no UTF-8."""
    if isinstance(text, str):
        return text
    try:
        return text.decode(codec)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise Malformed(where, f"not UTF-8: {error.reason} at byte {error.start}", line, fix) from None


def _fault(value: Any, depth: int, finite: bool = True) -> str | None:
    if depth > DEEPEST:
        return "nested too deeply"
    if isinstance(value, dict):
        return _first_fault((*value, *value.values()), depth + 1, finite)
    if isinstance(value, list):
        return _first_fault(value, depth + 1, finite)
    if finite and isinstance(value, float) and not math.isfinite(value):
        return "holds a number that is too large"
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        return f"holds a text that is no Unicode: {shown(value)}"
    return None


def _first_fault(values: Iterable[Any], depth: int, finite: bool) -> str | None:
    return next((fault for value in values if (fault := _fault(value, depth, finite)) is not None), None)


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _number_or(reason: str, text: str) -> tuple[str, int | None]:
    """What a ValueError means that names no line: Python reads no number of more than 4300 digits."""
    if long := _LONG_NUMBER.search(text):
        return "holds a number of too many digits", _line_at(text, long.start())
    return visible(reason)[:_REASON_CHARS], None


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _line_of_depth(text: str) -> int | None:
    """The line in which brackets are first nested deeper than allowed; brackets in strings count too."""
    depth = 0
    for found in re.finditer(r"[\[\]{}]", text):
        depth += 1 if found[0] in "[{" else -1
        if depth > DEEPEST:
            return _line_at(text, found.start())
    return None
