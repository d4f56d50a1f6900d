"""The files of the page as they are sent: bytes, media type and headers."""

from __future__ import annotations

import re
from importlib.resources import files

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NAME = re.compile(r"[a-z][a-z_]*\.(html|css|js|svg)")

#: Nothing from elsewhere, nothing inline, and no text can become markup (trusted types without a policy).
_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

#: A browser asks again after an upgrade, and never mixes files of two versions.
HEADERS = {"content-security-policy": _CSP, "cache-control": "no-cache"}


def file_named(name: str) -> tuple[bytes, str, dict[str, str]] | None:
    """The body, media type and headers of a file of the page; None where there is no such file."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        body = (files(__package__) / name).read_bytes()
    except FileNotFoundError:
        return None
    return body, _MEDIA_TYPES[found[1]], dict(HEADERS)
