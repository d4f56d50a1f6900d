"""Exit codes, the exceptions that end a command with one, and a part of a reading that failed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tasks.errors import UserError


class Code(IntEnum):
    """The exit codes. Documented in docs/exit-codes.md, and only ever added to."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    OVER_QUOTA = 6
    FAULT = 70
    INTERRUPTED = 130
    READER_GONE = 141


MEANINGS: dict[Code, str] = {
    Code.OK: "The command did what it was asked.",
    Code.FAILED: "A job or worker it waited for did not end well, or a check of `doctor` failed.",
    Code.USAGE: "It cannot be done as asked: a wrong flag, value, name or file; the message says which.",
    Code.NOT_FOUND: "There is no such job, worker, host or log.",
    Code.UNREACHABLE: "Redis cannot be reached, does not answer, or refuses to serve.",
    Code.TIMED_OUT: "It took longer than `--timeout` allows; what was waited for continues.",
    Code.OVER_QUOTA: "The owner's quota of queued jobs has no room: nothing was submitted.",
    Code.FAULT: "An internal error of mistudio; `--debug` shows where.",
    Code.INTERRUPTED: "Ended by Ctrl-C.",
    Code.READER_GONE: "The reader of its output went away, as with `head`.",
}


class NotFound(UserError):
    """What was named is not there."""


class Failed(UserError):
    """What was waited for did not end well."""


class NoRedis(UserError):
    """The home's own Redis does not come up, or does not stay up."""


class TimedOut(UserError):
    """Waiting was given up; what was waited for continues."""


class Unresponsive(TimeoutError):
    """The supervisor of this home does not answer; `hint` is what helps."""

    def __init__(self, sentence: str, hint: str) -> None:
        super().__init__(sentence)
        self.hint = hint


@dataclass(frozen=True)
class Trouble:
    """Which part, why and what to do, in one sentence; `age_s` is that of the value that is shown instead, if any."""

    part: str
    message: str
    age_s: float | None = None


def with_fix(sentence: str, fix: str) -> str:
    """One sentence of two: what is wrong, and what to do."""
    return f"{sentence.rstrip('.')}; {fix[0].lower()}{fix[1:]}" if fix else sentence


def has_fix(sentence: str) -> bool:
    """Whether a sentence of `with_fix` says what to do."""
    return "; " in sentence
