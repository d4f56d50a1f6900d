"""This host's place among those that share a Redis and a store: what `join` checks before it writes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from mistudio_cli.settings import redacted
from tasks.errors import UserError
from tasks.ledger.client import Ledger
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_url import Address, parse_url, with_password, with_prefix, with_sentinel_password
from tasks.settings import setting_named
from tasks.worker.fleet_membership import why_store_differs

#: How messages name the URL that was typed.
_ARGUMENT = "the argument URL"


def resolve_url(url: str, password_file: Path | None, ask: Callable[[], str]) -> str:
    """The URL with its password: from that file, else by asking where Redis wants one and there is a terminal.

    Sentinels that want a password get the same one. UserError for a password in the URL itself, which every user of the
    host could read, for one that is wrong, and for a URL that cannot be used.
    Unreachable when Redis is not there.
    """
    address, parts = _address_in(url), urlsplit(url.strip())
    if parts.password is not None or any(name.endswith("password") for name, _ in parse_qsl(parts.query)):
        raise UserError(
            "A password on the command line can be read by every user of this host.",
            "Leave it out: it is asked for, or taken from --password-file FILE",
        )
    password = None if password_file is None else _read_password(password_file)
    if password is None and (parts.username or _wants_password(url)):
        if not sys.stdin.isatty():
            where = f"The Redis user {parts.username}" if parts.username else f"Redis at {address.shown}"
            raise UserError(f"{where} wants a password.", "Give it by --password-file FILE")
        password = ask()
    if password is not None:
        url = with_password(url, password)
        if address.sentinels is not None and _wants_password(url):
            url = with_sentinel_password(url, password)
    if _wants_password(url):
        raise UserError(f"Redis at {address.shown} does not take this password.", "Check it, and its user's name")
    return url


def _address_in(url: str) -> Address:
    """The address that was typed, which may have a user without a password. UserError for one that cannot be used."""
    login = url.partition("://")[2].rpartition("@")[0]
    if login and ":" not in login:
        url = url.replace(f"{login}@", f"{login}:unknown@", 1)
    return parse_url(url, _ARGUMENT)


def check_store(ledger: Ledger, store: Path) -> None:
    """UserError unless the store is the one that the workers on this Redis have, if there are any."""
    if why := why_store_differs(ledger, store):
        raise UserError(f"This host cannot join: {why}.", "Or give the folder where it is mounted: --store DIR")


def settings_to_write(url: str, store: Path | None, prefix: str | None = None) -> dict[str, str]:
    """Redis, store and prefix by their settings. UserError where the environment would override them.

    The URL has the prefix in it. It is written by itself, too: one that the file has already must not contradict it.
    """
    wanted = {"broker_url": url, "store": str(store) if store else "", "prefix": prefix or ""}
    wanted = {name: value for name, value in wanted.items() if value}
    for name, value in wanted.items():
        variable = setting_named(name).variable
        override = os.environ.get(variable)
        if override and value not in (override, _with_prefix(name, override, prefix)):
            raise UserError(f"{variable} is {redacted(override)} here and would override it.", f"unset {variable}")
    return wanted


def _with_prefix(setting: str, value: str, prefix: str | None) -> str:
    return with_prefix(value, prefix) if prefix and setting == "broker_url" else value


def check_place_of_store(store: str) -> Path:
    """The folder of the store. UserError for a URL, and for what is no folder."""
    if "://" in store:
        raise UserError(f"{store} is a URL, and a store is a folder.", "Mount it on this host, then: --store DIR")
    path = Path(store).expanduser().absolute()
    if not path.is_dir():
        raise UserError(
            f"There is no folder {path} on this host.", "Mount the shared store there, or give another --store"
        )
    return path


def _wants_password(url: str) -> bool:
    client = redis_connection.connect(url)
    try:
        client.call("PING")
    except redis_connection.Refused as error:
        if "NOAUTH" in str(error):
            return True
        raise
    except redis_connection.Unreachable as error:  # NOAUTH: of a Sentinel
        if "refused the login" in str(error) or "NOAUTH" in str(error):
            return True
        raise
    finally:
        client.close()
    return False


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Give a file that holds the password alone") from error
    if not password or "\n" in password:
        raise UserError(f"{path} does not hold one password alone.", "Write the password into it, and nothing else")
    return password
