"""`litter`: a job that makes several artifacts, one for each name, for tests of what becomes of them."""

from __future__ import annotations

import dataclasses
import os
import signal
from dataclasses import dataclass

from tasks.jobs.kind import JobKind, option
from tasks.jobs.multi_result import Parts


@dataclass(frozen=True)
class Params:
    of: str = option("a,b,c", help="the names, with commas")
    bad: str = option("", help="the names of those that fail")
    die_after: str = option("", help="the name after whose publishing the first attempt is killed")


def makes(params: Params, name: str) -> dict[str, Params]:
    return {f"{name}-{one}": dataclasses.replace(params, of=one) for one in params.of.split(",")}


KIND = JobKind(
    "litter", queue="training", params=Params, summary="Breed", module=__name__, produces="saes", makes=makes
)


def run(params: Params, context: object) -> Parts:
    parts = Parts({})
    for name, own in makes(params, context.name).items():
        if own.of in params.bad.split(","):
            parts.failed[name] = "it is lame."
            continue
        folder = context.output / name
        folder.mkdir()
        (folder / "who").write_text(f"{own.of} {context.attempt}")
        parts.made[name] = {"legs": 4, "who": own.of}
        if own.of == params.die_after and context.attempt == 1:
            result = {"job": context.job_id, "attempt": 1, "result": parts.made[name]}
            context.store.seal(folder, result)
            context.store.publish(folder, "saes", name)
            os.kill(os.getpid(), signal.SIGKILL)
    return parts
