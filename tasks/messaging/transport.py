"""Celery's Redis transport, made safe against what may be stored there: every override of kombu's transport is here.

What is no message is put aside (`tasks.ledger.dead_letters`) instead of ending the worker, and a Redis that refuses
writes for a while counts as one that is away: Celery connects again until it is back.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import math
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import redis
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from tasks.ledger.dead_letters import DeadLetter, put_aside
from tasks.redis_client.master_connection import master_params
from tasks.redis_client.redis_url import DEFAULT_PREFIX, Address

log = logging.getLogger("mistudio.transport")

#: These errors concern Redis, never one message. KeyError, which kombu counts as a lost connection, is not among them:
#: raised for a message, it is the message's fault.
_REDIS_IS_AWAY = (OSError, redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, redis.ResponseError)


#: Seconds between attempts to connect, of kombu's; and the place of the first of them among its arguments.
_FAILOVER_PAUSES, _FIRST_PAUSE = {"interval_start": 1, "interval_step": 1, "interval_max": 3}, 3

#: Seconds that a worker waits for a message before it asks again: while a queue's share of its slots is used, and else.
BRIEF_WAIT_S, LONG_WAIT_S = 1, 5

#: Seconds without a command after which the next one closes all connections that are idle then.
_KEPT_IDLE_S = 5.0


class _Pool(redis.ConnectionPool):
    """Connections that are kept during a burst of commands, such as a job's events, and not by an idle worker."""

    _pools: ClassVar[weakref.WeakSet[_Pool]] = weakref.WeakSet()
    _used_at: ClassVar[float] = -math.inf

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._pools.add(self)

    def release(self, connection: Any) -> None:
        """Take a connection back; after a pause all that are idle are closed, in the process's other pools too."""
        super().release(connection)
        before, _Pool._used_at = _Pool._used_at, time.monotonic()
        if _Pool._used_at - before > _KEPT_IDLE_S:
            for pool in tuple(self._pools):
                pool.disconnect(inuse_connections=False)


class _SafeMessages:
    """A client that hands over only what kombu can read; the rest it puts aside, as if nothing had come."""

    global_keyprefix = ""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        if command_name != "BRPOP" or not reply:
            return reply
        try:
            loads(bytes_to_str(reply[1]))
        except Exception as error:  # noqa: BLE001 - whatever reading it raises, kombu would die of
            # a client of its own: this one's only connection is for messages
            _put_aside(self, self.global_keyprefix, _queue_of(reply[0]), reply[1], f"not JSON: {error}")
            return None
        return reply


class _Client(_SafeMessages, redis.Redis):
    pass


class _PrefixedClient(_SafeMessages, kombu_redis.PrefixedStrictRedis):
    pass


def _put_aside(client: Any, prefix: str, queue: str, what: Any, why: str) -> DeadLetter:
    """Put something aside over the pool of a client, which may add a prefix to keys by itself."""
    plain = redis.Redis(connection_pool=client.connection_pool)
    return put_aside(plain.execute_command, prefix or f"{DEFAULT_PREFIX}:", queue, shown(what), why)


class _QoS(kombu_redis.QoS):
    """Notes what is in hand; a Redis that takes no note hinders no delivery."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered and not yet acknowledged."""
        try:
            super().append(message, delivery_tag)
        except redis.ResponseError as error:
            # Its entry is out of its list already: dropping the message now would lose it.
            log.warning("could not record an unacknowledged message: %s", error)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Forget a message that is in good hands."""
        try:
            super().ack(delivery_tag)
        except redis.ResponseError as error:
            # Otherwise it would count as in hand for ever, and this worker would take no more. Its note stays: one day
            # it is delivered again, and finds its job claimed.
            log.warning("could not acknowledge a message: %s", error)
            virtual.QoS.ack(self, delivery_tag)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message that was never acknowledged back into its list; what is no message is put aside."""
        with self.channel.conn_or_acquire(client) as connection:
            try:
                super().restore_by_tag(tag, connection, leftmost)
            except _REDIS_IS_AWAY:
                raise
            except Exception as error:  # noqa: BLE001 - one entry must not hold up the others for ever
                what = connection.hget(self.unacked_key, tag)
                self.channel.put_aside(self.unacked_key, what, f"cannot be delivered again: {error!r}")
                self._remove_from_indices(tag).execute()


class _SafeReads:
    """A connection of redis-py; what comes and is no reply of a Redis counts as a lost connection."""

    def read_response(self, *words: Any, **options: Any) -> Any:
        """The next reply; redis-py's own errors, for anything else its ConnectionError."""
        try:
            return super().read_response(*words, **options)  # type: ignore[misc]
        except redis.InvalidResponse as error:
            raise redis.ConnectionError(f"something answers, but not as Redis does: {error}") from error
        except (OSError, redis.RedisError):
            raise
        except Exception as error:
            self.disconnect()  # type: ignore[attr-defined]
            raise redis.ConnectionError(f"something answers, but not as Redis does: {error!r}") from error


