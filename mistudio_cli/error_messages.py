"""From exception to exit code and sentence: how a command reports that it failed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mistudio_cli.errors import Code, Failed, NoRedis, NotFound, TimedOut, Trouble, Unresponsive, with_fix
from tasks.errors import OverQuota, UserError
from tasks.parsing.safe_text import shown
from tasks.redis_client.redis_connection import (
    NoMaster,
    NotPermitted,
    NotRedis,
    Refused,
    Replica,
    Silent,
    Unable,
    Unreachable,
)

#: What cannot be done as asked is a fault of the request, but for these.
_PROBLEMS: dict[type, Code] = {
    NotFound: Code.NOT_FOUND,
    Failed: Code.FAILED,
    NoRedis: Code.UNREACHABLE,
    TimedOut: Code.TIMED_OUT,
    OverQuota: Code.OVER_QUOTA,
}


@dataclass(frozen=True)
class Explained:
    """What the user sees of an exception, and the exit code."""

    sentence: str
    hint: str
    code: Code


def explain(error: BaseException) -> Explained:
    """The words and the exit code for an exception that ended a command."""
    match error:
        case UserError():
            return Explained(error.sentence, error.hint, _PROBLEMS.get(type(error), Code.USAGE))
        case Unreachable() | Refused():
            return _of_redis(error)
        case Unresponsive():
            return Explained(f"{str(error)[:1].upper()}{str(error)[1:]}.", error.hint, Code.TIMED_OUT)
        case TimeoutError():
            return Explained(f"No answer in time: {error}.", "See: mistudio doctor", Code.TIMED_OUT)
        case KeyboardInterrupt():
            return Explained("", "", Code.INTERRUPTED)
        case OSError() if error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            return Explained(f"{where}{error.strerror}.", "Fix it or choose another path", Code.USAGE)
        case OSError() if str(error):
            return Explained(f"{str(error).rstrip('.')}.", "Correct it or choose another place", Code.USAGE)
        case MemoryError():
            return Explained("The command ran out of memory.", "Free some, or ask for less", Code.FAILED)
        case UnicodeEncodeError():
            what = shown(error.object[error.start : error.end], 20)
            return Explained(f"{what} cannot be written as {error.encoding}.", "Use text that is UTF-8", Code.USAGE)
    return Explained(f"Internal error: {_described(error)}", f"For a traceback: {_again_with_debug()}", Code.FAULT)


#: What a command that reads the ledger ends with when it cannot.
UNREAD = (Unreachable, Refused, NoRedis)


def unread_ledger(error: BaseException) -> Trouble:
    """What the JSON of a command says of a ledger that could not be read."""
    explained = explain(error)
    return Trouble("ledger", with_fix(explained.sentence, explained.hint))


@contextmanager
def unread_as_json(shape: Mapping[str, Any], *, as_json: bool) -> Iterator[None]:
    """Print `shape`, the keys of a list that is null, with the reason in `errors` before an UNREAD ends the command."""
    try:
        yield
    except UNREAD as error:
        if as_json:
            from mistudio_cli.terminal import output
            from mistudio_cli.views import json_shapes

            output.data_json({"read_at": None, **shape, "errors": json_shapes.errors((unread_ledger(error),))})
        raise


def _of_redis(error: Unreachable | Refused) -> Explained:
    see = "See: mistudio doctor"
    match error:
        case NotRedis():
            return Explained(f"{error}.", f"Check the Redis URL. {see}", Code.UNREACHABLE)
        case Silent():
            return _of_silent(error, see)
        case Replica():
            fix = "Name the master in the Redis URL, or let Sentinels: sentinel://HOST1:PORT,HOST2:PORT/MASTER/DB"
            return Explained(f"{error}.", fix, Code.UNREACHABLE)
        case NoMaster():
            fix = f"Check the Sentinels and the master's name in the Redis URL. {see}"
            return Explained(f"Redis cannot be reached: {error}.", fix, Code.UNREACHABLE)
        case Unable():
            return Explained(f"Redis cannot serve this now: {error}.", see, Code.UNREACHABLE)
        case NotPermitted():
            reason = re.sub(r"^NOPERM |.*@user_script: ?\d+: ", "", str(error)).rstrip(". ")
            return Explained(f"The Redis user lacks the right to do this: {reason}.", _WITH_RIGHTS, Code.UNREACHABLE)
        case Unreachable():
            return Explained(f"Redis cannot be reached: {_reason(error)}.", see, Code.UNREACHABLE)
    return Explained(f"Redis refuses: {str(error).rstrip('.')}.", see, Code.UNREACHABLE)


def _of_silent(error: Silent, see: str) -> Explained:
    """Names the process of a Redis that does not answer, and what helps, where it is one of this machine."""
    from mistudio_cli.monitor.collector.part_errors import hung_redis
    from mistudio_cli.session import current_settings, url_in_force
    from tasks.redis_client.redis_connection import parse_url

    try:
        settings = current_settings()
        address = parse_url(url_in_force(settings))
    except UserError:
        return Explained(f"Redis at {error}.", see, Code.UNREACHABLE)
    who, fix = hung_redis(address, settings.places) if _is_of(error, address.shown) else ("", "")
    sentence = f"Redis at {error}.".replace(" does not answer", f"{who} does not answer", 1)
    return Explained(sentence, fix or see, Code.UNREACHABLE)


_WITH_RIGHTS = "Connect as a user of another role; what each may do: mistudio fleet acl"


def _reason(error: Unreachable) -> str:
    """What happened, or why the home's own server ended when that is the one and its folder shows it."""
    from mistudio_cli.redis import redis_folder, redis_server
    from mistudio_cli.session import current_settings

    try:
        settings = current_settings()
    except UserError:
        return str(error)
    is_own = _is_of(error, str(settings.places.redis_socket)) and redis_server.was_started(settings.places)
    return (redis_folder.fault(settings.places) if is_own else None) or str(error)


def _is_of(error: Unreachable, address: str) -> bool:
    """Whether the error is that of this address, as it is shown, and not of one that `join` was given."""
    return re.match(rf"{re.escape(address)}(?=[: ])", str(error)) is not None


def _described(error: BaseException) -> str:
    from tasks.parsing.redact import redact

    try:
        return redact(f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001 - an exception that cannot even be written
        return type(error).__name__


_LONGEST_COMMAND = 300


def _again_with_debug() -> str:
    import shlex

    from tasks.parsing.redact import redact

    words = redact(shlex.join(["mistudio", "--debug", *sys.argv[1:]]))
    return words if len(words) <= _LONGEST_COMMAND else "the same command with --debug after mistudio"
