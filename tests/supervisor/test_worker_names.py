"""Names of workers: what `stop`, `drain` and `restart` answer to those that do not run, and `start` to taken ones."""

from __future__ import annotations

import pytest

from mistudio_cli.errors import Code
from tests.supervisor.conftest import Home
from tests.supervisor.test_workers import Cli


@pytest.mark.parametrize("verb", ["stop", "drain", "restart"])
def test_a_name_that_is_no_workers_is_not_found_without_a_supervisor_too(home: Home, verb: str) -> None:
    refused = Cli(home)(f"workers {verb} foo")
    assert (refused.returncode, refused.stderr) == (
        Code.NOT_FOUND,
        "There is no worker foo.\n  See: mistudio workers status\n",
    )


def test_a_worker_that_has_stopped_already_is_said_to_have(home: Home) -> None:
    cli = Cli(home)
    for queue in ("training", "datasets"):
        assert cli(f"workers start --queues {queue}").returncode == 0
    assert cli("workers stop worker-training").returncode == 0
    again = cli("workers stop worker-training")
    assert (again.returncode, again.stderr) == (0, "worker-training has stopped already.\n")
    both = cli("workers stop worker-training worker-datasets")
    assert both.returncode == 0
    assert both.stderr.splitlines()[-2:] == [
        "worker-training has stopped already.",
        "The workers have stopped. What waits in the queues stays.",
    ]
    assert cli("workers stop foo").returncode == Code.NOT_FOUND


def test_workers_of_other_queues_start_beside_each_other_and_a_taken_name_is_refused_as_that(
    home: Home,
) -> None:
    cli = Cli(home)
    assert cli("workers start --queues training,low_priority").returncode == 0
    beside = cli("workers start --queues datasets,processing")
    assert (beside.returncode, beside.stderr.splitlines()[-1]) == (0, "worker-datasets-processing runs.")
    taken = cli("workers start --queues datasets --name worker-datasets-processing")
    assert (taken.returncode, taken.stderr) == (
        Code.USAGE,
        "A worker worker-datasets-processing runs already, with other queues or options.\n"
        "  Choose another --name, or first: mistudio workers stop worker-datasets-processing\n",
    )
