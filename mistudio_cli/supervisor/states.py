"""The life of a supervised worker: its states, transitions and timeouts. Pure, so that whole lives can be tested.

A worker is RUNNING when it has answered, not when it has merely not died. Every death is followed by a longer pause;
one that never answered in several lives, or did but died young again and again, is FATAL. One that lives but has said
nothing for long while Redis was there is HUNG: it is ended and replaced.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache

from tasks.jobs.stop_grace import STOP_GRACE_S


class Status(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    HUNG = "hung"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FATAL = "fatal"


#: States without a process, now or soon.
IDLE = frozenset({Status.STOPPED, Status.FATAL})


class Event(StrEnum):
    """What can happen to a worker."""

    START = "start"  # somebody wants it to run
    ANSWERED = "answered"  # it consumes its queues
    SILENT = "silent"  # it lives, but says nothing any more
    DIED = "died"  # its process ended
    RETRY = "retry"  # its pause is over
    GIVE_UP = "give up"  # it died too often, without an answer or young
    STOP = "stop"  # somebody wants it to end


#: Every arrow there is.
ARROWS: dict[tuple[Status, Event], Status] = {
    (Status.STOPPED, Event.START): Status.STARTING,
    (Status.FATAL, Event.START): Status.STARTING,
    (Status.STARTING, Event.ANSWERED): Status.RUNNING,
    (Status.STARTING, Event.DIED): Status.BACKOFF,
    (Status.STARTING, Event.STOP): Status.STOPPING,
    (Status.RUNNING, Event.DIED): Status.BACKOFF,
    (Status.RUNNING, Event.STOP): Status.STOPPING,
    (Status.RUNNING, Event.SILENT): Status.HUNG,
    (Status.HUNG, Event.DIED): Status.BACKOFF,
    (Status.HUNG, Event.STOP): Status.STOPPING,
    (Status.BACKOFF, Event.RETRY): Status.STARTING,
    (Status.BACKOFF, Event.GIVE_UP): Status.FATAL,
    (Status.BACKOFF, Event.STOP): Status.STOPPED,
    (Status.STOPPING, Event.DIED): Status.STOPPED,
    (Status.FATAL, Event.STOP): Status.STOPPED,
}

#: After TERM a worker finishes its jobs; after QUIT they are checkpointed and put back; after KILL nothing is left.
#: An idle worker takes up to four seconds to end after TERM.
TERM_GRACE_S = 10.0

#: What a worker needs beyond the time that its jobs may take for their checkpoints.
_AFTER_CHECKPOINTS_S = 10.0

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0

#: A worker without a heartbeat for this long, by its supervisor's clock and while Redis answered, is HUNG. After
#: an outage of Redis Celery may sleep half a minute before it tries again.
SILENCE_S = 120.0

#: A worker that ran this long starts its count of deaths again at 0.
SOUND_AGE_S = 60.0

#: Lives without an answer, one after the other, until a worker is FATAL.
MUTE_LIVES = 4

#: Deaths of a worker that was never sound in between until it is FATAL: three minutes at least of trying in vain.
YOUNG_DEATHS = 11


@cache
def quit_grace_s() -> float:
    """Seconds from QUIT to KILL: as long as the slowest kind of job may take for its checkpoint, and then some."""
    from tasks.jobs.kind import longest_stop_grace_s  # a command that asks the supervisor needs none of it

    return longest_stop_grace_s() + _AFTER_CHECKPOINTS_S


def hung_grace_s() -> float:
    """The same for a worker that says nothing: it reads no measured times, so its jobs have the usual grace."""
    return STOP_GRACE_S + _AFTER_CHECKPOINTS_S


def after(status: Status, event: Event) -> Status:
    """Where the arrow leads; KeyError when there is none."""
    return ARROWS[status, event]


def pause_s(deaths: int) -> float:
    """How long to wait before the next life after `deaths` (from 1) in a row."""
    doublings = min(deaths - 1, 16)  # past the bound anyway, and no number to overflow
    return min(FIRST_PAUSE_S * 2**doublings, LONGEST_PAUSE_S)
