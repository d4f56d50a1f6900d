"""`python -P -m mistudio_cli.health`: what a container's health check asks.

Exit code 0 is well, 1 comes with a sentence. Without flags it asks this home's supervisor for its workers; with
`--api PORT` it asks the REST interface.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys

from mistudio_cli import settings
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.rest.token_sources import TOKEN_VARIABLE
from mistudio_cli.supervisor.states import Status
from tasks.paths import Places

#: A worker on its way up, gone silent or given up. One that ends is well: its jobs are.
_NOT_WELL = (Status.STARTING, "refused", Status.BACKOFF, Status.HUNG, Status.FATAL)

_TIMEOUT_S = 5.0


def main(argv: list[str]) -> int:
    """Say what is wrong, if anything; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mistudio_cli.health", description="Is what runs in this container well?")
    parser.add_argument("--api", type=int, metavar="PORT", help="ask the REST interface on this port of the loopback")
    port = parser.parse_args(argv).api
    trouble = trouble_of_workers(settings.load().places) if port is None else trouble_of_api(port)
    if trouble is not None:
        sys.stdout.write(f"{trouble}\n")
    return 0 if trouble is None else 1


def trouble_of_workers(places: Places) -> str | None:
    """What is wrong with this home's workers; None when the supervisor and each of them have answered."""
    try:
        status = supervisor_client.status(places)
    except TimeoutError as error:
        return f"No answer: {error}."
    if status is None or not status["workers"]:
        return "No workers run." if status else "No supervisor answers."
    silent = [f"{worker['name']} is {worker['state']}" for worker in status["workers"] if worker["state"] in _NOT_WELL]
    return f"{', '.join(silent)}." if silent else None


def trouble_of_api(port: int) -> str | None:
    """What is wrong with the REST interface on the loopback; None when it can read Redis."""
    token = os.environ.get(TOKEN_VARIABLE)
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        link.request("GET", "/api/v1/workers/queues", headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = link.getresponse()
        return None if answer.status == 200 else f"The REST interface answers {answer.status} {answer.reason}."
    except (OSError, http.client.HTTPException) as error:
        return f"The REST interface does not answer: {error}."
    finally:
        link.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
