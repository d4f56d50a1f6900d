"""A command's session: its settings and its ledger; every command gets them here."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mistudio_cli import settings as all_settings
from mistudio_cli.redis.probe import Answer, require_answer
from mistudio_cli.settings import SETTINGS, Settings
from tasks.fleet.job_owner import check_owner, owner_of
from tasks.ledger.client import Ledger
from tasks.redis_client import redis_connection
from tasks.redis_client.redis_url import Address, is_redis, parse_url
from tasks.settings import current

_flags: dict[str, str] = {}


def remember_flags(flags: Mapping[str, str | None]) -> None:
    """Export the global flags to the environment, so that child processes see them. UserError for an owner without a
    name.
    """
    _flags.clear()
    if flags.get("owner") == "":
        check_owner("")
    _flags.update({name: value for name, value in flags.items() if value})
    os.environ.update({setting.variable: _flags[setting.name] for setting in SETTINGS if setting.name in _flags})


def typed_flags() -> list[str]:
    """The global flags of this invocation as words of a command line, without passwords."""
    words = ((f"--{name.replace('_', '-')}", all_settings.redacted(value)) for name, value in _flags.items())
    return [word for pair in words for word in pair]


def current_settings() -> Settings:
    """The settings of this command. UserError when `mistudio.toml` cannot be read."""
    return all_settings.load(_flags)


def connect_ledger(
    settings: Settings, *, supervise: bool = False, timeout_s: float = 5.0, must_answer: bool = True
) -> Ledger:
    """The ledger in the Redis in force, which has answered if it must.

    With `supervise` (for commands that change what lasts) the home's own Redis is started if need be, and a supervisor
    looks after it from now on. Without, nothing is started: NoRedis when the home's own does not run. Unreachable when
    Redis is not there or does not answer, UserError for a URL that is not supported. What need not answer and is not
    supervised is not asked at all: nothing is waited for.
    """
    if settings.result_backend and is_redis(settings.result_backend):
        parse_url(settings.result_backend, "CELERY_RESULT_BACKEND")
    if must_answer or supervise:
        url = settings.broker_url or _own_broker_url(settings, supervise=supervise)
    else:
        url = url_in_force(settings)
    client = redis_connection.connect(url, timeout_s)
    if must_answer:
        require_answer(client, current("read_patience"))
    return Ledger(client)


def url_in_force(settings: Settings) -> str:
    """The URL of the Redis in force, without asking whether it is there."""
    from mistudio_cli.redis import redis_server

    return settings.broker_url or redis_server.own_url(settings.places)


def check_rights(ledger: Ledger) -> None:
    """NotPermitted when workers could not run as this connection's Redis user; Unreachable when Redis is not there.

    A Redis that refuses writes for another reason is a matter of the workers, which wait for it.
    """
    try:
        ledger.check_rights()
    except (redis_connection.Unable, redis_connection.Refused) as error:
        if isinstance(error, redis_connection.NotPermitted):
            raise


#: The word for the owner of what this command would submit.
ME = "me"


def current_owner(given: str | None = None) -> str:
    """The owner of what this command submits: `given`, the setting `owner`, or who connects; without `given` for `me`.

    UserError as `owner_of`.
    """
    return owner_of(current_address(), current_settings().owner if given in (None, ME) else given)


def current_address() -> Address:
    """The Redis in force, without asking whether it is there; the home's own has no users."""
    return parse_url(url_in_force(current_settings()))


def _own_broker_url(settings: Settings, *, supervise: bool) -> str:
    from mistudio_cli.fleet import supervisor_client
    from mistudio_cli.redis import redis_server

    path, patience_s = settings.places.redis_socket, current("read_patience")
    if redis_server.probe(settings.places, patience_s) is Answer.SILENT:  # else it is waited for as long as it hangs
        raise redis_connection.Silent(f"{path} does not answer (waited {patience_s:g} s)")
    return (
        supervisor_client.broker_url_for(settings, supervise=True)
        if supervise
        else supervisor_client.running_broker_url(settings)
    )
