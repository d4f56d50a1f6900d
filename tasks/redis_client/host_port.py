"""A host and a port as a URL has them."""

from __future__ import annotations


def host_port(host: str, port: int) -> str:
    """HOST:PORT; an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
