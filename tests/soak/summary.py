"""What a chaos run prints at its end: counts what happened in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from tasks.jobs.record import State
from tests.soak.invariants import Life
from tests.soak.processes import Role
from tests.soak.strikes import Hit
from tests.soak.user_actions import Acts

_ENDS = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


def table(hits: Sequence[Hit], acts: Acts, lives: Mapping[str, Life]) -> Iterator[str]:
    """Strikes, acts, jobs, attempts and recoveries, as lines."""
    struck = Counter((hit.target.role, hit.signal) for hit in hits)
    yield from _crossed("strikes", struck, sorted({hit.signal for hit in hits}))
    ends = Counter((_kind(life), life.job.state) for life in lives.values())
    yield from _crossed("jobs", ends, _ENDS)
    attempts = Counter(life.job.attempt for life in lives.values())
    yield "jobs by attempts: " + ", ".join(f"{jobs} needed {number}" for number, jobs in sorted(attempts.items()))
    yield "acts: " + ", ".join(f"{count} {what}" for what, count in sorted(acts.done.items()))
    for role, seconds in recoveries(hits, lives).items():
        spans = f"median {median(seconds):.1f} s, longest {max(seconds):.1f} s"
        yield f"from the SIGKILL of a {role} to the next claim of its job: {len(seconds)} times, {spans}"


def recoveries(hits: Iterable[Hit], lives: Mapping[str, Life]) -> dict[str, list[float]]:
    """Seconds, by Redis's clock, from the death of a role to the next claim of each job that died with it.

    Pauses, the strikes that came meanwhile, and jobs that were before it in the queue are all in it. A
    supervisor's death is no such death: its workers finish their jobs.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for hit in hits:
        for job in hit.jobs if hit.signal == "KILL" and hit.target.role is not Role.SUPERVISOR else ():
            later = [claim["at"] for claim in lives[job].claims if claim["at"] > hit.at] if job in lives else []
            if later:
                found[hit.target.role].append(later[0] - hit.at)
    return dict(found)


def _kind(life: Life) -> str:
    end = life.job.params.get("end", "well")
    return life.job.kind + (f" that was to {end}" if end != "well" else "") + (", again" if life.job.retry_of else "")


def _crossed(title: str, counts: Counter[tuple[str, str]], columns: Sequence[str]) -> Iterator[str]:
    rows = sorted({row for row, _ in counts})
    cells = {(row, column): counts[row, column] for row in rows for column in columns}
    yield _line(title, columns, (*columns, "all"))
    for row in rows:
        numbers = [cells[row, column] for column in columns]
        yield _line(f"  {row}", columns, (*numbers, sum(numbers)))
    sums = [sum(cells[row, column] for row in rows) for column in columns]
    yield _line("  all", columns, (*sums, sum(sums)))


def _line(first: str, columns: Sequence[str], cells: Iterable[object]) -> str:
    widths = [len(column) + 2 for column in (*columns, "some")]
    return f"{first:<30}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
