"""The settings of a command: the table of `tasks.settings` with the command line's flags on top."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError
from tasks.parsing.redact import redact
from tasks.paths import Places, default_home
from tasks.redis_client.redis_url import parse_url, with_prefix
from tasks.settings import KINDS, SETTINGS, Value, check_file, find_value, place_of, read_file, setting_named


@dataclass(frozen=True)
class Settings:
    """The settings of this command."""

    values: tuple[Value, ...]

    def get(self, name: str) -> str | None:
        """The value of that setting of text."""
        return next(value.value for value in self.values if value.name == name)

    @property
    def places(self) -> Places:
        """Where this home's files are."""
        home = Path(self.get("home") or default_home()).expanduser().absolute()
        store = self.get("store")
        return Places(home, Path(store).expanduser().absolute() if store else home / "store")

    @property
    def broker_url(self) -> str | None:
        """The Redis the user named, with the prefix of the keys, or None for the home's own.

        UserError for a URL or a prefix that cannot be used, and for a prefix where no Redis is named: the home's own is
        shared by none.
        """
        url, prefix = self.get("broker_url"), self.get("prefix")
        if prefix and not url:
            raise UserError(
                "A prefix keeps installations apart that share a Redis, and none is named.",
                "Name it with --broker-url or CELERY_BROKER_URL, or leave out the prefix",
            )
        if url:
            parse_url(url, self._place_of("broker_url"))
        return with_prefix(url, prefix) if url and prefix else url

    def _place_of(self, name: str) -> str:
        """Where a setting was made, for a message."""
        origin = next(value.origin for value in self.values if value.name == name)
        if origin == "file":
            return place_of(name)
        return "--" + name.replace("_", "-") if origin == "flag" else setting_named(name).variable

    @property
    def result_backend(self) -> str | None:
        """Where the user wants Celery's results, or None for the broker."""
        return self.get("result_backend")

    @property
    def owner(self) -> str | None:
        """Whom the user named as the owner of jobs."""
        return self.get("owner")


def load(flags: Mapping[str, str | None] | None = None) -> Settings:
    """The settings in force. UserError when `mistudio.toml` cannot be read or has something wrong in it."""
    check_file()
    if KINDS in read_file():
        from tasks.jobs.kind_settings import check_kinds

        check_kinds()
    return Settings(tuple(_values(flags or {})))


def _values(flags: Mapping[str, str | None]) -> Iterator[Value]:
    for setting in SETTINGS:
        value = find_value(setting, flags)
        yield Value("home", str(default_home()), "default") if setting.name == "home" and not value.value else value


def redacted(url: str) -> str:
    """A URL without its password, even if it is so misspelled that no parser finds the password in it.

    What stands alone before the @ is taken for one.
    """
    scheme, mark, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    shown = f"{user}:***@{place}" if colon else f"***@{place}" if login else at + place
    return redact(scheme + mark + re.sub(r"([?&]password=)[^&]*", r"\1***", shown), {})
