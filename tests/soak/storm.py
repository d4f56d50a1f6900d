"""A strike each second, whatever is being mended meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.soak.census import Role
from tests.soak.strikes import Siege, Strike, Targets

EVERY_S = 1.0

#: Nobody is waited for whom there is not: the next second brings another.
PATIENCE_S = 0.5

#: What costs a whole home its processes comes less often than in a siege with pauses: jobs shall end meanwhile.
GALE: Targets = {
    Role.RUNNER: (14, ("KILL", "KILL", "KILL", "TERM", "QUIT", "STOP")),
    Role.SLOT: (11, ("KILL", "KILL", "KILL", "TERM", "QUIT", "STOP", "STOP past the lease")),
    Role.WORKER: (6, ("KILL", "KILL", "KILL", "KILL", "TERM", "QUIT", "STOP", "STOP for good")),
    Role.SUPERVISOR: (1, ("KILL", "KILL", "TERM", "QUIT", "STOP")),
    Role.REDIS: (3, ("KILL", "KILL", "KILL", "TERM", "STOP")),
}


def rage(siege: Siege, plan: Iterable[Strike], is_over: Callable[[], bool]) -> None:
    """Strike until it is over, then wait until all is mended; raises what mending raised."""
    with ThreadPoolExecutor(32) as menders:
        mending = []
        for strike in plan:
            if is_over():
                break
            next_at = time.monotonic() + EVERY_S
            target = siege.hit(strike, PATIENCE_S)
            if target is not None:
                mending.append(menders.submit(siege.mend, strike, target))
            time.sleep(max(0.0, next_at - time.monotonic()))
    for mended in mending:
        mended.result()
