"""The one sink of the command line: data to standard output, talk to standard error.

A pipe gets whole words and no colour, however wide; a terminal gets both within its width.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from mistudio_cli.terminal.layout import cut, fitting, lay_out
from tasks.errors import UserError
from tasks.parsing.safe_text import visible, visible_json, visible_lines

#: The exit code when nobody reads what was written; in the table of `errors` too.
READER_GONE = 141

#: The global flags of this invocation, and what each command begins with that they are put into.
_flags, _command = "", re.compile("(?!)")

_captured: ContextVar[list[str] | None] = ContextVar("captured", default=None)

#: What an encoding without it gets instead of a character that is ours; the rest is written as Python would.
_PLAIN = str.maketrans({"…": ">", "█": "#", "░": ".", "«": "<", "»": ">", "±": "~", "⏎": "/", "⇥": " "})


def suggest_with(flags: Sequence[str], nouns: Sequence[str]) -> None:
    """From now on put these global flags into suggested commands, `mistudio` and one of these nouns."""
    global _flags, _command
    import shlex

    _flags = visible(shlex.join(flags))
    _command = (
        re.compile(rf"(?<!there: )(?<![\w./-])mistudio (?=(?:{'|'.join(nouns)})\b)") if flags else re.compile("(?!)")
    )


def suggested(text: str) -> str:
    """The text with the global flags of this invocation in each command that it suggests: it means this home.

    A command that is to be typed on another host, "there: mistudio …", has none.
    """
    return _command.sub(lambda found: f"{found[0]}{_flags} ", text)


def data(text: str) -> None:
    """Lines of what was asked for. Ends the command quietly when nothing reads them."""
    styled(visible_lines(text))


def styled(text: str) -> None:
    """The same for lines that hold colors; what came from outside is made visible before it is put into them."""
    _write(sys.stdout, text)


def data_json(value: Any, *, indent: int | None = 2) -> None:
    """What was asked for, as JSON; a number that JSON has no word for is null, as what is unknown."""
    styled(json_text(value, indent, plain=not _is_utf8(sys.stdout)))


def json_text(value: Any, indent: int | None = None, *, plain: bool = False) -> str:
    """A value as JSON, with nothing in it that steers a terminal; `plain` has no letter beyond ASCII."""
    text = json.dumps(speakable(value), indent=indent, ensure_ascii=plain, allow_nan=False)
    return text if plain else visible_json(text)


def talk(text: str) -> None:
    """A line to the person at the terminal; commands that it suggests get the global flags of this invocation."""
    text = suggested(text)
    captured = _captured.get()
    if captured is None:
        _write(sys.stderr, visible_lines(text))
    else:
        captured.append(text)


@contextmanager
def capture_talk() -> Iterator[list[str]]:
    """Collect what this thread would write with `talk`, for a screen that shows it in its own place."""
    lines: list[str] = []
    token = _captured.set(lines)
    try:
        yield lines
    finally:
        _captured.reset(token)


def ask(question: str, agreed: str) -> None:
    """Continue only if the person at the terminal agrees; with the flag `agreed` this command does not ask."""
    import shlex

    import typer

    if not sys.stdin.isatty():
        same = shlex.join(["mistudio", *sys.argv[1:], agreed])
        raise UserError("Cannot ask for confirmation: stdin is not a terminal.", f"To confirm: {same}")
    if not typer.confirm(question, err=True):
        raise typer.Exit(0)


def talk_over(text: str) -> None:
    """Replace the line last talked over; nothing when standard error is no terminal."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K" + cut(visible(text), terminal_width() - 1))
        sys.stderr.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, wrap: bool = False) -> None:
    """Rows under headers. A narrow terminal goes without dispensable columns, then the widest are shortened.

    With `wrap` the last column is none of these: its text continues below itself.
    """
    width = terminal_width() if sys.stdout.isatty() else None
    styled(lay_out(*fitting(headers, rows, width), width, in_colour(sys.stdout), wrap=wrap))


def terminal_width() -> int:
    """Columns of the terminal."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def in_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to that stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def speakable(value: Any) -> Any:
    """A copy with NaN and infinities replaced by None, so that it is valid JSON."""
    if isinstance(value, dict):
        return {key: speakable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [speakable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(stream: TextIO, text: str) -> None:
    if not _is_utf8(stream):
        encoding = stream.encoding or "ascii"
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    _guard(stream, lambda: stream.write(text + "\n"))


def _is_utf8(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


def _guard(stream: TextIO, write: Callable[[], object]) -> None:
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        # Nothing can be written any more, not even what the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(READER_GONE) from None
