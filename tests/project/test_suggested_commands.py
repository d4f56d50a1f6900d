"""Commands that messages suggest can be typed: each is one of this program, with all that it requires.

Words in capitals stand for what the reader knows, as does whatever a message puts in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mistudio_cli.app import COMMANDS, UsageError, app

ROOT = Path(__file__).parent.parent.parent

#: Commands that take ids or flags that choose jobs, one of both.
CHOOSING = ("cancel", "retry", "rm", "wait")

#: What a message puts in.
_FILLED_IN = "FILLED-IN"

#: A command after what introduces one, up to the end of its sentence or line.
_COMMAND = re.compile(r"(?:^|: |\(|`|&& |\n +)mistudio ((?:--?)?[a-z][^;,()`\n<>&\"']*)", re.M)
_END = re.compile(r"  |\.( |$)|: | or ")

_JAVASCRIPT_TEXT = re.compile(r'"([^"\n]*)"|`([^`\n]*)`')


def _suggestions() -> Iterator[tuple[str, str]]:
    for folder in ("mistudio_cli", "tasks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _in_texts(path, _texts_of_python(path))
    for path in sorted((ROOT / "mistudio_cli" / "page").rglob("*.js")):
        yield from _in_texts(path, _texts_of_javascript(path))


def _in_texts(path: Path, texts: Iterator[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        for found in _COMMAND.finditer(text):
            yield str(path.relative_to(ROOT)), _END.split(found[1])[0].strip()


def _texts_of_python(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    if "mistudio " not in source:  # to read what has none takes seconds
        return
    tree = ast.parse(source)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    no_messages = parts | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = dict(_constants_of(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(_text_of(part, constants) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in no_messages:
            yield node.value


def _constants_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module's own names of texts."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield from ((target.id, str(node.value.value)) for target in node.targets if isinstance(target, ast.Name))


def _text_of(part: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    name = part.value.id if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) else ""
    return constants.get(name, _FILLED_IN)


def _texts_of_javascript(path: Path) -> Iterator[str]:
    for found in _JAVASCRIPT_TEXT.finditer(path.read_text(encoding="utf-8")):
        yield re.sub(r"\$\{[^}]*\}", _FILLED_IN, found[1] or found[2] or "")


def _check(words: list[str]) -> None:
    """Raise UsageError for words that are no command, or one that lacks what it requires."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("mistudio", [words[0]], resilient_parsing=True)
    name = "mistudio"
    while hasattr(command, "get_command") and words and not words[0].startswith("-") and words[0].islower():
        name, *words = words
        if (found := command.get_command(context, name)) is None:
            raise UsageError(f"{name} is no command")
        command = found
        context = typer.Context(command, info_name=name, parent=context, resilient_parsing=True)
    given, _, _ = command.make_parser(context).parse_args(list(words))
    if name in CHOOSING and not words:
        raise UsageError(f"{name} names no job")
    missing = [param.name for param in command.params if param.required and given.get(param.name) in (None, ())]
    if missing and "--help" not in words:
        raise UsageError(f"{name} lacks {', '.join(missing)}")


SUGGESTIONS = sorted(set(_suggestions()))


def test_suggested_commands_are_found() -> None:
    assert len(SUGGESTIONS) > 60


@pytest.mark.parametrize(("place", "command"), SUGGESTIONS)
def test_a_suggested_command_has_all_that_it_requires(place: str, command: str) -> None:
    if command.split()[0] in COMMANDS:
        _check(command.split())
    else:
        pytest.fail(f"{place}: there is no command {command.split()[0]}")
