"""`linger`: a `nap` whose process does not exit once its job has ended."""

from __future__ import annotations

import atexit
import dataclasses
import time

from tasks.kinds import nap

KIND = dataclasses.replace(nap.KIND, name="linger", summary="Linger", module=__name__)


def run(params: nap.Params, context: object) -> dict:
    atexit.register(time.sleep, 600)
    return nap.run(params, context)
