"""Celery's remote control, as `celery control` and Flower send it: followed in whole, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from celery.worker import control

#: What a worker would follow in part only: the arguments that Celery's command takes, and why it is refused.
_SLOTS = "a worker's slots are fixed when it starts: mistudio workers restart --concurrency N, or workers scale QUEUE=N"
_LIMITS = "time limits belong to the kinds of job, and cannot be changed while a worker runs"
REFUSED: dict[str, tuple[list[tuple[str, type]], str]] = {
    "rate_limit": (
        [("task_name", str), ("rate_limit", str)],
        "jobs have no rate: mistudio queue pause QUEUE",
    ),
    "time_limit": ([("task_name", str), ("soft", float), ("hard", float)], _LIMITS),
    "pool_grow": ([("n", int)], _SLOTS),
    "pool_shrink": ([("n", int)], _SLOTS),
    "autoscale": ([("max", int), ("min", int)], _SLOTS),
    "pool_restart": ([], "new code is taken into service with: mistudio workers restart"),
    "revoke_by_stamped_headers": ([("headers", str)], "jobs carry no stamps: mistudio jobs cancel ID"),
}


def follow_or_refuse(queues: Sequence[str]) -> None:
    """From now on this process, a worker of these queues, refuses what it could not follow in whole."""
    for name, (args, why) in REFUSED.items():
        control.control_command(name=name, args=args)(_named(name, partial(_refuse, name, why)))
    control.control_command(name="add_consumer", args=[("queue", str)])(_named("add_consumer", partial(_add, queues)))
    control.control_command(name="cancel_consumer", args=[("queue", str)])(
        _named("cancel_consumer", partial(_cancel, queues))
    )


def consumed(consumer: Any, queues: Sequence[str]) -> tuple[str, ...]:
    """Those of a worker's queues that it consumes now, by its Celery consumer."""
    channel = getattr(consumer, "task_consumer", None)
    return tuple(queue for queue in queues if channel is None or channel.consuming_from(queue))


def _refuse(name: str, why: str, state: Any, **_: Any) -> Any:
    return control.nok(f"{name} is refused: {why}")


def _add(queues: Sequence[str], state: Any, queue: str, **_: Any) -> Any:
    """Consume again from one of the worker's own queues."""
    if queue not in queues:
        return control.nok(f"this worker is for {', '.join(queues)}: mistudio workers start --queues {queue}")
    known = state.app.amqp.queues
    known.select_add(known[queue])  # so that it is consumed from after a loss of the connection as well
    return control.add_consumer(state, queue)


def _cancel(queues: Sequence[str], state: Any, queue: str, **_: Any) -> Any:
    """Consume no more from one of the worker's queues, until it is added again or the worker is replaced."""
    if queue not in queues:
        return control.nok(f"this worker is for {', '.join(queues)}")
    return control.cancel_consumer(state, queue)


def _named(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
    command.__name__, command.__doc__ = name, f"See mistudio's own commands in place of {name}."
    return command
