"""The consumer: every override of Celery's Consumer is here.

Messages that name no job are put aside and answered with an error; after an error reply from Redis it waits a second
before reconnecting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import redis
from celery import states
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.common import ignore_errors

from tasks.jobs.kind import kinds
from tasks.messaging.app import open_ledger
from tasks.messaging.foreign_tasks import NotTaken
from tasks.messaging.held_messages import HOLD_S, held
from tasks.redis_client.redis_connection import Refused, Unreachable

log = logging.getLogger("mistudio.consumer")


#: Between two tries to work with a Redis that answers and refuses: Celery's own pace fills logs.
_CALM_S = 1.0


class Consumer(CeleryConsumer):
    """Celery's consumer; where that one drops a message with a log line, this one keeps it and answers."""

    def connect(self) -> Any:
        """A connection to Redis in the event loop; one that Redis refuses to serve is closed again."""
        connection = self.connection_for_read(heartbeat=self.amqheartbeat)
        try:
            if self.hub:
                connection.transport.register_with_event_loop(connection.connection, self.hub)
        except BaseException:
            ignore_errors(connection, connection.close)
            raise
        return connection

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        """What is called with each message; one of a job that only other workers can run is held for them."""
        handle = super().create_task_handler(*args, **options)

        def handle_or_hold(message: Any) -> Any:
            if held.holds(message.headers, str((message.delivery_info or {}).get("routing_key"))):
                return message.ack_log_error(log, self.connection_errors)
            return handle(message)

        return handle_or_hold

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A name that is no kind's here; one for a kind of other workers goes to the end of its list after 1 s."""
        name = message.headers.get("task") or message.payload["task"]
        if self._is_known_elsewhere(name):
            self.timer.call_after(HOLD_S, message.requeue)
            return
        self._refuse(
            message, f"There is no task {name!r} here. Tasks: {', '.join(k.wire_name for k in kinds().values())}"
        )

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """No task at all."""
        self._refuse(message, "It names no task.")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A task whose message Celery cannot take."""
        self._refuse(message, f"It is no valid task message: {exc}")

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """A body that cannot be read."""
        self._refuse(message, f"Its body cannot be read: {exc}")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Celery would retry immediately."""
        super().on_connection_error_before_connected(exc)
        _keep_calm(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The same."""
        super().on_connection_error_after_connected(exc)
        _keep_calm(exc)

    def _is_known_elsewhere(self, task: Any) -> bool:
        with closing(open_ledger(self.app)) as ledger:
            try:
                return any(f"mistudio.{kind}" == task for heartbeat in ledger.workers() for kind in heartbeat.kinds)
            except (Unreachable, Refused):
                return True  # for as long as that is not known

    def _refuse(self, message: Any, why: str) -> None:
        queue = str((message.delivery_info or {}).get("routing_key"))
        refusal = message.channel.put_aside(queue, message._raw, why)
        message.reject_log_error(log, self.connection_errors)
        task_id = _task_id(message)
        if task_id is None:
            return
        try:
            self.app.backend.store_result(task_id, NotTaken(refusal.why), states.FAILURE)
        except Exception as error:  # noqa: BLE001 - a missing result backend must end no worker
            log.warning("could not answer the sender of %s: %s", task_id, error)


def _keep_calm(error: Exception) -> None:
    if isinstance(error, redis.ResponseError):
        time.sleep(_CALM_S)


def _task_id(message: Any) -> str | None:
    for headers in (message.headers, message._decoded_cache):  # the second: protocol 1 has it in the body
        if isinstance(headers, dict) and isinstance(headers.get("id"), str):
            return headers["id"]
    return None
