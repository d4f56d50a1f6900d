"""A worker's ear for messages that mean nothing here: the only place where they are put aside and their sender told."""

from __future__ import annotations

import json
import logging
from typing import Any

from celery import states
from celery.worker.consumer import Consumer as CeleryConsumer

from tasks.job import kinds
from tasks.refused import put_aside
from tasks.strangers import NotTaken

log = logging.getLogger("mistudio.consumer")


class Consumer(CeleryConsumer):
    """Celery's consumer; where that one drops a message with a log line, this one keeps it and answers."""

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """A name that is no kind's."""
        name = message.headers.get("task") or message.payload["task"]
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

    def _refuse(self, message: Any, why: str) -> None:
        queue = str((message.delivery_info or {}).get("routing_key"))
        with message.channel.conn_or_acquire() as client:
            refusal = put_aside(client.execute_command, queue, json.dumps(message._raw, default=repr), why)
        message.reject_log_error(log, self.connection_errors)
        task_id = _task_id(message)
        if task_id is None:
            return
        try:
            self.app.backend.store_result(task_id, NotTaken(refusal.why), states.FAILURE)
        except Exception as error:  # noqa: BLE001 - the results may lie anywhere; their absence must end no worker
            log.warning("the sender of %s could not be told: %s", task_id, error)


def _task_id(message: Any) -> str | None:
    for told in (message.headers, message._decoded_cache):  # the second: protocol 1 has it in the body
        if isinstance(told, dict) and isinstance(told.get("id"), str):
            return told["id"]
    return None
