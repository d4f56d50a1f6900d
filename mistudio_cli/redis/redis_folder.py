"""The folder of the home's own Redis: why nothing can be written there, and a new one when it was removed."""

from __future__ import annotations

import shutil

from mistudio_cli.redis.probe import PATIENCE_S
from mistudio_cli.redis.redis_server import own_url
from tasks.paths import Places, make_private
from tasks.redis_client import redis_connection
from tasks.system.call_deadline import within

#: With less room on its disk the server cannot write for long.
_LEAST_FREE_BYTES = 1 << 20


def fault(places: Places) -> str | None:
    """What keeps the server from writing what it accepts, as far as its folder shows: it ends rather than lose that."""
    try:
        free = within(PATIENCE_S, f"the disk of {places.redis}", lambda: shutil.disk_usage(places.redis).free)
    except FileNotFoundError:
        return f"its folder {places.redis} was removed"
    except OSError as error:
        return f"its folder {places.redis} cannot be used ({error.strerror or error})"
    return f"the disk of {places.redis} is full" if free < _LEAST_FREE_BYTES else None


def replace(places: Places) -> None:
    """Create the folder again under a running server, but not its home, and have it write there all it holds.

    Raises Unreachable, Refused, OSError.
    """
    make_private(places.redis, places.home)
    client = redis_connection.connect(own_url(places), PATIENCE_S)
    try:
        client.call("CONFIG", "SET", "dir", str(places.redis))
        client.call("BGREWRITEAOF")
    finally:
        client.close()
