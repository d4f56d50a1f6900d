"""`mistudio config`: what is in force, where it came from, and changes to the settings file."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from tasks.settings import SETTINGS
from tests.cli.conftest import Cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The settings file of the commands; not there yet, nor is its folder."""
    return tmp_path / "config" / "mistudio.toml"


def test_show_names_every_setting_with_its_origin(cli: Cli, file: Path) -> None:
    cli("config", "set", "keep_jobs", "500")
    cli("config", "set", "kinds.tokenize.priority", "7")
    result = cli("config", "show", "--json", MISTUDIO_LOG_LEVEL="debug", MISTUDIO_API_TOKEN="hush")
    found = {row["name"]: (row["value"], row["origin"]) for row in result.json["settings"]}
    assert set(found) >= {row.name for row in SETTINGS}
    assert found["keep_jobs"] == ("500", "file")
    assert found["kinds.tokenize.priority"] == ("7", "file")
    assert found["kinds.tokenize.soft_limit"] == ("1h", "default")
    assert found["kinds.train.soft_limit"] == (None, "default")
    assert found["log_level"] == ("debug", "environment")
    assert found["api_token"] == ("***", "environment")
    assert found["served_within"] == ("10m", "default")
    shown = cli("config", "show", MISTUDIO_API_TOKEN="hush")
    assert "hush" not in shown.out + result.out
    assert "kinds.tokenize.priority" in shown.out
    assert "kinds.train" not in shown.out, "a kind's defaults are no news"
    assert str(file) in shown.err


def test_get_prints_the_value_and_nothing_else(cli: Cli, file: Path) -> None:
    assert cli("config", "get", "served_within").out == "10m\n"
    assert cli("config", "get", "keep_checkpoints_gb").out == "a tenth of the disk\n"
    assert cli("config", "get", "kinds.train.stall_timeout").out == "30m\n"
    assert cli("config", "get", "kinds.train.hard_limit").out == "none\n"
    assert cli("config", "get", "keep_jobs", "--json").json == {
        "name": "keep_jobs",
        "value": "100000",
        "origin": "default",
    }
    assert cli("config", "path").out == f"{file}\n"


def test_set_and_unset_keep_what_else_the_file_says(cli: Cli, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("# mine\nkeep_jobs = 5  # few\n\n[kinds.train]\npriority = 3\n")
    file.chmod(0o640)
    for name, value in (("keep_jobs", "6"), ("served_within", "5m"), ("kinds.train.stall_timeout", "1h")):
        assert cli("config", "set", name, value).code == 0
    assert "# mine\nkeep_jobs = 6  # few\n" in file.read_text()
    assert cli("config", "get", "served_within").out == "5m\n"
    assert cli("config", "get", "kinds.train.stall_timeout").out == "1h\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert cli("config", "unset", "keep_jobs").code == 0
    assert cli("config", "get", "keep_jobs").out == "100000\n"
    assert "is not set" in cli("config", "unset", "keep_jobs").err
    assert [path.name for path in file.parent.iterdir()] == ["mistudio.toml"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("keep_jobs", "many", "keep_jobs is 'many', not a whole number from 0."),
        ("keep_job", "5", "There is no setting 'keep_job'."),
        ("kinds.tokenize.prio", "5", "There is no setting 'kinds.tokenize.prio'."),
        ("kinds.tokenise.priority", "5", "There is no setting 'kinds.tokenise.priority'."),
        ("kinds", "5", "There is no setting 'kinds'."),
        ("kinds.tokenize.priority", "11", "kinds.tokenize.priority is '11', not a whole number from 0 to 10."),
        ("owner", "a b", "owner is 'a b', not an owner's name: up to 100 characters without spaces"),
        ("prefix", "a b", "prefix is 'a b', not a prefix: 1 to 32 letters, digits, _ and -"),
        ("kinds.tokenize.soft_limit", "3h", "longer than the hard limit of 2h."),
        ("api_token", "hush", "api_token is a secret, which no file may hold."),
    ],
)
def test_what_cannot_be_set_is_refused_and_the_file_stays_as_it_was(
    cli: Cli, file: Path, name: str, value: str, sentence: str
) -> None:
    cli("config", "set", "keep_jobs", "5")
    before = file.read_bytes()
    result = cli("config", "set", name, value)
    assert (result.code, result.out) == (Code.USAGE, "")
    assert sentence in result.err
    assert "hush" not in result.err
    assert str(file) not in result.err, "it does not have the line"
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["mistudio.toml"]


