"""The profile `jetson` on what looks like one: a single GPU whose memory is the machine's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.jobs.record import State
from tests.conftest import until
from tests.supervisor.conftest import Home
from tests.supervisor.test_workers import Cli

#: A driver that knows one GPU, and says as on a Jetson that it has no memory of its own.
ONE_GPU = {"FAKE_GPUS": "1", "FAKE_MemoryInfo": "3"}


@pytest.fixture
def cli(home: Home, driver: Path) -> Cli:
    cli = Cli(home)
    cli.environment |= {"LD_LIBRARY_PATH": str(driver), **ONE_GPU}
    return cli


def test_one_worker_runs_one_gpu_job_at_a_time_and_others_beside_it(cli: Cli) -> None:
    assert cli("workers start jetson").returncode == 0
    (worker,) = cli.read_json("workers status --json")["workers"]
    assert (worker["name"].split("@")[0], worker["slots"]) == ("all-queues", 4)
    naps = {cli.nap(ticks) for ticks in (100_000, 100_001, 100_002)}

    def running() -> set[str]:
        return {job_id for job_id in naps if cli.job(job_id).state is State.RUNNING}

    until(lambda: len(running()) == 1, "one job to have the GPU")
    (holder,) = running()
    cli.under_way(holder)
    quick = cli.read_json("submit blink --json")["id"]
    assert cli.ended(quick).state is State.SUCCEEDED
    assert running() == {holder}, "the others keep no slot that the quick job needs"
    assert cli.job(holder).device == "cuda:0"

    assert cli(f"jobs cancel {holder}").returncode == 0
    naps.remove(holder)
    until(lambda: len(running()) == 1, "the next job to have the GPU")
    (holder,) = running()
    cli.under_way(holder)
    assert running() == {holder}
    assert cli(f"jobs cancel {' '.join(naps)}").returncode == 0
    assert {cli.job(job_id).state for job_id in naps} == {State.CANCELLED}
