"""Jobs: lists, one job, and what commands do to jobs. All work is done by what the commands call."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from mistudio_cli import session
from mistudio_cli.jobs import job_actions
from mistudio_cli.jobs.selection import Selection
from mistudio_cli.rest.idempotency import KEY_HEADER, REPLAYED, id_for_request
from mistudio_cli.rest.problem import Problem
from mistudio_cli.rest.route import Answer, Call, param
from mistudio_cli.views import json_shapes
from tasks.errors import UserError
from tasks.jobs.kind import by_parameter, kinds
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.device_lease import read_gpu_option
from tasks.parsing.redact import redactor
from tasks.queues import HIGHEST_PRIORITY, LOWEST_PRIORITY, QUEUE_NAMES

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")

#: A time of a list: an age, or ISO 8601 to the minute.
_TIME = r"[0-9]{1,5}[smhdw]|20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])(T([01][0-9]|2[0-3]):[0-5][0-9])?"
_GPU = r"any|none|[0-9]{1,2}(,[0-9]{1,2}){0,7}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

#: Characters of the lines of a log in one answer.
_MOST_LINES = 10_000


@dataclass(frozen=True)
class JobList:
    """The filters of `jobs ls`; each may be repeated, or have several words with commas."""

    state: list[str] | None = param(None, help="Only jobs in these states", choices=tuple(str(s) for s in State))
    kind: list[str] | None = param(None, help="Only jobs of these kinds")
    queue: list[str] | None = param(None, help="Only jobs of these queues", choices=QUEUE_NAMES)
    name: list[str] | None = param(None, help="Only jobs of these names")
    tag: list[str] | None = param(None, help="Only jobs with any of these tags")
    owner: list[str] | None = param(None, help="Only jobs of these owners; me: those of who runs the server")
    since: str | None = param(None, help="Only jobs submitted since: 2h, 3d, 2026-11-24T08:00", pattern=_TIME)
    until: str | None = param(None, help="Only jobs submitted until then", pattern=_TIME)
    limit: int = param(50, help="Maximum number of jobs", minimum=1, maximum=10_000)
    next: str | None = param(
        None, help="Continue a list from its `next`", pattern=r"[0-9]{1,12}\.[0-9]{1,6}-[0-9A-Za-z_-]{1,64}"
    )


@dataclass(frozen=True)
class OneJob:
    """A job by its id."""

    id: str = param(help="A job's id", in_path=True)


@dataclass(frozen=True)
class LogPosition:
    """Where to read a log."""

    id: str = param(help="A job's id", in_path=True)
    after: int = param(0, help="Lines to leave out: the `next` of the answer before", minimum=0, maximum=10**12)
    limit: int = param(1000, help="Maximum number of lines", minimum=1, maximum=_MOST_LINES)
    last: int | None = param(
        None, help="The last lines, this many at most, whatever `after` and `limit` say", minimum=1, maximum=_MOST_LINES
    )


@dataclass(frozen=True)
class Submission:
    """A job to submit: the flags of `mistudio submit KIND`, and the kind's own parameters in `params`."""

    kind: str = param(help="The kind of job")
    params: dict[str, Any] = param(help="The parameters of that kind: docs/kinds.md")
    name: str | None = param(None, help="Name of the artifact; default: derived from the parameters", pattern=_NAME)
    priority: int | None = param(None, help="0 (low) to 10 (high)", minimum=LOWEST_PRIORITY, maximum=HIGHEST_PRIORITY)
    after: list[str] | None = param(None, help="Ids of jobs that must have succeeded before", pattern=_ID.pattern)
    tags: list[str] | None = param(None, help="Tags", pattern=r"[A-Za-z0-9][A-Za-z0-9._:/=@+-]{0,99}")
    gpu: str = param("any", help="GPUs the job may use: any, none, or indices such as 0,1", pattern=_GPU)
    owner: str | None = param(
        None, help="Owner; default: the Redis user, else the OS user of the server", pattern=r"[A-Za-z0-9][\w.@-]{0,63}"
    )


@dataclass(frozen=True)
class RetryChoice:
    """How a job is tried again."""

    from_checkpoint: bool | None = param(
        None, help="Resume from its checkpoint or start over; default: resume if there is a checkpoint"
    )


