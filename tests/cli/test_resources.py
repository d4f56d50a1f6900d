"""What workers need is added up by one rule, and held against what they may really use here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio_cli.profile.resources import Machine, describe_needs, needs_of, read_machine, shortfalls
from mistudio_cli.profile.rules import WorkerSpec, load_profile, worker_for, workers_of
from tasks.accelerators.devices import Device, Devices, GpuProcess, read_devices
from tasks.queues import Needs
from tasks.system.cgroups import Allowed, read_allowed
from tests.cli.test_devices import a_jetson
from tests.fixtures.queue_table import WITHOUT_GPU, needs_in_all

GIB = 1 << 30

#: What one worker for each queue needs.
FULL = needs_in_all()


def machine(cpus: float, memory_gb: float, gpus: int = 0, **more: object) -> Machine:
    """A machine that is all its workers' own."""
    memory = int(memory_gb * 1e9)
    return Machine(**{"cpus_in_all": int(cpus), "memory_in_all": memory} | more, cpus=cpus, memory=memory, gpus=gpus)


def said(name: str, here: Machine) -> list[str]:
    """The sentences for a profile on a machine."""
    return [missing.sentence for missing in shortfalls(f"The profile {name}", workers_of(load_profile(name)), here)]


# -- the rule


def test_a_worker_of_one_queue_needs_what_the_table_says_and_workers_add_up() -> None:
    assert needs_of(workers_of(load_profile("full"))) == FULL
    assert needs_of(workers_of(load_profile("datasets"))) == needs_in_all(WITHOUT_GPU)
    assert needs_of([worker_for(["training"])] * 3) == Needs(6, 48, 3)


@pytest.mark.parametrize(
    ("queue", "slots", "needs"),
    [
        ("training", 1, Needs(2, 16, 1)),
        ("training", 2, Needs(4, 32, 2)),
        ("datasets", 8, Needs(4, 8, 0)),
        ("datasets", 1, Needs(1, 1, 0)),
        ("extraction", 1, Needs(1, 4, 1)),
        ("extraction", 3, Needs(3, 12, 2)),
    ],
)
def test_more_slots_need_more_and_fewer_less(queue: str, slots: int, needs: Needs) -> None:
    assert needs_of([WorkerSpec("w", (queue,), slots)]) == needs


def test_jobs_that_may_share_a_gpu_need_fewer() -> None:
    assert needs_of([WorkerSpec("w", ("training",), 3, gpu_jobs=2)]).gpus == 2


def test_one_worker_for_several_queues_needs_what_development_does_and_no_gpu() -> None:
    assert needs_of(workers_of(load_profile("minimal"))) == Needs(4, 8, 0)
    assert needs_of(workers_of(load_profile("jetson"))) == Needs(2, 4, 0)


def test_one_worker_for_several_queues_never_needs_more_than_one_for_each_would() -> None:
    assert needs_of([WorkerSpec("w", ("high_priority", "low_priority"), 8)]) == Needs(3, 4, 0)
    assert needs_of([WorkerSpec("w", ("training", "extraction"), 100)]).memory_gb == 24


def test_needs_read_like_a_shopping_list() -> None:
    assert describe_needs(Needs(13, 40, 2)) == "13 cores, 40 GB, 2 GPUs"
    assert describe_needs(Needs(1, 2, 1)) == "1 core, 2 GB, 1 GPU"
    assert describe_needs(Needs(4, 8)) == "4 cores, 8 GB"


# -- the sentences


def test_two_cores_8_gb_and_no_gpu_are_too_little_for_full_and_nearly_enough_for_minimal() -> None:
    here = machine(2, 8.2, no_gpu="no NVIDIA driver")
    assert said("full", here) == [
        f"The profile full needs {FULL.cpus} cores; this machine has 2.",
        f"The profile full needs {FULL.memory_gb} GB of memory; this machine has 8.2 GB.",
        "The profile full needs 2 GPUs; this machine has none (no NVIDIA driver): "
        "jobs of training and extraction run on the CPU, slowly.",
    ]
    assert said("minimal", here) == ["The profile minimal needs 4 cores; this machine has 2."]
    assert said("jetson", here) == []


def test_what_full_needs_is_enough_for_all() -> None:
    for name in ("minimal", "full", "datasets", "jetson"):
        assert said(name, machine(FULL.cpus, FULL.memory_gb, FULL.gpus)) == []


def test_the_numbers_are_there_for_programs() -> None:
    short = shortfalls("It", workers_of(load_profile("full")), machine(2, 7.96))
    assert [(s.resource, s.wanted, s.there) for s in short] == [
        ("cores", FULL.cpus, 2),
        ("memory", FULL.memory_gb, 8.0),
        ("gpus", FULL.gpus, 0),
    ]


def test_a_machine_sold_with_8_gb_has_8_gb() -> None:
    assert said("minimal", machine(4, 7.9)) == []
    assert said("minimal", machine(4, 7.1)) == ["The profile minimal needs 8 GB of memory; this machine has 7.1 GB."]


def test_one_gpu_for_two_is_shared_by_turns() -> None:
    assert said("full", machine(FULL.cpus, FULL.memory_gb, 1)) == [
        "The profile full needs 2 GPUs; this machine has 1: jobs of training and extraction take turns."
    ]


def test_a_gpu_that_others_hold_does_not_count() -> None:
    assert said("full", machine(FULL.cpus, FULL.memory_gb, 2, gpus_held=1)) == [
        "The profile full needs 2 GPUs; this machine has 2, of which others hold 1: "
        "jobs of training and extraction take turns."
    ]


