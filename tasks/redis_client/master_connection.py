"""Connections of redis-py, as Celery's broker and its results use them, that lead to no replica.

With Sentinels, each connection asks these where the master is when it opens; and each asks its server for its role. So
a worker that is sent to a replica connects again and again, with the reason in its log, until there is a master.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import redis

from tasks.redis_client import redis_connection, sentinel
from tasks.redis_client.redis_role import require_master
from tasks.redis_client.redis_url import Address


class MasterConnection:
    """A mixin for redis-py's connection classes; `address` is the one that a URL was read as."""

    address: ClassVar[Address]

    def _connect(self) -> Any:
        if self.address.sentinels is not None:
            try:
                master = redis_connection.find_master(self.address)
            except redis_connection.Unreachable as error:
                raise redis.ConnectionError(str(error)) from error
            self.host, self.port = master.host, master.port
        try:
            return super()._connect()  # type: ignore[misc]
        except OSError:
            sentinel.distrust(self.address)
            raise

    def on_connect_check_health(self, *args: Any, **options: Any) -> None:
        """Log in as redis-py does, then check the role. redis.ConnectionError for a replica."""
        super().on_connect_check_health(*args, **options)  # type: ignore[misc]
        self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined]
        try:
            reply = self.read_response()  # type: ignore[attr-defined]
        except redis.ResponseError:  # this user may not ask
            return
        try:
            require_master(self._error_place(), reply)
        except redis_connection.Unreachable as error:
            sentinel.distrust(self.address)
            raise redis.ConnectionError(str(error)) from error

    def _error_place(self) -> str:
        host, port = getattr(self, "host", None), getattr(self, "port", None)
        return self.address.server(host, port).shown if host and port else self.address.shown


def master_params(address: Address, params: Mapping[str, Any], *bases: type) -> dict[str, Any]:
    """The parameters of a pool of redis-py's, with connections of this kind; `bases` come before it in their class.

    What the URL for Celery does not have, the login and the database behind Sentinels, is taken from the address.
    """
    login = {}
    if address.sentinels is not None:
        login = {"username": address.username, "password": address.password, "db": address.db}
    plain = params.get("connection_class") or redis.Connection
    connection_class = type("Connection", (*bases, MasterConnection, plain), {"address": address})
    return {**params, **login, "connection_class": connection_class}
