"""Two hosts with supervisors of their own: names with a host mean that host, and one with another store is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.errors import Code
from tests.conftest import until
from tests.machines.network import Network, reason_to_skip

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

MISTUDIO = str(Path(sys.executable).parent / "mistudio")


class Person:
    """Somebody who types commands on each of the hosts; the store is shared unless she says otherwise."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder

    def type(self, host: str, words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.network.command(host, MISTUDIO, *words.split()),
            env={
                **os.environ,
                "MISTUDIO_HOME": str(self.folder / host),
                "MISTUDIO_STORE": str(self.folder / "store"),
                "CELERY_BROKER_URL": self.network.url_of_hosts,
                **environment,
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == code, f"{host}: {words}\n{done.stdout}\n{done.stderr}"
        return done

    def workers(self, host: str) -> dict[str, dict[str, Any]]:
        """The workers as that host sees them, but for those that only finish their last jobs."""
        rows = json.loads(self.type(host, "workers status --json").stdout)["workers"]
        return {row["name"]: row for row in rows if row["state"] not in ("draining", "stopping")}


@pytest.fixture
def person(short_tmp: Path) -> Iterator[Person]:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    network = Network(short_tmp, "a", "b", "c")
    try:
        yield Person(network, short_tmp)
    finally:
        network.close()


def test_names_with_a_host_mean_that_host_and_another_store_is_refused(person: Person) -> None:
    for host in ("a", "b"):
        person.type(host, "workers start --queues training --name w")
    assert set(person.workers("a")) == {"w@a", "w@b"} == set(person.workers("b"))

    for name in ("w@nowhere", "x@b", "nosuch"):
        refused = person.type("a", f"workers stop {name}", Code.NOT_FOUND)
        assert refused.stderr.splitlines()[0] == f"There is no worker {name}."
    assert {row["state"] for row in person.workers("a").values()} == {"running"}

    before = person.workers("b")["w@b"]["pid"]
    assert person.type("a", "workers restart w@b").stderr == "w@b has been replaced\n"
    assert person.workers("b")["w@b"]["pid"] != before

    other = str(person.folder / "other")
    person.type("c", "workers start --queues training --name w", Code.FAILED, MISTUDIO_STORE=other)
    row = person.workers("a")["w@c"]
    assert row["state"] == "refused"
    assert row["refusal"] == (
        f"its store {other} is empty, and the other workers' is store "
        f"{json.loads((person.folder / 'store' / '.mistudio-store').read_text())['id']}: mount it there"
    )
    person.type("c", "workers stop --all --now", MISTUDIO_STORE=other)

    assert person.type("a", "workers stop w@b --now").stderr == "w@b has ended\n"
    assert set(person.workers("a")) == {"w@a"}
    assert person.workers("b")["w@b"]["state"] == "stopped"

    nap = "submit describe --artifact tokens/none"
    person.type("a", nap, Code.USAGE)
    until(lambda: person.workers("a")["w@a"]["state"] == "running")
