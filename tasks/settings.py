"""Settings: one table of all that can be set, and how each value is found.

A flag comes first, then the environment, then `mistudio.toml`, then the default. Commands, workers and jobs read the
same file; a worker reads it when it starts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.parsing.documents import read_toml
from tasks.parsing.setting_types import (
    DURATION,
    FOLDER,
    OCTAL,
    OWNER,
    PREFIX,
    SWITCH,
    TEXT,
    Type,
    choice,
    count,
    duration_text,
    number,
)
from tasks.paths import config_dir

#: The table of tables with the settings of each kind of job; `tasks.jobs.kind_settings` reads it.
KINDS = "kinds"

LOG_LEVELS, LOG_FORMATS = ("debug", "info", "warning", "error"), ("text", "json")

_LONGEST_SHOWN = 60

_HEADER = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


@dataclass(frozen=True)
class Setting:
    """A row of the table: its key in `mistudio.toml`, its environment variable, its default and what it does.

    `unit` is that of a plain number, `unset` what happens without a value where there is no default, `former` the
    variable's name in earlier versions, which still counts.
    """

    name: str
    variable: str
    type: Type
    help: str
    default: Any = None
    unit: str = ""
    unset: str = ""
    is_secret: bool = False  # read from the environment only, never shown
    former: str = ""

    @property
    def default_text(self) -> str:
        """The default as a person reads it."""
        return self.unset if self.default is None else value_text(self, self.default)


@dataclass(frozen=True)
class Value:
    """What a setting is, and where it came from: "flag", "environment", "file" or "default"."""

    name: str
    value: Any
    origin: str


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "home",
        "MISTUDIO_HOME",
        FOLDER,
        "Folder of Redis data, logs and sockets",
        unset="the platform's folder for user data",
    ),
    Setting(
        "store", "MISTUDIO_STORE", FOLDER, "Folder of artifacts; may be shared between hosts", unset="store in the home"
    ),
    Setting("broker_url", "CELERY_BROKER_URL", TEXT, "Redis to use", unset="the home's own Redis"),
    Setting("result_backend", "CELERY_RESULT_BACKEND", TEXT, "Where Celery stores results", unset="the broker"),
    Setting("owner", "MISTUDIO_OWNER", OWNER, "Owner of submitted jobs", unset="the Redis user, else the OS user"),
    Setting(
        "prefix", "MISTUDIO_PREFIX", PREFIX, "Prefix of this installation's keys in a shared Redis", unset="mistudio"
    ),
    Setting(
        "backlog_threshold",
        "MISTUDIO_BACKLOG_THRESHOLD",
        count(1),
        "Pending jobs above which a queue counts as backlogged",
        100,
        "jobs",
    ),
    Setting(
        "served_within",
        "MISTUDIO_SERVED_WITHIN_S",
        DURATION,
        "A queue that started no job for so long gets its first job run next",
        600.0,
    ),
    Setting("keep_jobs", "MISTUDIO_KEEP_JOBS", count(0), "Records of ended jobs to keep at most", 100_000, "jobs"),
    Setting("keep_jobs_days", "MISTUDIO_KEEP_JOBS_DAYS", number(0), "Age up to which records are kept", 90.0, "days"),
    Setting(
        "keep_checkpoints_gb",
        "MISTUDIO_KEEP_CHECKPOINTS_GB",
        number(0),
        "Size of the checkpoints of failed and cancelled jobs, in all",
        unit="GB",
        unset="a tenth of the disk",
    ),
    Setting(
        "keep_job_logs_gb",
        "MISTUDIO_KEEP_JOB_LOGS_GB",
        number(0),
        "Size of the logs of jobs on each host, in all",
        1.0,
        "GB",
    ),
    Setting(
        "job_memory_gb",
        "MISTUDIO_JOB_MEMORY_GB",
        number(0, above=True),
        "Memory above which a job is stopped",
        unit="GB",
        unset="no limit",
    ),
    Setting(
        "cpu_jobs",
        "MISTUDIO_CPU_JOBS",
        count(1),
        "Jobs of GPU queues that may share the processor where there is no GPU",
        1,
        "jobs",
    ),
    Setting(
        "umask",
        "MISTUDIO_UMASK",
        OCTAL,
        "Permissions that files of jobs lack",
        unset="the shell's, and never writable for others",
    ),
    Setting(
        "redis_patience",
        "MISTUDIO_TELL_FOR_S",
        DURATION,
        "How long an ended job waits for Redis to record its end",
        6 * 3600.0,
    ),
    Setting(
        "read_patience",
        "MISTUDIO_READ_PATIENCE_S",
        DURATION,
        "How long a reading command waits for Redis, a supervisor, the GPU driver or a disk",
        1.0,
    ),
    Setting("triton", "MISTUDIO_TRITON", SWITCH, "Use Triton kernels on CUDA", True),
    Setting("log_level", "MISTUDIO_LOG_LEVEL", choice(LOG_LEVELS), "Least severe messages in logs", "info"),
    Setting(
        "log_format",
        "MISTUDIO_LOG",
        choice(LOG_FORMATS),
        "Lines of logs: plain text, or JSON",
        "text",
        former="MISTUDIO_LOG_FORMAT",
    ),
    Setting(
        "api_token",
        "MISTUDIO_API_TOKEN",
        TEXT,
        "Bearer token of the REST API, for changes and for requests from other machines",
        unset="none",
        is_secret=True,
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def config_file() -> Path:
    """The user's settings file; it need not exist."""
    return config_dir() / "mistudio.toml"


