"""TAB offers values: of tables, of files, of the newest jobs; without Redis at once nothing, and never an error."""

from __future__ import annotations

import os
import subprocess

import pytest

from tasks.jobs.job_id import new_job_id
from tasks.jobs.kind import kinds
from tasks.jobs.record import Job, State
from tasks.queues import QUEUE_NAMES
from tests.cli.conftest import MISTUDIO, Cli
from tests.cli.test_saes import add_sae
from tests.conftest import PATIENCE_S, until


def offered(cli: Cli, typed: str, shell: str = "bash", **environment: str) -> list[str]:
    """What the shell shows for a line that ends where TAB was pressed."""
    result = {
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
        "_MISTUDIO_COMPLETE": f"complete_{shell}",
    }
    result |= {"_TYPER_COMPLETE_ARGS": typed}
    done = subprocess.run(
        [MISTUDIO],
        env=cli.environment | result | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=cli.home,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def offered_from_redis(cli: Cli, typed: str, shell: str = "bash") -> list[str]:
    """The same where Redis has something to offer, and answers within the half second that it has."""
    found = until(lambda: offered(cli, typed, shell), f"Redis to answer in time: {typed}")
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("mistudio queue pause ", list(QUEUE_NAMES)),
        ("mistudio queue pause da", ["datasets"]),
        ("mistudio queue move x --to tr", ["training"]),
        ("mistudio workers start ", ["datasets", "full", "jetson", "minimal"]),
        ("mistudio workers start --queues training,da", ["training,datasets"]),
        ("mistudio workers scale tr", ["training="]),
        ("mistudio profiles show f", ["full"]),
        ("mistudio submit train --arch g", ["gated"]),
        ("mistudio submit train --arch topk,g", ["topk,gated"]),
        ("mistudio submit nap --gpu ", ["any", "none"]),
        ("mistudio jobs ls --state running,f", ["running,failed"]),
        ("mistudio jobs cancel --queue ext", ["extraction"]),
        ("mistudio wor", ["workers"]),
    ],
)
def test_values_of_tables(cli: Cli, typed: str, values: list[str]) -> None:
    assert sorted(offered(cli, typed)) == sorted(values)


def test_kinds_are_offered_where_a_kind_is_meant(cli: Cli) -> None:
    assert set(kinds()) <= set(offered(cli, "mistudio submit "))
    assert set(kinds()) <= set(offered(cli, "mistudio jobs ls --kind "))


def test_artifacts_of_the_store_and_logs_of_the_home(cli: Cli) -> None:
    add_sae(cli.home, "mine")
    add_sae(cli.home, "other")
    assert offered(cli, "mistudio submit extract --sae ") == ["mine", "other"]
    assert offered(cli, "mistudio saes show m") == ["mine"]
    (cli.home / "logs").mkdir()
    for name in ("worker-training", "supervisor"):
        (cli.home / "logs" / f"{name}.log").touch()
    assert offered(cli, "mistudio workers logs ") == ["supervisor", "worker-training"]
    assert offered(cli, "mistudio workers stop ") == ["worker-training"]


def test_the_newest_jobs_with_what_they_are(cli: Cli) -> None:
    job = cli.ledger.submit(Job(new_job_id(), "nap", "mine", "training", {}, tags=("sweep:x",)))
    for verb in ("show", "logs", "cancel", "wait", "explain", "rm", "retry"):
        assert offered_from_redis(cli, f"mistudio jobs {verb} ") == [job.id, "last"]
    assert offered_from_redis(cli, "mistudio submit nap --after ") == [job.id, "last"]
    assert offered_from_redis(cli, "mistudio jobs ls --tag ") == ["sweep:x"]
    assert offered_from_redis(cli, "mistudio jobs ls --name m") == ["mine"]
    assert f"nap mine {State.QUEUED}" in " ".join(offered_from_redis(cli, "mistudio jobs show ", "zsh"))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://nothing", ""])
def test_without_redis_nothing_is_offered_nothing_is_started_and_nobody_waits(cli: Cli, url: str) -> None:
    patient = {"MISTUDIO_READ_PATIENCE_S": "3600"}  # who waited would be noticed
    assert offered(cli, "mistudio jobs show ", CELERY_BROKER_URL=url, **patient) == []
    assert not [entry for entry in os.listdir(cli.home) if entry in ("redis", "run", "logs")]
