"""What is compared takes turns, so that a noisy machine hurts all of it alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def take_turns(
    steps: Mapping[str, Callable[[], object]], warm_up: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Median seconds of each step over `rounds` rounds, after a few that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warm_up + rounds):
        for name, step in steps.items():
            began = clock()
            step()
            if turn >= warm_up:
                seconds[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}
