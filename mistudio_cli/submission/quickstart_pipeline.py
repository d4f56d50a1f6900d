"""The quickstart's pipeline: from the Python library's own source text to the features of a sparse autoencoder.

Five ordinary jobs on the ordinary queues; each waits for the one that makes what it reads. What is in the store already
is used again.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mistudio_cli import session
from mistudio_cli.fleet import start_stop, supervisor_client
from mistudio_cli.profile.rules import load_profile, workers_of
from mistudio_cli.settings import Settings
from mistudio_cli.terminal import output
from tasks.jobs.kind import kind_named
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.storage.store import Store
from tasks.submission.plan import submit

PROFILE = "minimal"


@dataclass(frozen=True)
class QuickstartStep:
    """One job of the pipeline, and what a person calls it."""

    title: str
    kind: str
    name: str
    values: dict[str, Any]

    @property
    def family(self) -> str:
        """The family of what it makes."""
        return kind_named(self.kind).produces or ""


def steps() -> tuple[QuickstartStep, ...]:
    """The pipeline. Its sizes are for two cores and a few minutes; they are no advice for a real model."""
    corpus, model, tokens, sae = "python-stdlib", "toy", "python-stdlib-toy-128", "toy-l1-topk-k16"
    train = {"model": model, "dataset": tokens, "layer": 1, "arch": "topk", "k": 16, "batch": 1024}
    train |= {"tokens": 600_000, "eval_tokens": 16_384}
    return (
        QuickstartStep(
            "read a corpus", "download", corpus, {"source": sysconfig.get_path("stdlib"), "pattern": "*.py"}
        ),
        QuickstartStep("train a language model", "toy-model", model, {"dataset": corpus, "steps": 240, "layers": 3}),
        QuickstartStep("tokenize the corpus", "tokenize", tokens, {"dataset": corpus, "model": model}),
        QuickstartStep("train a sparse autoencoder", "train", sae, train),
        QuickstartStep("extract its features", "extract", sae, {"sae": sae, "max_tokens": 500_000}),
    )


def submit_missing(ledger: Ledger, store: Store) -> dict[str, Job | None]:
    """The job of each step by its title; None for a step whose artifact is in the store already."""
    jobs: dict[str, Job | None] = {}
    for step in steps():
        producer = ledger.producer_of(f"{step.family}/{step.name}")
        if store.exists(step.family, step.name):
            jobs[step.title] = None
        elif producer:
            jobs[step.title] = ledger.need(producer)
        else:
            jobs[step.title] = submit(
                ledger, store, step.kind, step.values, name=step.name, owner=session.current_owner()
            )[-1]
    return jobs


@contextmanager
def ledger_for(settings: Settings) -> Iterator[Ledger]:
    """The ledger while the block runs. A supervisor that was not there before is gone afterwards, with all it keeps."""
    was_there = supervisor_client.status(settings.places) is not None
    try:
        yield session.connect_ledger(settings, supervise=True)
    finally:
        if not was_there:
            with suppress(supervisor_client.NotRunning):
                start_stop.shutdown(settings.places, output.talk)


def check_rights(ledger: Ledger) -> None:
    """NotPermitted, before anything is submitted, where workers must be started and could not run."""
    served = {queue for heartbeat in ledger.workers() for queue in heartbeat.queues}
    if not {kind_named(step.kind).queue for step in steps()} <= served:
        session.check_rights(ledger)


@contextmanager
def workers_for(settings: Settings, ledger: Ledger, jobs: Sequence[Job]) -> Iterator[None]:
    """Workers for these jobs while the block runs: those that are there, else the profile `minimal`.

    Workers that were started here are stopped again. A block that ends early, by Ctrl-C or an error, cancels the jobs.
    """
    served = {queue for heartbeat in ledger.workers() for queue in heartbeat.queues}
    started = False
    try:
        if not {job.queue for job in jobs} <= served:
            output.talk(f"Starting a worker (profile {PROFILE}) …")
            start_stop.start(settings, PROFILE, workers_of(load_profile(PROFILE)), output.talk)
            started = True
        yield
    except BaseException:
        for job in reversed(jobs):
            ledger.request_cancel(job.id, "the quickstart was interrupted")
        raise
    finally:
        if started:
            with suppress(supervisor_client.NotRunning):
                start_stop.stop(settings.places, [], output.talk)
