"""Bulk submission: one job per line of a JSON Lines file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mistudio_cli.jobs.lookup import find_job
from mistudio_cli.submission.options import RequestFault
from mistudio_cli.submission.request import read_request
from tasks.errors import UserError
from tasks.jobs.job_id import later_id
from tasks.jobs.record import Job
from tasks.parsing.documents import decode, parse_json_object, read_bounded
from tasks.redis_client.redis_connection import Refused, Unable, Unreachable
from tasks.submission.plan import ArtifactCatalog, SubmitOptions, plan

#: Lines submitted between two reports.
BATCH = 500

#: A job takes some hundred bytes.
_LARGEST = 256 << 20

_EXAMPLE = 'A line is for instance: {"kind": "train", "model": "gpt2", "dataset": "words", "layer": 6}'


@dataclass(frozen=True)
class PlannedLine:
    """A line's jobs: the one asked for last, before it those it needs. `is_there`: it was submitted before."""

    number: int
    jobs: tuple[Job, ...]
    is_there: bool = False


def read_lines(file: str) -> list[str]:
    """The lines of that file, or of standard input for `-`. OSError when it cannot be read, UserError for no text."""
    data = sys.stdin.buffer.read() if file == "-" else read_bounded(Path(file), _LARGEST)
    return decode(data, file, _EXAMPLE).replace("\r\n", "\n").split("\n")  # JSON may hold what splitlines splits at


def plan_lines(
    known: ArtifactCatalog, texts: Sequence[str], file: str, submit_options: SubmitOptions, first_id: str | None = None
) -> tuple[list[PlannedLine], list[RequestFault]]:
    """What each line that is not empty asks, and all that is wrong with any; nothing is submitted.

    With the `first_id` of `tasks.submission.fixed_ids` a line that was submitted before is not planned again.
    """
    lines, faults = [], []
    there = _submitted_before(known, texts, first_id) if first_id else {}
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        if number in there:
            lines.append(PlannedLine(number, (there[number],), is_there=True))
            continue
        problems, jobs = _plan_line(known, text, submit_options, later_id(first_id, number) if first_id else None)
        faults += [RequestFault(f"{file}:{number}", problem) for problem in problems]
        if jobs:
            lines.append(PlannedLine(number, tuple(jobs)))
    return lines, faults


Outcome = UserError | Unable | Refused | None


def submit_lines(
    known: ArtifactCatalog, lines: Sequence[PlannedLine]
) -> Iterator[Sequence[tuple[PlannedLine, Outcome]]]:
    """Submit in batches, and hand out each with why a line was not accepted; a line's jobs are one whole.

    Ends after a batch in which Redis was unable to take a line. Unreachable when that is not known of a batch.
    """
    for start in range(0, len(lines), BATCH):
        batch = lines[start : start + BATCH]
        outcomes = _submit_batch(known, [line for line in batch if not line.is_there])
        yield [(line, outcomes.get(line.number)) for line in batch]
        if any(isinstance(outcome, Unable | Refused) for outcome in outcomes.values()):
            return


def _submit_batch(known: ArtifactCatalog, lines: Sequence[PlannedLine]) -> dict[int, Outcome]:
    """Why each line was not accepted, by its number. Where the answer was lost, the ledger is asked."""
    try:
        outcomes = known.ledger.try_submit_many([line.jobs for line in lines])
    except Unreachable as error:
        lost = Unable(f"{error}")
        there = known.ledger.which_exist([line.jobs[-1].id for line in lines])
        outcomes = [None if line.jobs[-1].id in there else lost for line in lines]
    return dict(zip([line.number for line in lines], outcomes, strict=True))


def _submitted_before(known: ArtifactCatalog, texts: Sequence[str], first_id: str) -> dict[int, Job]:
    """The jobs of the lines that were submitted before, by the lines' numbers."""
    numbers = {later_id(first_id, number): number for number in range(1, len(texts) + 1)}
    found = known.ledger.many(sorted(known.ledger.which_exist(list(numbers))))
    return {numbers[job.id]: job for job in found if job is not None}


def _plan_line(
    known: ArtifactCatalog, text: str, submit_options: SubmitOptions, job_id: str | None
) -> tuple[list[UserError], list[Job]]:
    """All that is wrong with a line, or its jobs."""
    try:
        request = read_request(parse_json_object(text, fix=_EXAMPLE), submit_options)
        if isinstance(request, list):
            return [problem for _, problem in request], []
        after = (*request.submit_options.after, *(find_job(known.ledger, word).id for word in request.after))
        submit_options = replace(request.submit_options, after=after)
        return [], plan(
            known,
            request.kind.name,
            request.values,
            name=request.name,
            submit_options=submit_options,
            job_id=job_id,
        )
    except UserError as problem:
        return [problem], []
