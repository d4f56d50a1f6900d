"""Runs a claimed job and records its outcome in the ledger: the same in a runner and in a worker's slot."""

from __future__ import annotations

import dataclasses
import errno
import logging
import platform
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks.accelerators.card_watch import card_errors_translated
from tasks.errors import UserError
from tasks.jobs.kind import JobKind, Stopped, kind_named
from tasks.jobs.multi_result import Parts
from tasks.jobs.record import Job, State
from tasks.ledger.client import Claim, Ledger
from tasks.parsing.redact import redact
from tasks.paths import Places
from tasks.redis_client.redis_connection import Client, Refused, Unreachable
from tasks.redis_client.redis_retry import patient
from tasks.runner.memory_limit import enough_for
from tasks.runner.missing_paths import describe_missing_paths
from tasks.runner.reporter import Reporter
from tasks.runner.run_context import RunContext
from tasks.storage import attempts
from tasks.storage.store import Store
from tasks.submission.checkpoints import resume_point

log = logging.getLogger("mistudio.job")

#: Exit codes of a runner that its slot understands.
OUTCOME_RECORDED, STOPPED_ON_REQUEST = 0, 75

#: The type of an error that is worded for the user, in the records of jobs: scripts compare it.
USER_ERROR = "Problem"

_VERSIONED = ("mistudio", "torch", "transformers", "tokenizers", "datasets", "safetensors")
_TRACEBACK_CHARS = 4000


def work_on(
    claim: Claim, ledger: Ledger, device: str, stop_requested: Callable[[], bool], on_lost: Callable[[], None]
) -> None:
    """Do the work of a claimed job, by this process's environment; raises Stopped when asked to stop.

    A store in which it cannot even begin fails it at once: another attempt would find the same store. An attempt that
    has lost its lease ends in silence: what it meets is not the job's failure.
    """
    places = Places.from_environment()
    reporter = Reporter(Ledger(Client(ledger.client.address)), claim, on_lost)
    try:
        context = RunContext(claim, ledger, Store(places.store), places.home, device, stop_requested, reporter)
    except attempts.Superseded:
        log.warning("a later attempt has begun")
    except OSError as error:
        failure = describe_failure(error if _is_full(error) else _unusable(places.store, error))
        patient(ledger).finish(claim, State.FAILED, failure["message"], error=failure)
    else:
        reporter.start()
        try:
            perform(context)
        finally:
            with suppress(Unreachable, Refused):
                for message in reporter.close():
                    message(ledger)


def _unusable(store: Path, error: OSError) -> UserError:
    where = f" ({error.filename})" if error.filename and error.filename != str(store) else ""
    return UserError(
        f"The store {store} cannot be used on {socket.gethostname()}: {error.strerror or error}{where}.",
        "Make it writable there or set MISTUDIO_STORE to another, then: mistudio jobs retry ID",
    )


def perform(context: RunContext) -> None:
    """Run the job's kind, publish its artifacts and record the result; raises Stopped when asked to stop."""
    job, began = context.claim.job, time.monotonic()
    result, lacking = None, ""
    try:
        _log_the_beginning(context)
        _log_start(context)
        result, lacking = _result_of(context, kind_named(job.kind))
        if lacking:
            raise UserError(lacking)
    except (Stopped, Unreachable):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a kind raises is the job's failure, and goes into its record
        if _record_failure(context, error, result, began) and lacking:
            context.store.discard(job.id)  # what could be made is published, and the rest would fail again
        return
    # Logged before it is recorded: whoever waits for the end and then reads the log must find this line.
    log.info(
        "%s %s succeeded after %.1f s", job.kind, job.name, time.monotonic() - began, extra=_event("attempt_succeeded")
    )
    context.send_the_rest()
    patient(context.ledger).finish(context.claim, State.SUCCEEDED, "done", result=result)


def _record_failure(context: RunContext, error: Exception, result: dict[str, Any] | None, began: float) -> bool:
    """Record that the job failed of that error; False where the attempt has lost its lease: then it is no failure."""
    job, failure = context.claim.job, describe_failure(error)
    failure["message"] = " ".join(filter(None, [failure["message"], describe_missing_paths(job)]))
    if patient(context.ledger).renew(context.claim) == "lost":
        log.warning("this attempt has lost its lease, so its error is not the job's: %s", failure["message"])
        return False
    if not isinstance(error, UserError):
        log.error("%s", "".join(traceback.format_exception(error)))
    took_s = time.monotonic() - began
    log.error(
        "%s %s failed after %.1f s: %s", job.kind, job.name, took_s, failure["message"], extra=_event("attempt_failed")
    )
    context.send_the_rest()
    return patient(context.ledger).finish(context.claim, State.FAILED, failure["message"], result, failure) == "ok"


def _log_the_beginning(context: RunContext) -> None:
    """Say in the job's log which attempt begins, where, and from which step."""
    job = context.claim.job
    of_most = f"attempt {job.attempt} of at most {job.max_attempts}"
    log.info("%s %s: %s on %s", job.kind, job.name, of_most, context.device, extra=_event("attempt_started"))
    if chosen := ", ".join(f"{name} {value}" for name, value in _chosen(job).items()):
        log.info("%s", chosen)
    if kind_named(job.kind).resumes:
        at = resume_point(context.store, job)
        log.info("resumes at %s" if at else "starts from scratch", *[at] * bool(at))


def _event(name: str) -> dict[str, str]:
    """What makes a line of the log an event for programs."""
    return {"event": name}


