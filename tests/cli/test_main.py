"""The command line as a whole: fast, honest about errors, quiet when it should be."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio_cli import commands
from mistudio_cli.app import COMMANDS
from mistudio_cli.errors import MEANINGS, Code
from mistudio_cli.terminal import output
from tasks.redis_client.redis_connection import connect
from tests.cli.conftest import MISTUDIO, Cli
from tests.conftest import PATIENCE_S, RedisServer, until
from tests.ledger.test_ledger import a_job

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "celery", "kombu", "redis", "datasets", "transformers", "numpy", "pyarrow", "uvicorn", "starlette")

WHAT_WAS_IMPORTED = """
import sys
from mistudio_cli.main import main
code = main(sys.argv[1:])
assert code == 0, code
sys.stderr.write("IMPORTED " + " ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "submit --help",
        "submit train --help",
        "queue ls",
        "queue ls --json",
        "jobs ls",
        "top --once",
        "profiles ls",
        "profiles show full",
        "profiles export full",
    ],
)
def test_commands_a_person_waits_for_import_nothing_heavy(cli: Cli, words: str) -> None:
    command = [sys.executable, "-P", "-c", WHAT_WAS_IMPORTED, *words.split()]
    done = subprocess.run(command, env=cli.environment, capture_output=True, text=True, timeout=PATIENCE_S)
    imported = done.stderr.partition("IMPORTED ")[2].split()
    assert done.returncode == 0, done.stderr
    assert "typer" in imported
    assert not set(HEAVY) & set(imported)
    if "top" not in words:
        assert "rich" not in imported


def test_the_help_names_every_command_in_its_order(cli: Cli) -> None:
    result = cli("--help")
    named = re.findall(r"^  ([a-z]+)  ", result.out.partition("Commands:")[2], re.M)
    assert (result.code, tuple(named)) == (0, COMMANDS)
    files = {path.stem for path in Path(commands.__path__[0]).glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)


def test_no_words_at_all_is_a_plea_for_help(cli: Cli) -> None:
    result = cli()
    assert result.code == 0
    assert result.out.startswith("Usage: mistudio")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert "install-completion" not in result.out


def test_the_version_is_printed(cli: Cli) -> None:
    assert re.fullmatch(r"mistudio \d+\.\d+\.\d+\S*\n", cli("--version").out)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("nonsense", Code.USAGE, "No such command 'nonsense'."),
        ("wokers status", Code.USAGE, "No such command 'wokers'. Did you mean 'workers'?"),
        ("queue lss", Code.USAGE, "No such command 'lss'. Did you mean 'ls'?"),
        ("queue ls --wrong", Code.USAGE, "No such option: --wrong"),
        ("jobs show nothere", Code.NOT_FOUND, "There is no job 'nothere'."),
        ("jobs show last", Code.NOT_FOUND, "There are no jobs yet."),
        ("jobs ls --state odd", Code.USAGE, "--state 'odd' is none of: waiting, queued, running"),
    ],
)
def test_an_error_is_one_sentence_and_a_fix(cli: Cli, words: str, code: Code, sentence: str) -> None:
    result = cli(*words.split())
    first, hint = result.err.splitlines()
    assert (result.code, result.out) == (code, "")
    assert first.startswith(sentence)
    assert "mistudio" in hint


@pytest.mark.parametrize("words", ["queue ls --json", "jobs ls", "jobs wait last", "submit cleanup"])
def test_an_unreachable_broker_is_said_as_such(cli: Cli, words: str) -> None:
    result = cli(*words.split(), CELERY_BROKER_URL="redis://someone:secret@127.0.0.1:1/0")
    assert (result.code, bool(result.out)) == (Code.UNREACHABLE, "--json" in words)
    assert result.err.startswith("Redis cannot be reached: redis://127.0.0.1:1/0")
    assert "secret" not in result.err + result.out
    assert "Traceback" not in result.err


def test_a_fault_of_ours_is_called_one_and_debug_shows_where(cli: Cli) -> None:
    fault = (
        "import tasks.ledger.client\ndef page(*_): raise RuntimeError('odd')\ntasks.ledger.client.Ledger.page = page\n"
    )
    (cli.home / "sitecustomize.py").write_text(fault)
    plain, debug = (cli(*words, PYTHONPATH=str(cli.home)) for words in (("jobs", "ls"), ("--debug", "jobs", "ls")))
    assert plain.code == Code.FAULT
    assert plain.err.startswith("Internal error: ")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err


