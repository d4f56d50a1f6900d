"""`mistudio fleet quota`: set, list and remove limits of owners; what is wrong changes nothing."""

from __future__ import annotations

import pytest

from tasks.ledger.client import Ledger
from tasks.ledger.quotas import Quota, read_quotas
from tests.cli.in_process import home as home  # a fixture
from tests.cli.in_process import run


def test_a_quota_is_set_listed_with_what_is_used_and_removed(home: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fleet", "quota", "set", "alice", "--running", "4", "--queued", "2") == 0
    assert capsys.readouterr().err == "The quota of alice: running 4, queued 2.\n"
    assert run("fleet", "quota", "set", "alice", "--gpus", "0") == 0
    assert "running 4, gpus 0, queued 2" in capsys.readouterr().err
    run("--owner", "alice", "submit", "cleanup")
    capsys.readouterr()
    assert run("fleet", "quota", "ls") == 0
    assert " ".join(capsys.readouterr().out.split()) == "OWNER RUNNING GPUS QUEUED alice 0 of 4 0 of 0 1 of 2"
    assert run("fleet", "quota", "unset", "alice") == 0
    assert read_quotas(home.client) == {}
    capsys.readouterr()
    assert run("fleet", "quota", "unset", "alice") == 3
    assert "alice has no quota." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["set", "alice", "--running", "-1"], "-1 is not in the range"),
        (["set", "alice", "--gpus", "two"], "'two' is not a valid int"),
        (["set", "alice", "--cpus", "2"], "No such option"),
        (["set", "alice"], "No limit given."),
        (["set", "", "--running", "1"], "cannot be an owner"),
        (["set", "a b", "--running", "1"], "cannot be an owner"),
        (["unset", ""], "cannot be an owner"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_and_changes_nothing(
    home: Ledger, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    run("fleet", "quota", "set", "alice", "--running", "4")
    capsys.readouterr()
    assert run("fleet", "quota", *words) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) <= 2
    assert read_quotas(home.client) == {"alice": Quota(running=4)}


def test_a_submit_over_the_quota_has_an_exit_code_of_its_own_and_submits_nothing(
    home: Ledger, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run("fleet", "quota", "set", "alice", "--queued", "1")
    file = tmp_path_factory.mktemp("many") / "jobs.jsonl"
    file.write_text('{"kind": "cleanup"}\n{"kind": "cleanup"}\n')
    capsys.readouterr()
    assert run("--owner", "alice", "submit", "many", str(file)) == 6
    assert "0 are queued, so 2 jobs more cannot be submitted" in capsys.readouterr().err
    assert home.page(limit=1).jobs == ()
    assert run("--owner", "alice", "submit", "cleanup") == 0
    assert run("--owner", "alice", "submit", "cleanup") == 6
    assert "mistudio --owner alice fleet quota set alice --queued N" in capsys.readouterr().err
    assert run("--owner", "bob", "submit", "many", str(file)) == 0
