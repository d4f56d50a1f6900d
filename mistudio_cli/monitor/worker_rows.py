"""Rows of workers: what the supervisor says of them, joined with their heartbeats and the jobs that they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_cli.monitor.snapshot import WorkerRow
from tasks.ledger.client import BEAT_TTL_S, WorkerBeat

if TYPE_CHECKING:  # reads this machine: whoever lists other hosts alone needs none of it
    from mistudio_cli.machine.process_trees import Use


def worker_rows(
    supervised: Sequence[dict[str, Any]],
    beats: Sequence[WorkerBeat] | None,
    holders: Sequence[tuple[str, int]],
    now: float,
    uses: Mapping[int, Use] | None = None,
    *,
    is_stale: bool = False,
) -> tuple[WorkerRow, ...]:
    """The supervisor's workers first, then those of other homes and machines, known by their beats alone.

    `holders` are the names and pids of the workers of all running jobs. `beats` None: the ledger could not be read, so
    who is silent and what they work on is not known. `uses` are those of their processes, by pid; None: not read.
    `is_stale`: heartbeats and holders are older than what the supervisor says, so a worker may be missing there.
    """
    unknown = {(beat.name, beat.pid): beat for beat in beats or ()}
    rows = []
    for told in supervised:
        beat = unknown.pop(_whose(told), None)
        is_unknown = beats is None or (is_stale and beat is None)
        use = (uses or {}).get(told["pid"])
        rows.append(_supervised_row(told, beat, None if is_unknown else holders, use, now))
    names = {told["name"] for told in supervised}  # an earlier life of one of ours is of no interest
    others = [beat for beat in unknown.values() if beat.name not in names or _is_refused_now(beat, now)]
    return (*rows, *(_beat_row(beat, holders, now) for beat in others))


def _is_refused_now(beat: WorkerBeat, now: float) -> bool:
    """Whether it waits to consume, such as a worker of another home with the name of one of ours."""
    return bool(beat.refused) and now - beat.seen_at <= BEAT_TTL_S


def _whose(told: dict[str, Any]) -> tuple[str, int]:
    return told["name"], told["pid"] or 0


def _supervised_row(
    told: dict[str, Any],
    beat: WorkerBeat | None,
    busy: Sequence[tuple[str, int]] | None,
    use: Use | None,
    now: float,
) -> WorkerRow:
    age = None if beat is None else max(0.0, now - beat.seen_at)
    trouble = _trouble(beat, now) if busy is not None and told["state"] == "running" else None
    return WorkerRow(
        name=told["name"],
        state=trouble or told["state"],
        pid=told["pid"],
        queues=tuple(told["queues"]),
        slots=told["slots"],
        busy=None if busy is None else busy.count(_whose(told)),
        pss_bytes=None if use is None else use.pss_bytes,
        jobs_pss_bytes=None if use is None else use.jobs_pss_bytes,
        cpu_percent=None if use is None else use.cpu_percent,
        restarts=told["restarts"],
        started_at=told["started_at"],
        last_exit=told["last_exit"],
        seen_age_s=age,
        loop_age_s=None if beat is None or beat.refused else max(0.0, now - beat.consumed_at),
        refusal=beat.refused or None if beat is not None else told.get("refusal"),  # an older supervisor knows of none
    )


def _trouble(beat: WorkerBeat | None, now: float) -> str | None:
    """What is wrong with a worker that should run: no heartbeat, or one whose message loop does not run."""
    if beat is None or now - beat.seen_at > BEAT_TTL_S:
        return "silent"
    if beat.refused:
        return "refused"
    return "unresponsive" if now - beat.consumed_at > BEAT_TTL_S else None


def _beat_row(beat: WorkerBeat, busy: Sequence[tuple[str, int]], now: float) -> WorkerRow:
    age = max(0.0, now - beat.seen_at)
    return WorkerRow(
        name=beat.name,
        state=_trouble(beat, now) or "running",
        pid=beat.pid,
        queues=beat.queues,
        slots=beat.slots,
        busy=busy.count((beat.name, beat.pid)),
        pss_bytes=None,  # only its own machine and its own supervisor know
        jobs_pss_bytes=None,
        cpu_percent=None,
        restarts=None,
        started_at=beat.started_at,
        last_exit=None,
        seen_age_s=age,
        loop_age_s=None if beat.refused else max(0.0, now - beat.consumed_at),
        refusal=beat.refused or None,
    )
