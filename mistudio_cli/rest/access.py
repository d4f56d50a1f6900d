"""Who may: the names under which the server is asked, and the token that changes and other hosts need."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from mistudio_cli.rest.problem import Problem

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_CHALLENGE = {"www-authenticate": "Bearer"}

#: A request with one of these came through a proxy, from who knows where.
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


@dataclass(frozen=True)
class AccessRules:
    """What a server checks of each request.

    `is_local`: only this machine reaches it. `allowed_hosts` are names beyond those of the loopback, None: any (a unix
    socket, which no browser opens). `any_address`: an IP address is no name that another site could take over.
    """

    token: str | None = None
    is_local: bool = True
    allowed_hosts: tuple[str, ...] | None = ()
    any_address: bool = False

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Problem for a request that names another site, as a page does whose name now points here."""
        host = host_of(headers.get("host", ""))
        if self.allowed_hosts is None or host in LOOPBACK_NAMES or host in self.allowed_hosts:
            return
        if not (self.any_address and _is_address(host)):
            raise Problem(400, "This Host is not one of this server; allow it with --allow-host.")

    def check_read(self, headers: Mapping[str, str]) -> None:
        """Problem for a request from beyond this machine without the token."""
        if not self._is_from_here(headers):
            self._check_token(headers)

    def check_change(self, headers: Mapping[str, str], scheme: str) -> None:
        """Problem for a change without the token, from another site's page, or that is not JSON."""
        if self.token is None:
            raise Problem(403, "This server only reads: it has no token. Start it with: mistudio serve --new-token")
        self._check_token(headers)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        # A proxy may have ended TLS before a request came here in plain HTTP.
        if origin is not None and origin.lower() not in (f"{scheme}://{host}", f"https://{host}"):
            raise Problem(403, "A page of another origin cannot change anything here.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Problem(403, "A page of another site cannot change anything here.")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Problem(415, "A change needs Content-Type: application/json.")

    def _is_from_here(self, headers: Mapping[str, str]) -> bool:
        if not self.is_local or any(name in headers for name in _OF_PROXIES):
            return False
        return self.allowed_hosts is None or host_of(headers.get("host", "")) in LOOPBACK_NAMES

    def has_token(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has this server's token."""
        return self.token is not None and bears(headers.get("authorization", ""), self.token)

    def _check_token(self, headers: Mapping[str, str]) -> None:
        if not self.has_token(headers):
            raise Problem(401, "A token is needed: Authorization: Bearer TOKEN", _CHALLENGE)


def bears(header: str, token: str) -> bool:
    """Whether an Authorization header has the token, compared in constant time."""
    scheme, _, given = header.partition(" ")
    encoded = given.strip().encode("utf-8", "surrogatepass")
    return scheme.lower() == "bearer" and hmac.compare_digest(encoded, token.encode())


def host_of(header: str) -> str:
    """The name in a Host header, in lower case, without port and brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
