"""What a Redis URL says: the one reading that the ledger, Celery's broker and Celery's results share.

Celery's libraries read the same URL in three ways, so they get a canonical one, made from the `Address` read here, with
the TLS options beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit, urlunsplit

from tasks.errors import UserError
from tasks.parsing.setting_types import PREFIX_RULE, key_prefix
from tasks.redis_client.host_port import host_port

if TYPE_CHECKING:  # most URLs need neither
    from tasks.redis_client.redis_tls import Tls
    from tasks.redis_client.sentinel_url import Sentinels

SENTINEL_SCHEMES = ("sentinel", "sentinels")
SCHEMES = ("redis", "rediss", "redis+socket", "unix", *SENTINEL_SCHEMES)

_SOCKET_SCHEMES = ("redis+socket", "unix")
_TLS_SCHEMES = ("rediss", "sentinels")
_DATABASE_OPTIONS = ("db", "virtual_host")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_OPTIONS = (*_DATABASE_OPTIONS, "username", "password", "prefix", "replicas", *_SENTINEL_OPTIONS)

#: What the keys of the ledger begin with, unless another prefix is chosen.
DEFAULT_PREFIX = "mistudio"

_A_PREFIX = f"A prefix is {PREFIX_RULE}"

_FORMS = (
    "redis://[:PASSWORD@]HOST:PORT/DB, rediss:// for TLS, redis+socket:///PATH?virtual_host=DB, "
    "or sentinel://[:PASSWORD@]HOST1:PORT,HOST2:PORT/MASTER/DB"
)


@dataclass(frozen=True)
class Address:
    """A Redis server and database, and how to log in. `tls` is None for a plain connection.

    `prefix` keeps apart the keys of installations that share a database. With `sentinels`, the server is the one that
    these name, and host and port are unused. An accepted job is to be acknowledged by as many `replicas`.
    """

    path: str | None = None
    host: str = "localhost"
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    sentinels: Sentinels | None = None
    replicas: int = 0
    prefix: str = DEFAULT_PREFIX

    @property
    def key_prefix(self) -> str:
        """What the ledger's keys begin with."""
        return f"{self.prefix}:"

    @property
    def celery_prefix(self) -> str:
        """What Celery's keys begin with: nothing where its queues have the names that everybody knows."""
        return "" if self.prefix == DEFAULT_PREFIX else self.key_prefix

    @property
    def shown(self) -> str:
        """The address without its secrets."""
        return self._server_shown + ("" if self.prefix == DEFAULT_PREFIX else f" (prefix {self.prefix})")

    @property
    def _server_shown(self) -> str:
        if self.sentinels is not None:
            scheme = "sentinels" if self.tls else "sentinel"
            return f"{scheme}://{self.sentinels.shown}/{self.sentinels.master}/{self.db}"
        return self.path or f"{'rediss' if self.tls else 'redis'}://{host_port(self.host, self.port)}/{self.db}"

    def server(self, host: str, port: int) -> Address:
        """The address of the same database on that server."""
        return replace(self, host=host, port=port, sentinels=None)

    @property
    def celery_url(self) -> str:
        """A URL with the same meaning in kombu and in Celery's result backend; TLS options are in `celery_ssl`.

        With Sentinels it names these alone: `tasks.redis_client.master_connection` finds the server and logs in by the
        Address.
        """
        if self.sentinels is not None:
            return ";".join(f"sentinel://{host_port(host, port)}/{self.db}" for host, port in self.sentinels.hosts)
        login = ""
        if self.password is not None:
            login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"
        if self.path is not None:
            return f"redis+socket://{login}{quote(self.path)}?virtual_host={self.db}"
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{login}{host_port(self.host, self.port)}/{self.db}"

    @property
    def celery_ssl(self) -> dict[str, Any] | None:
        """The value of Celery's `broker_use_ssl` and `redis_backend_use_ssl`; None without TLS."""
        return self.tls.for_redis_py() if self.tls else None


def parse_url(url: str, variable: str = "CELERY_BROKER_URL") -> Address:
    """Read a URL that was set in that environment variable. UserError, without any secret, for one of another form."""
    try:
        return _parse(url.strip(), variable)
    except ValueError:  # its words may hold a piece of the password
        raise UserError(
            f"The Redis URL in {variable} cannot be understood.",
            f"Set {variable} to {_FORMS}; in a password write / as %2F, # as %23 and ? as %3F",
        ) from None


def with_password(url: str, password: str) -> str:
    """The URL, which has none yet, with that password in it."""
    parts = urlsplit(url.strip())
    login, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login.rstrip(':')}:{quote(password, safe='')}@{place}"))


def with_prefix(url: str, prefix: str) -> str:
    """The URL with that prefix for the keys. UserError when it has another one already, also the default one."""
    try:
        key_prefix(prefix)
    except ValueError:
        raise UserError(f"{prefix!r} cannot be a prefix.", _A_PREFIX) from None
    chosen = parse_url(url).prefix
    if chosen == prefix:
        return url
    if "prefix" in dict(parse_qsl(url.partition("?")[2])):
        raise UserError(f"The Redis URL has the prefix {chosen}, and the setting is {prefix}.", "Leave one of them out")
    url = f"{url.strip()}{'&' if '?' in url else '?'}prefix={quote(prefix, safe='')}"
    parse_url(url)
    return url


def with_sentinel_password(url: str, password: str) -> str:
    """The URL of Sentinels, which has no password for these yet, with that one."""
    return f"{url}{'&' if '?' in url else '?'}sentinel_password={quote(password, safe='')}"


