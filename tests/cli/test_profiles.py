"""`profiles`: what each means, what is wrong with one's own, and how one begins. As a person types it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.profile.profile_keys import ProfileFault
from mistudio_cli.profile.resources import Shortfall
from mistudio_cli.profile.rules import Override, Profile, ProfileFile, ReadProfile, load_profile, workers_of
from mistudio_cli.views import profile_json
from tasks.queues import QUEUES
from tests.cli.conftest import Cli
from tests.cli.test_json_contract import EXAMPLES, differences
from tests.conftest import PATIENCE_S, until
from tests.fixtures.queue_table import needs_in_all

MINE = """
summary = "Trainings alone"
workers = "per-queue"
resources = ["gpu"]
max_tasks_per_child = 100

[queues.training]
slots = 2
job_memory_gb = 24
"""


@pytest.fixture
def folder(cli: Cli) -> Path:
    """Where this home's user keeps profiles."""
    folder = cli.home / "config" / "profiles"
    folder.mkdir(parents=True)
    return folder


def columns(out: str) -> dict[str, list[str]]:
    """The rows of a table by their first word."""
    return {line.split()[0]: re.split(r"\s{2,}", line) for line in out.splitlines()[1:] if line}


def test_ls_shows_what_each_profile_means_and_needs(cli: Cli, folder: Path) -> None:
    (folder / "mine.toml").write_text(MINE)
    result = cli("profiles", "ls")
    rows, full = columns(result.out), needs_in_all()
    assert result.code == Code.OK
    assert list(rows) == ["datasets", "full", "jetson", "minimal", "mine"]
    assert rows["full"][1:7] == [
        *("built-in", str(len(QUEUES)), str(sum(queue.concurrency for queue in QUEUES))),
        *(str(full.cpus), f"{full.memory_gb} GB", str(full.gpus)),
    ]
    assert rows["jetson"][1:7] == ["built-in", "1", "4", "2", "4 GB", "-"]
    assert rows["mine"][1:] == [str(folder / "mine.toml"), "2", "4", "6", "40 GB", "3", "Trainings alone"]
    assert str(folder) in result.err


def test_one_that_is_not_sound_hides_no_other(cli: Cli, folder: Path) -> None:
    (folder / "mine.toml").write_text("pool = 1")
    result = cli("profiles", "ls")
    rows = columns(result.out)
    assert result.code == Code.OK
    assert rows["mine"][2:7] == ["n/a"] * 5
    assert rows["mine"][7].startswith("not sound: workers is missing")
    assert rows["minimal"][2] == "1"
    assert "mistudio profiles validate mine" in result.err
    (row,) = [row for row in cli("profiles", "ls", "--json").json["profiles"] if row["name"] == "mine"]
    assert (row["workers"], row["needs"], len(row["faults"])) == (None, None, 2)


def test_a_profile_of_any_name_can_be_validated_as_the_command_is_printed(cli: Cli, folder: Path) -> None:
    for name in ("-x", "a b"):
        (folder / f"{name}.toml").write_text("pool = 1")
        (command,) = [
            line.partition(": ")[2] for line in cli("profiles", "ls").err.splitlines() if f"{name} is" in line
        ]
        assert "pool" in cli(*shlex.split(command)[1:]).out
        assert command in cli("profiles", "show", "--", name).err


def test_show_shows_the_rule_the_workers_and_their_exact_command_lines(cli: Cli, folder: Path) -> None:
    (folder / "mine.toml").write_text(MINE)
    result = cli("profiles", "show", "mine")
    assert result.code == Code.OK
    assert re.search(rf"^file +{re.escape(str(folder / 'mine.toml'))}$", result.out, re.M)
    assert re.search(r'^resources +\["gpu"\]$', result.out, re.M)
    assert re.search(r"^training +slots = 2, job_memory_gb = 24$", result.out, re.M)
    assert re.search(r"^needs +6 cores, 40 GB, 3 GPUs$", result.out, re.M)
    assert re.search(r"^worker-training +2 +4 +32 GB +2 +training$", result.out, re.M)
    lines = [line for line in result.out.splitlines() if "tasks.worker" in line]
    shown_json = cli("profiles", "show", "mine", "--json").json
    assert [shlex.split(line) for line in lines] == [worker["argv"] for worker in shown_json["workers"]]
    assert lines[0].endswith(
        " -P -m tasks.worker --name worker-training --queues training --slots 2 --max-tasks-per-child 100"
        " --job-memory-gb 24 --gpu-jobs 1"
    )


