"""Submitting jobs: checks a request and resolves its prerequisites; every submission passes through here.

`plan` does that and writes nothing; what it planned is submitted at once, all or none.
"""

from __future__ import annotations

import dataclasses
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.accelerators.devices import ABSENT, read_devices
from tasks.errors import UserError
from tasks.jobs.grid import marked
from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import JobKind, Request, kind_named
from tasks.jobs.kind_digest import digest_of
from tasks.jobs.kind_settings import default_priority, limits_set
from tasks.jobs.prerequisites import exists_or_pending
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.ledger.device_lease import read_gpu_option
from tasks.parsing.redact import holds_secret
from tasks.queues import HIGHEST_PRIORITY, LOWEST_PRIORITY
from tasks.storage.store import Store, check_name
from tasks.system.version import installed_version, named_version

#: Estimates look at the manifests of the store: a submit spends no more time on them.
_ESTIMATE_FOR_S = 0.5

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=@+-]{0,99}")


@dataclasses.dataclass(frozen=True)
class ArtifactCatalog:
    """What a kind's `prepare` may ask: artifacts in the store, and those that jobs will make.

    `planned` holds by "family/name" what jobs that have been planned, but not submitted, will make. `owner` is who
    submits them, None where that is not known. `estimating_s` is how long each estimate of a planned job took.
    """

    ledger: Ledger
    store: Store
    planned: dict[str, Job] = dataclasses.field(default_factory=dict)
    owner: str | None = None
    estimating_s: list[float] = dataclasses.field(default_factory=list)

    def manifest(self, family: str, name: str) -> dict[str, Any] | None:
        """The manifest of a finished artifact, or None."""
        return self.store.find_manifest(family, name)

    def is_pending(self, family: str, name: str) -> bool:
        """Whether an unfinished or a planned job will make that artifact."""
        return self.producer_of(f"{family}/{check_name(name)}") is not None

    def producer_of(self, artifact: str) -> str | None:
        """The id of the unfinished or planned job that will make "family/name"."""
        planned = self.planned.get(artifact)
        return planned.id if planned else self.ledger.producer_of(artifact)

    def pending_params(self, family: str, name: str) -> tuple[str, dict[str, Any]]:
        """Kind and parameters of the job that will make an artifact that is coming, as if it made nothing else.

        The job may have made it by now.
        """
        planned = self.planned.get(f"{family}/{name}")
        producer = None if planned else self.ledger.producer_of(f"{family}/{name}")
        if planned is None and producer is None:
            manifest = self.store.manifest(family, name)
            return manifest["kind"], manifest["params"]
        job = planned or self.ledger.need(producer or "")
        if not job.more_artifacts:
            return job.kind, job.params
        kind = kind_named(job.kind)
        return job.kind, dataclasses.asdict(kind.made_by(kind.read_params(job.params), job.name)[name])

    def path(self, family: str, name: str) -> Path:
        """Where the artifact is or would be."""
        return self.store.path(family, name)

    def jobs_run_on_this_cpu(self) -> bool:
        """Whether Redis is on this machine alone, as the workers are then, and there is no GPU to be had."""
        is_here = self.ledger.client.address.path is not None
        return is_here and read_devices().reason in ABSENT


@dataclasses.dataclass(frozen=True)
class SubmitOptions:
    """How jobs are to be run, whatever their kind. `after` are ids of jobs to wait for.

    Without a `priority` each has its kind's default.
    """

    priority: int | None = None
    after: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    gpu: str = "any"

    def check(self) -> None:
        """Raise UserError for an invalid option."""
        if self.priority is not None and not LOWEST_PRIORITY <= self.priority <= HIGHEST_PRIORITY:
            raise UserError(
                f"--priority must be between {LOWEST_PRIORITY} and {HIGHEST_PRIORITY}, not {self.priority}."
            )
        read_gpu_option(self.gpu)
        for tag in self.tags:
            if not _TAG.fullmatch(tag):
                raise UserError(
                    f"{tag!r} cannot be a tag.", "Use up to 100 letters, digits and . _ : / = @ + -, a letter first"
                )


class ArtifactTaken(UserError):
    """The artifact already exists, or the unfinished job `maker` is producing it.

    `makes` is all that it would make, each with the parameters of it alone.
    """

    def __init__(self, artifact: str, makes: dict[str, dict[str, Any]], producer: str | None) -> None:
        state = f"is being made by job {producer}" if producer else "is there already"
        super().__init__(f"{artifact} {state}.", "Give this one another --name")
        self.makes, self.producer = makes, producer


def submit(
    ledger: Ledger,
    store: Store,
    kind_name: str,
    values: dict[str, Any],
    *,
    name: str | None = None,
    priority: int | None = None,
    after: Sequence[str] = (),
    job_id: str | None = None,
    tags: Sequence[str] = (),
    gpu: str = "any",
    owner: str | None = None,
) -> list[Job]:
    """Submit a job and those that must come first; the last one is the job asked for. UserError as `plan` raises it.

    Without a `job_id` of its own it gets a fresh one.
    """
    submit_options = SubmitOptions(priority, tuple(after), tuple(tags), gpu)
    *before, job = plan(
        ArtifactCatalog(ledger, store, owner=owner), kind_name, values, name=name, submit_options=submit_options
    )
    return ledger.submit_all([*before, dataclasses.replace(job, id=job_id or job.id)])