class _Channel(kombu_redis.Channel):
    QoS = _QoS

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return master_params(self.connection.client.address, super()._connparams(asynchronous), _SafeReads)

    def _get_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:
        params = self._connparams(asynchronous=asynchronous)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=params["db"])
        return _Pool(**params)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Wait for messages; briefly where a queue is left out, since that ends without a message."""
        is_any_left_out = len(self._queue_cycle.consume(len(self.active_queues))) < len(self.active_queues)
        self.brpop_timeout = BRIEF_WAIT_S if is_any_left_out else LONG_WAIT_S
        super()._brpop_start(timeout)

    def close(self) -> None:
        """Close the channel and its sockets, also where Redis refuses the commands that belong to it."""
        try:
            super().close()
        finally:
            self._disconnect_pools()
            self._close_clients()

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; a fault of one message ends with that message."""
        tag = super().basic_consume(queue, *args, **kwargs)
        callbacks = self.connection._callbacks
        callbacks[queue] = functools.partial(self._deliver, queue, callbacks[queue])
        return tag

    def _deliver(self, queue: str, deliver: Callable[[Any], Any], raw: Any) -> Any:
        try:
            return deliver(raw)
        except _REDIS_IS_AWAY:
            raise
        except Exception as error:
            log.debug("refused", exc_info=True)
            self.put_aside(queue, raw, f"no message of Celery's: {error!r}")
            self._forget(raw)

    def _handle_message(self, client: Any, reply: Any) -> dict[str, Any]:
        """What came on a broadcast channel; what is no JSON is put aside, whatever reading it raises."""
        message = super()._handle_message(client, reply)
        if not bytes_to_str(message["type"]).endswith("message") or not message["data"]:
            return message
        try:
            loads(bytes_to_str(message["data"]))
        except Exception as error:  # noqa: BLE001 - kombu lets a RecursionError end the worker
            self.put_aside(shown(message["channel"]), message["data"], f"a broadcast, not JSON: {error}")
            return {**message, "data": None}
        return message

    def _forget(self, raw: Any) -> None:
        try:
            self.qos.reject(raw["properties"]["delivery_tag"])
        except _REDIS_IS_AWAY:
            raise
        except Exception:  # noqa: BLE001 - it has no tag, so there is no note of it
            return

    def _get_client(self) -> Any:
        prefix = self.global_keyprefix
        return functools.partial(_PrefixedClient, global_keyprefix=prefix) if prefix else _Client

    def put_aside(self, queue: str, what: Any, why: str) -> DeadLetter:
        """Put aside what came from a queue and could not be taken."""
        with self.conn_or_acquire() as client:
            return _put_aside(client, self.global_keyprefix, queue, what, why)


class Transport(kombu_redis.Transport):
    """The Redis transport, hardened against foreign messages and failures."""

    Channel = _Channel
    connection_errors = (*kombu_redis.Transport.connection_errors, redis.RedisError)


class _Connection(Connection):
    """The same URLs as ever; behind each the transport above.

    `broker` is what the app's own URL was read as. What `Connection` makes known of itself has no login from there.
    """

    broker: ClassVar[Address | None] = None

    def __init__(self, hostname: Any = "localhost", *args: Any, **kwargs: Any) -> None:
        """As kombu's; the URL in Celery's own variable, which it prefers to the app's, means the app's broker."""
        if self.broker is not None and hostname and hostname == os.environ.get("CELERY_BROKER_URL"):
            hostname = self.broker.celery_url
        super().__init__(hostname, *args, **kwargs)

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """As kombu's, but with Sentinels the pauses between attempts stay short: a failover takes seconds."""
        pauses = _FAILOVER_PAUSES if self.address.sentinels is not None and len(args) < _FIRST_PAUSE else {}
        return super().ensure_connection(*args, **{**pauses, **kwargs})

    @property
    def address(self) -> Address:
        """Where this connection leads; only the app's own URL leads to Sentinels."""
        if self.broker is not None and (self.broker.sentinels is None or self.transport_cls == "sentinel"):
            return self.broker
        return Address(host=self.hostname or "localhost", port=self.port or Address.port)

    def get_transport_cls(self) -> type:
        return Transport


class SafeAMQP(AMQP):
    """What a Celery app takes its connections from: `Celery(amqp=Wiring)`."""

    @functools.cached_property
    def Connection(self) -> type[Connection]:  # noqa: N802 - Celery's name
        """The class of connections to this app's broker."""
        return type("Connection", (_Connection,), {"broker": getattr(self.app, "mistudio_broker", None)})


def _queue_of(redis_list: bytes | str) -> str:
    return bytes_to_str(redis_list).rsplit(kombu_redis.Channel.sep, 1)[0]


def shown(raw: Any) -> str:
    """An entry of a list as text, read or not; the body of a message in the clear, so that its secrets can be seen."""
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "backslashreplace")
    if isinstance(raw, dict):
        with suppress(TypeError, ValueError):
            raw = {
                **raw,
                "body": base64.b64decode(str(raw.get("body")), validate=True).decode("utf-8", "backslashreplace"),
            }
    return raw if isinstance(raw, str) else json.dumps(raw, default=repr)
