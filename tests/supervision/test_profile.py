"""Profiles are rules: which workers follow from them, and what is said of one that is not sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_cli.profile import Profile, WorkerSpec, load_profile, profile_names, workers_of
from tasks.problem import Problem
from tasks.queues import QUEUE_NAMES, QUEUES, Needs, Queue, Resource
from tasks.worker import _parse


@pytest.fixture
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTUDIO_CONFIG_DIR", str(tmp_path))
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("minimal", {"all-queues": (QUEUE_NAMES, 8)}),
        ("jetson", {"all-queues": (QUEUE_NAMES, 4)}),
        (
            "full",
            {
                "worker-high-priority": (("high_priority",), 8),
                "worker-datasets": (("datasets",), 4),
                "worker-processing": (("processing",), 4),
                "worker-training": (("training",), 1),
                "worker-extraction": (("extraction",), 2),
                "worker-low-priority": (("low_priority",), 2),
            },
        ),
        (
            "datasets",
            {
                "worker-high-priority": (("high_priority",), 8),
                "worker-datasets": (("datasets",), 4),
                "worker-processing": (("processing",), 4),
                "worker-low-priority": (("low_priority",), 2),
            },
        ),
    ],
)
def test_what_each_profile_means(name: str, workers: dict[str, tuple[tuple[str, ...], int]]) -> None:
    assert {spec.name: (spec.queues, spec.slots) for spec in workers_of(load_profile(name))} == workers


def test_a_new_queue_touches_no_profile() -> None:
    queues = (*QUEUES, Queue("steering", "Steer models", 3, 6, Resource.GPU, Needs(1, 1, 1)))
    names = {name: [spec.name for spec in workers_of(load_profile(name), queues)] for name in profile_names()}
    assert "worker-steering" in names["full"]
    assert "worker-steering" not in names["datasets"]
    assert workers_of(load_profile("minimal"), queues)[0].queues[-1] == "steering"


@pytest.mark.parametrize("spec", [s for name in ("minimal", "full", "jetson") for s in workers_of(load_profile(name))])
def test_a_worker_understands_its_command_line(spec: WorkerSpec) -> None:
    argv = spec.argv()
    assert argv[1:4] == ["-P", "-m", "tasks.worker"]
    options = _parse(argv[4:])
    assert WorkerSpec(options.name, tuple(options.queues.split(",")), options.slots) == spec


def test_the_jetson_runs_one_gpu_job_at_a_time() -> None:
    assert load_profile("jetson").gpu_jobs == 1


def test_an_unknown_profile_is_answered_with_those_there_are(own_profiles: Path) -> None:
    (own_profiles / "mine.toml").write_text('workers = "one"')
    with pytest.raises(Problem) as told:
        load_profile("nope")
    assert str(told.value) == "There is no profile 'nope'. Profiles: datasets, full, jetson, minimal, mine"


@pytest.mark.parametrize("name", ["../minimal", "", ".", "minimal.toml"])
def test_a_name_is_no_path(own_profiles: Path, name: str) -> None:
    with pytest.raises(Problem):
        load_profile(name)


def test_a_users_own_profile_wins_over_the_products(own_profiles: Path) -> None:
    (own_profiles / "minimal.toml").write_text('workers = "one"\nslots = 2\nresources = ["gpu"]\ngpu_jobs = 3')
    profile = load_profile("minimal")
    assert profile == Profile("minimal", "", "one", 2, ("gpu",), 3)
    assert workers_of(profile) == (WorkerSpec("all-queues", ("training", "extraction"), 2, gpu_jobs=3),)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "workers must be one of one, per-queue"),
        ('workers = "many"', "workers must be one of one, per-queue"),
        ('workers = "one"\nqueues = ["training"]', "'queues' is none of summary, workers, resources, slots, gpu_jobs"),
        ('workers = "one"\nslots = 0', "slots must be a whole number from 1"),
        ('workers = "one"\nslots = true', "slots must be a whole number from 1"),
        ('workers = "one"\nresources = "gpu"', "resources must be a list of some of light, network, cpu, gpu"),
        ('workers = "one"\nresources = []', "resources must be a list of some of light, network, cpu, gpu"),
        ('workers = "one"\nresources = ["tpu"]', "resources must be a list of some of light, network, cpu, gpu"),
        ('workers = "one"\nresources = [["gpu"]]', "resources must be a list of some of light, network, cpu, gpu"),
        ('workers = "one"\nsummary = 7', "summary must be text"),
        ("workers = ", "cannot be read"),
    ],
)
def test_a_profile_that_is_not_sound_says_why_and_where(own_profiles: Path, text: str, fault: str) -> None:
    path = own_profiles / "mine.toml"
    path.write_text(text)
    with pytest.raises(Problem) as told:
        load_profile("mine")
    assert fault in told.value.sentence
    assert told.value.mend == f"Mend {path}"