@dataclass(frozen=True)
class NewPriority:
    """A job's priority."""

    priority: int = param(help="0 (low) to 10 (high)", minimum=LOWEST_PRIORITY, maximum=HIGHEST_PRIORITY)


async def list_jobs(call: Call) -> Answer:
    """`GET /api/v1/jobs`."""
    wanted: JobList = call.params
    words = {name: getattr(wanted, name) for name in ("state", "kind", "queue", "name", "tag", "owner")}
    try:
        chosen = Selection(**words, since=wanted.since, until=wanted.until).filter()
    except UserError as error:
        raise Problem(400, error.sentence.removeprefix("--")) from error

    def read(ledger: Ledger) -> dict[str, Any]:
        found = ledger.page(chosen, wanted.limit, wanted.next)
        return json_shapes.jobs(ledger.now(), found.jobs, found.next)

    return Answer(await call.services.read(read))


async def show_job(call: Call) -> Answer:
    """`GET /api/v1/jobs/{id}`."""
    from mistudio_cli.monitor.job_context import surroundings_of

    def read(ledger: Ledger) -> dict[str, Any]:
        job = need_job(ledger, call.params.id)
        (around,) = surroundings_of(ledger, [job])
        path = json_shapes.made_at(job, call.services.places.store)
        return json_shapes.job_in_full(job, ledger.events(job.id), path, around)

    return Answer(await call.services.read(read))


async def explain_job(call: Call) -> Answer:
    """`GET /api/v1/jobs/{id}/explain`."""
    from mistudio_cli.monitor.explain import explain, look_around

    def read(ledger: Ledger) -> dict[str, Any]:
        job = need_job(ledger, call.params.id)
        return json_shapes.explained(job, explain(job, look_around(ledger, job)))

    return Answer(await call.services.read(read))


async def get_metrics(call: Call) -> Answer:
    """`GET /api/v1/jobs/{id}/metrics`."""

    def read(ledger: Ledger) -> dict[str, Any]:
        job = need_job(ledger, call.params.id)
        (points,) = ledger.series([job.id])
        return {"id": job.id, "state": str(job.state), "series": json_shapes.series(points)}

    return Answer(await call.services.read(read))


async def get_logs(call: Call) -> Answer:
    """`GET /api/v1/jobs/{id}/logs`: the lines after a position, the newest attempt last."""
    from mistudio_cli.jobs.job_logs import REST_PATIENCE_S, as_record

    wanted: LogPosition = call.params

    def is_long_over(ledger: Ledger, job: Job) -> bool:
        """Whether more of its log would have come by now."""
        return job.state.ended and ledger.now() - (job.finished_at or 0.0) > REST_PATIENCE_S

    def read(ledger: Ledger) -> dict[str, Any]:
        job = need_job(ledger, wanted.id)
        pages, places, mask = call.services.log_pages, call.services.places, redactor()
        if wanted.last is None:
            first, page = wanted.after, pages.read(ledger, places, job, wanted.after, wanted.limit)
        else:
            first, page = pages.read_last(ledger, places, job, wanted.last)
        return {
            "id": job.id,
            "state": str(job.state),
            "lines": [as_record(line.decode("utf-8", "replace").rstrip("\r\n"), job.id, mask) for line in page.lines],
            "next": first + len(page.lines),
            "is_over": page.is_complete or (page.is_end and is_long_over(ledger, job)),
            "missing": page.missing,
        }

    return Answer(await call.services.read_log(read))