def setting_named(name: str) -> Setting:
    """The row of that name; KeyError for any other."""
    return _BY_NAME[name]


def current(name: str) -> Any:
    """The value in force in this process. UserError for one that cannot be read."""
    return find_value(setting_named(name)).value


def find_value(setting: Setting, flags: Mapping[str, str | None] | None = None) -> Value:
    """A setting's value and its origin. UserError that names the variable or the file's line for a wrong one."""
    if flag := (flags or {}).get(setting.name):
        return Value(setting.name, read_as(setting.type, flag, "--" + setting.name.replace("_", "-")), "flag")
    for variable in filter(None, (setting.variable, setting.former)):
        if not (word := os.environ.get(variable)):
            continue
        if setting.is_secret:
            return Value(setting.name, word, "environment")
        return Value(setting.name, read_as(setting.type, word, variable), "environment")
    if not setting.is_secret and setting.name in read_file():
        found = read_from_file(setting.type, setting.name)
        return Value(setting.name, str(_beside_file(found)) if setting.type is FOLDER else found, "file")
    return Value(setting.name, setting.default, "default")


def _beside_file(folder: str) -> Path:
    """A folder that the file names: a relative one is beside the file, whatever the folder of the command."""
    return (config_file().parent / Path(folder).expanduser()).absolute()


def check_file() -> None:
    """UserError for anything in the file that is no setting or has a wrong value, its `[kinds]` excepted."""
    for name in read_file():
        if name == KINDS:
            continue
        setting = _BY_NAME.get(name)
        if setting is None:
            names = ", ".join(setting.name for setting in SETTINGS if not setting.is_secret)
            raise UserError(f"{place_of(name)} is not a setting.", f"Settings: {names}, [{KINDS}.KIND]")
        if setting.is_secret:
            raise UserError(f"{place_of(name)} is a secret, which no file may hold.", f"Set {setting.variable} instead")
        read_from_file(setting.type, name)


def check_all() -> None:
    """UserError for the first setting of this process that is wrong, wherever it comes from."""
    check_file()
    for setting in SETTINGS:
        find_value(setting)


def read_from_file(of: Type, *keys: str) -> Any:
    """The value of a key that is in the file. UserError that names file, line and key for a wrong one."""
    raw: Any = read_file()
    for key in keys:
        raw = raw[key]
    try:
        return read_as(of, raw, "")
    except UserError:
        return read_as(of, raw, place_of(*keys))  # only a wrong one is looked for


def read_as(of: Type, raw: Any, where: str) -> Any:
    """A raw value as one of that type. UserError that begins with `where` for a wrong one."""
    if of is FOLDER:
        read_as(TEXT, raw, where)
    try:
        return of.read(raw)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{where} is {_shown(of, raw)}not {of.expected}.", "Correct or remove it") from None


def _shown(of: Type, raw: Any) -> str:
    """A wrong value, for a message; a text may hold a password, and is left out."""
    if of is TEXT:
        return ""
    return (repr(raw) if len(repr(raw)) <= _LONGEST_SHOWN else repr(raw)[:_LONGEST_SHOWN] + "…") + ", "


def read_file() -> Mapping[str, Any]:
    """What the settings file holds; empty where there is none. UserError when it cannot be read."""
    path = config_file()
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unreadable(path, error) from error
    return _parsed(path, (state.st_ino, state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=4)
def _parsed(path: Path, _version: tuple[int, ...]) -> Mapping[str, Any]:
    try:
        return read_toml(path, "Correct or remove it")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read: {error.strerror}.", "Correct or remove it")


def place_of(*keys: str) -> str:
    """Where a key is in the file, for a message: file, line where it is known, and key."""
    path = config_file()
    line = next((row for row, found in _lines_of_keys(path) if found == keys[: len(found)]), None)
    return f"{path}{f':{line}' if line else ''}: {'.'.join(keys)}"


def _lines_of_keys(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each line that sets something, with the key's full name; lines inside texts of several lines may deceive it."""
    table: tuple[str, ...] = ()
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if header := _HEADER.match(line):
            table = _split(header[1])
        elif key := _KEY.match(line):
            yield row, (*table, *_split(key[1]))


def _split(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def value_text(setting: Setting, value: Any) -> str:
    """A value as a person reads and writes it."""
    if setting.type is DURATION:
        return duration_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
