"""Which jobs a command means: ids and names, or flags that choose; the same flags for every command.

Each flag may be repeated, or have several words with commas: any of them fits. Different flags must all fit.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mistudio_cli import completion, session
from mistudio_cli.jobs.lookup import find_jobs
from mistudio_cli.terminal import output
from tasks.errors import UserError
from tasks.jobs.kind import Job, State, kinds
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.parsing.setting_types import UNITS
from tasks.queues import QUEUE_NAMES

Words = list[str] | None

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_PAGE = 1000

#: The word for the owner of what this command would submit.
ME = "me"


def _words(flag: str, about: str, values: Callable[[], Sequence[str]] | None = None) -> Any:
    return Annotated[Words, typer.Option(flag, help=about, autocompletion=completion.of(values))]


#: The flags, by the names of Selection's fields.
FLAGS: dict[str, Any] = {
    "state": _words("--state", "Only jobs in these states: running,failed", lambda: [str(state) for state in State]),
    "kind": _words("--kind", "Only jobs of these kinds", lambda: list(kinds())),
    "queue": _words("--queue", "Only jobs of these queues", lambda: QUEUE_NAMES),
    "name": _words("--name", "Only jobs of these names", completion.names),
    "tag": _words("--tag", "Only jobs with any of these tags", completion.tags),
    "owner": _words("--owner", "Only jobs of these owners; me: your own"),
    "since": Annotated[str | None, typer.Option(help="Only jobs submitted since: 2h, 3d, 2026-11-24T08:00")],
    "until": Annotated[str | None, typer.Option(help="Only jobs submitted until then")],
}
_ALL = Annotated[bool, typer.Option("--all", help="All jobs")]


@dataclass(frozen=True)
class Selection:
    """The values of FLAGS, as they were given, and whether all jobs are meant."""

    state: Words = None
    kind: Words = None
    queue: Words = None
    name: Words = None
    tag: Words = None
    owner: Words = None
    since: str | None = None
    until: str | None = None
    every: bool = False

    @property
    def is_given(self) -> bool:
        """Whether there is any."""
        return any(getattr(self, field.name) for field in fields(self))

    def filter(self) -> Filter:
        """The jobs that are meant. Raises UserError for a state, kind, queue or time that there is not."""
        states, known_kinds = _split(self.state), _split(self.kind)
        queues = _split(self.queue)
        _check("--state", states, lambda: [str(known) for known in State])
        _check("--kind", known_kinds, lambda: list(kinds()))
        _check("--queue", queues, lambda: list(QUEUE_NAMES))
        now = datetime.now(UTC)
        first, last = _parse_time("--since", self.since, now), _parse_time("--until", self.until, now)
        if first is not None and last is not None and first > last:
            raise UserError(f"--since {self.since} is later than --until {self.until}.", "Exchange them")
        return Filter(states, known_kinds, queues, _split(self.name), _split(self.tag), first, last, self._owners())

    def _owners(self) -> tuple[str, ...]:
        """The owners that are meant; `me` is who would own a job that is submitted now."""
        owners = _split(self.owner)
        return tuple(dict.fromkeys(session.current_owner() if owner == ME else owner for owner in owners))

    def jobs(self, ledger: Ledger, words: Sequence[str]) -> list[Job]:
        """The jobs with these ids or names, else those that the flags choose, newest first.

        UserError without either.
        """
        if bool(words) == self.is_given:
            found = "not both" if words else "--all for every one"
            raise UserError("No jobs selected.", f"Name some, or choose by {_all_flags()}; {found}")
        return find_jobs(ledger, words) if words else list(_every_page(ledger, self.filter()))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is done to jobs that were chosen and not named."""
        if self.is_given and not yes:
            import shlex

            output.ask(question, shlex.join(["mistudio", *sys.argv[1:], "--yes"]))


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that choose jobs, and it a Selection as `chosen`."""
    return _with_flags(command, FLAGS)


def selecting_all(command: Callable[..., None]) -> Callable[..., None]:
    """The same with --all, for commands that do something to what was chosen."""
    return _with_flags(command, {**FLAGS, "every": _ALL})


def _with_flags(command: Callable[..., None], flags: dict[str, Any]) -> Callable[..., None]:
    @functools.wraps(command)
    def chosen_by_flags(**values: Any) -> None:
        command(chosen=Selection(**{name: values.pop(name) for name in flags}), **values)

    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "chosen"
    ]
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False if hint is _ALL else None, annotation=hint
        )
        for name, hint in flags.items()
        if name not in hints
    ]
    del chosen_by_flags.__dict__["__wrapped__"]  # its signature is not this one
    chosen_by_flags.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    chosen_by_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *more]}
    return chosen_by_flags


def _every_page(ledger: Ledger, wanted: Filter) -> Iterator[Job]:
    following: str | None = None
    while True:
        page = ledger.page(wanted, _PAGE, following)
        yield from page.jobs
        if (following := page.next) is None:
            return


def _all_flags() -> str:
    *most, last = (f"--{name}" for name in FLAGS)
    return f"{', '.join(most)} or {last}"


def _split(words: Words) -> tuple[str, ...]:
    """The words of a flag that may be repeated and have commas, each once."""
    found = (part.strip() for word in words or () for part in word.split(","))
    return tuple(dict.fromkeys(part for part in found if part))


def _parse_time(flag: str, value: str | None, now: datetime) -> float | None:
    """Seconds since the epoch: of an age before `now`, or of an ISO 8601 time, local where it names no zone."""
    if value is None:
        return None
    if age := _AGE.fullmatch(value):
        return now.timestamp() - float(age[1]) * UNITS[age[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise UserError(
            f"{flag} {value!r} is neither an age nor a time.", f"{flag} 2h, or {flag} 2026-11-24T08:00"
        ) from None


def _check(flag: str, words: Sequence[str], known: Callable[[], Sequence[str]]) -> None:
    for word in words:
        if word not in known():
            raise UserError(f"{flag} {word!r} is none of: {', '.join(known())}.", "See: mistudio jobs ls --help")
