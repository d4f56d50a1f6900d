"""The client side of the supervisor: how a command finds it, starts it and asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from mistudio_cli.errors import NoRedis, NotFound, Unresponsive
from mistudio_cli.redis import redis_server
from mistudio_cli.settings import Settings
from mistudio_cli.supervisor.states import TERM_GRACE_S
from tasks.errors import UserError
from tasks.paths import Places, default_home, make_home, make_private

if TYPE_CHECKING:
    from mistudio_cli.profile.rules import WorkerSpec

START_PATIENCE_S = 30.0

#: A supervisor creates its socket again within a second when somebody removes it; then it can be reached or never will.
UNRESPONSIVE_AFTER_S = 5.0

_ASK_TIMEOUT_S = 10.0
_LOOK_EVERY_S = 0.02


class NotRunning(Exception):
    """No supervisor answers for this home, or it has nothing of what was asked for."""


def unresponsive(places: Places) -> Unresponsive:
    """Says which process does not answer, whether it is stopped, and what helps."""
    from mistudio_cli.machine.unresponsive_process import described
    from mistudio_cli.supervisor.lock_and_socket import holder

    pid = holder(places)
    who, hint = described(pid, f"end it, which lets its workers finish their jobs: kill {pid}" if pid else "")
    return Unresponsive(f"the supervisor of {places.home}{who} does not answer", hint)


def ask(places: Places, operation: str, **arguments: Any) -> dict[str, Any]:
    """The supervisor's reply. NotRunning when there is none, Unresponsive when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_ASK_TIMEOUT_S)
            link.connect(str(places.supervisor_socket))
            with link.makefile("rwb") as stream:
                stream.write(json.dumps({"op": operation, **arguments}).encode() + b"\n")
                stream.flush()
                reply = stream.readline()
    except (TimeoutError, BlockingIOError) as error:  # the latter: as many commands as fit wait for it already
        raise unresponsive(places) from error
    except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
        raise NotRunning from error
    if not reply:
        raise NotRunning
    return json.loads(reply)


def status(places: Places) -> dict[str, Any] | None:
    """The supervisor and its workers, or None when no supervisor runs."""
    try:
        return ask(places, "status")
    except NotRunning:
        return None


def broker_url_for(settings: Settings, *, supervise: bool = False) -> str:
    """The broker's URL. The home's own Redis is started if need be; with `supervise` somebody looks after it too."""
    if settings.broker_url:
        return settings.broker_url
    places = settings.places
    if supervise or not redis_server.answers(places):
        ensure_supervisor(settings)
    return redis_server.own_url(places)


def running_broker_url(settings: Settings) -> str:
    """The URL of the home's own Redis, which is waited for while a supervisor brings it up. Nothing else is started.

    NoRedis when it does not run.
    """
    places = settings.places
    if not redis_server.answers(places):
        if not _is_there(places):
            raise own_redis_not_running(places)
        ensure_supervisor(settings)
    return redis_server.own_url(places)


def own_redis_not_running(places: Places) -> NoRedis:
    """Says that the home's own Redis does not run, and what starts it."""
    if places.redis.exists():
        return NoRedis(f"The Redis of {places.home}, which has its jobs, does not run.", "mistudio workers start")
    other = "; or name another home with --home" if places.home == default_home() else ""
    return NoRedis(f"Nothing has been started in {places.home} yet.", f"mistudio workers start{other}")


def ensure_supervisor(settings: Settings) -> None:
    """Start the home's supervisor unless one answers, and wait until it and the Redis it keeps do.

    NoRedis when its Redis does not come up; UserError when it does not start, or one that is ending takes too long.
    """
    places, began = settings.places, time.monotonic()
    while not _is_up(settings):
        waited_s = time.monotonic() - began
        if waited_s > START_PATIENCE_S:
            raise UserError(
                f"The supervisor of {places.home} is not ready after {START_PATIENCE_S:g} s.",
                f"See {places.logs / 'supervisor.log'}",
            )
        if not _is_there(places):
            _launch_or_wait(places, waited_s)
        time.sleep(_LOOK_EVERY_S)


