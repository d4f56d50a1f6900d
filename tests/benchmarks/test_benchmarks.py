"""What makes the quick commands quick, as counts; and that the benches run. A busy machine's clock proves nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as benchmarks_main
from benchmarks import cells, compiled, model_dtype, peer_environment, peers, planted, planting, whole_job
from benchmarks.contest import PENALISED, Task, enter
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tasks.ledger.client import Ledger
from tasks.models import bfloat16
from tasks.sae.architectures import names
from tasks.worker import runner_process
from tests.conftest import RedisServer

#: What a command that only reads the ledger has no use for; each costs more than the answer itself.
SLOW_TO_IMPORT = {
    "celery",
    "kombu",
    "redis",
    "rich",
    "psutil",
    "pynvml",
    "asyncio",
    "ssl",
    "logging",
    "multiprocessing",
}


def test_what_takes_hours_without_units_for_bfloat16_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: False)
    monkeypatch.setattr(benchmarks_main, "RESULTS", tmp_path)
    assert benchmarks_main.main(["precision", "model_dtype"]) == 0
    assert capsys.readouterr().out.count("Not measured: this processor has no units for bfloat16.") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["latest.md"]


PROBE = """
import json, sys
from tasks.redis_client import redis_connection

trips, exchange = [], redis_connection.Client._exchange

def counted(client, packed):
    trips.append(len(packed))
    return exchange(client, packed)

redis_connection.Client._exchange = counted
from mistudio_cli.main import main

