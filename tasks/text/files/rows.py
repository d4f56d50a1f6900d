"""Rows of JSON, JSON Lines and CSV files: one after the other, each with its line, whatever the other columns hold."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tasks.errors import UserError

_BLOCK = 1 << 20
#: An error this near to the end of what was read may be that of an incomplete value.
_NEAR_END = 16


class Number(str):
    """A number of a JSON file as it is written: no text, and never converted, so that it may have any size."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)

#: The line on which a row begins, from 1, and its values by column.
Row = tuple[int, Mapping[str, Any]]


def open_text(path: Path) -> TextIO:
    """The file as text with its own line ends; bytes that are no UTF-8 are U+FFFD."""
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def read_json_lines(path: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file; blank lines are passed over.

    Raises UserError naming the line that is no object.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = _DECODER.decode(line)
                except (ValueError, RecursionError) as error:
                    raise _not_json(path, number, error) from None
                yield number, _object(path, number, row)


def read_json(path: Path) -> Iterator[Row]:
    """The rows of a JSON file: an array of objects, or objects one after another; one of them is held at a time."""
    with open_text(path) as file:
        buffer, line, in_array, is_over = "", 1, None, False
        while True:
            kept = buffer.lstrip(" \t\r\n," if in_array else " \t\r\n")
            line += buffer.count("\n", 0, len(buffer) - len(kept))
            buffer = kept
            if not buffer:
                if not (more := file.read(_BLOCK)):
                    break
                buffer = more
                continue
            if in_array is None and (in_array := buffer[0] == "["):
                buffer = buffer[1:]
                continue
            if is_over:
                raise UserError(f"{path.name} continues after its array, on line {line}.", "Correct the file")
            if in_array and buffer[0] == "]":
                is_over, buffer = True, buffer[1:]
                continue
            row, end, buffer = _value(path, file, buffer, line)
            yield line, _object(path, line, row)
            line += buffer.count("\n", 0, end)
            buffer = buffer[end:]
        if in_array and not is_over:
            raise UserError(f"{path.name} ends inside its array, on line {line}.", "Get the whole file")


def _value(path: Path, file: TextIO, buffer: str, line: int) -> tuple[Any, int, str]:
    """The value at the beginning of the buffer, where it ends there, and the buffer with all that had to be read."""
    while True:
        try:
            return *_DECODER.raw_decode(buffer), buffer
        except json.JSONDecodeError as error:
            is_cut_off = error.pos >= len(buffer) - _NEAR_END or error.msg.startswith("Unterminated string")
            more = file.read(max(_BLOCK, len(buffer))) if is_cut_off else ""
            if not more:
                raise _not_json(path, line + buffer.count("\n", 0, error.pos), error) from None
            buffer += more
        except RecursionError as error:
            raise _not_json(path, line, error) from None


def read_csv(path: Path) -> Iterator[Row]:
    """The rows of a CSV file with a header, all values as they are written; a value that a row lacks is None.

    Raises UserError naming the line that has more values than the header, or whose quotes do not end.
    """
    csv.field_size_limit(sys.maxsize)
    with open_text(path) as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise UserError(f"{path.name} has two columns {twice[0]!r}.", "Rename one of them")
            for row in lines:
                if len(row) > len(header):
                    found = f"line {lines.line_num} of {path.name} has {len(row)} values, its header {len(header)}"
                    raise UserError(f"{found[0].upper()}{found[1:]}.", "Quote the values that contain commas")
                if row:
                    yield lines.line_num, dict(zip(header, [*row, *[None] * (len(header) - len(row))], strict=True))
        except csv.Error as error:
            raise UserError(f"Line {lines.line_num} of {path.name} is not CSV: {error}.", "Correct the file") from None


def _object(path: Path, line: int, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"Line {line} of {path.name} is {_kind(row)}, not an object with columns.", "Correct the file")
    return row


def _kind(value: Any) -> str:
    names = {Number: "a number", str: "a string", list: "an array", bool: "a boolean", dict: "an object"}
    return names.get(type(value), "null")


def _not_json(path: Path, line: int, error: Exception) -> UserError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
    return UserError(f"Line {line} of {path.name} is not JSON: {reason}.", "Correct the file")
