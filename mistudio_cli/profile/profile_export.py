"""A profile as text: as a TOML file to begin one's own from, or as command lines for another supervisor. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mistudio_cli.profile.profile_keys import KEYS, QUEUES_KEY, in_toml
from mistudio_cli.profile.rules import Override, Profile, user_folder, workers_of
from mistudio_cli.settings import Settings, redacted
from tasks.queues import Resource


def as_toml(profile: Profile) -> str:
    """The profile's file with every key; those that are not set are comments. Reading it gives the same profile."""
    lines = [
        f"# A profile of mistudio: which workers to run. It began as the profile {profile.name}.",
        f"# As {user_folder() / 'NAME.toml'} it is started with: mistudio workers start NAME",
        "",
    ]
    for key in KEYS:
        value = getattr(profile, key.name)
        unset = value is None or value == tuple(Resource)  # all resources: those that are yet to come too
        lines += [f"# {key.meaning}.", f"# {key.name} = {key.example}" if unset else f"{key.name} = {in_toml(value)}"]
    lines += ["", '# One queue\'s worker may differ from the rest; needs workers = "per-queue".']
    return "\n".join([*lines, *(_table_lines(profile.queues))]) + "\n"


def as_commands(profile: Profile, settings: Settings) -> str:
    """A shell script's worth of command lines, one a worker, after the environment that all of them need."""
    lines = [
        f"# The workers of the profile {profile.name} as command lines, for a supervisor that is not mistudio's.",
        "# They are not `celery worker`, which would run jobs without slots, limits and resuming, and is refused.",
        "# Send TERM to a worker's main process alone: its jobs finish, then it ends. QUIT puts them back at once.",
        "# They need a Redis that somebody keeps: the home's own runs only beside mistudio's supervisor.",
        *(f"export {name}={value}" for name, value in _environment(settings).items()),
        "",
        command_lines(profile),
    ]
    return "\n".join(lines) + "\n"


def command_lines(profile: Profile) -> str:
    """The command line of each worker."""
    return "\n".join(shlex.join(spec.argv()) for spec in workers_of(profile))


def _table_lines(overrides: tuple[Override, ...]) -> Iterator[str]:
    if not overrides:
        yield from (f"# [{QUEUES_KEY}.training]", "# job_memory_gb = 24")
    for own in overrides:
        values: dict[str, Any] = asdict(own)
        yield f"[{QUEUES_KEY}.{values.pop('queue')}]"
        yield from (f"{name} = {in_toml(value)}" for name, value in values.items() if value is not None)


def _environment(settings: Settings) -> dict[str, str]:
    """The environment that the workers need, as shell text. A URL with a password is asked for, not printed."""
    url, results = settings.broker_url, settings.result_backend
    variables = {
        "MISTUDIO_HOME": shlex.quote(str(settings.places.home)),
        "MISTUDIO_STORE": shlex.quote(str(settings.places.store)),
        "CELERY_BROKER_URL": _url(url, "CELERY_BROKER_URL"),
    }
    return variables | ({"CELERY_RESULT_BACKEND": _url(results, "CELERY_RESULT_BACKEND")} if results else {})


def _url(url: str | None, variable: str) -> str:
    if url and redacted(url) == url:
        return shlex.quote(url)
    return f'"${{{variable}:?set it to the URL of your Redis}}"'
