"""Invariants of every job of a home in which all have ended: which state changes are legal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.storage.store import Store

_NEW = ("", "waiting"), ("", "queued")
_WAITING = ("waiting", "waiting"), ("waiting", "queued"), ("waiting", "failed"), ("waiting", "cancelled")
_QUEUED = ("queued", "queued"), ("queued", "running"), ("queued", "cancelled")
_RUNNING = ("running", "queued"), ("running", "succeeded"), ("running", "failed"), ("running", "cancelled")

#: From which state to which. One that stays where it is was moved, or is asked to stop; no claim is such a step.
_ARROWS = {*_NEW, *_WAITING, *_QUEUED, *_RUNNING, ("running", "running")}


@dataclass(frozen=True)
class Life:
    """All that the ledger knows of a job: its record, its history, and how often it was lost."""

    job: Job
    events: list[dict[str, Any]]
    losses: int

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The events by which somebody got it."""
        return [event for event in self.events if event["reason"] == "claimed"]


def lives(ledger: Ledger) -> dict[str, Life]:
    """Every job's, by its id."""
    ids = ledger.find("", 1_000_000)
    result = zip(ledger.many(ids), ledger.histories(ids), strict=True)
    losses = ledger.client.batch([("HGET", f"mistudio:job:{job_id}", "losses") for job_id in ids])
    return {
        job.id: Life(job, events, int(lost or 0))
        for (job, events), lost in zip(result, losses, strict=True)
        if job is not None
    }


def faults_of(life: Life, store: Store) -> Iterator[str]:
    """What is wrong with one job."""
    for fault in (*_faults_of_history(life), *_faults_of_artifacts(life, store)):
        yield f"{life.job.kind} {life.job.id}: {fault}"


def _faults_of_history(life: Life) -> Iterator[str]:
    job, events = life.job, life.events
    if Counter(event["attempt"] for event in life.claims) != Counter(range(1, job.attempt + 1)):
        yield f"attempts {job.attempt}, claims {[event['attempt'] for event in life.claims]}"
    if len({event["token"] for event in life.claims}) != len(life.claims):
        yield "two claims have one token"
    ends = [event["state"] for event in events if State(event["state"]).ended]
    if ends != [job.state] or events[-1]["state"] != job.state:
        yield f"it is {job.state}, and ended as {ends} in {[event['state'] for event in events]}"
    states = ["", *(event["state"] for event in events)]
    arrows = list(itertools.pairwise(states))
    if strange := [arrow for arrow in arrows if arrow not in _ARROWS]:
        yield f"its states went {strange}"
    unasked = [b for (a, b), event in zip(arrows, events, strict=True) if event in life.claims and a != "queued"]
    if unasked:
        yield "it was claimed when it was not queued"


def _faults_of_artifacts(life: Life, store: Store) -> Iterator[str]:
    """All are there if, and only if, the job succeeded, and name the attempt and the token that made them."""
    for artifact in life.job.artifacts:
        yield from _faults_of_one(life, store, *artifact.split("/"))


def _faults_of_one(life: Life, store: Store, family: str, name: str) -> Iterator[str]:
    job, manifest = life.job, store.find_manifest(family, name)
    is_mine = manifest is not None and manifest["job"] == job.id
    if is_mine != (job.state is State.SUCCEEDED):
        yield f"{job.state}, its {family}/{name} is {manifest and manifest['job']}'s"
    if manifest is None or not is_mine:
        return
    if (manifest["attempt"], manifest["token"]) not in [(claim["attempt"], claim["token"]) for claim in life.claims]:
        yield f"no claim made its artifact: {manifest['attempt']} {manifest['token']}, claims {life.claims}"
    if job.kind == "nap" and (store.path(family, name) / "dream.txt").read_text() != "z" * job.params["ticks"]:
        yield "its artifact is not whole"
