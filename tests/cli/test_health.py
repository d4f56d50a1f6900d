"""The health report: every fault is a cause with the command that fixes or shows it, and what is well is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.errors import Trouble, with_fix
from mistudio_cli.machine.host import Host
from mistudio_cli.monitor.collector.collector import Collector
from mistudio_cli.monitor.health.causes import Health, HealthCause, health_of
from mistudio_cli.monitor.hosts import HostRow
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.views import health_json
from tasks.accelerators.devices import Device, Devices
from tasks.fleet.host_heartbeat import Gpu, HostHeartbeat
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, Progress
from tasks.ledger import overview
from tasks.ledger.client import Ledger
from tasks.ledger.overview import Wanted
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tasks.redis_client import server_state
from tasks.redis_client.redis_connection import Client, connect
from tasks.redis_client.server_state import ServerState
from tests.cli.recorded import GIB, NOW, RUNNING, SNAPSHOT
from tests.conftest import RedisServer

assert SNAPSHOT.queues is not None
assert SNAPSHOT.workers is not None

WELL = replace(
    SNAPSHOT,
    queues=tuple(replace(row, state="ok") for row in SNAPSHOT.queues),
    workers=tuple(replace(row, state="running") for row in SNAPSHOT.workers),
    jobs=(),
    consuming=6,
    server=ServerState(1 * GIB, 0, True, False),
)
HEARTBEAT = WorkerHeartbeat("all-queues@h", "h", 7, QUEUE_NAMES, 8, 1000.0)


def memory_used(client: Client) -> int:
    return server_state.decode(overview.read(client, Wanted(server=True)).server_info).memory_used or 0


def report_of(client: Client) -> dict[str, Any]:
    """The health report of the ledger alone."""
    nothing = Collector(None, Places(Path("/nowhere"), Path("/nowhere")), ())
    return health_json.report(nothing.collect_around(lambda: overview.read(client, Wanted(server=True))))


def only(seen: Snapshot) -> HealthCause:
    """The one cause, which is a warning."""
    found = health_of(seen)
    assert found.status == "warning"
    (cause,) = found.causes
    assert cause.command
    return cause


def with_queue(name: str, **changes: object) -> Snapshot:
    assert WELL.queues is not None
    return replace(WELL, queues=tuple(replace(row, **changes) if row.name == name else row for row in WELL.queues))


def host(name: str, offset_s: float = 0.0, state: str = "running", **more: object) -> HostRow:
    newest = HostHeartbeat(name, "/home", 1, NOW - 100, NOW - 1, offset_s, **more)  # type: ignore[arg-type]
    return HostRow(name, state, 1, 0, 1.0, newest, (newest,))


def test_a_fleet_that_is_well_has_no_cause() -> None:
    assert health_of(WELL) == Health("healthy")


def test_a_backlog_is_a_cause() -> None:
    cause = only(with_queue("training", pending=101))
    assert (cause.code, cause.queue, cause.sentence) == ("backlog", "training", "Queue 'training' has a backlog of 101")


def test_jobs_without_a_consumer_are_a_cause_and_say_since_when() -> None:
    cause = only(with_queue("training", consumers=0, state="no worker"))
    assert (cause.code, cause.command) == ("no_consumer", "mistudio workers scale training=1")
    assert cause.since == NOW - 3000


@pytest.mark.parametrize("state", ["stopped", "stopping", "draining"])
def test_where_no_worker_of_this_home_stays_a_profile_is_started(state: str) -> None:
    assert WELL.workers is not None
    here = tuple(replace(row, state=state) for row in WELL.workers)
    elsewhere = (replace(WELL.workers[0], queues=("datasets",), name="worker-datasets@elsewhere", restarts=None),)
    seen = with_queue("training", consumers=0, pending=2)
    for rows in (here, elsewhere, ()):
        assert only(replace(seen, workers=rows)).command == "mistudio workers start full"


def test_jobs_on_a_paused_queue_are_a_cause_and_an_empty_one_is_none() -> None:
    cause = only(with_queue("training", state="paused", paused_at=NOW - 7))
    assert (cause.code, cause.command, cause.since) == ("paused", "mistudio queue resume training", NOW - 7)
    assert health_of(with_queue("datasets", state="paused", paused_at=NOW - 7)).status == "healthy"


def test_a_job_that_waits_for_over_an_hour_is_a_cause() -> None:
    cause = only(with_queue("training", oldest_age_s=3700.0))
    assert (cause.code, cause.since) == ("oldest_wait", NOW - 3700)


@pytest.mark.parametrize("state", ["silent", "fatal", "backoff", "unresponsive", "refused"])
def test_a_worker_that_runs_nothing_is_a_cause(state: str) -> None:
    assert WELL.workers is not None
    row = replace(WELL.workers[0], state=state, seen_age_s=140.0, last_exit="exit code 3")
    cause = only(replace(WELL, workers=(row, *WELL.workers[1:])))
    assert (cause.code, cause.worker) == (f"worker_{state}", row.name)
    assert (cause.since == NOW - 140) == (state == "silent")
    assert ("exit code 3" in cause.sentence) == (state in ("fatal", "backoff"))


def test_a_queue_whose_worker_is_silent_does_not_have_others_started_in_vain() -> None:
    seen = with_queue("training", consumers=0, pending=2)
    assert only(seen).command == "mistudio workers scale training=1"
    assert WELL.workers is not None
    silent = replace(WELL.workers[0], queues=("training",), state="silent", seen_age_s=22.0)
    worker, queue = health_of(replace(seen, workers=(silent,), consuming=5)).causes
    assert worker.sentence == f"{silent.name} sent no heartbeat for 22 s, replaced at 120 s"
    late = health_of(replace(seen, workers=(replace(silent, seen_age_s=190.0),), consuming=5)).causes[0]
    assert late.sentence.endswith(" for 3 min 10 s"), "it was counted again, since Redis did not answer meanwhile"
    assert worker.command == queue.command == f"mistudio workers logs {silent.name}"
    everything = health_of(replace(seen, workers=(silent,), consuming=0)).causes[0]
    assert (everything.code, everything.command) == ("no_workers", worker.command)


def test_a_running_job_whose_progress_stands_still_is_a_cause() -> None:
    stuck = replace(RUNNING[0], progress_at=NOW - 1000)
    cause = only(replace(WELL, jobs=(stuck,)))
    assert (cause.code, cause.queue, cause.worker) == ("no_progress", "training", stuck.worker)
    assert stuck.id in cause.sentence
    assert health_of(replace(WELL, jobs=(replace(stuck, progress_at=NOW - 5),))).status == "healthy"
    never = replace(stuck, progress=None, progress_at=None, started_at=NOW - 1000)
    assert only(replace(WELL, jobs=(never,))).since == NOW - 1000


def test_a_lost_gpu_and_gpus_that_cannot_be_read_are_causes() -> None:
    lost = Device(1, problem="GPU is lost", is_lost=True)
    assert only(replace(WELL, devices=Devices((lost,)))).code == "gpu_lost"
    unread = Trouble("devices", "NVML cannot be read: it does not answer")
    assert only(replace(WELL, devices=None, errors=(unread,))).code == "gpu"
    elsewhere = host("far", gpus=(Gpu(0, error="GPU is lost"),))
    assert only(replace(WELL, hosts=(elsewhere,))).sentence == "GPU 0 of far: GPU is lost"
    assert health_of(replace(WELL, hosts=(host("far", gpus_error="no NVIDIA driver"),))).status == "healthy"


def test_a_disk_with_less_than_a_twentieth_free_is_a_cause() -> None:
    full = Host("lab", 4, 1.0, 1.0, GIB, GIB, 100 * GIB, 4 * GIB)
    assert only(replace(WELL, host=full)).code == "disk"
    assert health_of(replace(WELL, host=replace(full, disk_free=6 * GIB))).status == "healthy"


def test_clocks_that_are_apart_are_a_cause_though_each_is_near_that_of_redis() -> None:
    assert only(replace(WELL, hosts=(host("a", 9.0),))).code == "clock"
    cause = only(replace(WELL, hosts=(host("a", -4.0), host("b", 4.0))))
    assert (cause.code, cause.sentence) == ("clock", "The clocks of a and b are 8 s apart")
    assert health_of(replace(WELL, hosts=(host("a", -2.0), host("b", 2.0)))).status == "healthy"


def test_a_silent_host_is_a_cause() -> None:
    assert only(replace(WELL, hosts=(host("a", state="silent"),))).code == "host_silent"


def test_a_redis_without_an_append_only_file_or_near_its_limit_is_a_cause() -> None:
    assert only(replace(WELL, server=ServerState(GIB, 0, False, False))).code == "redis_file"
    assert only(replace(WELL, server=ServerState(95, 100, True, False))).code == "redis_memory"
    assert health_of(replace(WELL, server=ServerState())).status == "healthy"


def test_nothing_that_can_run_is_critical() -> None:
    full = replace(WELL, server=ServerState(101, 100, True, False))
    assert health_of(full).status == "critical"
    alone = replace(WELL, consuming=0)
    assert (health_of(alone).status, health_of(alone).causes[0].code) == ("critical", "no_workers")


def test_nothing_that_can_be_read_is_critical_and_no_number_is_zero() -> None:
    report = health_json.unreadable("Redis does not answer")
    assert report["status"] == "critical"
    assert [report[name] for name in ("workers_connected", "total_queued", "total_active", "queues")] == [None] * 4
    assert (report["warnings"], report["causes"][0]["code"]) == (["Redis does not answer"], "ledger_unread")
    assert report["errors"][0]["part"] == "ledger"


def test_numbers_of_a_ledger_that_stopped_answering_are_not_passed_off_as_new() -> None:
    report = health_json.report(replace(WELL, errors=(Trouble("ledger", "Redis does not answer", 9.0),)))
    assert (report["status"], report["queues"], report["total_queued"]) == ("critical", None, None)


def test_each_cause_has_the_same_fields_in_json() -> None:
    report = health_json.report(with_queue("training", state="paused", paused_at=NOW))
    (cause,) = report["causes"]
    assert list(cause) == ["code", "sentence", "command", "queue", "worker", "since"]
    assert cause["since"] == "2027-01-15T08:00:00.000Z"
    assert report["warnings"] == [cause["sentence"]]
    assert report["queues"]["training"]["status"] == "warning"


def test_a_real_ledger_says_of_itself_what_is_wrong(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(own_redis.url)
    ledger = Ledger(client)
    ledger.heartbeat(HEARTBEAT)
    ledger.heartbeat(replace(HEARTBEAT, name="gone@h", seen_at=ledger.now() - 100))
    ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    ledger.queues.pause("training")
    client.call("CONFIG", "SET", "appendonly", "no")
    client.call("CONFIG", "SET", "maxmemory", int(1.05 * memory_used(client)))
    codes = {cause["code"] for cause in report_of(client)["causes"]}
    client.close()
    assert codes == {"redis_memory", "redis_file", "paused", "worker_silent"}


def test_the_ledger_knows_when_progress_last_changed(ledger: Ledger) -> None:
    job = ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    claim = ledger.claim(job.id, "w@h", "h")
    assert claim is not None
    assert ledger.need(job.id).progress_at is None
    ledger.report(claim, Progress("train", 1, 10, "step"))
    first = ledger.need(job.id).progress_at
    assert first is not None
    ledger.report(claim, Progress("train", 1, 10, "step"))
    assert ledger.need(job.id).progress_at == first
    ledger.report(claim, Progress("train", 2, 10, "step"))
    later = ledger.need(job.id).progress_at
    assert later is not None
    assert later > first


def test_what_says_itself_how_it_is_fixed_has_no_other_command() -> None:
    stopped = Trouble("ledger", with_fix("r.sock (pid 7, stopped) does not answer", "kill -CONT 7"))
    silent = Trouble("ledger", "redis://lab:6379/0 does not answer")
    causes = [cause for trouble in (stopped, silent) for cause in health_of(replace(WELL, errors=(trouble,))).causes]
    assert [(cause.sentence, cause.command) for cause in causes] == [
        ("r.sock (pid 7, stopped) does not answer; kill -CONT 7", None),
        ("redis://lab:6379/0 does not answer", "mistudio doctor"),
    ]
