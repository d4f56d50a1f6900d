"""Rows of JSON, JSON Lines and CSV files: one after the other, each with its line, whatever the other columns hold."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from tasks.errors import UserError
from tasks.text.files.text_files import check_text

_BLOCK = 1 << 20
#: What other programs write between the values of a row.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_SPACE, _SPACE_OR_COMMA = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")
#: An error this near to the end of what was read may be that of an incomplete value.
_NEAR_END = 16


class Number(str):
    """A number of a JSON file as it is written: no text, and never converted, so that it may have any size."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)

#: The line on which a row begins, from 1, and its values by column.
Row = tuple[int, Mapping[str, Any]]


def open_text(path: Path) -> TextIO:
    """The file as text with its own line ends; bytes that are no UTF-8 are U+FFFD.

    Raises UserError for a file that is compressed or no UTF-8 text.
    """
    check_text(path)
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
        text, in_array, is_over, element = _Window(path, file), None, False, 0
        while char := text.next_char(_SPACE_OR_COMMA if in_array else _SPACE):
            if in_array is None and (in_array := char == "["):
                text.at += 1
                continue
            if is_over:
                raise UserError(f"{path.name} continues after its array, on line {text.line}.", "Correct the file")
            if in_array and char == "]":
                is_over, text.at = True, text.at + 1
                continue
            element += 1
            line, row = text.line, text.value()
            yield line, _object(path, line, row, element if in_array else 0)
        if in_array and not is_over:
            raise UserError(f"{path.name} ends inside its array, on line {text.line}.", "Get the whole file")


class _Window:
    """The part of a JSON file that was read and not yet passed: from `at` in `text`, which is on `line`."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self.text, self.at, self.line = "", 0, 1

    def next_char(self, between: re.Pattern[str]) -> str:
        """The first character after what the pattern passes over, which stays the next; "" at the end."""
        while True:
            passed = between.match(self.text, self.at)
            self._pass_to(passed.end() if passed else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._read_more():
                return ""

    def value(self) -> Any:
        """The value that begins at the next character. Raises UserError for what is none."""
        while True:
            try:
                found, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                is_cut_off = error.pos >= len(self.text) - _NEAR_END or error.msg.startswith("Unterminated string")
                if not is_cut_off or not self._read_more():
                    raise _not_json(self._path, self.line + self._lines_to(error.pos), error) from None
            except RecursionError as error:
                raise _not_json(self._path, self.line, error) from None
            else:
                self._pass_to(end)
                return found

    def _read_more(self) -> bool:
        """Read as much again as is left, so that a value of any size is copied and parsed a few times only."""
        left = self.text[self.at :]
        more = self._file.read(max(_BLOCK, len(left)))
        if more:
            self.text, self.at = left + more, 0
        return bool(more)

    def _pass_to(self, end: int) -> None:
        self.line += self._lines_to(end)
        self.at = end

    def _lines_to(self, end: int) -> int:
        return self.text.count("\n", self.at, end)


def read_csv(path: Path) -> Iterator[Row]:
    """The rows of a CSV file with a header, all values as they are written; a value that a row lacks is None.

    Raises UserError naming the line that has more values than the header, or whose quotes do not end.
    """
    csv.field_size_limit(sys.maxsize)
    with open_text(path) as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if len(header) == 1 and (other := next((mark for mark in _OTHER_SEPARATORS if mark in header[0]), None)):
                raise UserError(
                    f"{path.name} separates its columns by {_OTHER_SEPARATORS[other]}, and only commas are read.",
                    "Convert it, or write each row as a line of JSON",
                )
            if twice := sorted(name for name, count in Counter(header).items() if count > 1):
                raise UserError(f"{path.name} has two columns {twice[0]!r}.", "Rename one of them")
            for row in lines:
                if len(row) > len(header):
                    found = f"line {lines.line_num} of {path.name} has {len(row)} values, its header {len(header)}"
                    raise UserError(f"{found[0].upper()}{found[1:]}.", "Quote the values that contain commas")
                if row:
                    yield lines.line_num, dict(zip(header, [*row, *[None] * (len(header) - len(row))], strict=True))
        except csv.Error as error:
            raise UserError(f"Line {lines.line_num} of {path.name} is not CSV: {error}.", "Correct the file") from None


def _object(path: Path, line: int, row: Any, element: int = 0) -> Mapping[str, Any]:
    """The row; UserError that names its line, and its place in an array, for what is no object."""
    if not isinstance(row, dict):
        where = (
            f"Element {element} of the array in {path.name}, on line {line},"
            if element
            else f"Line {line} of {path.name}"
        )
        raise UserError(f"{where} is {_kind(row)}, not an object with columns.", "Correct the file")
    return row


def _kind(value: Any) -> str:
    names = {Number: "a number", str: "a string", list: "an array", bool: "a boolean", dict: "an object"}
    return names.get(type(value), "null")


def _not_json(path: Path, line: int, error: Exception) -> UserError:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
    return UserError(f"Line {line} of {path.name} is not JSON: {reason}.", "Correct the file")
