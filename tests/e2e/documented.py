"""The command lines of README.md and docs/: those in blocks, to be typed, and those named in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OF_A_SHELL = ("", "sh", "bash")
_COMMAND = re.compile(r"(?:^|&& |-- |exec api )(mistudio\s.+?)(?:\s{2,}#.*|\s+#.*)?$")
_INLINE = re.compile(r"(?:`|/api/v1\S* )(mistudio\s[^`]+)`")
_CHOICE = re.compile(r"(\S*\w)((?:\|\w[\w-]*)+)(?=\s|$)")


@dataclass(frozen=True)
class Line:
    """One command, and where it stands. With `is_usage` it is one of several forms, and only its help is asked for."""

    where: str
    text: str
    is_usage: bool = False


def commands_in_blocks(document: Path) -> Iterator[Line]:
    """The commands that a reader copies from the blocks of a document."""
    text = document.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        if block[1] not in _OF_A_SHELL:
            continue
        first = text.count("\n", 0, block.start()) + 2
        for number, line in enumerate(block[2].replace("\\\n", " \0").split("\n"), first):
            if found := _COMMAND.search(line.replace("\0", "")):
                yield from _expanded(f"{document.name}:{number}", found[1])


def commands_in_sentences(document: Path) -> Iterator[Line]:
    """The commands that a document names between backticks."""
    text = document.read_text(encoding="utf-8")
    for found in _INLINE.finditer(text):
        yield Line(f"{document.name}:{text.count(chr(10), 0, found.start()) + 1}", " ".join(found[1].split()))


def _expanded(where: str, command: str) -> Iterator[Line]:
    """A line for each of `a|b`, of which only the help is asked for, and of `x | y` at the end; `[x]` is given."""
    if choice := _CHOICE.search(command):
        for word in (choice[0].split("|")[0], *choice[0].split("|")[1:]):
            yield Line(where, f"{command[: choice.start()]}{word}", is_usage=True)
        return
    command, *others = command.split(" | ")
    words = command.rsplit(" ", 1)
    for last in (words[1], *others):
        yield Line(where, re.sub(r"[\[\]]", "", f"{words[0]} {last}"))
