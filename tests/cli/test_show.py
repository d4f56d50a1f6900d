"""`mistudio jobs show`: a job with its parents, its children and what it holds of its GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mistudio_cli.jobs import export_jobs
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.device_lease import Card
from tasks.ledger.listing import Filter
from tasks.redis_client.redis_connection import Client
from tests.cli.conftest import Cli

GIB = 1 << 30


def submit(cli: Cli, kind: str, name: str, *parents: str) -> Job:
    return cli.ledger.submit(Job(new_job_id(), kind, name, "training", {}, parents=parents))


def section(text: str, title: str) -> list[str]:
    """The lines below a title, as words."""
    return [" ".join(line.split()) for line in text.partition(f"\n\n{title}\n")[2].partition("\n\n")[0].splitlines()]


def test_parents_and_children_are_shown_with_their_states_in_the_order_of_submission(cli: Cli) -> None:
    first, second = submit(cli, "tokenize", "words"), submit(cli, "toy-model", "toy")
    job = submit(cli, "train", "sae", second.id, first.id)
    claim = cli.ledger.claim(first.id, "w", "here", 7)
    assert claim is not None
    cli.ledger.finish(claim, State.SUCCEEDED, "done")
    children = [submit(cli, "extract", f"features-{number}", job.id) for number in range(2)]
    result = cli("jobs", "show", job.id, "--json").json
    assert result["parents"] == [second.id, first.id]
    assert result["parent_jobs"] == [
        {"id": second.id, "kind": "toy-model", "name": "toy", "state": "queued"},
        {"id": first.id, "kind": "tokenize", "name": "words", "state": "succeeded"},
    ]
    assert [(child["id"], child["state"]) for child in result["children"]] == [(c.id, "waiting") for c in children]
    shown = cli("jobs", "show", job.id).out
    assert section(shown, "parents") == [f"{second.id} toy-model toy queued", f"{first.id} tokenize words succeeded"]
    assert section(shown, "children") == [f"{c.id} extract features-{n} waiting" for n, c in enumerate(children)]
    assert "\nchildren" not in cli("jobs", "show", children[0].id).out

    cli.ledger.request_cancel(second.id)  # with all that wait for it
    cli.ledger.remove(first.id)
    result = cli("jobs", "show", job.id, "--json").json
    assert result["parent_jobs"][1] == {"id": first.id, "kind": None, "name": None, "state": None}
    assert [child["state"] for child in result["children"]] == ["cancelled", "cancelled"]
    assert section(cli("jobs", "show", job.id).out, "parents")[1] == f"{first.id} n/a n/a its record is removed"


def test_a_long_list_of_children_is_cut_and_says_so(cli: Cli) -> None:
    job = submit(cli, "tokenize", "words")
    children = [submit(cli, "train", f"sae-{number}", job.id) for number in range(23)]
    lines = section(cli("jobs", "show", job.id).out, "children")
    assert (len(lines), lines[-1]) == (21, "… and 3 more: --json has them all")
    assert [child["id"] for child in cli("jobs", "show", job.id, "--json").json["children"]] == [c.id for c in children]


def test_an_export_asks_as_often_for_many_jobs_as_for_few(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    requested, real = [0], Client.batch

    def counted(client: Client, commands: object) -> object:
        requested[0] += 1
        return real(client, commands)

    def trips() -> int:
        requested[0] = 0
        assert list(export_jobs.lines(cli.ledger, cli.home, Filter()))
        return requested[0]

    monkeypatch.setattr(Client, "batch", counted)
    parent = submit(cli, "tokenize", "words")
    submit(cli, "train", "sae", parent.id)
    few = trips()
    for number in range(40):
        submit(cli, "train", f"sae-{number}", submit(cli, "tokenize", f"words-{number}").id)
    assert trips() == few


def leased(cli: Cli, name: str, need: int | None, key: str = "GPU-fake-0") -> Job:
    job = submit(cli, "train", name)
    claim = cli.ledger.claim(job.id, "w@c", f"c-{name}")
    assert claim is not None
    assert cli.ledger.lease_device(claim, [Card(key, "cuda:0")], 9, need)
    return job


def test_what_a_job_holds_of_its_gpu_is_shown_beside_what_was_expected(cli: Cli, driver: Path) -> None:
    here, elsewhere, unknown = leased(cli, "a", 8 * GIB), leased(cli, "b", 8 * GIB, "GPU-far"), leased(cli, "c", None)
    code = "import time; print(flush=True); time.sleep(600)"
    runner = [sys.executable, "-c", code, "-m", "tasks.runner", here.id]
    with subprocess.Popen(runner, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        fake = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_PID": str(process.pid)}
        result = [cli("jobs", "show", job.id, "--json", **fake).json["lease"] for job in (here, elsewhere, unknown)]
        shown = [cli("jobs", "show", job.id, **fake).out for job in (here, elsewhere, unknown)]
        process.kill()
    assert result == [
        {"job": here.id, "memory_bytes": 3 * GIB, "expected_bytes": 8 * GIB},
        {"job": elsewhere.id, "memory_bytes": None, "expected_bytes": 8 * GIB},
        {"job": unknown.id, "memory_bytes": None, "expected_bytes": None},
    ]
    for text, words in zip(
        shown, ("3.0 GiB, expected 8.0 GiB", "n/a, expected 8.0 GiB", "n/a, expected n/a"), strict=True
    ):
        assert f"device    cuda:0, holds {words}\n" in text
    assert cli("jobs", "show", submit(cli, "train", "d").id, "--json", **fake).json["lease"] is None