def _launch_or_wait(places: Places, waited_s: float) -> None:
    """Start the daemon, unless one holds the home that was just started or is about to end.

    UserError for one that does not respond.
    """
    from mistudio_cli.supervisor.lock_and_socket import holder

    held_by = holder(places)
    if held_by is None:
        _launch(places)
    elif held_by and waited_s > UNRESPONSIVE_AFTER_S:
        raise UserError(
            f"The supervisor of {places.home} runs with pid {held_by}, but cannot be reached at "
            f"{places.supervisor_socket}.",
            f"End it, which lets its workers finish their jobs: kill {held_by}",
        )


def start(settings: Settings, profile: str | None, specs: Sequence[WorkerSpec]) -> dict[str, Any]:
    """Have the supervisor run the workers of a profile, or some beside those that run; it is started if need be.

    Returns its status. UserError when others run already.
    """
    ensure_supervisor(settings)
    request = {"profile": profile, "specs": [asdict(spec) for spec in specs], **_circumstances(settings)}
    return _accepted(ask(settings.places, "start", **request))


def check_broker(places: Places, broker_url: str) -> None:
    """UserError when workers of this home run on another Redis than this one. Nothing is started or changed."""
    with suppress(NotRunning):
        _accepted(ask(places, "check-broker", broker_url=broker_url))


def run_in_foreground(settings: Settings, profile: str | None, specs: Sequence[WorkerSpec], grace_s: float) -> NoReturn:
    """Become the supervisor of these workers, here and now, until a signal ends it.

    UserError when the home is taken.
    """
    import tempfile  # slow to import, and every command comes by this file

    places = settings.places
    if _is_there(places):
        raise UserError(f"Another supervisor keeps {places.home} already.", "First: mistudio workers stop --all")
    make_home(places.home)
    make_private(places.run)
    request = {"profile": profile, "specs": [asdict(spec) for spec in specs], "own_redis": settings.broker_url is None}
    with tempfile.TemporaryFile() as order:
        order.write(json.dumps(request).encode() + b"\n")
        order.seek(0)
        os.dup2(order.fileno(), 0)
    os.chdir(places.run)
    argv = _argv(places, "--foreground", "--grace", str(grace_s))
    os.execve(argv[0], argv, _circumstances(settings)["environment"])  # noqa: S606 - there is nothing for a shell


def stop(places: Places, names: Sequence[str] = (), grace_s: float | None = TERM_GRACE_S) -> dict[str, Any]:
    """Have the supervisor begin to stop these workers, or all; their jobs may finish for `grace_s`, None for ever.

    NotRunning when all are meant and there is no supervisor, NotFound for a name that is no worker's.
    """
    return _ask_of_workers(places, "stop", names, grace_s=grace_s)


def restart(settings: Settings, names: Sequence[str], slots: int | None = None) -> dict[str, Any]:
    """Have the supervisor begin to replace these workers, or all; with `slots` each runs that many jobs at once from
    then on.

    Errors as in `stop`.
    """
    environment = _circumstances(settings)["environment"]
    return _ask_of_workers(settings.places, "restart", names, slots=slots, environment=environment)


def scale(settings: Settings, counts: Mapping[str, int]) -> dict[str, Any]:
    """Have the supervisor run `counts` workers of each queue, and start it if necessary. UserError when it refuses."""
    ensure_supervisor(settings)
    return _accepted(ask(settings.places, "scale", counts=dict(counts), **_circumstances(settings)))


def shutdown(places: Places, grace_s: float | None = TERM_GRACE_S, *, redis: bool) -> dict[str, Any]:
    """Have the supervisor stop its workers and end, with `redis` after the home's own Redis. NotRunning as above."""
    return _accepted(ask(places, "shutdown", grace_s=grace_s, redis=redis))


