"""The second net under the floors: what is really imported, deferred imports included."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "datasets", "transformers", "tokenizers", "pyarrow", "numpy", "pandas"}
QUEUES = {"celery", "kombu", "redis"}
TERMINAL = {"typer", "rich"}


def imported_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    report = "import json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    code = f"import sys\n{statement}\n{report}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import tasks.jobs.kind; tasks.jobs.kind.kinds()", HEAVY | QUEUES | TERMINAL | {"hiredis"}),
        ("import tasks.storage.store, tasks.text", QUEUES | TERMINAL),
        ("import tasks.sae.training.trainer, tasks.activations.stream, tasks.features.top_examples", QUEUES | TERMINAL),
        (
            "import tasks.ledger.client, tasks.submission.plan, tasks.submission.sweep, tasks.models.size_estimate; "
            "import tasks.sae.memory_estimate",
            HEAVY | QUEUES | TERMINAL,
        ),
        (
            "import tasks.sae.formats.exporting, tasks.sae.importing.convert, tasks.train_job.init_from",
            HEAVY | QUEUES | TERMINAL,
        ),
        ("import tasks.worker.main", HEAVY | TERMINAL),
        ("import tasks.runner.main, tasks.runner.execute, tasks.ledger.client", HEAVY | QUEUES | TERMINAL),
        ("import mistudio_cli.supervisor.main", HEAVY | QUEUES | TERMINAL | {"asyncio"}),
        (
            "import mistudio_cli.monitor.snapshot, mistudio_cli.profile.rules, mistudio_cli.fleet.supervisor_client",
            HEAVY | QUEUES | TERMINAL,
        ),
        ("import mistudio_cli.app", HEAVY | QUEUES),
    ],
)
def test_a_floor_imports_nothing_from_above(statement: str, unwanted: set[str]) -> None:
    assert imported_by(statement) & unwanted == set()


@pytest.mark.parametrize("command", [["--help"], ["submit", "train", "--help"], ["workers", "--help"], ["--version"]])
def test_help_answers_without_importing_what_only_jobs_need(command: list[str]) -> None:
    statement = f"import mistudio_cli.main as m\ntry: m.main({command!r})\nexcept SystemExit: pass"
    assert imported_by(statement) & (HEAVY | QUEUES) == set()
