"""The table of settings: where a value comes from, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks import settings
from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.jobs.kind_settings import check_kinds, default_priority, limits_set
from tasks.jobs.record import State
from tasks.parsing.setting_types import DURATION, duration_text, optional
from tasks.queues import Limits
from tasks.settings import SETTINGS, check_all, current, find_value, setting_named
from tasks.submission.plan import SubmitOptions
from tests.fixtures.stack import Stack


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of this process; not there yet."""
    monkeypatch.setenv("MISTUDIO_CONFIG_DIR", str(tmp_path))
    return tmp_path / "mistudio.toml"


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = setting_named("keep_jobs")
    assert (find_value(row).value, find_value(row).origin) == (100_000, "default")
    file.write_text("keep_jobs = 5")
    assert (find_value(row).value, find_value(row).origin) == (5, "file")
    monkeypatch.setenv(row.variable, "7")
    assert (find_value(row).value, find_value(row).origin) == (7, "environment")
    assert (find_value(row, {"keep_jobs": "9"}).value, find_value(row, {"keep_jobs": "9"}).origin) == (9, "flag")


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    file.write_text("keep_jobs = 5")
    assert current("keep_jobs") == 5
    file.write_text("keep_jobs = 66")
    assert current("keep_jobs") == 66


def test_every_default_is_a_value_of_its_setting_and_every_name_is_unique() -> None:
    assert all(row.type.read(row.default) == row.default for row in SETTINGS if row.default is not None)
    assert all(row.default is not None or row.unset for row in SETTINGS), "what an unset one amounts to is said"
    for names in ([row.name for row in SETTINGS], [row.variable for row in SETTINGS]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ('# mine\nkeep_jobs = "many"', 2, "keep_jobs is 'many', not a whole number from 0"),
        ("keep_jobs = -1", 1, "keep_jobs is -1, not a whole number from 0"),
        ("keep_jobs = 1.5", 1, "keep_jobs is 1.5, not a whole number from 0"),
        ("keep_jobs = true", 1, "keep_jobs is True, not a whole number from 0"),
        ("keep_jobs_days = inf", 1, "keep_jobs_days is inf, not a number from 0"),
        ("job_memory_gb = 0", 1, "job_memory_gb is 0, not a number above 0"),
        ("job_memory_gb = nan", 1, "job_memory_gb is nan, not a number above 0"),
        ('\n\nserved_within = "soon"', 3, "served_within is 'soon', not a duration such as"),
        ("served_within = 0", 1, "served_within is 0, not a duration"),
        ("served_within = 1979-05-27", 1, "served_within is datetime.date(1979, 5, 27), not a duration"),
        ('log_level = "loud"', 1, "log_level is 'loud', not one of debug, info, warning, error"),
        ("triton = 3", 1, "triton is 3, not true or false"),
        ("store = 3", 1, "store is not text"),
        ('store = "s3://bucket/x"', 1, "not a folder on this host, and no URL"),
        ('broker_url = "redis://:hush@host/\\u0007"', 1, "broker_url is not text"),
        ("stor = 1", 1, "stor is not a setting"),
        ('"odd key" = 1', 1, "odd key is not a setting"),
        ('api_token = "hush"', 1, "api_token is a secret, which no file may hold"),
        ("keep_jobs = " + "[" * 5, 1, "not valid TOML"),
        ("\na = " + "[" * 100_000, 2, "nested too deeply"),
        ("keep_jobs = [[[[1]]]]", 1, "keep_jobs is [[[[1]]]], not a whole number"),
    ],
)
def test_a_wrong_value_names_file_line_and_key_and_repeats_no_secret(
    file: Path, text: str, line: int | None, sentence: str
) -> None:
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        check_all()
    where = f"{file}:{line}: " if line else str(file)
    assert raised.value.sentence.startswith(where)
    assert sentence in raised.value.sentence
    assert "hush" not in str(raised.value)
    assert "\n" not in raised.value.sentence


def test_a_file_that_is_no_text_or_no_file_is_named(file: Path) -> None:
    file.write_bytes(b"store = '\xff'")
    with pytest.raises(UserError, match=r"mistudio\.toml:1: not UTF-8"):
        check_all()
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"mistudio\.toml cannot be read"):
        check_all()


@pytest.mark.parametrize(
    ("raw", "length_s"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("30m", 1800), ("30 min", 1800), ("2d", 172_800)]
)
def test_durations_have_units(raw: str, length_s: float) -> None:
    assert DURATION.read(raw) == length_s
    assert DURATION.read(duration_text(length_s)) == length_s