@pytest.mark.parametrize(
    ("words", "code"), [("jobs show nothere", Code.NOT_FOUND), ("jobs ls --state odd", Code.USAGE)]
)
def test_debug_shows_where_and_changes_no_exit_code(cli: Cli, words: str, code: Code) -> None:
    plain, debug = cli(*words.split()), cli("--debug", *words.split())
    assert (plain.code, debug.code) == (code, code)
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_as_a_module_it_is_the_same_command(cli: Cli) -> None:
    command = [sys.executable, "-P", "-m", "mistudio_cli.main", "jobs", "show", "nothere"]
    done = subprocess.run(command, env=cli.environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (Code.NOT_FOUND, cli("jobs", "show", "nothere").err)


@pytest.mark.parametrize(
    ("words", "code"),
    [("queue ls >&-", Code.OK), ("queue ls --json 2>&-", Code.OK), ("jobs show nothere >&- 2>&-", Code.NOT_FOUND)],
)
def test_closed_streams_are_no_fault(cli: Cli, words: str, code: Code) -> None:
    shell = ["bash", "-c", f"{MISTUDIO} {words}"]
    done = subprocess.run(shell, env=cli.environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (code, "")


def test_a_refusal_of_redis_is_said_in_its_words(own_redis: RedisServer, cli: Cli) -> None:
    client = connect(own_redis.url)
    client.call("CONFIG", "SET", "requirepass", "secret")
    result = cli("queue", "ls", "--json", CELERY_BROKER_URL=own_redis.url)
    client.close()
    assert result.code == Code.UNREACHABLE
    assert result.json["queues"] is None
    assert result.json["errors"][0]["message"].startswith("Redis refuses: NOAUTH Authentication required; ")
    assert result.err.startswith("Redis refuses: NOAUTH Authentication required.\n")


def test_flags_win_over_the_environment_over_the_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mistudio.toml").write_text('store = "/from/file"\nbroker_url = "redis://from-file/0"\n')
    result = cli("--home", "/from/flag", "--broker-url", "redis://me:secret@flag:1/0", "config", "show", "--json")
    assert {s["name"]: (s["value"], s["origin"]) for s in result.json["settings"][:4]} == {
        "home": ("/from/flag", "flag"),
        "store": ("/from/file", "file"),
        "broker_url": ("redis://me:***@flag:1/0", "flag"),
        "result_backend": ("redis://me:***@flag:1/0", "default"),
    }
    assert "secret" not in cli("--broker-url", "redis://me:secret@flag:1/0", "config", "show").out


def test_a_settings_file_that_cannot_be_read_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mistudio.toml").write_text("stor = 1")
    result = cli("queue", "ls")
    assert result.code == Code.USAGE
    assert "mistudio.toml:1: stor is not a setting." in result.err


def test_a_foreign_tasks_module_in_the_current_folder_changes_nothing(cli: Cli) -> None:
    (cli.home / "tasks.py").write_text("raise SystemExit('a foreign module')")
    assert cli("queue", "ls").code == 0


@pytest.mark.parametrize("name", ["tasks.py", "tasks/__init__.py"])
def test_a_foreign_tasks_on_the_path_is_refused_and_not_run(cli: Cli, tmp_path: Path, name: str) -> None:
    foreign = tmp_path / "theirs" / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("raise SystemExit('a foreign module')")
    result = cli("--help", PYTHONPATH=str(tmp_path / "theirs"))
    assert (result.code, result.out) == (Code.USAGE, "")
    sentence, hint = result.err.splitlines()
    assert sentence == f"The module `tasks` in {tmp_path / 'theirs'} is not mistudio's."
    assert "PYTHONPATH" in hint


def test_a_foreign_folder_without_init_is_harmless_or_named(cli: Cli, tmp_path: Path) -> None:
    """It loses to an installed package, and wins over the finder of an editable installation."""
    (tmp_path / "theirs" / "tasks").mkdir(parents=True)
    result = cli("--help", PYTHONPATH=str(tmp_path / "theirs"))
    refusal = f"The module `tasks` in {tmp_path / 'theirs'} is not mistudio's.\n"
    assert result.code == Code.OK or result.err.startswith(refusal)


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:

    for _ in range(300):
        cli.ledger.submit(a_job())
    command = f"{MISTUDIO} jobs ls --limit 300; echo code $? >&2"
    shell = ["bash", "-c", f"({command}) | head -1"]
    done = subprocess.run(shell, env=cli.environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.startswith("ID ")
    assert done.stderr.splitlines()[-1] in ("code 141", "code 0")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("words", ["--help", "workers --help", "workers start --help", "config show"])
def test_a_text_that_nobody_reads_ends_as_documented(cli: Cli, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([MISTUDIO, *words.split()], env=cli.environment, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (Code.READER_GONE, b"")


def test_ctrl_c_ends_it_without_a_word_of_python(cli: Cli) -> None:
    job = cli.ledger.submit(a_job())

    def clients() -> set[str]:
        return {line.split()[0] for line in cli.ledger.client.call("CLIENT", "LIST").splitlines() if "db=2" in line}

    before = clients()  # one of an earlier command may be closing still
    waiting = cli.start("jobs", "logs", "-f", job.id)
    until(lambda: clients() - before, what="the command to ask Redis")
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=PATIENCE_S)
    assert (waiting.returncode, out) == (Code.INTERRUPTED, "")
    assert "Traceback" not in err


def test_the_documented_exit_codes_are_those_of_the_table() -> None:
    documented = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "docs" / "exit-codes.md").read_text(), re.M)
    assert documented == [(str(int(code)), meaning) for code, meaning in MEANINGS.items()]
    assert set(MEANINGS) == set(Code)
    assert output.READER_GONE == Code.READER_GONE


@pytest.mark.parametrize("word", ["training=" + "9" * 5000, "training=²", "training=1000", "training=", "training=-1"])
def test_a_number_of_workers_that_no_host_has_is_refused(cli: Cli, word: str) -> None:
    result = cli("workers", "scale", word)
    assert (result.code, result.out) == (Code.USAGE, "")
    assert "is not like training=2" in result.err
    assert len(result.err) < 300


@pytest.mark.parametrize("option", ["9" * 5000, "²", "0,", "-1", "cuda:0"])
def test_a_gpu_that_no_host_has_is_refused(cli: Cli, option: str) -> None:
    result = cli("submit", "cleanup", "--gpu", option)
    assert (result.code, result.out) == (Code.USAGE, "")
    assert "is neither any nor none nor indices" in result.err
    assert len(result.err) < 300
