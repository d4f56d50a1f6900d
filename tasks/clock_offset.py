"""How far this host's clock may be from that of Redis: seconds are a warning, with a minute no worker consumes."""

from __future__ import annotations

from tasks.host_heartbeat import measure_clock_offset
from tasks.wire import Client

#: An offset in seconds that is worth a warning, and one that is an error.
CLOCK_WARNING_S, CLOCK_ERROR_S = 5.0, 60.0

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


def describe_offset(offset_s: float) -> str:
    """Such as "600 s ahead of", for a clock minus that of Redis."""
    return f"{abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'}"