def test_none_is_no_limit() -> None:
    assert optional(DURATION).read("none") is None


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("[kinds.tokenise]\npriority = 7", "kinds.tokenise names no kind of job"),
        ("[kinds.tokenize]\nprio = 7", ":2: kinds.tokenize.prio is not a setting of kinds"),
        ("[kinds.tokenize]\n\npriority = 11", ":3: kinds.tokenize.priority is 11, not a whole number from 0 to 10"),
        ("[kinds]\ntokenize.priority = -1", ":2: kinds.tokenize.priority is -1"),
        ("kinds.tokenize = { priority = 77 }", ":1: kinds.tokenize.priority is 77"),
        ("kinds = 3", ":1: kinds is not a table"),
        ("[kinds]\ntokenize = 3", ":2: kinds.tokenize is not a table"),
        ('[kinds.train]\nsoft_limit = "soon"', ":2: kinds.train.soft_limit is 'soon', not a duration"),
        ('[kinds.tokenize]\nsoft_limit = "3h"', ":2: kinds.tokenize.soft_limit: the soft limit is 3h, longer than"),
        ('[kinds.describe]\nhard_limit = "3h"', ":2: kinds.describe.hard_limit: describe runs inside its worker"),
        ('[kinds.describe]\nhard_limit = "none"', ":2: kinds.describe.hard_limit: describe runs inside its worker"),
    ],
)
def test_a_wrong_setting_of_a_kind_names_file_line_and_key(file: Path, table: str, sentence: str) -> None:
    file.write_text(table)
    with pytest.raises(UserError) as raised:
        check_kinds()
    assert sentence in raised.value.sentence


def test_a_kind_s_settings_rule_the_jobs_that_are_submitted_from_then_on(file: Path, stack: Stack) -> None:
    before = stack.submit("toy-model", name="before", dataset=corpus(stack))
    file.write_text('[kinds.toy-model]\npriority = 8\nsoft_limit = "30m"\nhard_limit = "2h"\nstall_timeout = "none"')
    after = stack.submit("toy-model", name="after", dataset="text")
    assert (before.priority, before.limits) == (5, None)
    assert (after.priority, after.limits) == (8, Limits(1800, 7200, None))
    assert stack.ledger.need(after.id).limits == Limits(1800, 7200, None)
    assert default_priority(kind_named("toy-model")) == 8
    assert limits_set(kind_named("train")) is None


def test_a_priority_that_was_asked_for_wins_and_prerequisites_have_those_of_their_own_kinds(
    file: Path, stack: Stack
) -> None:
    from tasks.submission.plan import ArtifactCatalog, plan

    file.write_text("[kinds.download]\npriority = 2\n[kinds.toy-model]\npriority = 8")
    source = stack.folder / "other.txt"
    source.write_text("a text\n" * 100)
    known = ArtifactCatalog(stack.ledger, stack.store)
    assert [job.priority for job in plan(known, "toy-model", {"dataset": str(source)}, name="one")] == [2, 8]
    known = ArtifactCatalog(stack.ledger, stack.store)
    requested = plan(known, "toy-model", {"dataset": str(source)}, name="two", submit_options=SubmitOptions(6))
    assert [job.priority for job in requested] == [6, 6]


def test_a_job_is_stopped_at_the_soft_limit_that_it_was_submitted_with(file: Path, stack: Stack) -> None:
    file.write_text('[kinds.nap]\nsoft_limit = "1s"')
    stack.start_worker()
    job = stack.submit("nap", ticks=10_000)
    file.write_text('[kinds.nap]\nsoft_limit = "1h"')
    ended = stack.ended(job)
    assert (ended.state, (ended.error or {}).get("type")) == (State.FAILED, "TimeLimit")
    assert "more than 1 s" in ended.reason


def test_a_worker_does_not_start_with_a_wrong_setting(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tasks.worker import main

    file.write_text('log_level = "loud"')
    assert main.main(["--name", "w"]) == 2
    assert f"{file}:1: log_level is 'loud'" in capsys.readouterr().err


def corpus(stack: Stack) -> str:
    import json

    folder: Any = stack.store.path("datasets", "text")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"name": "text"}))
    return "text"


def test_the_file_is_read_from_the_folder_of_the_configuration(file: Path) -> None:
    assert settings.config_file() == file