@pytest.mark.parametrize("name", ["owner", "prefix"])
def test_an_owner_or_a_prefix_that_cannot_be_one_is_named_with_the_place_of_it(cli: Cli, file: Path, name: str) -> None:
    file.parent.mkdir()
    file.write_text(f'keep_jobs = 5\n{name} = "a b"\n')
    assert f"{file}:2: {name} is 'a b', not a" in cli("queue", "ls").err
    file.unlink()
    variable = f"MISTUDIO_{name.upper()}"
    refused = cli("queue", "ls", **{variable: "a b"})
    assert (refused.code, refused.err.partition(",")[0]) == (Code.USAGE, f"{variable} is 'a b'")


def test_a_wrong_file_can_be_corrected_by_set_and_unset(cli: Cli, file: Path) -> None:
    file.parent.mkdir()
    file.write_text('keep_jobs = "many"\nlog_level = "loud"\n')
    assert cli("config", "set", "keep_jobs", "5").code == 0
    assert cli("queue", "ls").code == Code.USAGE
    assert cli("config", "unset", "log_level").code == 0
    assert cli("queue", "ls").code == 0


def test_a_folder_that_cannot_be_written_is_one_sentence(cli: Cli, file: Path) -> None:
    file.parent.write_text("no folder")
    result = cli("config", "set", "keep_jobs", "5")
    assert result.code == Code.USAGE
    assert "cannot be written" in result.err


def test_a_link_stays_a_link(cli: Cli, file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    kept = tmp_path / "dotfiles.toml"
    kept.write_text("keep_jobs = 5\n")
    file.symlink_to(kept)
    assert cli("config", "set", "keep_jobs", "6").code == 0
    assert file.is_symlink()
    assert kept.read_text() == "keep_jobs = 6\n"


def test_changes_at_once_are_all_kept(cli: Cli, file: Path) -> None:
    wanted = {"keep_jobs": "3", "cpu_jobs": "4", "keep_jobs_days": "5", "backlog_threshold": "6", "job_memory_gb": "7"}
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda name: cli("config", "set", name, wanted[name]), wanted))
    assert [result.code for result in results] == [Code.OK] * len(wanted)
    assert {name: cli("config", "get", name).out.strip() for name in wanted} == wanted


@pytest.mark.parametrize("name", ["home", "store"])
def test_a_folder_is_the_same_from_wherever_it_is_read(cli: Cli, file: Path, tmp_path: Path, name: str) -> None:
    variable = f"MISTUDIO_{name.upper()}"
    assert cli("config", "set", name, "there", **{variable: ""}).code == Code.OK
    shown = cli("config", "get", name, **{variable: ""}).out.strip()
    assert Path(shown).is_absolute()
    assert f'{name} = "{shown}"' in file.read_text()
    file.write_text(f'{name} = "beside"\n')
    assert cli("config", "get", name, **{variable: ""}).out.strip() == str(file.parent / "beside")
    assert cli("config", "get", name, **{variable: "given"}).out.strip() == str(cli.home / "given")


@pytest.mark.parametrize(
    ("name", "word", "why"),
    [
        ("broker_url", "amqp://u:hush@h/", "has the scheme 'amqp'"),
        ("broker_url", "redis://:hu#sh@h/0", "cannot be understood"),
        ("prefix", "lab2", "none is named"),
    ],
)
def test_a_redis_that_no_command_could_use_is_refused(cli: Cli, file: Path, name: str, word: str, why: str) -> None:
    refused = cli("config", "set", name, word, CELERY_BROKER_URL="")
    assert (refused.code, why in refused.err) == (Code.USAGE, True)
    assert "hush" not in refused.err
    assert not file.exists()


def test_a_prefix_that_is_none_is_not_set(cli: Cli, file: Path) -> None:
    refused = cli("config", "set", "prefix", "mi studio")
    assert (refused.code, "prefix is 'mi studio', not a prefix" in refused.err) == (Code.USAGE, True)
    assert not file.exists()


def test_a_wrong_redis_in_the_file_is_named_by_its_line_and_still_shown(cli: Cli, file: Path) -> None:
    file.parent.mkdir()
    file.write_text('keep_jobs = 5\nbroker_url = "amqp://h/"\nprefix = "lab2"\n')
    refused = cli("queue", "ls", CELERY_BROKER_URL="")
    assert (refused.code, f"{file}:2: broker_url has the scheme" in refused.err) == (Code.USAGE, True)
    assert cli("config", "get", "keep_jobs", CELERY_BROKER_URL="").out == "5\n"
    assert "lab2" in cli("config", "show", CELERY_BROKER_URL="").out
    assert cli("config", "unset", "broker_url", CELERY_BROKER_URL="").code == Code.OK, "from wrong to wrong is a change"
