"""Whatever becomes of the network, one attempt at a job writes, and what comes of it is what would have come anyway.

`MISTUDIO_TEST_MACHINES=all` tries every fault with every kind and every length; else two of them are tried.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import until
from tests.fixtures.bench import Bench
from tests.machines.hosts import Hosts, watched
from tests.machines.network import Network, reason_to_skip, wait_s

pytestmark = [pytest.mark.machines, pytest.mark.timeout(900)]

SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "1"))
DEEPER = os.environ.get("MISTUDIO_TEST_MACHINES") == "all"

FAULTS = ("its link is cut", "its answers are lost", "half of each connection stays open", "redis is stopped")
BACK_AFTER_S = (5.0, 20.0, 60.0, None)  # None: never

TRAIN = {"model": "tiny", "dataset": "words", "layer": 1, "k": 4, "batch": 256, "expansion": 4}
TRAIN |= {"eval_tokens": 2048, "checkpoint_s": 0.2}
KINDS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "train": ("saes", {**TRAIN, "steps": 3000}, ("sae_weights.safetensors", "metrics.jsonl", "cfg.json")),
    "together": (
        "saes",
        {key: value for key, value in TRAIN.items() if key != "k"} | {"steps": 1500, "together": {"k": [4, 8]}},
        ("sae_weights.safetensors", "metrics.jsonl", "cfg.json"),
    ),
    "activations": ("activations", {"model": "tiny", "dataset": "many", "layer": 1}, ("shard-*.bin", "mean.bin")),
    "extract": ("features", {"sae": "base", "tokens": "many"}, ("features.safetensors",)),
    "download": ("datasets", {"source": "text.txt"}, ("*.parquet",)),
}
CASES = list(itertools.product(KINDS, FAULTS, BACK_AFTER_S))
FEW = [("train", FAULTS[0], 20.0), ("train", FAULTS[2], 5.0)]


@dataclass
class Fleet:
    """Two hosts, and what each kind makes where nothing is disturbed."""

    hosts: Hosts
    whole: dict[str, dict[str, str]]
    count: int = 0

    def submit(self, kind: str, name: str) -> Any:
        real = "train" if kind == "together" else kind
        values = dict(KINDS[kind][1])
        if "source" in values:
            values["source"] = str(self.hosts.folder / values["source"])
        return self.hosts.submit(real, name, **values)

    def digests(self, kind: str, name: str) -> dict[str, str]:
        """What must be the same of an artifact, or of all that a group makes, whatever their name is."""
        family, _, patterns = KINDS[kind]
        store = self.hosts.store
        names = [other for other in store.names(family) if other == name or other.startswith(f"{name}-k")]
        assert names
        found = {}
        for other in names:
            for path, result in store.manifest(family, other)["files"].items():
                if any(Path(path).match(pattern) for pattern in patterns):
                    found[f"{other.removeprefix(name)}/{path}"] = result["sha256"]
        assert found
        return found


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("m")
    network = Network(folder, "a", "b")
    hosts = Hosts(network, folder)
    try:
        bench = Bench(folder, hosts.store)
        bench.add_model("tiny")
        bench.add_tokens("words", rows=200)
        bench.add_tokens("many", rows=20_000)
        (folder / "text.txt").write_text("".join(f"Line {n} of a text for all.\n" for n in range(2_000_000)))
        yield Fleet(hosts, {})
    finally:
        network.close()
        hosts.close()


@pytest.mark.parametrize(("kind", "fault", "back_after_s"), CASES if DEEPER else FEW)
def test_one_attempt_writes_and_the_outcome_is_the_same(
    fleet: Fleet, kind: str, fault: str, back_after_s: float | None
) -> None:
    hosts, chance = fleet.hosts, random.Random(f"{SEED} {kind} {fault} {back_after_s}")
    if "a" not in hosts.workers:
        hosts.start("a")
    if kind not in fleet.whole:
        if kind == "extract":
            hosts.run("train", "base", **{**TRAIN, "steps": 50})
        hosts.succeeded(fleet.submit(kind, f"whole-{kind}"))
        fleet.whole[kind] = fleet.digests(kind, f"whole-{kind}")
    fleet.count += 1
    name = f"struck-{fleet.count}"
    job = fleet.submit(kind, name)
    until(lambda: (result := hosts.ledger.need(job.id).progress) and result.done > 0, hosts.story(job))
    hosts.start("b")
    wait_s(chance.uniform(0, 2))
    with watched(hosts.store.work_folder(job.id)) as watch:
        begin(hosts.network, fault)
        wait_s(45 if back_after_s is None and fault != FAULTS[3] else back_after_s or 60)
        if back_after_s is not None or fault == FAULTS[3]:
            end(hosts.network, fault)
        ended = hosts.succeeded(job)
    assert watch.faults == []
    assert watch.looks > 10
    assert ended.attempt <= 2, hosts.story(job)
    assert fleet.digests(kind, name) == fleet.whole[kind], hosts.story(job)
    claims = [event for event in hosts.ledger.events(job.id) if event["reason"] == "claimed"]
    family = KINDS[kind][0]
    for artifact in [other for other in hosts.store.names(family) if other.startswith(name)]:
        assert hosts.store.manifest(family, artifact)["token"] == claims[-1]["token"]
    hosts.stop("b")
    if back_after_s is None and fault != FAULTS[3]:
        end(hosts.network, fault)
    asked_at = time.monotonic()
    again = hosts.succeeded(hosts.submit("describe", f"look-{fleet.count}", artifact="tokens/words"), 60)
    assert again.worker == "w@a"
    assert time.monotonic() - asked_at < 20, f"host a has noticed only after that\n{hosts.log('a')}"
    until(lambda: not hosts.store.work_folder(job.id).exists(), "its work folder to be gone")


def begin(network: Network, fault: str) -> None:
    if fault == FAULTS[0]:
        network.cut("a")
    elif fault == FAULTS[1]:
        network.lose_answers("a")
    elif fault == FAULTS[2]:
        network.cut("a")
        assert network.forget_connections("a") > 0
    else:
        network.stop_redis()


def end(network: Network, fault: str) -> None:
    if fault in (FAULTS[0], FAULTS[2]):
        network.connect("a")
    elif fault == FAULTS[1]:
        network.bring_answers("a")
    else:
        network.wake_redis()
