"""Redaction: finds secrets in text and masks them; no other module knows what a secret looks like.

Two nets: shapes that are secrets wherever they stand, and the values of this process's own secret variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

#: Variables that a kind of job may declare as its `secrets`: what the libraries of the Hub and of W&B read.
HUB_SECRETS, WANDB_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"), ("WANDB_API_KEY",)

#: What stands where a secret was.
MASK = "***"

#: Up to the last @ before the host: a password may hold one that was not escaped.
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)([^\s/]+)(?=@)")
#: Of a URL of Redis, what stands alone before the @ is a password sooner than the name of a user.
_REDIS_LOGIN = re.compile(r"(\b(?:rediss?|redis\+socket|unix|sentinels?)://)([^\s:/?]+)(?=@)", re.IGNORECASE)
_QUERY = re.compile(r"([?&][\w-]*(?:password|passwd|token|secret|api_key)=)([^\s&'\"]+)", re.IGNORECASE)
_SHAPES = (_URL_PASSWORD, _REDIS_LOGIN, _QUERY, re.compile(r"(\bbearer\s+)([\w.~+/=-]{8,})", re.IGNORECASE))
#: Keys of services, by how they begin.
_KEYS = re.compile(r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|AKIA[0-9A-Z]{16})")

_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|_KEY)$", re.IGNORECASE)
_URL_NAME = re.compile(r"(_URL|_BACKEND|_ENDPOINT)$", re.IGNORECASE)

#: A shorter value is a common word sooner than a secret; in a URL it is masked by its place.
_LEAST_CHARS = 8


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with its secrets masked."""
    return redactor(environment)(text)


def redactor(environment: Mapping[str, str] = os.environ) -> Callable[[str], str]:
    """What masks the secrets of many texts: the variables are looked at once."""
    values = sorted(_secret_values(environment), key=len, reverse=True)

    def mask(text: str) -> str:
        for value in values:
            text = text.replace(value, MASK)
        text = _KEYS.sub(MASK, text)
        for shape in _SHAPES:
            text = shape.sub(rf"\g<1>{MASK}", text)
        return text

    return mask


def holds_secret(value: Any) -> bool:
    """Whether a key or a password stands anywhere in a plain value: text, or lists and dicts of it."""
    if isinstance(value, str):
        return _KEYS.search(value) is not None or any(shape.search(value) for shape in _SHAPES)
    if isinstance(value, Mapping):
        return any(holds_secret(part) for pair in value.items() for part in pair)
    return isinstance(value, (list, tuple)) and any(map(holds_secret, value))


def names_secret(flag: str) -> bool:
    """Whether a flag or a variable takes a secret, by its name: --api-key, HF_TOKEN."""
    return _SECRET_NAME.search(flag.replace("-", "_")) is not None


def without_secrets(environment: Mapping[str, str], but: Collection[str] = ()) -> dict[str, str]:
    """The environment without variables that are secrets by their names, all `but` these."""
    return {name: value for name, value in environment.items() if name in but or not _SECRET_NAME.search(name)}


def _secret_values(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        found = [value] if _SECRET_NAME.search(name) else []
        if _URL_NAME.search(name):
            found = [password for shape in (_URL_PASSWORD, _QUERY) for _, password in shape.findall(value)]
        for secret in found:
            yield from (form for form in {secret, unquote(secret)} if len(form) >= _LEAST_CHARS)
