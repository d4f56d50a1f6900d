"""The Celery app, derived from the queue table and the job kinds: routes, priorities, names on the wire.

A message says "look at job N" and nothing else. The task of each kind is `mistudio.<kind>`, its id is the job's id, and
there is no default queue: a name that is not a kind's has nowhere to go.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery import Celery
from kombu import Exchange
from kombu import Queue as KombuQueue

from tasks.errors import UserError
from tasks.jobs.kind import kinds
from tasks.ledger.client import Ledger
from tasks.messaging.celery_refusal import refuse
from tasks.queues import DEFAULT_PRIORITY, PRIORITY_STEPS, QUEUE_NAMES, wire_priority
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_socket import DEAD_LINK_OPTIONS
from tasks.redis_client.redis_url import SCHEMES, is_redis, parse_url

#: Celery insists on a default queue; no worker consumes this one and no route leads to it.
NO_QUEUE = "mistudio-no-such-queue"

#: A connection that was not used for so long is asked whether it lives before it is used.
HEALTH_CHECK_INTERVAL_S = 10


@dataclass(frozen=True)
class Patience:
    """How long Celery waits for a reply of Redis, and for a connection, and after how long it checks an idle one."""

    reply_s: float = 30.0
    connect_s: float = 10.0
    idle_s: int = HEALTH_CHECK_INTERVAL_S


#: With Sentinels there is another master a few seconds after one hangs.
PATIENCE, FAILOVER_PATIENCE = Patience(), Patience(5.0, 2.0, 5)

#: Our way to Redis, by name: nobody imports redis-py who only makes an app.
WIRING = "tasks.messaging.transport:SafeAMQP"

#: Where Celery's results are, by name as well, for each scheme of a Redis.
RESULTS = "tasks.messaging.results:MasterBackend"

#: The order in which a worker asks its queues for messages, by name too.
ORDER = "tasks.messaging.queue_shares:OpenQueues"


if not TYPE_CHECKING:

    def __getattr__(name):
        refuse(__name__, name)


def make_app(broker_url: str, result_backend: str | None = None) -> Celery:
    """The app as producers and workers share it.

    Nothing is connected yet. UserError for a URL that is not supported.
    """
    broker = parse_url(broker_url)
    results_url = result_backend or broker_url
    address = parse_url(results_url, "CELERY_RESULT_BACKEND") if is_redis(results_url) else None
    results = address.celery_url if address else results_url  # a store that is no Redis is left to Celery
    patience, results_patience = (
        FAILOVER_PATIENCE if each and each.sentinels else PATIENCE for each in (broker, address)
    )
    app = Celery("mistudio", broker=broker.celery_url, backend=results, amqp=WIRING, set_as_current=False)
    app.conf.update(
        broker_read_url=broker.celery_url,  # else Celery takes CELERY_BROKER_URL as it is
        broker_write_url=broker.celery_url,
        broker_use_ssl=broker.celery_ssl or False,
        redis_backend_use_ssl=address.celery_ssl if address else None,
        task_queues=[KombuQueue(name, Exchange("mistudio"), routing_key=name) for name in QUEUE_NAMES],
        task_default_queue=NO_QUEUE,
        task_create_missing_queues=False,
        task_default_priority=wire_priority(DEFAULT_PRIORITY),
        task_routes={kind.wire_name: {"queue": kind.queue} for kind in kinds().values()},
        broker_transport_options={
            "priority_steps": list(PRIORITY_STEPS),
            "queue_order_strategy": ORDER,
            # Without these a worker waits for ever for a Redis that is reached but does not answer.
            "socket_timeout": patience.reply_s,
            "socket_connect_timeout": patience.connect_s,
            "socket_keepalive": True,
            "socket_keepalive_options": DEAD_LINK_OPTIONS,
            "health_check_interval": patience.idle_s,
            "global_keyprefix": broker.celery_prefix,
        },
        redis_socket_timeout=results_patience.reply_s,
        redis_socket_keepalive=address is not None and address.path is None,  # redis-py has none for unix sockets
        redis_backend_health_check_interval=results_patience.idle_s,
        redis_socket_connect_timeout=results_patience.connect_s,
        result_backend_transport_options={
            "additional_connection_errors": ("redis.exceptions:InvalidResponse",),
            "global_keyprefix": broker.celery_prefix if address else "",
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_track_started=True,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=24 * 3600,
        enable_utc=True,
    )
    app.mistudio_broker, app.mistudio_results = broker, address  # Celery's URLs have no TLS options, and no Sentinels
    if address is not None:
        app.loader.override_backends = dict.fromkeys((scheme.partition("+")[0] for scheme in SCHEMES), RESULTS)
    return app


def app_from_environment() -> Celery:
    """The app by CELERY_BROKER_URL and CELERY_RESULT_BACKEND. UserError when no broker is named."""
    broker_url = os.environ.get("CELERY_BROKER_URL")
    if not broker_url:
        raise UserError("No Redis URL is set for this worker.", "Set CELERY_BROKER_URL, or use: mistudio workers start")
    return make_app(broker_url, os.environ.get("CELERY_RESULT_BACKEND"))


def open_ledger(app: Celery) -> Ledger:
    """The ledger in the app's broker, on a connection of its own."""
    return Ledger(redis_connection.Client(app.mistudio_broker))
