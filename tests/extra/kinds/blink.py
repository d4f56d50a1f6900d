"""`blink`: a quick job that runs in the slot itself."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.job import JobKind, option


@dataclass(frozen=True)
class Params:
    note: str = option("", help="comes back as the result")


KIND = JobKind("blink", queue="high_priority", params=Params, summary="Blink", module=__name__, in_slot=True)


def run(params: Params, context: object) -> dict:
    return {"note": params.note}
