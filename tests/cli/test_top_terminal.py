"""`top` leaves every terminal as it found it, whatever ends or suspends it, and makes do with what a terminal can."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mistudio_cli.errors import Code
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import connect
from tests.cli.conftest import MISTUDIO, Cli
from tests.cli.terminal import Terminal, terminal
from tests.conftest import PATIENCE_S, RedisServer, until

OTHER_SCREEN, BACK, CURSOR = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"
COLOR = re.compile(rb"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7]|38|48)[0-9;]*m")


#: `top` to which a stop comes right after a key, which the shell then reads.
STOPPED_AFTER_A_KEY = """
import os, select, signal, sys
from mistudio_cli.main import main
from mistudio_cli.top.tty.signals import Signals
has_key = lambda: select.select([0], [], [], 0)[0]
take = Signals.take
Signals.take = lambda self: [signal.SIGTSTP] if has_key() else take(self)
Signals.suspend = staticmethod(lambda: os.read(0, 100))
sys.exit(main(["top"]))
"""


@contextmanager
def shell(cli: Cli) -> Iterator[Terminal]:
    """A shell with job control in a terminal."""
    with terminal(cli, "--norc", "-i", command="/bin/bash", PS1="ready> ", columns=100) as shown:
        shown.until("ready>")
        yield shown


def running_job(cli: Cli) -> str:
    job = cli.ledger.submit(Job(new_job_id(), "train", "half-way", "training", {}))
    claim = cli.ledger.claim(job.id, "all-queues@h", "h")
    assert claim is not None
    cli.ledger.report(claim, Progress("training", 5, 10, "steps"))
    return job.id


def is_as_before(shown: Terminal, before: list) -> bool:
    return termios.tcgetattr(shown.child.child_fd) == before


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_takes_it_again(cli: Cli) -> None:
    with shell(cli) as shown:
        shown.press(f"{MISTUDIO} top --interval 0.2\r")
        shown.until("q quit")
        for _ in range(2):
            assert termios.tcgetattr(shown.child.child_fd)[3] & termios.ICANON == 0
            shown.press("\x1a")
            shown.until("Stopped")
            assert shown.bytes.endswith((b"ready> ", b"ready>")) or shown.bytes.rfind(BACK) > shown.bytes.rfind(
                OTHER_SCREEN
            )
            assert shown.bytes.rfind(CURSOR) > shown.bytes.rfind(b"\x1b[?25l")
            shown.screen.reset()
            shown.press("echo the shell''s line\r")
            shown.until("the shells line")
            shown.screen.reset()
            shown.press("fg\r")
            shown.until("q quit")
            shown.press("?")
            shown.until("Leaving")
            shown.press("q")
            shown.until("q quit")
        shown.screen.reset()
        shown.press("q")
        shown.until("ready>")
        shown.press("stty -a\r")
        shown.until(" icanon")


def test_a_process_that_was_stopped_from_outside_sets_the_terminal_up_again(cli: Cli) -> None:
    with terminal(cli, "top") as shown:
        before = termios.tcgetattr(shown.child.child_fd)
        shown.until("low_priority")
        ours = termios.tcgetattr(shown.child.child_fd)
        process = psutil.Process(shown.child.pid)
        shown.child.kill(signal.SIGSTOP)
        until(lambda: process.status() == psutil.STATUS_STOPPED)
        termios.tcsetattr(shown.child.child_fd, termios.TCSANOW, before)
        shown.screen.reset()
        shown.child.kill(signal.SIGCONT)
        shown.until(lambda: "q quit" in shown.text and is_as_before(shown, ours))
        shown.press("q")
        assert shown.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_even_while_ctrl_s_holds_its_output(cli: Cli, number: int) -> None:
    with terminal(cli, "top", "--interval", "0.2") as shown:
        before = termios.tcgetattr(shown.child.child_fd)
        shown.until("q quit")
        shown.press("\x13")
        shown.press("?")  # which wants to be written
        shown.child.kill(number)
        shown.bytes += shown.child.read()
        assert is_as_before(shown, before)
        assert shown.end() == 128 + number
        assert BACK in shown.bytes


def test_ctrl_backslash_gives_the_terminal_back(cli: Cli) -> None:
    with terminal(cli, "top") as shown:
        before = termios.tcgetattr(shown.child.child_fd)
        shown.until("q quit")
        shown.press("\x1c")
        shown.bytes += shown.child.read()
        assert is_as_before(shown, before)
        assert shown.end() == 128 + signal.SIGQUIT
        assert BACK in shown.bytes
        assert CURSOR in shown.bytes


def test_an_exception_gives_the_terminal_back_before_it_is_said(cli: Cli) -> None:
    code = """
import sys
from mistudio_cli.top import live
from mistudio_cli.top.actions import Actions
from mistudio_cli.top.tty.terminal import abilities
def read():
    raise ZeroDivisionError("of a reading")
