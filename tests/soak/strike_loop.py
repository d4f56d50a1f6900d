"""A strike each second, whatever is being repaired meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.soak.processes import Role
from tests.soak.strikes import Siege, Strike, Targets

EVERY_S = 1.0

#: A machine too slow to accept this many jobs between two strikes is given the time: else no job would ever end there.
JOBS_A_STRIKE = 2

#: Nobody is waited for whom there is not: the next second brings another.
PATIENCE_S = 0.5

#: What costs a whole home its processes comes less often than in a siege with pauses: jobs shall end meanwhile. Redis
#: dies no more often than its supervisor, whose successor has no pauses to keep between its starts.
GALE: Targets = {
    Role.RUNNER: (13, ("KILL", "KILL", "KILL", "TERM", "QUIT", "STOP")),
    Role.SLOT: (10, ("KILL", "KILL", "KILL", "TERM", "QUIT", "STOP", "STOP past the lease")),
    Role.WORKER: (6, ("KILL", "KILL", "KILL", "KILL", "TERM", "QUIT", "STOP", "STOP for good")),
    Role.SUPERVISOR: (2, ("KILL", "KILL", "TERM", "QUIT", "STOP")),
    Role.REDIS: (2, ("KILL", "KILL", "KILL", "TERM", "STOP")),
}


def rage(siege: Siege, plan: Iterable[Strike], jobs: Callable[[], int], is_over: Callable[[], bool]) -> None:
    """Strike until it is over and all is repaired; raises what a repair raised. `jobs` counts the jobs accepted."""
    with ThreadPoolExecutor(32) as pool:
        repairs = []
        for strike in plan:
            next_at = time.monotonic() + EVERY_S
            target = siege.hit(strike, PATIENCE_S)
            if target is not None:
                repairs.append(pool.submit(siege.repair, strike, target))
            while not is_over() and (time.monotonic() < next_at or jobs() < JOBS_A_STRIKE * len(siege.hits)):
                time.sleep(0.05)
            if is_over():
                break
    for repair in repairs:
        repair.result()
