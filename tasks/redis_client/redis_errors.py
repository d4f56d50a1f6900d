"""What a call to Redis can end with besides a reply: `Unreachable` and its kinds, or `Refused`."""

from __future__ import annotations


class Unreachable(ConnectionError):
    """Redis could not be reached, or went away in the middle of a call."""


class Silent(Unreachable):
    """Something takes the connection and does not answer in time."""


class NotRedis(Unreachable):
    """Something answers, but not as Redis does."""


class Unable(Unreachable):
    """Redis answers, but cannot serve now: it is full, read-only, loading its data or failing over."""


class Replica(Unable):
    """Redis answers, but is a replica: what it holds may be old, and it takes no writes."""


class NoMaster(Unreachable):
    """No Sentinel answers, or those that do know no master of that name."""


class Refused(Exception):
    """Redis answered a command with an error."""


class NotPermitted(Refused):
    """The Redis user of the connection lacks the right to a command, a key or a channel."""