def _chosen(job: Job) -> dict[str, Any]:
    """What a person wants to know of the parameters: those that are not the default, and always the hook."""
    specs = {spec.name: spec for spec in dataclasses.fields(kind_named(job.kind).params)}
    return {
        name: value
        for name, value in job.params.items()
        if name in specs and value is not None and (value != specs[name].default or name == "hook")
    }


def _log_start(context: RunContext) -> None:
    """Log where the job resumes if it was to take over a checkpoint, when it begins for the first time."""
    job = context.claim.job
    if not job.from_checkpoint or not context.begins:
        return
    if at := resume_point(context.store, job):
        context.note(f"took over the checkpoint of job {job.from_checkpoint}, at {at}")
    else:
        context.note(f"starts from scratch: the checkpoint of job {job.from_checkpoint} is no longer there")


def result_made_by(job: Job, store: Store) -> dict[str, Any] | None:
    """The result of the job if it has published all that it makes, even if it died before it recorded that.

    Of several artifacts it is that of each, by name.
    """
    made = {artifact: _made_by(job, artifact, store) for artifact in job.artifacts}
    if not made or None in made.values():
        return None
    results = {artifact.partition("/")[2]: manifest["result"] for artifact, manifest in made.items() if manifest}
    return results if job.more_artifacts else next(iter(results.values()))


def _made_by(job: Job, artifact: str, store: Store) -> dict[str, Any] | None:
    """The manifest of the artifact, if that job has published it."""
    family, _, name = artifact.partition("/")
    found = store.find_manifest(family, name)
    return found if found is not None and found.get("job") == job.id else None


def describe_failure(error: BaseException) -> dict[str, str]:
    """What the record says of an exception: type, message in the user's words where there are any, traceback.

    Its secrets are masked.
    """
    text = redact("".join(traceback.format_exception(error)))[-_TRACEBACK_CHARS:]
    name = USER_ERROR if type(error) is UserError else type(error).__name__
    return {"type": name, "message": redact(_sentence(error)), "traceback": text}


#: What only writing raises, and what that means to whoever waits for the job.
_FULL = {
    errno.ENOSPC: "The disk is full. Make room (mistudio submit cleanup), then: mistudio jobs retry ID",
    errno.EDQUOT: "The disk's quota is used up. Make room (mistudio submit cleanup), then: mistudio jobs retry ID",
    errno.EROFS: "The disk is read-only. Make it writable or set MISTUDIO_STORE, then: mistudio jobs retry ID",
}


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in _FULL


def _sentence(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    number = errno.ENOSPC if "No space left on device" in str(error) else getattr(error, "errno", None)
    if number in _FULL:
        return _FULL[number]
    return f"{type(error).__name__}: {error}"


def _result_of(context: RunContext, kind: JobKind) -> tuple[dict[str, Any], str]:
    """The result of the job, whose artifacts are published then; and which of them could not be made, if any."""
    job = context.claim.job
    made = result_made_by(job, context.store)  # by an earlier attempt, that died between publishing and recording
    if made is not None:
        return made, ""
    params = kind.read_params(job.params)
    with enough_for(kind), card_errors_translated():
        result = kind.run(params, context) or {}
    parts = result if isinstance(result, Parts) else Parts({job.name: result})
    producers = kind.made_by(params, job.name)
    _publish(context, kind.produces or "", {name: producers[name] for name in parts.made if name in producers}, parts)
    return parts.made if isinstance(result, Parts) else result, _lacking(parts)


def _lacking(parts: Parts) -> str:
    """What could not be made, and why; nothing when all was."""
    if not parts.failed:
        return ""
    reasons = "; ".join(f"{name}: {why}" for name, why in parts.failed.items())
    rest = "the others are in the store" if parts.made else "there are no others"
    return f"{len(parts.failed)} of {len(parts.failed) + len(parts.made)} could not be made ({reasons}); {rest}."


def _publish(context: RunContext, family: str, producers: dict[str, Any], parts: Parts) -> None:
    """Make artifacts of what is in the job's output; those that an earlier attempt has published stay as they are."""
    outputs = {
        name: context.output / name if len(context.claim.job.artifacts) > 1 else context.output
        for name in producers
        if _made_by(context.claim.job, f"{family}/{name}", context.store) is None
    }
    kind = kind_named(context.claim.job.kind)
    for place, (name, output) in enumerate(outputs.items()):
        context.progress("publishing", place, len(outputs), "artifacts")
        params = kind.params_in_force(producers[name], parts.made[name])
        context.store.seal(output, _manifest(context.claim, family, name, params, parts.made[name]))
    if outputs and patient(context.ledger).renew(context.claim) == "lost":
        raise Stopped
    for name, output in outputs.items():
        where = context.store.publish(output, family, name)
        log.info("published %s/%s in %s", family, name, where, extra=_event("artifact_published"))


def _manifest(claim: Claim, family: str, name: str, params: Any, result: dict[str, Any]) -> dict[str, Any]:
    job = claim.job
    used = {
        spec.name: f"{spec.metadata['artifact']}/{getattr(params, spec.name)}"
        for spec in dataclasses.fields(params)
        if spec.metadata.get("artifact") and getattr(params, spec.name)
    }
    return {
        "family": family,
        "name": name,
        "kind": job.kind,
        "job": job.id,
        "attempt": job.attempt,
        "token": claim.token,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "params": dataclasses.asdict(params),
        "made_from": used,
        "result": result,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
