"""Celery's results in Redis, written to and read from the master alone."""

from __future__ import annotations

from typing import Any

import redis
from celery.backends.redis import RedisBackend

from tasks.redis_client.master_connection import master_params
from tasks.redis_client.redis_url import Address


class _Writing:
    """A connection whose server has become a replica counts as lost, so that the next one finds the master."""

    def read_response(self, *words: Any, **options: Any) -> Any:
        """The next reply; redis.ConnectionError when it is that of a replica to a write."""
        try:
            return super().read_response(*words, **options)  # type: ignore[misc]
        except redis.ReadOnlyError as error:
            self.disconnect()  # type: ignore[attr-defined]
            raise redis.ConnectionError(f"it has become a replica: {error}") from error


class MasterBackend(RedisBackend):
    """Celery's own backend for Redis, at the Address of the app that `make_app` has read."""

    def __init__(self, *args: Any, app: Any, url: str | None = None, **kwargs: Any) -> None:
        self._address: Address = app.mistudio_results
        url = self._address.celery_url.removeprefix("redis+")  # as Celery hands it over
        super().__init__(*args, app=app, url=url, **kwargs)

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        first = url.partition(";")[0]
        return super()._params_from_url(first.replace("sentinel://", "redis://", 1), defaults)

    def _get_pool(self, **params: Any) -> Any:
        return super()._get_pool(**master_params(self._address, params, _Writing))