code = main(sys.argv[1:])
sys.stderr.write(json.dumps({"code": code, "trips": len(trips), "modules": list(sys.modules)}))
"""


def probe(url: str, folder: Path, *words: str) -> dict[str, Any]:
    """One command in a fresh interpreter: its exit code, its round trips to Redis, what it imported."""
    result = {"CELERY_BROKER_URL": url, "MISTUDIO_HOME": str(folder), "MISTUDIO_CONFIG_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROBE, *words], env={**os.environ, **result}, capture_output=True, text=True
    )
    return json.loads(done.stderr.splitlines()[-1])


#: Whether Redis answers at all, then everything at once; a page of `jobs ls` is the clock, ids and their records.
TRIPS = {"queue ls": 2, "jobs ls": 4, "workers status": 2, "top --once": 2}


@pytest.mark.parametrize("jobs", [1, 60])
@pytest.mark.parametrize("command", TRIPS)
def test_a_reading_command_makes_as_few_round_trips_for_many_jobs_as_for_one(
    command: str, jobs: int, ledger: Ledger, session_redis: RedisServer, tmp_path: Path
) -> None:
    submitted = [ledger.submit(Job(new_job_id(), "train", "a", "training", {})) for _ in range(jobs)]
    ledger.claim(submitted[0].id, "w@h", "h")
    seen = probe(session_redis.url, tmp_path, *command.split(), "--json")
    assert (seen["code"], seen["trips"]) == (0, TRIPS[command])


@pytest.mark.parametrize("words", [["queue", "ls", "--json"], ["jobs", "ls", "--json"]])
def test_a_reading_command_imports_nothing_slow(words: list[str], session_redis: RedisServer, tmp_path: Path) -> None:
    seen = probe(session_redis.url, tmp_path, *words)
    assert seen["code"] == 0
    assert {name.split(".")[0] for name in seen["modules"]} & SLOW_TO_IMPORT == set()


def test_every_step_is_measured_at_the_state_it_is_named_for():
    rows = peers.rows(peers.Size(16, 64, k=4, few=3, batch=40), sides=("ours",), rounds=1)
    states = [f"{name}, {state}" for name in names() for state in (["start", "L0 3"] if name in PENALISED else ["k 4"])]
    assert [row["name"] for row in rows] == states
    assert all(row["ours"] > 0 and row["ours, of GEMM peak"] >= 0 for row in rows)


def test_peers_without_our_allocator_are_held_against_us_by_the_speed_of_a_product():
    rows = [{"ours": 90, "saelens": 60}, {"ours": 60, "saelens": 50, "sparsify": 40}, {"ours": 50}]
    plain = [{"ours": 1, "saelens": 75}, {"ours": 1, "saelens": 10, "sparsify": 20}, {"ours": 1}]
    for row, slow in zip(rows, plain, strict=True):
        row[peers.GEMM], slow[peers.GEMM] = 1000, 500  # the machine was half as fast
    found = [row["ours / best peer as it comes"] for row in peers.beside(rows, plain)]
    assert found == [0.6, 1.5, None]


@pytest.mark.parametrize("architecture", PENALISED)
def test_a_side_is_made_as_quiet_as_was_asked(architecture: str):
    x = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    side = enter("ours", Task(architecture, 16, 64, 4, 100), x)
    peers.quieten(side, x, 1)
    assert 95 <= int((side.codes(x) > 0).sum()) <= 100


SMALL = planting.Planting(features=40, d_in=24, active=3, d_sae=40, k=5, batch=128, steps=500)


def test_zipfs_law_has_as_many_active_as_were_asked():
    chances = planting.zipf(512, 16.0)
    assert chances.sum().item() == pytest.approx(16, rel=1e-4)
    assert chances.max() <= 0.5
    assert (chances[10] / chances[21]).item() == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
def test_planted_features_are_looked_for_at_the_sparsity_that_was_asked(architecture: str):
    task = SMALL.task(architecture, 1e-2, 0)
    found = planting.train("ours", task, SMALL)
    assert found["l0"] == pytest.approx(SMALL.k, rel=0.25)
    assert found["mmcs"] > 0.6
    assert found["fvu"] < 0.7


def cell(side: str, rate: float | None, seed: int = 0) -> cells.Cell:
    return cells.Cell(side, Task("topk", 1, 1, 32, 1, rate, seed), SMALL)


def result(fvu: float, mmcs: float = 0.9) -> dict[str, float]:
    return {"fvu": fvu, "mmcs": mmcs, "l0": 16.0}


def test_of_two_rates_the_table_shows_the_one_with_the_lower_error():
    tried = [cell("ours", rate, seed) for rate in (None, 1e-3) for seed in (0, 1)]
    (row,) = planted.table(tried, [result(0.1), result(0.3), result(0.05), result(0.2)])
    assert (row["rate"], row["fvu"], row["seeds"], row["l0 / k"]) == (1e-3, 0.125, 2, 0.5)


@pytest.mark.parametrize(
    ("ours", "line"), [((0.1045, 0.885), "yes"), ((0.106, 0.95), "no"), ((0.05, 0.87), "no"), ((0.05, 0.95), "yes")]
)
def test_ours_is_held_against_the_best_peer_in_each_respect(ours: tuple[float, float], line: str):
    sides = [cell(side, None) for side in ("saelens", "ours", "sparsify")]
    rows = planted.table(sides, [result(0.1, 0.8), result(*ours), result(0.2, 0.9)])
    assert [row["side"] for row in rows] == ["ours", "saelens", "sparsify"]
    assert rows[0]["within the line"] == line
    assert rows[0]["fvu / best peer"] == pytest.approx(ours[0] / 0.1, abs=5e-4)
    assert rows[0]["mmcs - best peer"] == pytest.approx(ours[1] - 0.9, abs=5e-4)


def test_who_has_more_active_features_than_asked_does_not_compare():
    tried = [cell("saelens", None), cell("saelens", 1e-3), cell("ours", None), cell("sparsify", None)]
    loud, quiet = {**result(0.01), "l0": 36.0}, {**result(0.3), "l0": 35.0}
    ours, peer, _ = planted.table(tried, [loud, quiet, result(0.2), result(0.25)])
    assert (peer["rate"], ours["fvu / best peer"], ours["within the line"]) == (1e-3, 0.8, "yes")
    ours, _, _ = planted.table(tried, [loud, loud, loud, result(0.25)])
    assert (ours["fvu / best peer"], ours["within the line"]) == (0.04, "no")


def test_a_training_that_is_kept_is_not_done_again_unless_its_side_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = dataclasses.replace(SMALL, steps=20, held_out=1)
    tried = [cells.Cell("ours", short.task("topk", 1e-2, seed), short) for seed in (0, 1)]
    kept = tmp_path / "kept.jsonl"
    (first,) = cells.found(tried[:1], 1, kept)
    assert first

    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    lines[0]["found"]["fvu"] = 7.0  # only the file says this
    kept.write_text("\n".join(json.dumps(line) for line in lines))
    again, other = cells.found(tried, 1, kept)
    assert again == {**first, "fvu": 7.0}
    assert other != again

    monkeypatch.setattr(cells, "identity", lambda side: "changed")
    assert cells.found(tried[:1], 1, kept) == [first]


def test_whole_jobs_are_measured_over_the_steps_that_were_asked():
    job = whole_job.Job(16, 2, 2, 0, 50, 8, 32, 4, batch=16, begin=1, end=4)
    rows = whole_job.rows(job, peers=False)
    names = ["with the model", "with the model in bfloat16", "4 SAEs in one job", "from a file"]
    assert [row["name"] for row in rows] == names
    assert all(row["ours"] > 0 for row in rows)
    assert whole_job._rate(job, [10.0, 11.0, 12.0, 13.0]) == 3 * 16 / 3


def test_a_model_is_timed_in_both_dtypes_and_held_to_itself():
    rows = model_dtype.rows(whole_job.Job(16, 2, 2, 0, 50, 64, 32, 4), (16, 64))
    assert [row["context"] for row in rows] == [16, 64]
    assert all(0 < row["relative error"] < 0.05 for row in rows)
    assert all(row["ratio"] > 0 for row in rows)


def test_a_compiled_model_is_timed_beside_the_plain_one_and_both_are_held_to_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: forward)
    dtypes = [torch.float32, torch.bfloat16]
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    rows = compiled.rows("gpt_neox", shape, dtypes, context=1024)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert {row["outcome"] for row in rows} == {"2 blocks of the model are compiled"}
    assert all(row["error, plain"] == row["error, compiled"] for row in rows)
    assert rows[0]["error, plain"] == 0 < rows[1]["error, plain"] < 0.05
    assert all(row["ratio"] > 0 for row in rows)


def test_without_peers_a_sentence_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MISTUDIO_PEERS_PYTHON", str(tmp_path / "none"))
    with pytest.raises(peer_environment.NoPeersError, match="`make peers` installs"):
        peers.measure()


def test_what_is_measured_among_the_peers_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MISTUDIO_PEERS_PYTHON", sys.executable)
    (tmp_path / "asked.py").write_text(
        "import os\nfrom benchmarks.peer_environment import answer\n"
        "answer(lambda: [{'mmap': os.environ['MALLOC_MMAP_MAX_']}])\n"
    )
    monkeypatch.setattr(peer_environment, "ROOT", f"{peer_environment.ROOT}:{tmp_path}")
    assert peer_environment.run_there("asked") == [{"mmap": "0"}]
    assert peer_environment.ALLOCATOR == runner_process._ALLOCATOR, "what our jobs run with"
