"""Many jobs from one file: the only place where lines of JSON become jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mistudio_cli.asked import read_request
from mistudio_cli.finding import find_job
from mistudio_cli.submitting import Fault
from tasks.documents import decode, parse_json_object, read_bounded
from tasks.job import Job
from tasks.problem import Problem
from tasks.submit import KnownArtifacts, Wishes, plan

#: So many lines are submitted between two reports.
BATCH = 500

#: A job takes some hundred bytes.
_LARGEST = 256 << 20

_EXAMPLE = 'A line is for instance: {"kind": "train", "model": "gpt2", "dataset": "words", "layer": 6}'


@dataclass(frozen=True)
class Line:
    """A line's jobs: the one asked for last, before it those it needs."""

    number: int
    jobs: tuple[Job, ...]


def read_lines(file: str) -> list[str]:
    """The lines of that file, or of standard input for `-`. OSError when it cannot be read, Problem for no text."""
    data = sys.stdin.buffer.read() if file == "-" else read_bounded(Path(file), _LARGEST)
    return decode(data, file, _EXAMPLE).replace("\r\n", "\n").split("\n")  # JSON may hold what splitlines splits at


def plan_lines(known: KnownArtifacts, told: Sequence[str], file: str, wishes: Wishes) -> tuple[list[Line], list[Fault]]:
    """What each line that is not empty asks, and all that is wrong with any; nothing is submitted."""
    lines, faults = [], []
    for number, text in enumerate(told, 1):
        if not text.strip():
            continue
        problems, jobs = _plan_line(known, text, wishes)
        faults += [Fault(f"{file}:{number}", problem) for problem in problems]
        if jobs:
            lines.append(Line(number, tuple(jobs)))
    return lines, faults


def submit_lines(known: KnownArtifacts, lines: Sequence[Line]) -> Iterator[Sequence[tuple[Line, Problem | None]]]:
    """Submit in batches, and hand out each with why a line was refused after all; a line's jobs are one whole."""
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        yield list(zip(batch, known.ledger.submit_many([line.jobs for line in batch]), strict=True))


def _plan_line(known: KnownArtifacts, text: str, wishes: Wishes) -> tuple[list[Problem], list[Job]]:
    """All that is wrong with a line, or its jobs."""
    try:
        asked = read_request(parse_json_object(text, fix=_EXAMPLE), wishes)
        if isinstance(asked, list):
            return [problem for _, problem in asked], []
        after = (*asked.wishes.after, *(find_job(known.ledger, word).id for word in asked.after))
        wishes = replace(asked.wishes, after=after)
        return [], plan(known, asked.kind.name, asked.values, name=asked.name, wishes=wishes)
    except Problem as problem:
        return [problem], []
