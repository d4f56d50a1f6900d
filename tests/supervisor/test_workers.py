"""`mistudio workers` as a person types it: real workers, real jobs, real deaths."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from mistudio_cli import settings
from mistudio_cli.errors import Code
from mistudio_cli.fleet import supervisor_client
from mistudio_cli.redis import redis_server
from tasks.jobs.record import State
from tasks.queues import QUEUE_NAMES
from tasks.system import process_identity
from tests.conftest import PATIENCE_S, RedisServer, until
from tests.supervisor.command_line import Cli
from tests.supervisor.conftest import Home

#: In place of Celery: workers that never answer, and end with their supervisor or when they are asked to.
HANGING_CELERY = """
import os, time
while os.getppid() == int(os.environ["MISTUDIO_SUPERVISOR"]):
    time.sleep(0.05)
raise SystemExit
"""


@pytest.fixture
def cli(home: Home) -> Cli:
    return Cli(home)


def test_the_whole_life_of_a_profile(cli: Cli) -> None:
    home = cli.home
    nothing = cli.read_json("workers status --json")
    assert nothing == {**nothing, "supervisor": {"pid": None, "state": "stopped"}, "workers": [], "errors": []}
    assert not home.places.home.exists(), "looking must not make anything"

    job_id = cli.nap(2)
    assert cli.read_json("workers status --json")["supervisor"] == {"pid": home.supervisor.pid, "state": "running"}

    started = cli("workers start")
    assert (started.returncode, started.stdout) == (0, "")
    assert started.stderr.splitlines() == [
        f"{home.worker()['name']} has answered (1 of 1)",
        "The profile minimal runs: all-queues.",
    ]
    assert cli.ended(job_id).state is State.SUCCEEDED
    (worker,) = cli.read_json("workers status --json")["workers"]
    assert (worker["state"], worker["slots"], worker["busy"], worker["restarts"]) == ("running", 8, 0, 0)
    assert (worker["queues"], worker["last_exit"]) == (list(QUEUE_NAMES), None)
    assert worker["pss_bytes"] > 1e6
    assert 0 <= time.time() - psutil.Process(worker["pid"]).create_time() < 3600

    again = cli("workers start minimal")
    assert (again.returncode, again.stderr) == (0, "The profile minimal runs already: all-queues.\n")
    assert cli.read_json("workers status --json")["workers"][0]["pid"] == worker["pid"]
    other = cli("workers start full")
    assert other.returncode == Code.USAGE
    assert other.stderr == "Other workers run already: all-queues.\n  First: mistudio workers stop\n"

    table = cli("workers status").stdout.splitlines()
    assert table[0].split()[:3] == ["WORKER", "STATE", "PID"]
    assert table[1].split()[:3] == [worker["name"], "running", str(worker["pid"])]
    assert f"{worker['name']} ready" in cli("workers logs all-queues -n 100").stdout
    assert cli(f"workers logs {worker['name']} -n 1").stdout.count("\n") == 1

    stopped = cli("workers stop")
    assert stopped.returncode == 0
    assert f"{worker['name']} has ended (exit code 0)\n" in stopped.stderr
    (worker,) = cli.read_json("workers status --json")["workers"]
    assert (worker["state"], worker["pid"], worker["pss_bytes"]) == ("stopped", None, None)
    assert redis_server.answers(home.places)
    assert cli("workers stop").stderr == "No workers run.\n"

    ended = cli("workers stop --all")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (0, "All is stopped.")
    assert home.processes() == []
    assert cli("workers stop --all").stderr == "No workers run.\n"


def test_a_killed_worker_is_replaced(cli: Cli) -> None:
    assert cli("workers start").returncode == 0
    first = cli.home.worker()["pid"]
    os.kill(first, signal.SIGKILL)
    until(lambda: (result := cli.home.worker())["state"] == "running" and result["pid"] != first)
    assert (cli.home.worker()["restarts"], cli.home.worker()["last_exit"]) == (1, "killed by SIGKILL")
    assert cli.ended(cli.nap(1)).state is State.SUCCEEDED


def test_a_job_too_long_for_the_grace_is_put_back_and_resumed(cli: Cli) -> None:
    assert cli("workers start").returncode == 0
    job_id = cli.long_nap()
    cli.under_way(job_id)
    stopped = cli("workers stop --grace 0.5")
    assert stopped.returncode == 0
    assert stopped.stderr.startswith("Running jobs may finish for 0.5 s, then they are put back")
    assert cli.job(job_id).state is State.QUEUED
    assert cli("workers start").returncode == 0
    until(lambda: cli.ticks(2), "it to be begun again")
    cli.wake()
    done = cli.ended(job_id)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 2)
    last, first = cli.ticks(1)[-1], cli.ticks(2)[0]
    assert first in (last, last + 1)
    assert first > 0


def statuses(cli: Cli) -> list[tuple[int | None, str, int | None]]:
    rows = cli.read_json("workers status --json")["workers"]
    return [(row["pid"], row["state"], row["busy"]) for row in rows]


def test_killed_supervisor_its_workers_finish_and_end_and_the_next_one_continues(cli: Cli) -> None:
    assert cli("workers start").returncode == 0
    job_id = cli.long_nap()
    cli.under_way(job_id)
    worker, server = psutil.Process(cli.home.worker()["pid"]), cli.home.redis
    cli.home.supervisor.kill()
    until(lambda: statuses(cli) == [(worker.pid, "draining", 1)], "the worker to know")
    cli.wake()
    until(lambda: not process_identity.is_alive(worker), "the worker to drain")
    assert statuses(cli) == []
    done = cli.job(job_id)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
    assert cli("workers start").returncode == 0
    assert cli.home.redis == server
    assert cli.ended(cli.nap(1)).state is State.SUCCEEDED


def test_workers_that_outlived_their_supervisor_can_be_stopped(cli: Cli) -> None:
    assert cli("workers start").returncode == 0
    job_id = cli.long_nap()
    cli.under_way(job_id)
    worker = psutil.Process(cli.home.worker()["pid"])
    cli.home.supervisor.kill()
    stopped = cli("workers stop --now")
    assert (stopped.returncode, stopped.stderr.splitlines()[0]) == (0, f"{cli.home.full_name('all-queues')} has ended")
    assert not process_identity.is_alive(worker)
    assert cli.job(job_id).state is State.QUEUED


def test_redis_killed_under_a_job_the_job_ends_well(cli: Cli) -> None:
    assert cli("workers start").returncode == 0
    job_id = cli.long_nap()
    cli.under_way(job_id)
    server = cli.home.redis
    server.kill()
    until(lambda: not process_identity.is_alive(server) and redis_server.answers(cli.home.places))
    cli.wake()
    done = cli.ended(job_id)
    assert (done.state, done.attempt) == (State.SUCCEEDED, 1)


def test_workers_that_cannot_start_are_reported_with_their_last_words(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text("raise SystemExit('this celery is broken')")
    failed = cli("workers start", PYTHONPATH=str(tmp_path))
    first, *lines, hint = failed.stderr.splitlines()
    assert failed.returncode == Code.FAILED
    assert first == f"{cli.home.worker()['name']} does not start (exit code 1)."
    assert lines == ["  | this celery is broken"] * 4
    assert hint == "  See: mistudio workers logs all-queues"
    (worker,) = cli.read_json("workers status --json")["workers"]
    assert worker["state"] == "fatal"
    assert cli("workers status").stderr.splitlines()[-1] == "  | this celery is broken"
    assert cli("workers start").returncode == 0, "once fixed, it starts"


@pytest.mark.parametrize("how", ["its supervisor is killed", "its workers are stopped", "they stop unseen"])
def test_a_start_that_is_cut_short_by_others_says_so(cli: Cli, how: str, tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text(HANGING_CELERY)
    starting = cli.begin("workers", "start", "full", PYTHONPATH=str(tmp_path))
    until(lambda: (raised := supervisor_client.status(cli.home.places)) and raised["workers"])
    if how == "its supervisor is killed":
        cli.home.supervisor.kill()
    elif how == "its workers are stopped":
        supervisor_client.stop(cli.home.places)
    else:
        starting.send_signal(signal.SIGSTOP)
        supervisor_client.stop(cli.home.places, grace_s=0.0)
        until(lambda: {row["state"] for row in supervisor_client.status(cli.home.places)["workers"]} == {"stopped"})
        starting.send_signal(signal.SIGCONT)
    _, raised = starting.communicate(timeout=180)
    assert "The supervisor ended, or was asked to stop them, while it started worker-" in raised
    assert starting.returncode == Code.FAILED
    assert cli("workers start full").returncode == 0


def test_ctrl_c_takes_back_what_was_started(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text(HANGING_CELERY)
    starting = cli.begin("workers", "start", "full", PYTHONPATH=str(tmp_path))
    until(lambda: (result := supervisor_client.status(cli.home.places)) and result["workers"])
    starting.send_signal(signal.SIGINT)
    _, result = starting.communicate(timeout=180)
    assert starting.returncode == Code.INTERRUPTED, result
    until(lambda: not cli.home.processes("tasks.worker"), "the workers to end")


def test_ctrl_c_while_scaling_says_that_it_continues(cli: Cli) -> None:
    assert cli("workers start --queues high_priority").returncode == 0
    scaling = cli.begin("workers", "scale", "datasets=2")
    until(lambda: len(supervisor_client.ask(cli.home.places, "status")["workers"]) == 3)
    scaling.send_signal(signal.SIGINT)
    _, result = scaling.communicate(timeout=180)
    if scaling.returncode != 0:  # it was quicker
        assert (scaling.returncode, "It continues in the background." in result) == (Code.INTERRUPTED, True)
    until(lambda: {row["state"] for row in supervisor_client.ask(cli.home.places, "status")["workers"]} == {"running"})


def test_logs_are_followed_and_named(cli: Cli) -> None:
    cli.home.places.logs.mkdir(parents=True)
    for name in ("worker-datasets", "worker-training", "redis"):
        cli.home.places.worker_log(name).write_text(f"old {name}\nlast {name}\n")
    following = cli.begin("workers", "logs", "-f", "-n", "1")
    assert following.stdout is not None
    lines = [following.stdout.readline() for _ in range(2)]
    with cli.home.places.worker_log("worker-training").open("a") as log:
        log.write("new\u2028line\nhalf a li")
    lines.append(following.stdout.readline())
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=PATIENCE_S)
    assert lines == [
        "worker-datasets | last worker-datasets\n",
        "worker-training | last worker-training\n",
        "worker-training | new\\u2028line\n",
    ]
    assert cli("workers logs redis -n 1").stdout == "last redis\n"
    missing = cli("workers logs nobody")
    assert missing.returncode == Code.NOT_FOUND
    assert missing.stderr.splitlines() == [
        "There is no log of 'nobody' on this machine.",
        "  Logs: redis, worker-datasets, worker-training",
    ]


def test_on_a_named_redis_nothing_of_our_own_is_started_and_no_password_shown(
    cli: Cli, session_redis: RedisServer
) -> None:
    secret = session_redis.url.replace("redis+socket://", "redis+socket://:hush@")
    plain = session_redis.url.replace("virtual_host=0", "virtual_host=7")
    started = cli("workers start", CELERY_BROKER_URL=plain)
    assert started.returncode == 0, started.stderr
    assert redis_server.running(cli.home.places) is None
    status = cli("workers status --json", CELERY_BROKER_URL=plain)
    assert json.loads(status.stdout)["workers"][0]["state"] == "running"
    elsewhere = cli("workers start", CELERY_BROKER_URL=session_redis.url)
    assert elsewhere.stderr == ("Workers run already on another Redis: all-queues.\n  First: mistudio workers stop\n")
    assert cli("workers stop --now", CELERY_BROKER_URL=plain).returncode == 0
    refused = cli("workers start", CELERY_BROKER_URL=secret)
    assert "hush" not in refused.stdout + refused.stderr
    assert not cli.home.processes("hush")


def test_a_broker_that_is_away_is_said_at_once(cli: Cli) -> None:
    refused = cli("workers start", CELERY_BROKER_URL="redis://:hush@127.0.0.1:1/0")
    assert refused.returncode == Code.UNREACHABLE
    assert refused.stderr.startswith("Redis cannot be reached: redis://127.0.0.1:1/0")
    assert "hush" not in refused.stderr
    assert supervisor_client.status(cli.home.places) is None


def test_with_redis_away_status_shows_what_the_supervisor_knows(cli: Cli, own_redis: RedisServer) -> None:
    assert cli("workers start", CELERY_BROKER_URL=own_redis.url).returncode == 0
    own_redis.kill()
    result = cli("workers status --json", CELERY_BROKER_URL=own_redis.url)
    seen = json.loads(result.stdout)
    assert result.returncode == Code.UNREACHABLE
    assert [(worker["state"], worker["busy"]) for worker in seen["workers"]] == [("running", None)]
    parts = {trouble["part"] for trouble in seen["errors"]}
    assert parts - {"processes"} == {"ledger"}, "what processes hold takes longer than a second on a busy machine"
    own_redis.start()


def test_a_worker_runs_in_a_strange_home(strange_home: Home) -> None:
    cli = Cli(strange_home)
    assert cli("workers start jetson").returncode == 0
    assert cli.read_json("workers status --json")["workers"][0]["slots"] == 4
    assert cli("workers stop --all").returncode == 0
    assert strange_home.processes() == []


def test_one_more_worker_a_scaled_queue_and_a_restart_with_more_slots(cli: Cli) -> None:
    assert cli("workers start --queues datasets,high_priority --concurrency 2 --name mine").stderr.splitlines()[-1] == (
        "mine runs."
    )
    again = cli("workers start --queues datasets,high_priority --concurrency 2 --name mine")
    assert again.stderr.splitlines()[0] == "mine runs already."
    scaled = cli("workers scale training=2")
    assert scaled.stderr.splitlines()[-1] == "New: worker-training, worker-training-2."
    assert cli("workers scale training=2").stderr == "Nothing to change.\n"
    rows = {row["name"].partition("@")[0]: row for row in cli.read_json("workers status --json")["workers"]}
    assert {name: (row["slots"], row["queues"]) for name, row in rows.items()} == {
        "mine": (2, ["high_priority", "datasets"]),
        "worker-training": (1, ["training"]),
        "worker-training-2": (1, ["training"]),
    }
    restarted = cli("workers restart mine --concurrency 3")
    assert (restarted.returncode, restarted.stderr.splitlines()[-1]) == (0, "Restarted: mine.")
    now = cli.home.worker("mine")
    assert (now["slots"], now["state"]) == (3, "running")
    assert now["pid"] != rows["mine"]["pid"]
    assert cli("workers scale training=0").stderr.splitlines()[-1] == (
        "Leaving, after their last jobs: worker-training, worker-training-2."
    )
    until(
        lambda: [row["name"].partition("@")[0] for row in cli.read_json("workers status --json")["workers"]] == ["mine"]
    )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("workers scale nonsense=1", Code.USAGE, "there is no queue 'nonsense'"),
        ("workers scale training", Code.USAGE, "'training' is not like training=2"),
        ("workers scale training=-1", Code.USAGE, "'training=-1' is not like training=2"),
        ("workers scale training=1 training=2", Code.USAGE, "a queue is given twice"),
        ("workers start --queues=", Code.USAGE, "There is no queue ''"),
        ("workers start --queues training --name redis", Code.USAGE, "'redis' cannot be a worker's name"),
        ("workers start --concurrency 1000", Code.USAGE, "1000 is not in the range 1<=x<=999"),
        ("workers start --max-memory-per-child 1", Code.USAGE, "1 is not in the range x>=100000"),
        ("workers start full --queues training", Code.USAGE, "give a profile or --queues, not both"),
        ("workers start full --name one", Code.USAGE, "--name is for one worker; full has 6"),
        ("workers start --queues nonsense", Code.USAGE, "There is no queue 'nonsense'."),
        ("workers start --queues training --name ../x", Code.USAGE, "'../x' cannot be a worker's name."),
        ("workers stop --now --drain", Code.USAGE, "--now and --drain are opposites"),
        ("workers stop --now --grace 5", Code.USAGE, "--grace is how long to wait, --now not at all"),
        ("workers stop --drain --grace 5", Code.USAGE, "--grace is how long to wait, --drain for ever"),
        ("workers restart", 0, "No workers run. Start some: mistudio workers start"),
        ("workers drain", 0, "No workers run."),
    ],
)
def test_what_makes_no_sense_is_refused_and_starts_nothing(cli: Cli, words: str, code: int, said: str) -> None:
    refused = cli(words)
    assert refused.returncode == code, refused.stderr
    assert said in refused.stderr.replace("\n", " ").replace("│", "").replace("  ", " ")
    assert "Traceback" not in refused.stderr
    assert supervisor_client.status(cli.home.places) is None


def test_more_than_the_machine_has_is_said_and_refused_when_strict(cli: Cli) -> None:
    cores = os.cpu_count() or 1
    words = ["workers", "start", "--queues", "processing", "--concurrency", str(cores + 1)]
    refused = cli.begin(*words, "--strict")
    _, result = refused.communicate(timeout=180)
    assert refused.returncode == Code.USAGE
    assert f"worker-processing needs {cores + 1} core" in result
    assert "leave out --strict" in result
    assert supervisor_client.status(cli.home.places) is None
    warned = cli.begin(*words)
    _, result = warned.communicate(timeout=180)
    assert warned.returncode == 0
    assert re.match(rf"worker-processing needs {cores + 1} cores; (this machine has|it may use) [0-9.]+", result)


def test_in_the_foreground_a_signal_lets_jobs_finish_and_ends_everything(cli: Cli) -> None:
    running = cli.begin("workers", "start", "--foreground", "--queues", "training", "--grace", "30")
    until(
        lambda: (
            (result := supervisor_client.status(cli.home.places))
            and {row["state"] for row in result["workers"]} == {"running"}
        )
    )
    assert supervisor_client.status(cli.home.places)["supervisor"]["pid"] == running.pid
    refused = cli("workers start --foreground")
    assert (refused.returncode, "Another supervisor keeps" in refused.stderr) == (Code.USAGE, True)
    job_id = cli.nap(30)
    cli.under_way(job_id)
    running.send_signal(signal.SIGTERM)
    _, result = running.communicate(timeout=180)
    assert running.returncode == 0
    assert "ready." in result, "the workers' words come out here"
    assert cli.home.processes() == []
    home = settings.load({"home": str(cli.home.places.home)})
    supervisor_client.broker_url_for(home)
    assert (cli.job(job_id).state, cli.job(job_id).attempt) == (State.SUCCEEDED, 1)


def test_in_the_foreground_workers_that_never_start_end_it_with_an_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "celery.py").write_text("raise SystemExit('this celery is broken')")
    ended = cli("workers start --foreground", PYTHONPATH=str(tmp_path))
    assert ended.returncode == Code.FAILED
    assert ended.stderr.count("this celery is broken") == 4
    assert cli.home.processes() == []