def _ask_of_workers(places: Places, operation: str, names: Sequence[str], **arguments: Any) -> dict[str, Any]:
    """The reply on these workers, or all of them. Errors as in `stop`."""
    try:
        return _accepted(ask(places, operation, names=list(names), **arguments))
    except NotRunning:
        if names:
            raise _unknown(", ".join(sorted(names))) from None
        raise


def _unknown(workers: str) -> NotFound:
    return NotFound(f"There is no worker {workers}.", "See: mistudio workers status")


def _accepted(reply: dict[str, Any]) -> dict[str, Any]:
    if "error" not in reply:
        return reply
    named = ", ".join(reply.get("workers", ()))
    sentences = {
        "others run": (f"Other workers run already: {named}.", "First: mistudio workers stop"),
        "name taken": (
            f"A worker {named} runs already, with other queues or options.",
            f"Choose another --name, or first: mistudio workers stop {named}",
        ),
        "another broker": (f"Workers run already on another Redis: {named}.", "First: mistudio workers stop"),
    }
    if reply["error"] == "unknown worker":
        raise _unknown(named)
    if reply["error"].startswith("there is no operation"):
        raise UserError("The supervisor that runs is of an earlier version.", "First: mistudio workers stop --all")
    sentence, hint = sentences.get(reply["error"], (f"The supervisor refuses: {reply['error']}.", "Try again"))
    raise UserError(sentence, hint)


def _is_up(settings: Settings) -> bool:
    """Whether the supervisor answers, is not ending, and has its Redis if it needs one. NoRedis if that will not be."""
    own = settings.broker_url is None
    try:
        reply = ask(settings.places, "ping", redis=own)
    except NotRunning:
        return False
    if reply["state"] != "running":
        return False
    if own and not reply["redis"] and reply["trouble"]:
        raise NoRedis(f"{reply['trouble']}.", f"See {settings.places.logs / 'redis.log'}")
    return not own or reply["redis"]


def _is_there(places: Places) -> bool:
    try:
        ask(places, "ping")
    except NotRunning:
        return False
    return True


def _launch(places: Places) -> None:
    """Start the daemon. It listens when this returns, or another one holds the home."""
    from mistudio_cli.log_files import last_lines
    from mistudio_cli.supervisor.event_loop import HOME_IS_TAKEN

    log_path = places.supervisor_log
    try:
        make_home(places.home)
        for folder in (places.run, places.logs):
            make_private(folder)
        with log_path.open("ab") as log:
            began_at = log.tell()
            done = subprocess.run(
                _argv(places, "--detach"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=places.run,
                start_new_session=True,
                timeout=START_PATIENCE_S,
                check=False,
            )
    except OSError as error:
        raise UserError(
            f"The home {places.home} cannot be used: {error}.", "Choose another with MISTUDIO_HOME"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"The supervisor did not start in {START_PATIENCE_S:g} s.", f"See {log_path}") from error
    if done.returncode not in (0, HOME_IS_TAKEN):
        last = last_lines(log_path, 1) if log_path.stat().st_size > began_at else ["no output"]
        raise UserError(f"The supervisor did not start: {last[0]}", f"See {log_path}")


def _argv(places: Places, *flags: str) -> list[str]:
    daemon = [sys.executable, "-P", "-m", "mistudio_cli.supervisor"]
    return [*daemon, "--home", str(places.home), "--store", str(places.store), *flags]


def _circumstances(settings: Settings) -> dict[str, Any]:
    """What workers inherit: the environment of whoever starts them, with the settings in force, and which Redis."""
    broker_url = settings.broker_url or redis_server.own_url(settings.places)
    variables = {
        "MISTUDIO_HOME": str(settings.places.home),
        "MISTUDIO_STORE": str(settings.places.store),
        "CELERY_BROKER_URL": broker_url,
        "CELERY_RESULT_BACKEND": settings.result_backend,
    }
    return {
        "broker_url": broker_url,
        "environment": {**os.environ, **{name: value for name, value in variables.items() if value}},
    }
