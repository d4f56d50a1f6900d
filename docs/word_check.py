"""Check names, prose and messages for words that the field does not use: `python -m docs.word_check`.

`docs/words.toml` lists them. Each finding is printed as `file:line: word -> better word`.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_WORDS = tomllib.loads((ROOT / "docs/words.toml").read_text(encoding="utf-8"))
_NAMES = {part: better for parts, better in _WORDS["names"].items() for part in parts.split()}
_GAP = r"[\s#>-]+"  # between the words of a phrase, which may continue on the next line, behind the sign of a comment
_TEXT = [
    (re.compile(rf"(?<![\w-])(?:{old.replace(' ', _GAP)})(?![\w-])", re.IGNORECASE), better)
    for old, better in _WORDS["text"].items()
]
_PHRASES = [(pattern, better) for pattern, better in _TEXT if _GAP in pattern.pattern]
# Literals that stay to the letter, because what is stored or sent has them.
EXEMPT = {
    '"mend"': "key of faults and checks in --json",
    '"heirs"': "Redis key",
    "'heirs'": "Redis key, in Lua",
    "`heirs`": "Redis key, in the docs",
    '"seats"': "folder of worker locks",
    "run/seats": "folder of worker locks",
    '"telling"': "key of the result of extract",
    '"posture"': "key of a worker's note",
    ".tell()": "method of files",
    "MISTUDIO_TELL_FOR_S": "environment variable",
}
_EXEMPT = re.compile("|".join(re.escape(literal) for literal in EXEMPT))
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_LUA = re.compile(r"--(?P<comment>[^\n]*)|\blocal (?:function )?(?P<name>[\w, ]+)")
_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


class Finding(NamedTuple):
    """An old word, and what to write instead."""

    line: int
    old: str
    better: str


def check(root: Path) -> list[str]:
    """Return a line for each old word in the Python, Lua and Markdown files below `root`."""
    return [
        f"{path.relative_to(root)}:{line}: {old} -> {better}"
        for path in _files(root)
        for line, old, better in sorted(set(_find(path)))
    ]


def _files(root: Path) -> list[Path]:
    """The files to check: no benchmark results, no environments, no build products."""
    tops = [path for path in root.iterdir() if not path.name.startswith(".") and path.name != "build"]
    files = [path for top in tops if top.is_dir() for suffix in ("py", "lua") for path in top.rglob(f"*.{suffix}")]
    return sorted([*files, *root.glob("*.md"), *root.glob("docs/**/*.md")])


def _find(path: Path) -> Iterator[Finding]:
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _in_python(source)
    elif path.suffix == ".lua":
        comments = [(m.start("comment"), m["comment"]) for m in _LUA.finditer(source) if m["comment"]]
        names = [(m.start("name"), m["name"].replace("_", " ")) for m in _LUA.finditer(source) if m["name"]]
        for start, text in comments + names:
            yield from _in_text(text, 1 + source.count("\n", 0, start))
    else:
        yield from _in_text(source, 1)


def _in_python(source: str) -> Iterator[Finding]:
    comments: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield from _in_name(_masked(token.line)[token.start[1] : token.end[1]], token.start[0])
        elif token.type in _STRINGS:
            yield from _in_text(token.string, token.start[0])
        elif token.type == tokenize.COMMENT:
            if comments and token.start[0] != comments[-1].start[0] + 1:
                yield from _in_comments(comments)
                comments = []
            comments.append(token)
    yield from _in_comments(comments)


def _in_name(name: str, line: int) -> Iterator[Finding]:
    for part in _PART.findall(name):
        if better := _NAMES.get(part.lower()):
            yield Finding(line, f"{part} in {name}", better)
    for phrase, better in _PHRASES:
        if match := phrase.search(name.replace("_", " ")):
            yield Finding(line, f"{match[0]} in {name}", better)


def _in_comments(comments: list[tokenize.TokenInfo]) -> Iterator[Finding]:
    """Check comments of consecutive lines together."""
    if comments:
        yield from _in_text("\n".join(comment.string for comment in comments), comments[0].start[0])


def _masked(text: str) -> str:
    """The text with spaces in place of what is exempt."""
    return _EXEMPT.sub(lambda match: " " * len(match[0]), text)


def _in_text(text: str, first_line: int) -> Iterator[Finding]:
    text = _masked(text)
    for pattern, better in _TEXT:
        for match in pattern.finditer(text):
            yield Finding(first_line + text.count("\n", 0, match.start()), re.sub(_GAP, " ", match[0]), better)


def main() -> int:
    """Print the findings; 1 when there are any."""
    findings = check(ROOT)
    sys.stdout.write("".join(f"{finding}\n" for finding in findings))
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
