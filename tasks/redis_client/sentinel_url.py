"""The part of a `sentinel://` URL that names Sentinels: where they are, what they call the master, how to log in."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tasks.redis_client.host_port import host_port

SENTINEL_PORT = 26379

#: How many hosts a URL may name; a Redis has three or five Sentinels.
_MOST_HOSTS = 20

_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:%,/?#@]+))(?::(?P<port>[0-9]{1,5}))?")
_URL = re.compile(r"(?P<scheme>sentinels?)://(?:(?P<login>[^/?]*)@)?(?P<hosts>[^/?@]*)(?P<rest>.*)", re.IGNORECASE)
_PATH = re.compile(r"(?:/([^/]*)(?:/([^/]*))?)?/?")


@dataclass(frozen=True)
class Sentinels:
    """The Sentinels of one master: their hosts and ports, its name among them, and how to log in to them."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The hosts and ports, separated by commas."""
        return ",".join(host_port(host, port) for host, port in self.hosts)


def split_hosts(url: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The URL with one host in place of all, and the hosts that it names. ValueError for another form."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("not a URL of Sentinels")
    words = found["hosts"].split(",")
    if len(words) > _MOST_HOSTS:
        raise ValueError("too many hosts")
    login = f"{found['login']}@" if found["login"] is not None else ""
    return f"{found['scheme']}://{login}sentinel{found['rest']}", tuple(map(_host, words))


def split_path(path: str) -> tuple[str, str]:
    """The master's name and the database from a path like /NAME or /NAME/DB; both may be empty. ValueError for more."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ValueError("more than a name and a database")
    return found[1] or "", found[2] or ""


def _host(word: str) -> tuple[str, int]:
    found = _HOST.fullmatch(word)
    if found is None:
        raise ValueError("not a host")
    port = int(found["port"] or SENTINEL_PORT)
    if not 0 < port < 1 << 16:
        raise ValueError("not a port")
    return (found["ipv6"] or found["name"]).lower(), port
