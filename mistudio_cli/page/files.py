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
_NAME = re.compile(r"[A-Za-z][A-Za-z_.]*\.(html|css|js|svg)")
#: Where a file may be; those in `vendor` are of others, as they were published (vendor/README.md).
FOLDERS = ("views", "parts", "charts", "vendor")

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


def file_named(name: str, folder: str | None = None) -> tuple[bytes, str, dict[str, str]] | None:
    """The body, media type and headers of a file of the page; None where there is no such file."""
    found = _NAME.fullmatch(name)
    if found is None or folder not in (None, *FOLDERS):
        return None
    file = files(__package__) / (folder or ".") / name
    return (file.read_bytes(), _MEDIA_TYPES[found[1]], dict(HEADERS)) if file.is_file() else None