def test_a_container_sees_what_it_may_use_of_the_machine() -> None:
    here = machine(1.5, 4, 2, cpus_in_all=16, memory_in_all=64_000_000_000)
    assert said("full", here) == [
        f"The profile full needs {FULL.cpus} cores; it may use 1.5 of this machine's 16.",
        f"The profile full needs {FULL.memory_gb} GB of memory; it may use 4 GB of this machine's 64 GB.",
    ]


def test_memory_that_the_gpu_shares_is_counted_once_and_said_so() -> None:
    here = machine(6, 8, 1, unified=True)
    assert said("jetson", here) == said("minimal", here) == []
    assert said("full", here)[1] == (
        f"The profile full needs {FULL.memory_gb} GB of memory; this machine has 8 GB, which it shares with its GPU."
    )


# -- the readings


def a_cgroup(folder: Path, group: str, limits: dict[str, tuple[str, str]]) -> tuple[Path, Path]:
    """A `/proc` and a `/sys/fs/cgroup` that place this process in `group`; `limits` are cpu.max and memory.max."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(f"1:name=systemd:/other\n0::{group}\n")
    for path, (cpu_max, memory_max) in limits.items():
        (folder / "cgroup" / path).mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / path / "cpu.max").write_text(cpu_max + "\n")
        (folder / "cgroup" / path / "memory.max").write_text(memory_max + "\n")
    return folder / "proc", folder / "cgroup"


@pytest.mark.parametrize(
    ("group", "limits", "allowed"),
    [
        ("/", {}, Allowed(None, None)),
        ("/", {".": ("max 100000", "max")}, Allowed(None, None)),
        ("/", {".": ("150000 100000", "4294967296")}, Allowed(1.5, 4 * GIB)),
        ("/a.slice/b.scope", {"a.slice": ("200000 100000", "max")}, Allowed(2.0, None)),
        (
            "/a.slice/b.scope",
            {"a.slice": ("200000 100000", "1073741824"), "a.slice/b.scope": ("800000 100000", "8589934592")},
            Allowed(2.0, GIB),
        ),
        ("/docker/of-the-host", {".": ("50000 100000", "max")}, Allowed(0.5, None)),
        ("/../elsewhere", {".": ("100000 100000", "max")}, Allowed(1.0, None)),
        ("/", {".": ("nonsense", "")}, Allowed(None, None)),
    ],
)
def test_the_tightest_limit_of_all_groups_above_counts(
    tmp_path: Path, group: str, limits: dict[str, tuple[str, str]], allowed: Allowed
) -> None:
    assert read_allowed(*a_cgroup(tmp_path, group, limits)) == allowed


def test_without_cgroups_there_are_no_limits(tmp_path: Path) -> None:
    assert read_allowed(tmp_path / "no-proc", tmp_path / "no-cgroup") == Allowed(None, None)


def test_a_containers_limits_are_what_may_be_used(tmp_path: Path) -> None:
    free = read_machine(Devices(), tmp_path, tmp_path)
    limited = read_machine(Devices(), *a_cgroup(tmp_path, "/", {".": ("50000 100000", "1000000000")}))
    assert (limited.cpus, limited.memory) == (0.5, 1_000_000_000)
    assert (limited.cpus_in_all, limited.memory_in_all) == (os.cpu_count(), free.memory)
    assert said("minimal", limited)[0] == (
        f"The profile minimal needs 4 cores; it may use 0.5 of this machine's {os.cpu_count()}."
    )


def test_the_affinity_of_the_process_counts(tmp_path: Path) -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from mistudio_cli.profile.resources import read_machine; print(read_machine().cpus)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout == "1\n"


def test_a_gpu_that_is_lost_does_not_count() -> None:
    cards = Devices((Device(0, memory_total=24 * GIB), Device(1, problem="GPU is lost")))
    assert read_machine(cards).gpus == 1


@pytest.mark.parametrize(
    ("words", "memory", "held"),
    [([], 20, 1), ([], 3, 0), (["tasks.runner"], 20, 0), ([], None, 0)],
    ids=["most of it", "a little", "a job of ours", "memory unknown"],
)
def test_a_gpu_is_held_by_others_when_their_processes_have_most_of_it(
    words: list[str], memory: int | None, held: int
) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE)
    try:
        process = GpuProcess(other.pid, None if memory is None else memory * GIB)
        cards = Devices((Device(0, memory_total=24 * GIB, processes=(process,)), Device(1, memory_total=24 * GIB)))
        here = read_machine(cards)
        assert (here.gpus, here.gpus_held) == (2, held)
    finally:
        other.communicate(b"\n")
    assert read_machine(cards).gpus_held == 0, "a pid that is not here is the host's or gone: it says nothing"


def test_a_jetson_is_one_gpu_on_the_machines_own_memory(tmp_path: Path) -> None:
    if read_devices().devices:
        pytest.skip("this machine has a GPU of its own")
    here = read_machine(read_devices(*a_jetson(tmp_path, "57000000.gpu", "gpu")))
    assert (here.gpus, here.gpus_held, here.no_gpu, here.unified) == (1, 0, None, True)


def test_a_jetson_with_nvml_is_too(driver: Path, tmp_path: Path) -> None:
    proc, sys_folder = a_jetson(tmp_path, "gpu-gpc-0", "gpu")
    code = (
        "import pathlib, sys; from tasks.accelerators.devices import read_devices\n"
        "from mistudio_cli.profile.resources import read_machine\n"
        "here = read_machine(read_devices(*map(pathlib.Path, sys.argv[1:]))); print(here.gpus, here.unified)"
    )
    result = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1", "FAKE_MemoryInfo": "3"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(proc), str(sys_folder)],
        env={**os.environ, **result},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("1 True\n", "")
