"""How each job of a chaos run may have ended: compares its end with what was asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from tasks.jobs.record import State
from tests.soak.invariants import Life
from tests.soak.job_mix import CRASH
from tests.soak.user_actions import PURGED, REQUESTED

#: What the ledger says of a job that was put back without a loss.
_IN_GOOD_ORDER = "its worker was shut down"


def ends_askew(lives: Mapping[str, Life]) -> Iterator[str]:
    """Jobs that ended otherwise than they were asked to."""
    for life in lives.values():
        for fault in (*_of_end(life), *_of_parents(life, lives)):
            yield f"{life.job.kind} {life.job.id}: {fault}"


def _of_end(life: Life) -> Iterator[str]:
    job, end = life.job, life.job.params.get("end", "well")
    asked_at = [event["at"] for event in life.events if event["reason"] == REQUESTED]
    if asked_at and life.claims and life.claims[-1]["at"] > asked_at[0]:
        yield "it was begun again after its end had been asked for"
    if job.state is State.CANCELLED:
        if not job.reason.startswith((REQUESTED, PURGED, "its parent ")):
            yield f"it was cancelled, and nobody is named: {job.reason}"
    elif job.reason.startswith("its parent "):
        return
    elif end == CRASH:
        yield from _of_poison(life)
    elif job.state is not (State.FAILED if end == "raise" else State.SUCCEEDED):
        yield f"it was to end {end}, and {job.state}: {job.reason} {job.error}"
    elif end == "raise" and (job.error or {}).get("type") != "ValueError":
        yield f"it failed by {job.error}"
    elif job.kind == "blink" and job.result != {"note": job.params["note"]}:
        yield f"its result is {job.result}"


def _of_poison(life: Life) -> Iterator[str]:
    """It is given up when it was lost as often as it may be; what was put back in good order does not count."""
    job = life.job
    if job.state is not State.FAILED or (job.error or {}).get("type") != "WorkerLost":
        yield f"poison {job.state}: {job.error}"
    spared = [event for event in life.events if event["reason"].startswith(_IN_GOOD_ORDER)]
    if not life.losses == job.max_attempts == job.attempt - len(spared):
        yield f"{job.attempt} attempts, {life.losses} losses of {job.max_attempts}, {len(spared)} in good order"


def _of_parents(life: Life, lives: Mapping[str, Life]) -> Iterator[str]:
    """None begins before its parents have succeeded, and none waits for one that did not."""
    job, parents = life.job, [lives[parent] for parent in life.job.parents]
    for parent in parents:
        ended_at = parent.events[-1]["at"]
        if life.claims and (parent.job.state is not State.SUCCEEDED or life.claims[0]["at"] < ended_at):
            yield f"it began before its parent {parent.job.id} had succeeded"
    blamed = [parent.job for parent in parents if parent.job.state in (State.FAILED, State.CANCELLED)]
    if job.reason.startswith("its parent "):
        reasons = [f"its parent {p.name or p.id} ({p.kind}) {p.state}: " for p in blamed if p.state == job.state]
        if not job.reason.startswith(tuple(reasons)):
            yield f"{job.state}, {job.reason}; of its parents ended badly: {reasons}"
    elif blamed and job.state is not State.CANCELLED:
        yield f"{job.state}, though a parent {blamed[0].state}"


def marks_askew(folder: Path, lives: Mapping[str, Life]) -> Iterator[str]:
    """Work that two did at once, that nobody held a claim for, or that was done again after a checkpoint."""
    claims = {claim["token"]: (claim["at"], claim["attempt"], i) for i, life in lives.items() for claim in life.claims}
    for file in folder.iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        spells = [(token, list(result)) for token, result in groupby(lines, key=lambda line: line[1])]
        tokens = [token for token, _ in spells]
        if unknown := [token for token in tokens if token not in claims]:
            yield f"{file.name}: marks of {unknown}, which nobody claimed with"
        elif tokens != sorted(set(tokens), key=lambda token: claims[token][0]):
            yield f"{file.name}: two worked at once, or one after its time: {tokens}"
        else:
            yield from _of_ticks(file.name, [(claims[token], result) for token, result in spells])


def _of_ticks(name: str, spells: list[tuple[tuple[float, int, str], list[list[str]]]]) -> Iterator[str]:
    """Each attempt resumes with the tick that the one before it began last, or with the next."""
    job, last = "", -1
    for (_, attempt, of), result in spells:
        ticks = [int(tick) for _, __, tick in result]
        last = last if of == job else -1
        if {int(line[0]) for line in result} != {attempt}:
            yield f"{name}: attempt {attempt} of {of} calls itself {result[0][0]}"
        if ticks != list(range(ticks[0], ticks[0] + len(ticks))) or ticks[0] not in (max(last, 0), last + 1):
            yield f"{name}: attempt {attempt} of {of} did {ticks} after {last}"
        job, last = of, ticks[-1]