live.show(read, lambda: None, lambda: Actions(None, None), abilities("xterm", 1), 1.0)
"""
    with terminal(cli, "-c", code, command=sys.executable) as shown:
        before = termios.tcgetattr(shown.child.child_fd)
        shown.bytes += shown.child.read()
        assert is_as_before(shown, before)
        assert 0 < shown.bytes.rfind(BACK) < shown.bytes.find(b"ZeroDivisionError: of a reading")
        assert shown.end() == 1


def test_a_terminal_without_cursor_addressing_gets_plain_text_at_each_interval(cli: Cli) -> None:
    job_id = running_job(cli)
    with terminal(cli, "top", "--interval", "0.2", TERM="dumb") as shown:
        shown.until(lambda: shown.bytes.count(job_id.encode()) >= 3)
        assert b"\x1b" not in shown.bytes
        assert "█████░░░░░ 50 %".encode() in shown.bytes
        shown.child.sendintr()
        assert shown.end() == 0
        assert b"Traceback" not in shown.bytes


def test_an_encoding_without_blocks_gets_bars_of_ascii(cli: Cli) -> None:
    running_job(cli)
    for name in ("xterm", "dumb"):
        with terminal(cli, "top", PYTHONIOENCODING="ascii", TERM=name) as shown:
            shown.until("#####..... 50 %")
            shown.child.sendintr()
            assert shown.end() == 0
            assert shown.bytes.isascii()


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "vt100"}])
def test_without_colors_there_is_bold_and_reverse_only(cli: Cli, environment: dict[str, str]) -> None:
    running_job(cli)
    with terminal(cli, "top", **environment) as shown:
        shown.until("50 %")
        shown.press("s")
        shown.until("NAME ↓")
        shown.press("q")
        assert shown.end() == 0
    codes = set(re.findall(rb"\x1b\[([0-9;]*)m", shown.bytes))
    assert codes <= {b"", b"1", b"7"}
    assert {b"1", b"7"} <= codes


def test_a_terminal_of_colors_gets_some(cli: Cli) -> None:
    running_job(cli)
    with terminal(cli, "top") as shown:
        shown.until("50 %")
        shown.press("q")
        assert shown.end() == 0
    assert COLOR.search(shown.bytes)


def test_a_terminal_without_another_screen_keeps_what_was_written_last(cli: Cli) -> None:
    with terminal(cli, "top", TERM="vt100") as shown:
        shown.until("q quit")
        shown.press("q")
        assert shown.end() == 0
        assert OTHER_SCREEN not in shown.bytes
        assert b"\x1b[?25" not in shown.bytes


def test_a_redis_that_hangs_holds_up_neither_the_first_frame_nor_the_keys(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and never answers
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        with terminal(cli, "--broker-url", url, "top") as shown:
            shown.until(lambda: "reading …".encode() in shown.bytes)  # the next frame may have come with it
            shown.press("?")
            shown.until("Leaving")
            shown.press("q")
            shown.until(f"! {url} does not answer")
            shown.until("queues: not read: ")
            assert "PENDING" not in shown.text
            shown.press("q")
            assert shown.end() == 0


def test_jsonl_once_is_one_line(cli: Cli) -> None:
    for words in (("--once", "--jsonl"), ("--json", "--jsonl")):
        (line,) = cli("top", *words).out.splitlines()
        assert json.loads(line)["queues"]


def test_jsonl_is_one_object_at_each_interval_for_ever(cli: Cli) -> None:
    job_id = running_job(cli)
    with cli.start("top", "--jsonl", "--interval", "0.2") as process:
        assert process.stdout is not None
        result = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert [[job["id"] for job in each["jobs"]] for each in result] == [[job_id]] * 3
    assert result[0]["read_at"] < result[1]["read_at"] < result[2]["read_at"]
    assert process.returncode in (0, Code.INTERRUPTED)


def test_jsonl_continues_when_the_ledger_cannot_be_read(cli: Cli) -> None:
    with cli.start("--broker-url", "redis://127.0.0.1:1/0", "top", "--jsonl", "--interval", "0.2") as process:
        assert process.stdout is not None
        result = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert [(each["queues"], each["errors"][0]["part"]) for each in result] == [(None, "ledger")] * 2


def test_a_reader_of_jsonl_that_goes_away_ends_it_quietly(cli: Cli) -> None:
    line = f"{MISTUDIO} top --jsonl --interval 0.2 | head -n 2 | wc -l; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", line], env=cli.environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.split() == ["2", "141"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("interval", ["0.1", "61", "nan", "x"])
def test_an_interval_beyond_its_range_is_refused(cli: Cli, interval: str) -> None:
    result = cli("top", "--interval", interval)
    assert (result.code, result.out) == (Code.USAGE, "")
    assert "interval" in result.err


def test_without_a_keyboard_it_is_shown_until_a_signal(cli: Cli) -> None:
    line = f"exec {MISTUDIO} top < /dev/null"
    with terminal(cli, "-c", line, command="/bin/bash") as shown:
        shown.until("low_priority")
        assert "q quit" not in shown.text
        shown.child.kill(signal.SIGTERM)
        assert shown.end() == 128 + signal.SIGTERM
        assert os.path.exists(cli.home)


@pytest.fixture
def tmux(cli: Cli, short_tmp: Path) -> Iterator[Callable[..., str]]:
    """A tmux server of its own with a shell in it; calls its commands and returns what they print."""
    if shutil.which("tmux") is None:
        pytest.skip("no tmux here")
    environment = cli.environment | {"TERM": "xterm-256color"}
    environment.pop("TMUX", None)

    def call(*words: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(short_tmp / "t"), *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    call("new-session", "-d", "-x", "80", "-y", "24", "PS1='ready> ' exec bash --norc -i")
    yield call
    call("kill-server")


def test_a_key_that_is_lost_to_a_stop_is_not_waited_for(cli: Cli) -> None:
    with terminal(cli, "-c", STOPPED_AFTER_A_KEY, command=sys.executable) as shown:
        shown.until("low_priority")
        before = shown.bytes.count(OTHER_SCREEN)
        shown.press("j")
        shown.until(lambda: shown.bytes.count(OTHER_SCREEN) > before)
        shown.until(lambda: b"low_priority" in shown.bytes.rpartition(OTHER_SCREEN)[2])


def test_in_tmux_the_shell_is_as_it_was_after_ctrl_z_and_after_a_kill(cli: Cli, tmux: Callable[..., str]) -> None:
    def is_shown(text: str, other_screen: str) -> bool:
        return text in tmux("capture-pane", "-p") and tmux("display", "-p", "#{alternate_on}").strip() == other_screen

    def cursor() -> str:
        return tmux("display", "-p", "#{cursor_flag}").strip()

    until(lambda: is_shown("ready>", "0"), "the shell")
    tmux("send-keys", f"echo before; {MISTUDIO} top", "Enter")
    until(lambda: is_shown("q quit", "1"), "top")
    assert cursor() == "0"
    for _ in range(2):
        tmux("send-keys", "C-z")
        until(lambda: is_shown("Stopped", "0"), "the shell")
        assert "before" in tmux("capture-pane", "-p")
        assert cursor() == "1"
        tmux("send-keys", "fg", "Enter")
        until(lambda: is_shown("q quit", "1"), "top again")
        tmux("send-keys", "?")
        until(lambda: is_shown("Choosing", "1"), "the help")
        tmux("send-keys", "q")
        until(lambda: is_shown("q quit", "1"), "the help to close: Ctrl-Z throws away keys that nobody has read")
    shell_pid = int(tmux("display", "-p", "#{pane_pid}"))
    (process,) = psutil.Process(shell_pid).children()
    process.terminate()
    until(lambda: is_shown("ready>", "0"), "the shell")
    assert cursor() == "1"
    tmux("send-keys", "stty -a | grep -o ' icanon'", "Enter")
    until(lambda: is_shown("\n icanon", "0"), "the usual mode")


def test_the_mouse_is_taken_unless_no_mouse_is_given_and_given_back(cli: Cli) -> None:
    for flags, is_taken in (([], True), (["--no-mouse"], False)):
        with terminal(cli, "top", *flags) as shown:
            shown.until("low_priority")
            shown.press("\x1b[<0;3;35M")
            shown.press("q")
            assert shown.end() == 0
        for sequence in (b"\x1b[?1000h", b"\x1b[?1006h", b"\x1b[?1000l", b"\x1b[?1006l"):
            assert (sequence in shown.bytes) == is_taken


def test_a_redis_that_hangs_while_it_is_watched_leaves_what_was_read_with_its_age(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    client = connect(own_redis.url)
    watched = Cli(tmp_path, own_redis.url, Ledger(client))
    job_id = running_job(watched)
    assert own_redis.process is not None
    with terminal(watched, "top", "--interval", "0.2", rows=50) as shown:
        shown.until(job_id)
        shown.until("low_priority")
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            shown.until("jobs as of ")
            shown.until("queues as of ")
            assert job_id in shown.text
            assert "50 %" in shown.text
            shown.until("does not answer (waited 1 s)")
            shown.press("?")
            shown.until("Leaving")
            shown.press("q")
            shown.until("[1:jobs]")
        finally:
            own_redis.process.send_signal(signal.SIGCONT)
        shown.gone(" as of ")
        shown.gone("does not answer")
        assert job_id in shown.text
        shown.press("q")
        assert shown.end() == 0
    client.close()
