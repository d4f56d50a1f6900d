"""Opening a socket to Redis, by unix path, TCP or TLS, within one deadline for all steps."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any

from tasks.redis_client.redis_url import Address

#: A link over which nothing comes through any more is given up after about 14 s: an idle one by probes, one with data
#: on its way by the time for which that is not acknowledged. Linux knows all of these.
_NOTICED = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 14_000}
DEAD_LINK_OPTIONS = {getattr(socket, name): value for name, value in _NOTICED.items() if hasattr(socket, name)}


def open_socket(address: Address, timeout_s: float) -> socket.socket:
    """A connected socket. OSError when that fails, TimeoutError when it takes longer; only the name lookup can."""
    deadline = time.monotonic() + timeout_s
    link = _unix(address.path, timeout_s) if address.path is not None else _tcp(address, deadline)
    try:
        if address.tls is not None:
            link.settimeout(_left(deadline))
            link = address.tls.context().wrap_socket(link, server_hostname=address.host)
        link.settimeout(timeout_s)
    except BaseException:
        link.close()
        raise
    return link


def _unix(path: str, timeout_s: float) -> socket.socket:
    return _connected(socket.AF_UNIX, path, timeout_s)


def _tcp(address: Address, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for number, (family, _, _, _, where) in enumerate(found, 1):
        left = _left(deadline) / (len(found) - number + 1)  # one that is silent leaves time for the others
        try:
            link = _connected(family, where, left)
        except OSError:
            if number == len(found):
                raise
            continue
        with suppress(OSError):
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in DEAD_LINK_OPTIONS.items():
                link.setsockopt(socket.IPPROTO_TCP, option, value)
        return link
    raise OSError(f"{address.host} has no address")


def _connected(family: int, where: Any, timeout_s: float) -> socket.socket:
    link = socket.socket(family, socket.SOCK_STREAM)
    link.settimeout(timeout_s)
    try:
        link.connect(where)
    except BlockingIOError as error:  # a unix socket's backlog is full: its server takes no connection
        link.close()
        raise TimeoutError("timed out") from error
    except BaseException:
        link.close()
        raise
    return link


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
