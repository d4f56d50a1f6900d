"""Which jobs a command means: ids and names, or flags that choose; the same flags for every command.

Each flag may be repeated, or have several words with commas: any of them fits. Different flags must all fit.
"""

from __future__ import annotations

import functools
import inspect
import re
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
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tasks.parsing.setting_types import UNITS
from tasks.queues import QUEUE_NAMES

Words = list[str] | None

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_PAGE = 1000


def _kinds() -> list[str]:
    from tasks.jobs.kind import kinds  # which only who names one needs

    return list(kinds())


def _words(flag: str, about: str, values: Callable[[], Sequence[str]] | None = None) -> Any:
    return Annotated[Words, typer.Option(flag, help=about, autocompletion=completion.of(values))]


#: The flags, by the names of Selection's fields.
FLAGS: dict[str, Any] = {
    "state": _words("--state", "Only jobs in these states: running,failed", lambda: [str(state) for state in State]),
    "kind": _words("--kind", "Only jobs of these kinds", _kinds),
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
        """The jobs that are meant. Raises UserError for a state, kind, queue or time that there is not.

        So it does for a flag without a word, as of a variable that is not set: no condition would mean every job.
        """
        states, known_kinds = _split("--state", self.state), _split("--kind", self.kind)
        queues, names, tags = _split("--queue", self.queue), _split("--name", self.name), _split("--tag", self.tag)
        _check("--state", states, lambda: [str(known) for known in State])
        _check("--kind", known_kinds, _kinds)
        _check("--queue", queues, lambda: list(QUEUE_NAMES))
        now = datetime.now(UTC)
        first, last = _parse_time("--since", self.since, now), _parse_time("--until", self.until, now)
        if first is not None and last is not None and first > last:
            raise UserError(f"--since {self.since} is later than --until {self.until}.", "Exchange them")
        return Filter(states, known_kinds, queues, names, tags, first, last, self._owners())

    def _owners(self) -> tuple[str, ...]:
        """The owners that are meant; `me` is who would own a job that is submitted now."""
        owners = _split("--owner", self.owner)
        return tuple(dict.fromkeys(session.current_owner() if owner == session.ME else owner for owner in owners))

    def jobs(self, ledger: Ledger, words: Sequence[str]) -> list[Job]:
        """The jobs with these ids or names, else those that the flags choose, newest first.

        UserError without either, and for both.
        """
        if words and self.is_given:
            raise both_given()
        if not words and not self.is_given:
            raise UserError("No jobs selected.", f"Name some, or choose by {_all_flags()}; --all for every one")
        return find_jobs(ledger, words) if words else list(_every_page(ledger, self.filter()))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is done to jobs that were chosen and not named."""
        if self.is_given and not yes:
            output.ask(question, "--yes")


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


def both_given() -> UserError:
    """Says that jobs are both named and chosen by flags."""
    return UserError("Jobs are named, and chosen by flags too.", "Leave out the names, or the flags")


def _all_flags() -> str:
    *most, last = (f"--{name}" for name in FLAGS)
    return f"{', '.join(most)} or {last}"


def _split(flag: str, words: Words) -> tuple[str, ...]:
    """The words of a flag that may be repeated and have commas, each once. UserError where it is given without any."""
    found = (part.strip() for word in words or () for part in word.split(","))
    each = tuple(dict.fromkeys(part for part in found if part))
    if words and not each:
        raise UserError(f"{flag} is empty.", "Give it a value, or leave it out")
    return each


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
