"""`jobs export` writes each job once, with its history; `--since` and `--until` choose by the time of submission."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.jobs import export_jobs
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tasks.ledger.client import Ledger
from tasks.ledger.listing import Filter
from tests.cli.conftest import Cli


def add(ledger: Ledger, *names: str) -> list[str]:
    return [ledger.submit(Job(new_job_id(), "train", name, "training", {"k": 3})).id for name in names]


def parsed(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_an_export_has_of_each_job_what_jobs_show_prints(cli: Cli, tmp_path: Path) -> None:
    ids = add(cli.ledger, "a", "b", "ü")
    cli.ledger.request_cancel(ids[1])
    result = cli("jobs", "export", str(tmp_path / "jobs.jsonl"))
    assert (result.code, result.out, result.err) == (Code.OK, "", f"3 jobs are in {tmp_path / 'jobs.jsonl'}.\n")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["jobs.jsonl"]
    jobs = parsed((tmp_path / "jobs.jsonl").read_text(encoding="utf-8"))
    assert jobs == [{"schema": 3, **cli("jobs", "show", job_id, "--json").json} for job_id in ids[::-1]]
    assert [event["state"] for event in jobs[1]["events"]] == ["queued", "cancelled"]
    assert parsed(cli("jobs", "export").out) == jobs
    assert [job["id"] for job in parsed(cli("jobs", "export", "-", "--state", "cancelled").out)] == [ids[1]]


def test_a_file_beside_the_export_stays_and_the_question_names_the_same_command(cli: Cli, tmp_path: Path) -> None:
    add(cli.ledger, "a")
    file, other = tmp_path / "all jobs.jsonl", tmp_path / "all jobs.jsonl.part"
    other.write_text("precious")
    assert cli("jobs", "export", str(file)).code == Code.OK
    assert other.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {file.name, other.name}
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode
    refused = cli("jobs", "export", "--state", "queued", str(file))
    assert refused.code == Code.USAGE
    assert f"mistudio jobs export --state queued '{file}' --force" in refused.err


def test_a_number_that_json_has_no_word_for_is_null(cli: Cli) -> None:
    cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {"l1": float("nan")}))
    (result,) = cli("jobs", "export").out.splitlines()
    assert json.loads(result, parse_constant=pytest.fail)["params"] == {"l1": None}


def test_pages_neither_repeat_nor_drop_a_job_while_others_come(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_jobs, "PAGE", 3)
    ids = add(cli.ledger, *(f"n{number}" for number in range(8)))
    found = []
    for line in export_jobs.lines(cli.ledger, cli.home, Filter()):
        found.append(json.loads(line)["id"])
        add(cli.ledger, f"later-{len(found)}")
    assert found == ids[::-1]


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    add(cli.ledger, "a")
    result = cli("jobs", "export", str(tmp_path / "nowhere" / "jobs.jsonl"))
    assert result.code == Code.USAGE
    assert "cannot be written: No such file or directory." in result.err
    (tmp_path / "kept").write_text("before")
    (tmp_path / "kept.part").mkdir()
    assert cli("jobs", "export", str(tmp_path / "kept")).code == Code.USAGE
    assert (tmp_path / "kept").read_text() == "before"


def test_a_file_that_is_replaced_stays_as_private_as_it_was(cli: Cli, tmp_path: Path) -> None:
    add(cli.ledger, "a")
    for mode in (0o600, 0o640, 0o664):
        (tmp_path / "jobs.jsonl").touch()
        (tmp_path / "jobs.jsonl").chmod(mode)
        assert cli("jobs", "export", "--force", str(tmp_path / "jobs.jsonl")).code == Code.OK
        assert (tmp_path / "jobs.jsonl").stat().st_mode & 0o777 == mode


def test_jobs_are_chosen_by_the_time_of_their_submission(cli: Cli) -> None:
    first, second = add(cli.ledger, "first", "second")
    at = cli.ledger.need(second).created_at
    assert at is not None
    exactly = datetime.fromtimestamp(at, UTC).isoformat()

    def listed(*flags: str) -> list[str]:
        return [job["id"] for job in cli("jobs", "ls", "--json", *flags).json["jobs"]]

    assert listed("--since", exactly) == [second]
    assert listed("--since", "1h") == [second, first]
    assert listed("--until", "1h") == []
    assert listed("--since", "2w", "--until", "0s") == [second, first]
    assert listed("--since", "1h", "--state", str(State.RUNNING)) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--since", "yesterday"), "--since 'yesterday' is neither an age nor a time."),
        (("--until", "2026-13-01"), "--until '2026-13-01' is neither an age nor a time."),
        (("--since", "1h", "--until", "2h"), "--since 1h is later than --until 2h."),
    ],
)
def test_a_time_that_is_none_is_refused_in_a_sentence(cli: Cli, flags: tuple[str, ...], sentence: str) -> None:
    result = cli("jobs", "ls", *flags)
    assert result.code == Code.USAGE
    assert result.err.startswith(sentence)


def test_a_file_that_exists_is_replaced_only_when_that_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    add(cli.ledger, "a")
    kept = tmp_path / "kept.jsonl"
    kept.write_text("before")
    result = cli("jobs", "export", str(kept))
    assert result.code == Code.USAGE
    assert f"To confirm: mistudio jobs export {kept} --force" in result.err
    assert kept.read_text() == "before"
    link = tmp_path / "link.jsonl"
    link.symlink_to(kept)
    assert cli("jobs", "export", str(link), "--force").code == Code.OK
    assert link.is_symlink()
    assert len(parsed(kept.read_text())) == 1


def test_a_pipe_is_written_to_and_stays_a_pipe(cli: Cli, tmp_path: Path) -> None:
    add(cli.ledger, "a", "b")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE, text=True) as reader:
        assert cli("jobs", "export", str(tmp_path / "pipe")).code == Code.OK
        assert len(parsed(reader.communicate(timeout=30)[0])) == 2
    assert (tmp_path / "pipe").is_fifo()
