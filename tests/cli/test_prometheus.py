"""What Prometheus reads: the metrics of a snapshot, in both formats, and no number that was not read."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mistudio_cli.errors import Trouble
from mistudio_cli.metrics.exposition import exposition
from mistudio_cli.metrics.families import FAMILIES
from mistudio_cli.metrics.values import MOST_TRAININGS, values_of
from mistudio_cli.monitor.collector.collector import Collector
from mistudio_cli.monitor.collector.sources import COUNTED
from mistudio_cli.monitor.snapshot import Part, Snapshot
from tasks.fleet.host_heartbeat import Gpu
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, MetricPoint, Progress, State
from tasks.ledger.client import Ledger
from tasks.ledger.worker_heartbeat import WorkerHeartbeat
from tasks.paths import Places
from tasks.queues import QUEUE_NAMES
from tests.cli.recorded import NOW, RUNNING, SNAPSHOT
from tests.cli.test_hosts import heartbeat

HEARTBEAT = WorkerHeartbeat("all-queues@elsewhere", "elsewhere", 7, QUEUE_NAMES, 8, 1000.0)
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
LONG_S = 30.0


def text_of(seen: Snapshot) -> str:
    return exposition(seen)[0].decode()


def families(seen: Snapshot) -> dict[str, Metric]:
    return {metric.name: metric for metric in parse_text(text_of(seen))}


def series(seen: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    """The values of a series by its labels' values, in the order of the labels' names."""
    samples = [sample for metric in parse_text(text_of(seen)) for sample in metric.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}


@pytest.fixture
def real(ledger: Ledger, tmp_path: Path) -> Collector:
    """A collector over a ledger with a worker, a queued job, one that trains, and one that has ended."""
    ledger.heartbeat(HEARTBEAT)
    jobs = [ledger.submit(Job(new_job_id(), "train", f"run {n}", "training", {})) for n in range(3)]
    done, running = [ledger.claim(job.id, HEARTBEAT.name, HEARTBEAT.host, HEARTBEAT.pid) for job in jobs[:2]]
    assert done is not None
    assert running is not None
    ledger.finish(done, State.SUCCEEDED, "done")
    values = {"loss": 0.5, "l0": 32.0, "fvu": 0.2, "tokens_per_s": 1000.0}
    ledger.report(running, Progress("training", 1, 4, "steps"), MetricPoint(1, values))
    return Collector(lambda: ledger, Places(tmp_path, tmp_path), wanted=COUNTED, patience_s=LONG_S)


def test_every_metric_has_a_help_that_names_its_unit_and_names_follow_their_types() -> None:
    for family in FAMILIES:
        assert family.help.endswith(f"({family.unit})."), family
        assert not family.name.endswith("_total"), family
        assert family.suffix or not family.name.endswith(("_s", "_ms", "_mb", "_percent")), family


def test_a_real_fleet_is_scraped_with_its_counters_and_its_running_training(real: Collector) -> None:
    seen = real.collect(LONG_S)
    assert series(seen, "mistudio_queue_pending")[("training",)] == 1
    assert series(seen, "mistudio_queue_running")[("training",)] == 1
    assert series(seen, "mistudio_queue_slots")[("training",)] >= 1
    assert series(seen, "mistudio_jobs_total") == {("train", "succeeded"): 1}
    assert series(seen, "mistudio_attempts_total") == {("train",): 2}, "one of them runs"
    assert series(seen, "mistudio_job_duration_seconds_count") == {("train",): 1}
    assert series(seen, "mistudio_job_wait_seconds_bucket")[("train", "+Inf")] == 1
    assert series(seen, "mistudio_worker_busy") == {("elsewhere", HEARTBEAT.name): 1}
    for name, value in {"loss": 0.5, "l0": 32, "fvu": 0.2, "tokens_per_second": 1000, "progress_ratio": 0.25}.items():
        assert list(series(seen, f"mistudio_training_{name}").values()) == [value]
    assert series(seen, "mistudio_source_up")[("ledger",)] == 1
    assert ("ledger",) in series(seen, "mistudio_source_age_seconds")


def test_gpus_of_other_hosts_have_what_their_heartbeats_carry(real: Collector, ledger: Ledger) -> None:
    gpu = Gpu(0, "a card", "GPU-far", 24 << 30, 20 << 30, utilisation=75.0, temperature=61, power=302.6)
    heartbeat(ledger, "far", gpus=(gpu,))
    seen = real.collect(LONG_S)
    measured = {
        "utilization_ratio": 0.75,
        "temperature_celsius": 61,
        "power_watts": 302.6,
        "memory_used_bytes": 4 << 30,
    }
    for name, value in measured.items():
        assert series(seen, f"mistudio_device_{name}")[("far", "0", "GPU-far")] == value


def test_series_of_a_training_end_with_it(real: Collector, ledger: Ledger) -> None:
    (running,) = [job for job in real.collect(LONG_S).jobs or () if job.state is State.RUNNING]
    ledger.request_cancel(running.id)
    ledger.client.call("ZADD", "mistudio:leases", 1, running.id)
    ledger.request_cancel(running.id)
    seen = real.collect(LONG_S)
    assert series(seen, "mistudio_training_loss") == {}
    assert series(seen, "mistudio_jobs_total")[("train", "cancelled")] == 1


def test_two_servers_show_the_same_counters(real: Collector, ledger: Ledger, tmp_path: Path) -> None:
    other = Collector(lambda: ledger, Places(tmp_path, tmp_path), wanted=COUNTED, patience_s=LONG_S)
    first, second = real.collect(LONG_S), other.collect(LONG_S)
    for name in ("mistudio_jobs_total", "mistudio_job_duration_seconds_sum", "mistudio_attempts_total"):
        assert series(first, name) == series(second, name) != {}


def test_at_most_fifty_trainings_have_series() -> None:
    many = tuple(replace(RUNNING[0], id=f"job{n}") for n in range(MOST_TRAININGS + 9))
    assert len(series(replace(SNAPSHOT, jobs=many), "mistudio_training_loss")) == MOST_TRAININGS


def test_other_kinds_have_no_series_of_trainings() -> None:
    assert len(series(SNAPSHOT, "mistudio_training_progress_ratio")) == 1


def test_workers_of_one_host_are_series_of_their_own() -> None:
    up = series(SNAPSHOT, "mistudio_worker_up")
    assert len(up) == len(QUEUE_NAMES)
    assert up[("lab", "worker-datasets@lab")] == 0
    assert sum(up.values()) == len(QUEUE_NAMES) - 1


def test_what_was_not_read_has_no_value() -> None:
    stale = replace(
        SNAPSHOT,
        errors=(Trouble("ledger", "Redis does not answer", 9.0),),
        parts={"ledger": Part(object(), NOW, 9.0, "Redis does not answer"), "host": Part()},
    )
    found = families(stale)
    shown = {name for name in found if not name.startswith(("mistudio_source", "mistudio_health", "mistudio_device"))}
    assert shown == {
        "mistudio_worker_up",
        "mistudio_worker_slots",
        "mistudio_worker_restarts",
        "mistudio_worker_memory_bytes",
    }
    assert series(stale, "mistudio_source_up") == {("ledger",): 0}
    assert series(stale, "mistudio_source_age_seconds") == {("ledger",): 9}
    assert series(stale, "mistudio_health_causes")[("ledger_unread",)] == 1
    assert text_of(Snapshot()) == ""


def test_openmetrics_is_for_who_accepts_it(real: Collector) -> None:
    seen = real.collect(LONG_S)
    body, kind = exposition(seen, OPENMETRICS)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    parsed = {metric.name: metric for metric in parse_openmetrics(body.decode())}
    assert parsed["mistudio_job_duration_seconds"].unit == "seconds"
    assert parsed["mistudio_jobs"].type == "counter"
    for accept in (None, "", "*/*", "text/plain;version=0.0.4", "application/openmetrics-text;q=0", ";;,,=", "\x00"):
        assert exposition(seen, accept)[1].startswith("text/plain; version=0.0.4"), accept


@pytest.mark.parametrize("name", ['a"b\\c\nd', "x" * 5000, "\ud800 lone", "特徴", "\x1b[31mred", ""])
def test_whatever_a_job_is_called_a_scrape_can_be_parsed(name: str) -> None:
    seen = replace(SNAPSHOT, jobs=(replace(RUNNING[0], name=name),))
    for accept, parse in ((None, parse_text), (OPENMETRICS, parse_openmetrics)):
        found = {metric.name: metric for metric in parse(exposition(seen, accept)[0].decode())}
        (sample,) = found["mistudio_training_loss"].samples
        assert len(sample.labels["name"]) <= 200


def test_a_series_is_there_once_though_two_workers_have_one_name() -> None:
    assert SNAPSHOT.workers is not None
    twin = replace(SNAPSHOT, workers=(*SNAPSHOT.workers, *SNAPSHOT.workers))
    lines = [line.rpartition(" ")[0] for line in text_of(twin).splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))


def test_what_an_older_process_of_a_worker_finishes_counts_as_the_worker_s() -> None:
    assert SNAPSHOT.workers
    row = replace(SNAPSHOT.workers[0], slots=8, busy=0, pss_bytes=100)
    both = (row, replace(row, state="draining", pid=1, busy=1, pss_bytes=50))
    found = {(name, labels): value for name, labels, value in values_of(replace(SNAPSHOT, workers=both))}
    labels = (row.name, row.name.rpartition("@")[2])
    assert [found[f"worker_{name}", labels] for name in ("up", "slots", "busy", "memory_bytes")] == [1, 8, 1, 150]


def test_infinite_and_missing_measures_have_no_series() -> None:
    odd = replace(RUNNING[0], metrics={"loss": float("inf"), "fvu": None, "l0": float("nan")})
    found = families(replace(SNAPSHOT, jobs=(odd,)))
    assert [name for name in found if "training" in name] == ["mistudio_training_progress_ratio"]


def test_promtool_finds_no_fault_in_a_scrape(real: Collector, promtool: str) -> None:
    seen = real.collect(LONG_S)
    both = replace(SNAPSHOT, totals=seen.totals, parts=seen.parts)
    done = subprocess.run([promtool, "check", "metrics"], input=exposition(both)[0], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