def is_redis(url: str) -> bool:
    """Whether a URL means a Redis, possibly in a form that `parse_url` refuses."""
    return url.strip().lower().startswith(("redis", "unix:", "valkey", "sentinel"))


def _parse(url: str, variable: str) -> Address:
    if re.search(r"[\x00-\x20\x7f;\\]", url):
        raise ValueError
    scheme = url.partition(":")[0].lower()
    url, hosts = _split_hosts(url) if scheme in SENTINEL_SCHEMES else (url, ())
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        which = f"the scheme {scheme[:20]!r}, which mistudio does not support" if scheme else "no scheme"
        raise _refused(variable, f"has {which}")
    if parts.fragment or "#" in url:
        raise ValueError
    options = _options(parts.query, variable)
    username, password = _login(parts, options, variable)
    tls = _tls(options, scheme, variable)
    login = Address(username=username, password=password, tls=tls, replicas=_replicas(options, 1 if hosts else 0))
    login = replace(login, prefix=_prefix(options, variable))
    if hosts:
        sentinels, database = _sentinels(hosts, parts.path, options, variable)
        return replace(login, db=_database(database, options), sentinels=sentinels)
    if any(name in options for name in _SENTINEL_OPTIONS):
        raise _refused(variable, "has sentinel_ options, but does not begin with sentinel://")
    if scheme in _SOCKET_SCHEMES:
        return replace(login, path=_socket_path(parts, variable), db=_database("", options))
    return replace(login, host=_host(parts), port=_port(parts), db=_database(parts.path, options))


def _options(query: str, variable: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        shown = name if re.fullmatch(r"[a-z_]{1,40}", name) else "…"
        if name not in _OPTIONS and not _is_of_tls(name):
            raise _refused(variable, f"has the option {shown!r}, which mistudio does not support")
        if name in found or not value:
            raise _refused(variable, f"has the option {shown!r} {'twice' if name in found else 'without a value'}")
        found[name] = value
    return found


def _is_of_tls(name: str) -> bool:
    if not name.startswith("ssl_"):
        return False
    from tasks.redis_client.redis_tls import TLS_OPTIONS

    return name in TLS_OPTIONS


def _tls(options: dict[str, str], scheme: str, variable: str) -> Tls | None:
    is_on = scheme in _TLS_SCHEMES
    if not is_on and not any(name.startswith("ssl_") for name in options):
        return None
    from tasks.redis_client.redis_tls import read_tls

    return read_tls(options, is_on=is_on, fail=lambda what: _refused(variable, what))


def _split_hosts(url: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    from tasks.redis_client.sentinel_url import split_hosts

    return split_hosts(url)


def _login(parts: SplitResult, options: dict[str, str], variable: str) -> tuple[str | None, str | None]:
    username = unquote(parts.username, errors="strict") if parts.username else options.get("username")
    password = unquote(parts.password, errors="strict") if parts.password else options.get("password")
    if username and not password:
        raise _refused(
            variable,
            "has a user name without a password",
            f"A password alone is written redis://:PASSWORD@HOST in {variable}",
        )
    return username, password


def _sentinels(
    hosts: tuple[tuple[str, int], ...], path: str, options: dict[str, str], variable: str
) -> tuple[Sentinels, str]:
    """The Sentinels, and the database as the path has it."""
    from tasks.redis_client.sentinel_url import Sentinels, split_path

    master, database = split_path(unquote(path, errors="strict"))
    if not master:
        raise _refused(
            variable,
            "does not name the master that the Sentinels know",
            f"Write sentinel://HOST1:PORT,HOST2:PORT/MASTER/DB in {variable}; sentinel.conf has the name",
        )
    username, password = (options.get(name) for name in _SENTINEL_OPTIONS)
    if username and not password:
        raise _refused(variable, "has sentinel_username without sentinel_password")
    return Sentinels(hosts, master, username, password), database


def _replicas(options: dict[str, str], default: int) -> int:
    """How many replicas are to acknowledge an accepted job."""
    word = options.get("replicas", str(default))
    if not re.fullmatch("[0-9]", word):
        raise ValueError
    return int(word)


def _prefix(options: dict[str, str], variable: str) -> str:
    try:
        return key_prefix(options.get("prefix", DEFAULT_PREFIX))
    except ValueError:
        raise _refused(variable, "has a prefix that is none", f"{_A_PREFIX}: ?prefix=lab2") from None


def _socket_path(parts: SplitResult, variable: str) -> str:
    path = unquote(parts.path, errors="strict")
    if parts.hostname or not path.strip("/") or "\0" in path:
        raise _refused(variable, "has no absolute path of a socket", "Write redis+socket:///PATH, with three slashes")
    return path


def _host(parts: SplitResult) -> str:
    host = parts.hostname or "localhost"
    if re.search(r"[%,]", host):
        raise ValueError
    return host


def _port(parts: SplitResult) -> int:
    if parts.port == 0 or parts.netloc.endswith(":"):
        raise ValueError
    return parts.port or 6379


def _database(path: str, options: dict[str, str]) -> int:
    """The database's number, which can stand in the path, `db` or `virtual_host`; all that are given must agree."""
    given = [word for word in (path.strip("/"), *(options.get(name) for name in _DATABASE_OPTIONS)) if word]
    numbers = {int(word) for word in given if word.isascii() and word.isdecimal() and len(word) < 10}
    if len(numbers) > 1 or (given and not numbers) or any(not word.isdecimal() for word in given):
        raise ValueError
    return numbers.pop() if numbers else 0


def _refused(variable: str, what: str, fix: str = "") -> UserError:
    return UserError(f"The Redis URL in {variable} {what}.", fix or f"Set {variable} to {_FORMS}")
