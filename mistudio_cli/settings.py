"""Where each setting comes from: flag, environment, `mistudio.toml`, default, in this order."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.documents import read_toml
from tasks.places import Places, config_dir, default_home
from tasks.problem import Problem


@dataclass(frozen=True)
class Setting:
    """One thing that can be set."""

    name: str  # the key in mistudio.toml and the flag's name
    variable: str  # the environment variable
    help: str


@dataclass(frozen=True)
class Value:
    """What a setting is, and who said so: "flag", "environment", "file" or "default"."""

    name: str
    value: str | None
    origin: str


SETTINGS: tuple[Setting, ...] = (
    Setting("home", "MISTUDIO_HOME", "folder for Redis data, logs and sockets"),
    Setting("store", "MISTUDIO_STORE", "folder for artifacts; may be shared between machines"),
    Setting("broker_url", "CELERY_BROKER_URL", "Redis to use; unset means the home's own"),
    Setting("result_backend", "CELERY_RESULT_BACKEND", "where Celery keeps results; unset means the broker"),
)


@dataclass(frozen=True)
class Settings:
    """The settings of this command."""

    values: tuple[Value, ...]

    def get(self, name: str) -> str | None:
        """The value of that setting."""
        return next(value.value for value in self.values if value.name == name)

    @property
    def places(self) -> Places:
        """Where this home's files lie."""
        home = Path(self.get("home") or default_home()).expanduser().absolute()
        store = self.get("store")
        return Places(home, Path(store).expanduser().absolute() if store else home / "store")

    @property
    def broker_url(self) -> str | None:
        """The Redis the user named, or None for the home's own."""
        return self.get("broker_url")

    @property
    def result_backend(self) -> str | None:
        """Where the user wants Celery's results, or None for the broker."""
        return self.get("result_backend")


def config_file() -> Path:
    """The user's settings file; it need not exist."""
    return config_dir() / "mistudio.toml"


def load(flags: Mapping[str, str | None] | None = None) -> Settings:
    """The settings in force. Problem when `mistudio.toml` cannot be read or names a setting there is not."""
    file = _read_file(config_file())
    return Settings(tuple(_choose(setting, flags or {}, file) for setting in SETTINGS))


def redacted(url: str) -> str:
    """A URL without its password, even if it is so misspelled that no parser finds the password in it."""
    scheme, mark, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = f"{user}:***@{place}" if colon else login + at + place
    return scheme + mark + re.sub(r"([?&]password=)[^&]*", r"\1***", shown)


def _choose(setting: Setting, flags: Mapping[str, str | None], file: Mapping[str, Any]) -> Value:
    sources = (
        (flags.get(setting.name), "flag"),
        (os.environ.get(setting.variable), "environment"),
        (file.get(setting.name), "file"),
    )
    told = next((Value(setting.name, str(value), origin) for value, origin in sources if value), None)
    return told or Value(setting.name, str(default_home()) if setting.name == "home" else None, "default")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        told = read_toml(path, "Correct or remove it")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}.", "Correct or remove it") from error
    if unknown := set(told) - {setting.name for setting in SETTINGS}:
        names = ", ".join(setting.name for setting in SETTINGS)
        raise Problem(f"{path} sets {sorted(unknown)[0]!r}, which is no setting.", f"Settings: {names}")
    return told
