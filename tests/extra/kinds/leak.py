"""`leak`: a job that writes the secrets of its process wherever a job can write something."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from tasks.jobs.kind import JobKind, option


@dataclass(frozen=True)
class Params:
    where: str = option("runner", help="only recorded")


KIND = JobKind("leak", queue="datasets", params=Params, summary="Leak", module=__name__, secrets=("HF_TOKEN",))


def run(params: Params, context: object) -> dict:
    secrets = f"401 for {os.environ['HF_TOKEN']} from {os.environ['CELERY_BROKER_URL']}"
    logging.warning("about to fail: %s", secrets)
    try:
        raise PermissionError(f"the cause: {secrets}")
    except PermissionError as error:
        raise ValueError(f"the end: {secrets}") from error
