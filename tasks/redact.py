"""Secrets taken out of text: the only place that knows what a secret looks like.

Two nets: shapes that are secrets wherever they stand, and the values of this process's own secret variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

#: What stands where a secret was.
MASK = "***"

_HUB_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)([^\s/@]+)(?=@)")
_SHAPES = (
    _URL_PASSWORD,
    re.compile(r"([?&]password=)([^\s&'\"]+)"),
    re.compile(r"(\bbearer\s+)([\w.~+/=-]{8,})", re.IGNORECASE),
)

_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|_KEY)$", re.IGNORECASE)
_URL_NAME = re.compile(r"(_URL|_BACKEND|_ENDPOINT)$", re.IGNORECASE)

#: A shorter value is a common word sooner than a secret; in a URL it is masked by its place.
_LEAST_CHARS = 8


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with its secrets masked."""
    for value in sorted(_secret_values(environment), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _HUB_TOKEN.sub(MASK, text)
    for shape in _SHAPES:
        text = shape.sub(rf"\g<1>{MASK}", text)
    return text


def holds_token(value: Any) -> bool:
    """Whether a Hub token stands anywhere in a plain value: text, or lists and dicts of it."""
    if isinstance(value, str):
        return _HUB_TOKEN.search(value) is not None
    if isinstance(value, Mapping):
        return any(holds_token(part) for pair in value.items() for part in pair)
    return isinstance(value, (list, tuple)) and any(map(holds_token, value))


def _secret_values(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        found = [value] if _SECRET_NAME.search(name) else []
        if _URL_NAME.search(name):
            found = [password for _, password in _URL_PASSWORD.findall(value)]
        for secret in found:
            yield from (form for form in {secret, unquote(secret)} if len(form) >= _LEAST_CHARS)