async def submit_job(call: Call) -> Answer:
    """`POST /api/v1/jobs`: 201 with the job; 200 with the same one for a key that was used for it before."""
    wanted: Submission = call.body
    kind = kinds().get(wanted.kind)
    if kind is None:
        raise Problem(422, f"There is no kind {wanted.kind[:40]!r}. Kinds: {', '.join(kinds())}")
    names, twice = by_parameter(wanted.params, kind.params)
    if twice is not None:
        raise Problem(422, f"{twice} sets a parameter that another key sets too.")
    params = {name: wanted.params[key] for name, key in names.items()}
    for _, fault in kind.faults_of(params):
        raise Problem(422, str(fault))
    try:
        read_gpu_option(wanted.gpu)
        owner = session.current_owner(wanted.owner)
    except UserError as error:
        raise Problem(422, str(error)) from error
    key = call.headers.get(KEY_HEADER)

    def change(ledger: Ledger) -> Answer:
        fixed = id_for_request(ledger, key, "submit", dataclasses.asdict(wanted))
        if fixed and (before := ledger.get(fixed)) is not None:
            return _submitted_before(before)
        try:
            jobs = _plan(ledger, call, dataclasses.replace(wanted, params=params), owner)
            if fixed:
                jobs[-1] = dataclasses.replace(jobs[-1], id=fixed)
            accepted = ledger.submit_all(jobs)
        except UserError:  # the same request, at the same time, may have been faster
            if fixed and (before := ledger.get(fixed)) is not None:
                return _submitted_before(before)
            raise
        body = json_shapes.submitted(accepted[-1], accepted[:-1], ledger.replicated)
        return Answer(body, 201, {"location": f"/api/v1/jobs/{accepted[-1].id}"})

    return await call.services.change(change)


def _plan(ledger: Ledger, call: Call, wanted: Submission, owner: str) -> list[Job]:
    from tasks.storage.store import Store
    from tasks.submission.plan import ArtifactCatalog, SubmitOptions, plan

    known = ArtifactCatalog(ledger, Store(call.services.places.store), owner=owner)
    after = wanted.after or ()
    for parent, job in zip(after, ledger.many(after), strict=True):
        if job is None:
            raise Problem(422, f"after: there is no job {parent!r}.")
    options = SubmitOptions(wanted.priority, tuple(after), tuple(wanted.tags or ()), wanted.gpu)
    return list(plan(known, wanted.kind, wanted.params, name=wanted.name, submit_options=options))


def _submitted_before(job: Job) -> Answer:
    """The answer for a request that made that job before."""
    return Answer(json_shapes.submitted(job, [], None), 200, REPLAYED)


async def cancel_job(call: Call) -> Answer:
    """`POST /api/v1/jobs/{id}/cancel`: a running job's worker is asked to stop it."""

    def change(ledger: Ledger) -> dict[str, Any]:
        job = need_job(ledger, call.params.id)
        return json_shapes.job(job if job.state.ended else ledger.request_cancel(job.id))

    return Answer(await call.services.change(change), 202)


async def retry_job(call: Call) -> Answer:
    """`POST /api/v1/jobs/{id}/retry`."""
    from mistudio_cli.submission import retrying

    key = call.headers.get(KEY_HEADER)
    from_checkpoint = call.body.from_checkpoint

    def change(ledger: Ledger) -> Answer:
        job = need_job(ledger, call.params.id)
        fixed = id_for_request(ledger, key, f"retry {job.id}", from_checkpoint)
        if fixed and (before := ledger.get(fixed)) is not None:
            return _retried_before(before)
        store = call.services.places.store
        try:
            begun = retrying.try_again(ledger, store, [job], from_checkpoint=from_checkpoint, new_id=fixed)
        except UserError:  # the same request, at the same time, may have been faster
            if fixed and (before := ledger.get(fixed)) is not None:
                return _retried_before(before)
            raise
        return Answer(json_shapes.retried(begun.jobs, begun.resume_point, ledger.replicated), 201)

    return await call.services.change(change)


def _retried_before(job: Job) -> Answer:
    """The answer for a request that submitted that other try before."""
    return Answer(json_shapes.retried([job], {}, None), 200, REPLAYED)


async def set_priority(call: Call) -> Answer:
    """`POST /api/v1/jobs/{id}/priority`."""

    def change(ledger: Ledger) -> dict[str, Any]:
        job = need_job(ledger, call.params.id)
        job_actions.set_priority(ledger, job, call.body.priority)
        return {**json_shapes.job(ledger.need(job.id)), "priority": call.body.priority}

    return Answer(await call.services.change(change))


def need_job(ledger: Ledger, job_id: str) -> Job:
    """The job of that id; Problem 404 when there is none."""
    job = ledger.get(job_id) if _ID.fullmatch(job_id) else None
    if job is None:
        raise Problem(404, f"There is no job {job_id[:64]!r}.")
    return job
