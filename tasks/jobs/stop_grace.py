"""How long a job that has to stop may take for its checkpoint, by the measured time of the last one.

The job writes the measured time into its work folder; its slot reads it there when it stops the job. So it holds while
Redis is away, and for the next attempt.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.paths import replace_text

_FILE = "stop-time.json"

#: Seconds in which a job that was asked to stop may write its checkpoint, if its kind sets no other.
STOP_GRACE_S = 20.0

#: The grace is this many times what the job measured, because a stop may come when the machine is busiest; and the
#: longest that it may be, because a shutdown waits for it.
FACTOR, LONGEST_S = 3.0, 120.0


def record_stop_time(workdir: Path, seconds: float) -> None:
    """Write that the job takes so long from a request to stop to a whole checkpoint of all that it makes."""
    replace_text(workdir / _FILE, json.dumps({"seconds": round(seconds, 3)}))


def recorded_stop_time(workdir: Path) -> float | None:
    """What the job wrote last; None where it wrote nothing that can be read."""
    try:
        return max(0.0, float(json.loads((workdir / _FILE).read_text(encoding="utf-8"))["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stop_grace_s(default_s: float, measured_s: float | None) -> float:
    """Seconds from the request to stop to the kill: the kind's own, or more where a checkpoint takes longer."""
    return default_s if measured_s is None else max(default_s, min(LONGEST_S, FACTOR * measured_s))
