"""Owners on the command line: who owns what is submitted, and lists by owner."""

from __future__ import annotations

import os
import pwd

import pytest

from tasks.ledger.client import Ledger
from tasks.parsing.safe_text import shown
from tests.cli.in_process import home as home  # a fixture
from tests.cli.in_process import run


def owner(ledger: Ledger) -> str | None:
    return ledger.page(limit=1).jobs[0].owner


def test_the_owner_is_the_flag_before_the_environment_before_the_os_user(
    home: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("submit", "cleanup") == 0
    assert owner(home) == pwd.getpwuid(os.getuid()).pw_name
    assert run("--owner", "alice", "submit", "cleanup") == 0
    assert owner(home) == "alice"
    assert run("submit", "cleanup", "--owner", "bob") == 0
    assert owner(home) == "bob"


def test_lists_show_owners_and_choose_by_them(
    home: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("alice", "bob"):
        run("--owner", name, "submit", "cleanup")
    home.client.call("HDEL", f"mistudio:job:{home.page(limit=1).jobs[0].id}", "owner")
    capsys.readouterr()
    assert run("--owner", "alice", "jobs", "ls", "--owner", "me", "--wide") == 0
    printed = capsys.readouterr().out
    assert "OWNER" in printed
    assert "alice" in printed
    assert "n/a" not in printed
    assert run("queue", "peek", "low_priority", "-o", "wide") == 0
    assert {"alice", "n/a"} <= set(capsys.readouterr().out.split())
    assert run("jobs", "ls") == 0
    assert "OWNER" not in capsys.readouterr().out
    assert run("jobs", "show", "last") == 0
    assert "owner     n/a" in capsys.readouterr().out


def test_an_owner_that_cannot_be_one_submits_nothing(home: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a b", "a,b", ""):
        for words in (("--owner", name, "submit", "cleanup"), ("submit", "cleanup", "--owner", name)):
            assert run(*words) == 2
            as_setting = f"--owner is {shown(name)}, not an owner's name: "
            refusal = as_setting if name and words[0] == "--owner" else f"{shown(name)} cannot be an owner."
            assert refusal in capsys.readouterr().err
    assert home.page(limit=1).jobs == ()


def test_another_try_belongs_to_who_asks_for_it(home: Ledger) -> None:
    run("--owner", "alice", "submit", "cleanup")
    job = home.page(limit=1).jobs[0]
    home.request_cancel(job.id)
    assert run("--owner", "bob", "jobs", "retry", job.id) == 0
    assert (owner(home), home.page(limit=1).jobs[0].retry_of) == ("bob", job.id)