def plan(
    known: ArtifactCatalog,
    kind_name: str,
    values: dict[str, Any],
    *,
    name: str | None = None,
    marks: Sequence[str] = (),
    submit_options: SubmitOptions | None = None,
    job_id: str | None = None,
) -> list[Job]:
    """The job and those that must come first, the job asked for last; nothing is submitted.

    Jobs that make what this one reads are its parents without being named. Its name ends in those of the `marks` that
    are not in it already. What the jobs make is noted in `known`, so that one planned later may read it. UserError when
    the request cannot work.
    """
    kind, submit_options = kind_named(kind_name), submit_options or SubmitOptions()
    _refuse_secrets(name, values, submit_options)
    submit_options.check()
    params = kind.read_params(values)
    requests: list[Request] = []
    if kind.prepare:
        params, requests = kind.prepare(params, known)
    name = _name_for(kind, params, name, marks)
    makes = {
        f"{kind.produces}/{check_name(made)}": dataclasses.asdict(own)
        for made, own in kind.made_by(params, name).items()
    }
    _refuse_if_there(makes, known)
    earlier: list[Job] = []
    for request in requests:
        if not exists_or_pending(request, known):
            earlier += plan(
                known,
                request.kind,
                request.params,
                name=request.name,
                submit_options=_for_prerequisites(submit_options),
            )
    parents = [*submit_options.after, *_producers(kind, params, known)]
    job = Job(
        id=job_id or new_job_id(),
        kind=kind.name,
        name=name,
        queue=kind.queue,
        params=dataclasses.asdict(params),
        priority=default_priority(kind) if submit_options.priority is None else submit_options.priority,
        max_attempts=kind.attempts,
        parents=tuple(dict.fromkeys(parents)),
        tags=tuple(dict.fromkeys(submit_options.tags)),
        gpu=submit_options.gpu,
        limits=limits_set(kind),
        digest=digest_of(kind),
        submitted_by=f"{named_version(installed_version())} on {socket.gethostname()}",
        artifact=next(iter(makes), None),
        more_artifacts=tuple(makes)[1:],
        owner=known.owner,
        estimate_s=_estimated_s(kind, params, known),
    )
    known.planned.update(dict.fromkeys(makes, job))
    return [*earlier, job]


def _estimated_s(kind: JobKind, params: Any, known: ArtifactCatalog) -> float | None:
    """How long the job will run by the kind's own estimate; None without one, and after many in one submit."""
    if kind.estimate is None or sum(known.estimating_s) > _ESTIMATE_FOR_S:
        return None
    began = time.monotonic()
    try:
        return kind.estimate(params, known).seconds
    except Exception:  # noqa: BLE001 - it is for the eye alone; the job itself will report what is wrong
        return None
    finally:
        known.estimating_s.append(time.monotonic() - began)


def _refuse_secrets(name: str | None, values: dict[str, Any], submit_options: SubmitOptions) -> None:
    for what, value in (("A tag", submit_options.tags), ("The name", name), ("A parameter", values)):
        if holds_secret(value):
            raise UserError(
                f"{what} holds a token or a password; jobs are kept and shown, so it would leak.",
                "Set HF_TOKEN where the workers start, and leave it out here",
            )


def _for_prerequisites(submit_options: SubmitOptions) -> SubmitOptions:
    """Options for prerequisite jobs: priority and tags are inherited, but not `after` or the GPU."""
    return SubmitOptions(submit_options.priority, tags=submit_options.tags)


def _name_for(kind: JobKind, params: Any, name: str | None, marks: Sequence[str]) -> str:
    if name is None:
        name = kind.default_name(params) if kind.default_name else kind.name
    return check_name(marked(name, marks))


def _refuse_if_there(makes: dict[str, dict[str, Any]], known: ArtifactCatalog) -> None:
    for artifact in makes:
        family, _, name = artifact.partition("/")
        if known.manifest(family, name) is not None:
            raise ArtifactTaken(artifact, makes, None)
        if artifact in known.planned:
            raise UserError(f"{artifact} would be made twice.", "Give each one a --name of its own")
        if producer := known.producer_of(artifact):
            raise ArtifactTaken(artifact, makes, producer)


def _producers(kind: JobKind, params: Any, known: ArtifactCatalog) -> list[str]:
    """Ids of unfinished and planned jobs that make what the parameters name."""
    producers = []
    for spec in dataclasses.fields(kind.params):
        family, value = spec.metadata.get("artifact"), getattr(params, spec.name)
        artifact = value if spec.metadata.get("is_artifact") else f"{family}/{value}" if family and value else None
        if artifact and (producer := known.producer_of(artifact)):
            producers.append(producer)
    return producers
