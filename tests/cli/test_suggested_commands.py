"""Commands that the command line suggests act on the same home, store and Redis as the one that was typed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mistudio_cli import session
from mistudio_cli.app import COMMANDS
from mistudio_cli.errors import Code
from mistudio_cli.terminal import output
from mistudio_cli.top.alarms import alarms
from mistudio_cli.top.panes.jobs import jobs_pane
from mistudio_cli.top.panes.workers import workers_pane
from mistudio_cli.top.reading import parts_of
from mistudio_cli.top.view import View
from tests.cli.conftest import Cli
from tests.cli.recorded import NOW
from tests.cli.test_health import WELL, with_queue
from tests.ledger.test_ledger import a_job


@pytest.fixture
def flags() -> Iterator[None]:
    output.suggest_with(["--home", "/srv/lab 2"], COMMANDS)
    yield
    output.suggest_with([], COMMANDS)


def test_a_suggested_command_has_the_global_flags_that_were_typed(cli: Cli) -> None:
    ours = f"mistudio --home {cli.home} --prefix lab2"
    typed = ("--home", str(cli.home), "--prefix", "lab2")
    assert cli(*typed, "queue", "pause", "training").err.endswith(f"Resume: {ours} queue resume training\n")
    submitted = cli(*typed, "submit", "nap")
    assert f"Watch it: {ours} jobs wait " in submitted.err
    assert f"  ({ours} queue resume training)\n" in cli(*typed, "jobs", "explain", "last").out
    assert f"See: {ours} jobs ls\n" in cli(*typed, "jobs", "show", "nope").err
    assert f"See: {ours} jobs show --help\n" in cli(*typed, "jobs", "show").err
    assert f"supervisor: {ours} workers start full\n" in cli(*typed, "doctor").err


def test_flags_are_quoted_for_the_shell_and_none_comes_from_the_environment(cli: Cli, tmp_path: Path) -> None:
    home = str(tmp_path / "lab 2")
    refused = cli("--home", home, "jobs", "ls", CELERY_BROKER_URL="")
    assert refused.code == Code.UNREACHABLE
    assert refused.err == f"Nothing has been started in {home} yet.\n  mistudio --home '{home}' workers start\n"
    assert cli("jobs", "ls", CELERY_BROKER_URL="").err.endswith("\n  mistudio workers start\n")


def test_what_scripts_read_has_plain_commands(cli: Cli) -> None:
    cli.ledger.submit(a_job())
    typed = ("--home", str(cli.home))
    assert cli(*typed, "jobs", "explain", "last", "--json").json["causes"][0]["command"].startswith("mistudio workers ")
    assert {check["mend"] for check in cli(*typed, "doctor", "--json").json["checks"]} >= {
        "mistudio workers start full"
    }


def test_a_suggested_command_shows_no_password() -> None:
    session._flags.clear()
    session._flags["broker_url"] = "redis://ana:secret@lab:6379/0"
    try:
        assert session.typed_flags() == ["--broker-url", "redis://ana:***@lab:6379/0"]
    finally:
        session._flags.clear()


def test_a_command_for_another_host_has_no_flags_of_this_one(flags: None) -> None:
    for text in ("Type there: mistudio workers logs two", "On the older: …, then there: mistudio workers stop --all"):
        assert output.suggested(text) == text


def test_a_sentence_that_only_names_the_program_stays(flags: None) -> None:
    for text in ("the same version of mistudio on all hosts", "mistudio --home x queue ls", "/opt/mistudio queue.toml"):
        assert output.suggested(text) == text


def test_the_screen_suggests_commands_for_its_own_home(flags: None) -> None:
    seen = parts_of(with_queue("training", state="paused", paused_at=NOW - 7), 0.0)
    assert [alarm.command for alarm in alarms(seen)] == ["mistudio --home '/srv/lab 2' queue resume training"]
    empty = parts_of(replace(WELL, workers=(), jobs=()), 0.0)
    assert jobs_pane(empty, View()).empty == "no jobs yet: mistudio --home '/srv/lab 2' submit --help"
    assert workers_pane(empty, View()).empty == "no workers: mistudio --home '/srv/lab 2' workers start full"
