"""What the commands that people type most may cost before they answer: counts; clocks are the matter of benchmarks."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mistudio_cli.app import COMMANDS
from tests.cli.conftest import Cli, Ended
from tests.ledger.test_ledger import a_job

ROOT = Path(__file__).parents[2]

LISTS = ("queue ls", "queue ls --json", "jobs ls", "jobs ls --json")

#: Each of these costs a short command more than it is worth: what only jobs, workers, profiles or this machine need,
#: OpenSSL, and readers of files that most people do not have.
TOO_DEAR = {
    *(
        "tasks.jobs.kind",
        "tasks.kinds.train",
        "tasks.ledger.maintenance",
        "tasks.redis_client.redis_tls",
        "tasks.redis_client.sentinel_url",
        "tasks.storage.store",
        "tasks.submission.plan",
        "tasks.worker.slot_locks",
        "tasks.accelerators.devices",
    ),
    *(
        "mistudio_cli.profile.rules",
        "mistudio_cli.profile.resources",
        "mistudio_cli.machine.process_trees",
        "mistudio_cli.machine.host",
        "psutil",
    ),
    *("hashlib", "_hashlib", "ssl", "secrets", "hmac", "asyncio", "logging"),
    *("tomllib", "importlib.metadata", "importlib.resources", "rich", "pygments"),
}

BARE = """
import sys, typer
app = typer.Typer()
@app.command()
def one(): pass
@app.command()
def two(): pass
app(["one"], standalone_mode=False)
sys.stdout.write(" ".join(sys.modules))
"""

COUNTED = """
import gc, json, sys
from mistudio_cli.main import main
from tasks.redis_client.redis_connection import Client
real, trips = Client.batch, []
def counted(self, commands):
    trips.append(1)
    return real(self, commands)
Client.batch = counted
code = main(sys.argv[1:])
report = {"code": code, "trips": len(trips), "modules": sorted(sys.modules), "collects": gc.isenabled()}
sys.stderr.write("COUNTED " + json.dumps(report))
"""


def run_python(cli: Cli, code: str, *words: str) -> Ended:
    command = [sys.executable, "-P", "-c", code, *words]
    done = subprocess.run(command, env=cli.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def counts_of(cli: Cli, command: str) -> dict:
    result = json.loads(run_python(cli, COUNTED, *command.split()).err.partition("COUNTED ")[2])
    assert result["code"] == 0
    return result


#: Packages that are a docstring and nothing else.
ROOMS = {
    ".".join(file.relative_to(ROOT).parent.parts)
    for package in ("tasks", "mistudio_cli")
    for file in (ROOT / package).rglob("__init__.py")
    if len(ast.parse(file.read_text()).body) == 1
}


@pytest.mark.parametrize("command", LISTS)
def test_a_list_imports_little_more_than_a_bare_typer_program(cli: Cli, command: str) -> None:
    bare = set(run_python(cli, BARE).out.split())
    ours = set(counts_of(cli, command)["modules"])
    assert "typer" in bare
    assert ours & TOO_DEAR == set()
    assert len(ours - bare - ROOMS) <= 52, sorted(ours - bare - ROOMS)


def test_estimates_are_loaded_only_where_something_waits(cli: Cli) -> None:
    assert "mistudio_cli.monitor.queue_estimates" not in counts_of(cli, "queue ls")["modules"]
    cli.ledger.submit(a_job())
    assert "mistudio_cli.monitor.queue_estimates" in counts_of(cli, "queue ls")["modules"]


NOT_OF_WORKERS = {
    "mistudio_cli.monitor.celery_workers",
    "mistudio_cli.monitor.health.disagreements",
    "mistudio_cli.profile.resources",
}


def test_the_state_of_workers_asks_neither_celery_nor_for_gpus(cli: Cli) -> None:
    assert set(counts_of(cli, "workers status")["modules"]) & NOT_OF_WORKERS == set()


@pytest.mark.parametrize("command", LISTS)
def test_a_list_asks_redis_as_often_for_many_jobs_as_for_few(cli: Cli, command: str) -> None:
    for _ in range(60):
        cli.ledger.submit(a_job())
    assert counts_of(cli, command)["trips"] <= 3


@pytest.mark.parametrize("command", ["queue ls", "top --once"])
def test_garbage_is_collected_once_a_command_is_loaded(cli: Cli, command: str) -> None:
    assert counts_of(cli, command)["collects"]


@pytest.mark.parametrize("noun", COMMANDS)
def test_help_and_completion_know_every_verb_though_a_command_builds_only_its_own(cli: Cli, noun: str) -> None:
    app = import_module(f"mistudio_cli.commands.{noun}").app
    verbs = [command.name for command in app.registered_commands if command.name]
    about = cli(noun, "--help").out
    requested = {"_MISTUDIO_COMPLETE": "complete_bash", "COMP_WORDS": f"mistudio {noun} ", "COMP_CWORD": "2"}
    offered = cli(**requested).out.split()
    assert [verb for verb in verbs if verb not in offered] == []
    assert all(f"\n  {verb} " in about for verb in verbs)
    for verb in verbs[:2]:
        flags = cli(**{**requested, "COMP_WORDS": f"mistudio {noun} {verb} --", "COMP_CWORD": "3"}).out.split()
        assert "--help" in flags
