"""Profiles are rules: which workers follow from them, and what is said of one that is not sound."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from mistudio_cli.profile.profile_export import as_toml
from mistudio_cli.profile.profile_keys import KEYS
from mistudio_cli.profile.rules import (
    Override,
    Profile,
    WorkerSpec,
    load_profile,
    named,
    profile_files,
    profile_names,
    read_profile,
    worker_for,
    workers_of,
)
from tasks.errors import UserError
from tasks.queues import QUEUE_NAMES, QUEUES, Needs, Queue, Resource
from tasks.worker.main import _parse
from tests.fixtures.queue_table import WITHOUT_GPU, workers_by_name


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
        ("full", workers_by_name()),
        ("datasets", workers_by_name(WITHOUT_GPU)),
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


def test_there_is_a_queue_for_every_resource_a_profile_can_name() -> None:
    assert {queue.resource for queue in QUEUES} == set(Resource)


BOUNDED = """
summary = "Trainings that leave the machine alive"
workers = "per-queue"
resources = ["gpu"]
gpu_jobs = 2
max_tasks_per_child = 100
job_memory_gb = 8

[queues.training]
slots = 2
max_memory_per_child = 4000000
job_memory_gb = 24.5

[queues.extraction]
max_memory_per_child = 2000000
"""


@pytest.mark.parametrize(
    ("queues", "name"),
    [
        (["training"], "worker-training"),
        (["low_priority", "training"], "worker-training-low-priority"),
        (["datasets", "processing"], "worker-datasets-processing"),
        (QUEUE_NAMES, "all-queues"),
    ],
)
def test_a_worker_is_named_after_its_queues_so_that_others_can_run_beside_it(queues: list[str], name: str) -> None:
    assert worker_for(queues).name == name


@pytest.mark.parametrize("left_out", QUEUE_NAMES)
def test_the_name_of_a_worker_of_most_queues_can_be_one(left_out: str) -> None:
    spec = worker_for([name for name in QUEUE_NAMES if name != left_out])
    assert named(spec, spec.name) == spec


def test_bounds_reach_every_worker_and_a_queue_may_have_its_own(own_profiles: Path) -> None:
    (own_profiles / "lab.toml").write_text(BOUNDED)
    found = {spec.name: spec for spec in workers_of(load_profile("lab"))}
    assert (found["worker-training"], found["worker-extraction"]) == (
        WorkerSpec("worker-training", ("training",), 2, 100, 4_000_000, 24.5, gpu_jobs=2),
        WorkerSpec("worker-extraction", ("extraction",), 2, 100, 2_000_000, 8, gpu_jobs=2),
    )


def test_bounds_reach_the_one_worker_of_all_queues(own_profiles: Path) -> None:
    (own_profiles / "small.toml").write_text('workers = "one"\nmax_memory_per_child = 500000\njob_memory_gb = 0.5')
    assert workers_of(load_profile("small")) == (WorkerSpec("all-queues", QUEUE_NAMES, 8, None, 500_000, 0.5),)


def test_workers_understand_their_command_lines(own_profiles: Path) -> None:
    (own_profiles / "lab.toml").write_text(BOUNDED)
    for spec in [spec for name in profile_names() for spec in workers_of(load_profile(name))]:
        argv = spec.argv()
        assert argv[1:4] == ["-P", "-m", "tasks.worker"]
        result = vars(_parse(argv[4:]))
        assert result.pop("pool") == "prefork"
        assert WorkerSpec(**{**result, "queues": tuple(result["queues"].split(","))}) == spec


def test_the_jetson_runs_one_gpu_job_at_a_time() -> None:
    assert load_profile("jetson").gpu_jobs == 1
    assert [spec.gpu_jobs for spec in workers_of(load_profile("jetson"))] == [1]


def test_an_unknown_profile_is_answered_with_those_there_are(own_profiles: Path) -> None:
    (own_profiles / "mine.toml").write_text('workers = "one"')
    with pytest.raises(UserError) as raised:
        load_profile("nope")
    assert str(raised.value) == "There is no profile 'nope'. Profiles: datasets, full, jetson, minimal, mine"
    with pytest.raises(UserError) as raised:
        load_profile("minmal")
    assert raised.value.hint.startswith("Did you mean minimal? ")


@pytest.mark.parametrize("name", ["../minimal", "../profiles/mine", "/etc/passwd", "./mine", "minimal.toml"])
def test_a_path_is_no_name_and_no_name_leaves_the_folder(own_profiles: Path, name: str) -> None:
    (own_profiles / "mine.toml").write_text('workers = "one"')
    (own_profiles.parent / "minimal.toml").write_text('workers = "one"')
    with pytest.raises(UserError) as raised:
        load_profile(name)
    assert raised.value.sentence == f"A profile has a name, and {name!r} is a path."
    assert str(own_profiles) in raised.value.hint


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_nothing_and_dots_are_no_names(own_profiles: Path, name: str) -> None:
    with pytest.raises(UserError):
        load_profile(name)


def test_what_an_editor_leaves_beside_a_profile_is_none(own_profiles: Path) -> None:
    for name in (".mine.toml", ".toml", "mine.toml~", "notes.txt"):
        (own_profiles / name).write_text("scribble")
    (own_profiles / ".#mine.toml").symlink_to("nobody@nowhere")
    assert profile_names() == ["datasets", "full", "jetson", "minimal"]


def test_a_users_own_profile_wins_over_the_products(own_profiles: Path) -> None:
    (own_profiles / "minimal.toml").write_text('workers = "one"\nslots = 2\nresources = ["gpu"]\ngpu_jobs = 3')
    profile = load_profile("minimal")
    assert profile == Profile("minimal", "", "one", 2, ("gpu",), 3)
    assert workers_of(profile) == (WorkerSpec("all-queues", ("training", "extraction"), 2, gpu_jobs=3),)
    assert {file.name: (file.origin, file.shadows) for file in profile_files()} == {
        "datasets": ("built-in", False),
        "full": ("built-in", False),
        "jetson": ("built-in", False),
        "minimal": ("own", True),
    }


def test_an_exported_profile_says_the_same_and_names_every_key(own_profiles: Path) -> None:
    (own_profiles / "lab.toml").write_text(BOUNDED)
    (own_profiles / "odd.toml").write_text('workers = "one"\nsummary = "a \\"quote\\", a \\\\ and \\u007f é 🧪"')
    for name in profile_names():
        profile = load_profile(name)
        text = as_toml(profile)
        (own_profiles / "again.toml").write_text(text, encoding="utf-8")
        again = load_profile("again")
        assert (again.summary, workers_of(again)) == (profile.summary, workers_of(profile))
        assert again == Profile(**{**vars(profile), "name": "again"})
        assert [key.name for key in KEYS if f"\n{key.name} = " not in text and f"\n# {key.name} = " not in text] == []


def test_full_replaces_a_process_of_the_gpu_queues_that_grew_as_the_seed_asks() -> None:
    lines = {spec.queues: shlex.join(spec.argv()) for spec in workers_of(load_profile("full"))}
    bounds = {queues: line.partition("--max-memory-per-child ")[2].split()[:1] for queues, line in lines.items()}
    assert bounds.pop(("training",)) == ["4000000"]
    assert bounds.pop(("extraction",)) == ["2000000"]
    assert set(map(tuple, bounds.values())) == {()}


def test_the_example_of_every_key_is_sound(own_profiles: Path) -> None:
    keys = "\n".join(f"{key.name} = {key.example}" for key in KEYS)
    tables = "\n".join(f"{key.name} = {key.example}" for key in KEYS if key.of_queue)
    (own_profiles / "all.toml").write_text(f"{keys}\n[queues.processing]\n{tables}")
    assert load_profile("all").queues == (Override("processing", 4, 100, 2_000_000, 16),)


def test_the_examples_of_the_documentation_and_of_an_export_are_sound(own_profiles: Path) -> None:
    document = (Path(__file__).parent.parent.parent / "docs" / "profiles.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml$(.+?)^```$", document, re.M | re.S)
    (own_profiles / "documented.toml").write_text(example)
    assert [(spec.slots, spec.job_memory_gb) for spec in workers_of(load_profile("documented"))] == [(2, 48), (2, 16)]
    every_line = re.sub(r"^# (?=\w+ = |\[)", "", as_toml(replace(load_profile("full"), queues=())), flags=re.M)
    (own_profiles / "uncommented.toml").write_text(every_line)
    assert load_profile("uncommented").queues == (Override("training", job_memory_gb=24),)


@pytest.mark.parametrize(
    ("text", "fault", "hint"),
    [
        ("", "workers is missing", 'Write workers = "one" or workers = "per-queue"'),
        ('workers = "many"', 'workers must be "one" or "per-queue", not "many"', 'Write for instance: workers = "per-'),
        ('workers = "one"\nslot = 4', "there is no key 'slot'", "Did you mean slots? Keys: summary, "),
        ('workers = "one"\nzzz = 4', "there is no key 'zzz'", "Keys: summary, workers, resources, slots, gpu_jobs, "),
        (
            'workers = "one"\nslots = 0',
            "slots must be a whole number from 1 to 999, not 0",
            "Write for instance: slots = 4",
        ),
        ('workers = "one"\nslots = true', "slots must be a whole number from 1 to 999, not true", "Write"),
        ('workers = "one"\nslots = 1.5', "slots must be a whole number from 1 to 999, not 1.5", "Write"),
        ('workers = "one"\nresources = "gpu"', "resources must be a list of some of light, network, cpu, gpu", "Write"),
        ('workers = "one"\nresources = []', "resources must be a list of some of light, network, cpu, gpu", "Write"),
        ('workers = "one"\nresources = [["gpu"]]', "resources must be a list of some of light, network, cpu", "Write"),
        ('workers = "one"\nresources = ["tpu"]', 'network, cpu, gpu, not ["tpu"]', "Write"),
        ('workers = "one"\nsummary = 7', "summary must be text, not 7", "Write"),
        ('workers = "one"\nsummary = 1979-05-27', "summary must be text, not 1979-05-27", "Write"),
        ('workers = "one"\njob_memory_gb = 0', "job_memory_gb must be a number of GB above 0, not 0", "Write"),
        ('workers = "one"\njob_memory_gb = inf', "job_memory_gb must be a number of GB above 0, not inf", "Write"),
        ('workers = "one"\njob_memory_gb = nan', "job_memory_gb must be a number of GB above 0, not nan", "Write"),
        ('workers = "one"\nmax_memory_per_child = 4000', "a whole number of KiB from 100000, not 4000", "Write"),
        ('workers = "one"\nmax_tasks_per_child = 0', "max_tasks_per_child must be a whole number from 1", "Write"),
        ('workers = "one"\npool = "solo"', "solo and threads ignore time limits and cannot stop a job", "Remove"),
        ('workers = "one"\nconcurrency = 4', "concurrency cannot be set: here it is called slots", "Write"),
        ('workers = "one"\ntime_limit = 4', "time_limit cannot be set: time limits belong to the kinds of job", "Rem"),
        ('workers = "one"\nqueues = ["training"]', "which queues are served follows from resources", "Write what"),
        (
            'workers = "one"\n[queues.training]',
            "the slots of one worker serve all its queues alike",
            "Remove the table",
        ),
        ('workers = "per-queue"\n[queues.trainig]', "there is no queue 'trainig'", "Did you mean training? Queues: "),
        (
            'workers = "per-queue"\nresources = ["cpu"]\n[queues.training]',
            "[queues.training] has no effect, for resources leaves out gpu",
            'Remove the table or add "gpu" to resources',
        ),
        (
            'workers = "per-queue"\n[queues.training]\ngpu_jobs = 2',
            "gpu_jobs stands in [queues.training] but is for the whole profile",
            "Move the line above the first table",
        ),
        ('workers = "per-queue"\n[queues.training]\nslots = 0', "slots in [queues.training] must be a whole nu", "Wri"),
        (
            'workers = "per-queue"\n[queues.training]\nslot = 1',
            "no key 'slot' in [queues.training]",
            "Did you mean slots",
        ),
        ("workers = ", "line 1: not valid TOML: ", "See what a profile looks like: mistudio profiles export minimal"),
    ],
)
def test_a_profile_that_is_not_sound_says_why_where_and_how_to_fix_it(
    own_profiles: Path, text: str, fault: str, hint: str
) -> None:
    path = own_profiles / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        load_profile("mine")
    assert raised.value.sentence.startswith(f"{path}: ")
    assert raised.value.sentence.endswith(".")
    assert fault in raised.value.sentence
    assert raised.value.hint.startswith(hint)


def test_every_fault_is_found_in_one_go_and_the_first_says_how_to_see_them(own_profiles: Path) -> None:
    (own_profiles / "mine.toml").write_text('pool = "solo"\nslots = 0\n[queues.trainig]\nspeed = 3')
    (file,) = [file for file in profile_files() if file.name == "mine"]
    assert [fault.what.split(":")[0] for fault in read_profile(file).faults] == [
        "workers is missing",
        "pool cannot be set",
        "slots must be a whole number from 1 to 999, not 0",
        "there is no queue 'trainig'",
        "there is no key 'speed' in [queues.trainig]",
    ]
    with pytest.raises(UserError) as raised:
        load_profile("mine")
    assert raised.value.hint.endswith("; see all 5 faults with: mistudio profiles validate mine")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff\xfe\x00")])
def test_what_cannot_be_read_is_a_fault_and_no_crash(own_profiles: Path, make: object) -> None:
    make(own_profiles / "mine.toml")  # type: ignore[operator]
    assert "mine" in profile_names()
    with pytest.raises(UserError) as raised:
        load_profile("mine")
    assert str(own_profiles / "mine.toml") in raised.value.sentence
