"""Device leases: the requests and replies that the ledger and its callers share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.errors import UserError
from tasks.ledger.records import pairs, readable
from tasks.parsing.safe_text import shown

ANY, NONE = "any", "none"

_GB = 1e9


@dataclass(frozen=True)
class Card:
    """A device on offer. `key` is one for the same card on whichever host or container; `name` is "cuda:0".

    `total` and `used` are bytes, None when they cannot be read.
    """

    key: str
    name: str
    total: int | None = None
    used: int | None = None


@dataclass(frozen=True)
class LeaseRefusal:
    """Why a card was not leased: `jobs`, by name, fill its slots; else only `room` bytes are free."""

    name: str
    jobs: tuple[str, ...] = ()
    room: int = 0


@dataclass(frozen=True)
class Lease:
    """A device that a job holds: its card's key, and the bytes the job is expected to hold there (None: unknown)."""

    key: str
    expected: int | None


def read_leases(entries: list[str]) -> dict[str, Lease]:
    """The devices that jobs hold, by the jobs' ids, of a reply to HGETALL; what cannot be read is left out."""
    return dict(readable(lambda held: (held[0], read_lease(held[1])), pairs(entries).items()))


def read_lease(line: str) -> Lease:
    """What a job holds of a device. One of `UNREADABLE` when that is no lease."""
    expected, _, key = line.split(" ", 2)
    return Lease(key, int(expected) or None)


def read_refusals(text: str) -> list[LeaseRefusal]:
    """Why no card was leased, for each; nothing for an empty text."""
    refusals = json.loads(text) if text else []
    return [LeaseRefusal(r["name"], tuple(sorted(r.get("jobs", ()))), int(r.get("room", 0))) for r in refusals]


#: Of an index: no host has more cards, and Python reads no number of thousands of digits.
_MOST_DIGITS = 4


def read_gpu_option(option: str) -> tuple[int, ...] | None:
    """The indices of "0,1"; None for "any", nothing for "none". UserError for any other word."""
    words = [word.strip() for word in option.split(",")]
    if words == [ANY]:
        return None
    if words == [NONE]:
        return ()
    if all(word.isdecimal() and word.isascii() and len(word) <= _MOST_DIGITS for word in words):
        return tuple(dict.fromkeys(map(int, words)))
    raise UserError(
        f"--gpu {shown(option)} is neither any nor none nor indices such as 0,1.", "See: mistudio top --once"
    )


def explain(refusals: Sequence[LeaseRefusal], need: int | None) -> str:
    """Why none of these cards was leased, for those who wait: needs 12 GB, 9 are free on cuda:0."""
    held = [f"{refusal.name} is held by {_named(refusal.jobs)}" for refusal in refusals if refusal.jobs]
    full = [f"{_gigabytes(refusal.room)} are free on {refusal.name}" for refusal in refusals if not refusal.jobs]
    wants = [f"needs {_gigabytes(need)} GB" if need else "needs free memory"] if full else []
    return "; ".join([", ".join(wants + full), *held] if full else held)


def _named(jobs: Sequence[str]) -> str:
    return f"job {jobs[0]}" if len(jobs) == 1 else f"jobs {', '.join(jobs[:-1])} and {jobs[-1]}"


def _gigabytes(amount: int) -> str:
    return f"{round(amount / _GB, 1):g}"
