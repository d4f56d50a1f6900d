"""Who is on the GPUs of one host, as another host shows it."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_devices import GIB
from tests.cli.test_rest_devices import process
from tests.conftest import until
from tests.machines.test_fleet import (
    Person,
    person,  # noqa: F401 - a fixture
)

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]


def test_another_host_shows_the_jobs_and_the_others_on_a_gpu(person: Person, driver: Path) -> None:  # noqa: F811
    job = "01kg9t2v8ch7mq"
    with process("tasks.runner", job) as ours, process("--token=hunter2hunter2") as theirs:
        fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PROCESSES": "2"}
        fake |= {"FAKE_PID_0": str(ours), "FAKE_PID_1": str(theirs)}
        person.type("a", "workers start --queues training --name w", **fake)

        def seen_from_b() -> Any:
            (host,) = json.loads(person.type("b", "hosts ls --json").stdout)["hosts"]
            return host["gpus"]

        (gpu,) = until(seen_from_b, "the GPU to be read")
        for words in ("hosts show a", "top --once"):
            assert f"pid {theirs} of {getpass.getuser()} (1.0 MiB)" in person.type("b", words, COLUMNS="200").stdout, (
                words
            )
    assert [(found["pid"], found["job"]) for found in gpu["processes"]] == [(ours, job), (theirs, None)]
    assert (gpu["others_bytes"], gpu["more_processes"]) == (2 * GIB, 0)
    assert "***" in gpu["processes"][1]["command"]
    assert "hunter2" not in json.dumps(gpu)
