"""How far this host's clock may be from that of Redis: seconds are a warning, with a minute no worker consumes."""

from __future__ import annotations

import time
from collections.abc import Callable

from tasks.fleet.host_heartbeat import measure_clock_offset
from tasks.redis_client.redis_connection import Client
from tasks.system.sustained_condition import Lasting

#: An offset in seconds that is worth a warning, and one that is an error.
CLOCK_WARNING_S, CLOCK_ERROR_S = 5.0, 60.0

#: Seconds with an offset that is an error after which a worker at work drains: a virtual machine that was paused has
#: its clock set right meanwhile.
CLOCK_PATIENCE_S = 180.0

CLOCK_FIX = "timedatectl set-ntp true"


def why_clock_is_wrong(client: Client) -> str:
    """Why a worker may not consume with this host's clock, or "". Raises Unreachable, or Refused if TIME is forbidden.

    Leases are by the clock of Redis and would hold.
    """
    offset_s = measure_clock_offset(client)
    if abs(offset_s) > CLOCK_ERROR_S:  # a process that was stopped meanwhile measured what is not so
        offset_s = measure_clock_offset(client)
    if abs(offset_s) <= CLOCK_ERROR_S:
        return ""
    return (
        f"its clock is {describe_offset(offset_s)} that of Redis, so dates in its records and logs would be wrong, and "
        f"TLS would judge certificates by them: {CLOCK_FIX}, or where Redis runs if that clock is the wrong one"
    )


class ClockWatch:
    """A look at the clock now and then, while a worker consumes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._wrong = Lasting(clock)

    def why_wrong(self, client: Client) -> str:
        """Why the worker must stop; "" before the clock was wrong for minutes. Raises as `why_clock_is_wrong`."""
        why = why_clock_is_wrong(client)
        return why if self._wrong.is_so_for(CLOCK_PATIENCE_S, now=bool(why)) else ""


def describe_offset(offset_s: float) -> str:
    """Such as "600 s ahead of", for a clock minus that of Redis."""
    return f"{abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'}"
