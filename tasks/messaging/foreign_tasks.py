"""Messages of Celery apps without a ledger: turns a task's arguments into a job. No other module does."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any

from tasks.errors import UserError
from tasks.jobs.kind import JobKind
from tasks.ledger.client import Ledger
from tasks.ledger.dead_letters import put_aside
from tasks.redis_client.redis_retry import patient
from tasks.storage.store import Store
from tasks.submission.plan import submit

#: A Celery task's id that can be a job's: it names files and Redis keys.
_FIT_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

#: What may come beside a kind's parameters.
_BESIDE: dict[str, Any] = {"name": None, "priority": None}


class NotTaken(Exception):
    """What the sender's result raises: why the message did not become a job."""


def job_of_foreign_message(
    ledger: Ledger,
    store: Store,
    kind: JobKind,
    task_id: str,
    args: Sequence[Any],
    values: dict[str, Any],
    request: Any = None,
) -> str | None:
    """None when another program's message has just become a job; the job's id when it did before, and comes again.

    The message holds parameters of the kind. The job gets the task's id, so that the sender's result is the job's, and
    a message of its own. Raises NotTaken, which is recorded, when it cannot be a job, or its `request` asks for more
    than a job can promise.
    """
    ledger, call = patient(ledger), patient(ledger.client).call
    if ledger.get(task_id) is not None:
        return task_id
    try:
        _refuse_more(request)
        _submit(ledger, store, kind, task_id, args, values)
    except (UserError, TypeError, ValueError) as error:
        if ledger.get(task_id) is not None:  # it came twice, and another slot has submitted it meanwhile
            return task_id
        what = f"{kind.wire_name}[{task_id}] args={list(args)!r} kwargs={values!r}"
        raise NotTaken(put_aside(call, ledger.client.key(""), kind.queue, what, str(error)).why) from None
    return None


#: What a Celery message may ask for beside its task, and no job can promise: whoever runs it may be another worker, at
#: another attempt, days later.
_MORE = {
    "chain": (
        "be followed by another task of a chain",
        "Submit the next as a job: mistudio submit KIND --after ID",
    ),
    "chord": ("be a part of a chord", "Submit the last one as a job: mistudio submit KIND --after ID --after ID"),
    "callbacks": ("call another task when it is done (link)", "Wait for its result, or submit a job with --after"),
    "errbacks": ("call another task when it fails (link_error)", "Wait for its result, which raises then"),
    "timelimit": ("have a time limit of its own", "Time limits belong to the kinds of job; leave out time_limit"),
}


def _refuse_more(request: Any) -> None:
    """UserError for what would be followed in part only."""
    for name, (requested, hint) in _MORE.items():
        value = getattr(request, name, None)
        if any(value) if name == "timelimit" and value else value:
            raise UserError(f"A job cannot {requested}.", hint)


def _submit(
    ledger: Ledger, store: Store, kind: JobKind, task_id: str, args: Sequence[Any], values: dict[str, Any]
) -> None:
    if not _FIT_ID.fullmatch(task_id):
        raise UserError(
            "The task's id cannot be a job's.", "Use letters, digits and hyphens, at most 64, or no task_id"
        )
    fields = [spec.name for spec in dataclasses.fields(kind.params)]
    beside = {name: values.get(name, usual) for name, usual in _BESIDE.items() if name not in fields}
    params = {**_by_position(kind, args), **{name: value for name, value in values.items() if name not in beside}}
    _check_types(kind, params)
    submit(ledger, store, kind.name, params, job_id=task_id, **beside)


def _by_position(kind: JobKind, args: Sequence[Any]) -> dict[str, Any]:
    names = [spec.name for spec in dataclasses.fields(kind.params) if spec.metadata.get("positional")]
    if len(args) > len(names):
        takes = f"at most {len(names)}" if names else "no"
        raise UserError(f"{kind.wire_name} takes {takes} arguments without a name, and the rest with one.")
    return dict(zip(names, args, strict=False))


def _check_types(kind: JobKind, params: dict[str, Any]) -> None:
    """UserError for a value of a type the command line would not have let pass."""
    hints: dict[str, Any] = typing.get_type_hints(kind.params)
    for name in params.keys() & hints.keys():
        wanted = hints[name] | int if float in (hints[name], *typing.get_args(hints[name])) else hints[name]
        if not _is_a(params[name], wanted):
            shown = getattr(hints[name], "__name__", str(hints[name]))
            raise UserError(f"{name} of {kind.name} must be {shown}, not {params[name]!r}.")


def _is_a(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the numbers
        return wanted is bool
    return isinstance(value, wanted)
