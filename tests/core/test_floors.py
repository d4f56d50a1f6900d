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
    tell = "import json; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    code = f"import sys\n{statement}\n{tell}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import tasks.job; tasks.job.kinds()", HEAVY | QUEUES | TERMINAL | {"hiredis"}),
        ("import tasks.store, tasks.text", QUEUES | TERMINAL),
        ("import tasks.sae.trainer, tasks.activations, tasks.features.top", QUEUES | TERMINAL),
        (
            "import tasks.ledger, tasks.submit, tasks.sweep, tasks.estimate, tasks.sae.footprint",
            HEAVY | QUEUES | TERMINAL,
        ),
        ("import tasks.sae.exporting, tasks.sae.importing, tasks.training.start", HEAVY | QUEUES | TERMINAL),
        ("import tasks.worker", HEAVY | TERMINAL),
        ("import tasks.runner, tasks.work, tasks.ledger", HEAVY | QUEUES | TERMINAL),
        ("import mistudio_cli.supervisor", HEAVY | QUEUES | TERMINAL | {"asyncio"}),
        ("import mistudio_cli.snapshot, mistudio_cli.profile, mistudio_cli.control", HEAVY | QUEUES | TERMINAL),
        ("import mistudio_cli.assembly", HEAVY | QUEUES),
    ],
)
def test_a_floor_imports_nothing_from_above(statement: str, unwanted: set[str]) -> None:
    assert imported_by(statement) & unwanted == set()


@pytest.mark.parametrize("command", [["--help"], ["submit", "train", "--help"], ["workers", "--help"], ["--version"]])
def test_help_answers_without_importing_what_only_jobs_need(command: list[str]) -> None:
    statement = f"import mistudio_cli.main as m\ntry: m.main({command!r})\nexcept SystemExit: pass"
    assert imported_by(statement) & (HEAVY | QUEUES) == set()
