"""Submitting a job: the only place that checks a request, resolves what it needs, writes its record and rings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.job import Job, JobKind, Request, kind_named
from tasks.ledger import Ledger, new_job_id
from tasks.problem import Problem
from tasks.queues import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY
from tasks.redact import holds_token
from tasks.store import Store, check_name


@dataclasses.dataclass(frozen=True)
class KnownArtifacts:
    """What a kind's `prepare` may ask: artifacts in the store, and those that jobs will make."""

    ledger: Ledger
    store: Store

    def manifest(self, family: str, name: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact, or None."""
        return self.store.find_manifest(family, name)

    def coming(self, family: str, name: str) -> bool:
        """Whether an unfinished job will make that artifact."""
        return self.ledger.coming(f"{family}/{check_name(name)}") is not None

    def path(self, family: str, name: str) -> Path:
        """Where the artifact is or would be."""
        return self.store.path(family, name)


def submit(
    ledger: Ledger,
    store: Store,
    kind_name: str,
    values: dict[str, Any],
    *,
    name: str | None = None,
    priority: int = DEFAULT_PRIORITY,
    after: Sequence[str] = (),
    job_id: str | None = None,
) -> list[Job]:
    """Submit a job and those that must come first; the last one is the job asked for.

    Problem, with nothing submitted, when the request cannot work. Jobs that make what this one reads are its parents
    without being named. Without a `job_id` of its own it gets a fresh one.
    """
    kind = kind_named(kind_name)
    if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise Problem(f"--priority must be between {LOWEST_PRIORITY} and {HIGHEST_PRIORITY}, not {priority}.")
    _refuse_token(name, values)
    known = KnownArtifacts(ledger, store)
    params = kind.read_params(values)
    requests: list[Request] = []
    if kind.prepare:
        params, requests = kind.prepare(params, known)
    name = _name_for(kind, params, name)
    _refuse_if_there(kind, name, known)
    earlier: list[Job] = []
    for request in requests:
        if not _there_or_coming(request, known):
            earlier += submit(ledger, store, request.kind, request.params, name=request.name, priority=priority)
    job = Job(
        id=job_id or new_job_id(),
        kind=kind.name,
        name=name,
        queue=kind.queue,
        params=dataclasses.asdict(params),
        priority=priority,
        max_attempts=kind.max_attempts,
        artifact=f"{kind.produces}/{name}" if kind.produces else None,
    )
    parents = [*after, *_makers(kind, params, ledger)]
    return [*earlier, ledger.submit(dataclasses.replace(job, parents=tuple(dict.fromkeys(parents))))]


def _refuse_token(name: str | None, values: dict[str, Any]) -> None:
    if holds_token([name, values]):
        raise Problem(
            "A parameter holds a token of the Hub; jobs are kept and shown, so it would leak.",
            "Set HF_TOKEN where the workers start, and leave it out here",
        )


def _name_for(kind: JobKind, params: Any, name: str | None) -> str:
    if name is not None:
        return check_name(name)
    return check_name(kind.default_name(params)) if kind.default_name else kind.name


def _refuse_if_there(kind: JobKind, name: str, known: KnownArtifacts) -> None:
    if kind.produces is None:
        return
    if known.manifest(kind.produces, name) is not None:
        raise Problem(f"{kind.produces}/{name} is there already.", "Give this one another --name")
    if known.coming(kind.produces, name):
        maker = known.ledger.coming(f"{kind.produces}/{name}")
        raise Problem(f"{kind.produces}/{name} is being made by job {maker}.", "Give this one another --name")


def _there_or_coming(request: Request, known: KnownArtifacts) -> bool:
    family = kind_named(request.kind).produces or ""
    return known.manifest(family, request.name) is not None or known.coming(family, request.name)


def _makers(kind: JobKind, params: Any, ledger: Ledger) -> list[str]:
    """Ids of unfinished jobs that make what the parameters name."""
    makers = []
    for spec in dataclasses.fields(kind.params):
        family, value = spec.metadata.get("artifact"), getattr(params, spec.name)
        maker = ledger.coming(f"{family}/{value}") if family and value else None
        if maker:
            makers.append(maker)
    return makers