def test_show_says_what_this_machine_has_too_little_of(cli: Cli, folder: Path) -> None:
    (folder / "huge.toml").write_text('workers = "per-queue"\nslots = 999')
    result = cli("profiles", "show", "huge")
    assert re.search(r"^The profile huge needs \d+ cores; (this machine has|it may use) ", result.err, re.M)
    short = cli("profiles", "show", "huge", "--json").json["shortfalls"]
    assert [missing["resource"] for missing in short] == ["cores", "memory", "gpus"]
    assert all(missing["there"] < missing["wanted"] for missing in short)


@pytest.mark.parametrize("words", ["show", "export"])
@pytest.mark.parametrize(
    ("name", "sentence", "hint"),
    [
        ("mnimal", "There is no profile 'mnimal'.", "Did you mean minimal?"),
        ("../secrets", "A profile has a name, and '../secrets' is a path.", "Put the file into "),
        ("mine", "slots must be a whole number from 1 to 999, not 0.", "Write for instance: slots = 4"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence_and_a_fix(
    cli: Cli, folder: Path, words: str, name: str, sentence: str, hint: str
) -> None:
    (folder / "mine.toml").write_text('workers = "one"\nslots = 0')
    (folder.parent / "secrets.toml").write_text('workers = "one"')
    result = cli("profiles", words, name)
    assert (result.code, result.out) == (Code.USAGE, "")
    first, second = result.err.splitlines()
    assert first.endswith(sentence)
    assert second.strip().startswith(hint)


def test_validate_finds_every_fault_in_one_go(cli: Cli, folder: Path) -> None:
    (folder / "good.toml").write_text(MINE)
    (folder / "full.toml").write_text('workers = "one"')
    (folder / "bad.toml").write_text('workers = "one"\npool = "solo"\nslot = 3\n[queues.training]\nslots = 0')
    result = cli("profiles", "validate")
    assert result.code == Code.USAGE
    rows = [re.split(r"\s{2,}", line) for line in result.out.splitlines()[1:]]
    assert [row[:2] for row in rows if row[0] in ("good", "full", "minimal")] == [
        ["full", "ok"],
        ["minimal", "ok"],
        ["good", "ok"],
    ]
    assert [row for row in rows if row[0] == "full"] == [
        ["full", "ok", str(folder / "full.toml"), "in the place of the built-in full"]
    ]
    assert [row[3].split(":")[0] for row in rows if row[0] == "bad"] == [
        "pool cannot be set",
        "there is no key 'slot'",
        "[queues.training] has no effect, for the slots of one worker serve all its queues alike",
        "slots in [queues.training] must be a whole number from 1 to 999, not 0",
    ]
    assert "bad: there is no key 'slot': Did you mean slots?" in result.err
    assert result.err.count("\n") == 4
    assert cli("profiles", "validate", "good", "full").code == Code.OK


def test_validate_takes_files_from_anywhere(cli: Cli, folder: Path) -> None:
    (cli.home / "draft.toml").write_text('workers = "one"\nslots = "4"')
    result = cli("profiles", "validate", "draft.toml", "minimal", "--json")
    assert (result.code, result.json["ok"]) == (Code.USAGE, False)
    assert [(row["name"], row["origin"], len(row["faults"])) for row in result.json["profiles"]] == [
        ("draft", "file", 1),
        ("minimal", "built-in", 0),
    ]
    gone = cli("profiles", "validate", "./gone.toml")
    assert gone.code == Code.USAGE
    assert "it cannot be read: No such file or directory" in gone.out


def test_a_profile_of_ones_own_begins_as_an_export(cli: Cli, folder: Path) -> None:
    path = folder / "mine.toml"
    result = cli("profiles", "export", "full", "--to", str(path))
    assert (result.code, result.out) == (Code.OK, "")
    assert result.err.strip() == f"Written to {path}. Start it with: mistudio workers start mine"
    shown = {name: cli("profiles", "show", name, "--json").json for name in ("full", "mine")}
    assert shown["mine"]["workers"] == shown["full"]["workers"]
    path.write_text(path.read_text() + "\n[queues.processing]\nslots = 2\n")
    assert cli("profiles", "validate", "mine").code == Code.OK
    edited = cli("profiles", "show", "mine", "--json").json["workers"]
    assert [worker["slots"] for worker in edited if worker["name"] == "worker-processing"] == [2]


def test_export_writes_to_standard_output_and_over_no_file(cli: Cli) -> None:
    text = cli("profiles", "export", "jetson").out
    assert "\nslots = 4\n" in text
    there = cli.home / "new" / "there.toml"
    assert cli("profiles", "export", "jetson", "--to", str(there)).code == Code.OK
    assert there.read_text() == text
    result = cli("profiles", "export", "full", "--to", str(there))
    assert (result.code, there.read_text()) == (Code.USAGE, text)
    assert result.err.splitlines()[0] == f"{there} is there already."


def test_the_exported_command_lines_run_a_worker_without_mistudios_supervisor(cli: Cli) -> None:
    environment, _, command = cli("profiles", "export", "minimal", "--as", "celery").out.rpartition("\n\n")
    script = f"{environment}\nexec {command}"
    with (cli.home / "worker.log").open("ab") as log:
        worker = subprocess.Popen(["sh", "-c", script], env=cli.environment, stdout=log, stderr=log, cwd=cli.home)
    try:
        heartbeats = until(cli.ledger.workers, f"the worker to answer: {(cli.home / 'worker.log').read_text()}")
        assert [(heartbeat.name.split("@")[0], heartbeat.slots) for heartbeat in heartbeats] == [("all-queues", 8)]
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0


def test_exported_command_lines_name_the_broker_but_no_password(cli: Cli) -> None:
    plain = cli("profiles", "export", "full", "--as", "celery", CELERY_BROKER_URL="redis://lab:6379/0").out
    assert "export CELERY_BROKER_URL=redis://lab:6379/0\n" in plain
    assert plain.count(" -P -m tasks.worker ") == len(QUEUES)
    for url in ("redis://:secret@lab:6379/0", ""):
        result = cli("profiles", "export", "full", "--as", "celery", CELERY_BROKER_URL=url)
        assert 'export CELERY_BROKER_URL="${CELERY_BROKER_URL:?' in result.out
        assert "secret" not in result.out + result.err


def test_the_json_is_as_documented_where_a_profile_sets_everything() -> None:
    file = ProfileFile("full", Path("full.toml"), "own", shadows=True)
    full = load_profile("full")
    rule = {**vars(full), "slots": 4, "max_tasks_per_child": 1, "max_memory_per_child": 100_000, "job_memory_gb": 1.5}
    rule |= {"cpu_jobs": 2}
    profile = Profile(**{**rule, "queues": (Override("training", 1, 1, 100_000, 1.0),)})
    real = {
        "mistudio profiles ls --json": profile_json.profiles(
            [ReadProfile(file, profile, (ProfileFault("what", "mend"),))]
        ),
        "mistudio profiles show full --json": profile_json.profile_in_full(
            file, profile, [Shortfall("gpus", 2, 0, "It.")]
        ),
        "mistudio profiles validate --json": profile_json.validated(
            [ReadProfile(file, None, (ProfileFault("what", "mend"),))]
        ),
    }
    for title, result in real.items():
        assert not list(differences(EXAMPLES[title], json.loads(json.dumps(result))))
    assert len(workers_of(profile)) == len(real["mistudio profiles show full --json"]["workers"])
