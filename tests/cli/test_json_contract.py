"""docs/json.md is true: its examples have the keys and the types of what the commands really print."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.monitor.snapshot import Snapshot
from mistudio_cli.views import json_shapes
from tasks.accelerators.devices import Device, Devices, GpuProcess
from tasks.ledger.device_lease import Lease
from tasks.queues import QUEUE_NAMES
from tests.cli.conftest import Cli
from tests.conftest import until
from tests.fixtures.queue_table import ASKED_FOR

DOCS = Path(__file__).parent.parent.parent / "docs"
DOCUMENT = (DOCS / "json.md").read_text(encoding="utf-8")
EXAMPLES = {
    title: json.loads(example)
    for title, example in re.findall(r"^## `([^`\n]+)`$.*?^```json$(.+?)^```$", DOCUMENT, re.M | re.S)
}

#: Objects whose keys are the kind's own, or ids.
FREE = ("params", "result", "metrics", "series", "places")

#: The keys of objects with an entry for each queue.
QUEUES_ASKED_FOR = list(ASKED_FOR)


def differences(documented: Any, real: Any, where: str = "") -> Iterator[str]:
    """Where what was printed has other keys or types than the document says. null is always possible."""
    if documented is None or real is None:
        return
    if isinstance(documented, dict) and isinstance(real, dict):
        if list(documented) == QUEUES_ASKED_FOR:  # and with each row of the table there is another
            documented = dict.fromkeys(QUEUE_NAMES, documented[QUEUES_ASKED_FOR[0]])
        if list(documented) != list(real):
            yield f"{where}: {list(documented)} documented, {list(real)} printed"
        for key in documented.keys() & real.keys() - set(FREE):
            yield from differences(documented[key], real[key], f"{where}.{key}")
    elif isinstance(documented, list) and isinstance(real, list):
        for item in real if documented else ():
            yield from differences(documented[0], item, f"{where}[]")
    elif kind_of(documented) != kind_of(real):
        yield f"{where}: {documented!r} documented, {real!r} printed"


def kind_of(value: Any) -> str:
    if isinstance(value, str):
        return "time" if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) else "text"
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


@pytest.fixture(scope="module")
def busy(world: Cli) -> Iterator[Cli]:
    """The home with a worker, a failed job, one that succeeded and one that runs."""
    (world.home / "jobs.jsonl").write_text('{"kind": "blink"}')
    world("fleet", "quota", "set", "somebody", "--running", "4", "--gpus", "2", "--queued", "500")
    world("submit", "nap", "--name", "ended-well", "--ticks", "1", "--wait")
    world("submit", "nap", "--name", "ended-badly", "--end", "raise", "--wait")
    job_id = world("submit", "nap", "--name", "runs", "--ticks", "100000", "--json").json["id"]
    until(lambda: world.ledger.need(job_id).progress, what="the job to run")
    yield world
    world("jobs", "cancel", job_id)


#: What is submitted instead of a training: several jobs, and one.
QUICK = {"train --model MODEL --dataset DATASET --layer 6": "nap", "--k 16,32": "--ticks 1,2"}


def test_only_kinds_of_the_product_are_documented() -> None:
    files = (DOCS.parent / "tasks" / "kinds").glob("[a-z]*.py")
    ours = {import_module(f"tasks.kinds.{file.stem}").KIND.name for file in files}
    documented = {
        word for page in DOCS.glob("*.md") for word in re.findall("mistudio submit ([a-z-]+)", page.read_text())
    }
    assert documented <= {*ours, "many", "pipeline"}


@pytest.mark.parametrize("title", [title for title in EXAMPLES if title.startswith("mistudio ")])
def test_commands_print_what_is_documented(busy: Cli, title: str) -> None:
    words = title
    for slow, quick in QUICK.items():
        words = words.replace(slow, quick)
    words = (
        words.replace("mistudio ", "")
        .replace("KIND", "blink")
        .replace("QUEUE", "training")
        .replace("NAME", socket.gethostname())
        .replace("FILE", "jobs.jsonl")
    )
    for job in busy("jobs", "ls", "--json").json["jobs"] if "ID" in words else [{"id": ""}]:
        real = busy(*words.replace("ID", job["id"]).split()).json
        assert not list(differences(EXAMPLES[title], real))


UNREAD = [
    "queue ls --json",
    "queue peek QUEUE --json",
    "jobs ls --json",
    "fleet quota ls --json",
    "workers inspect --json",
    "hosts ls --json",
]


@pytest.mark.parametrize("words", UNREAD)
def test_a_list_that_could_not_be_read_is_null_and_its_reason_in_errors(cli: Cli, words: str) -> None:
    ended = cli(*words.replace("QUEUE", "training").split(), CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert ended.code == Code.UNREACHABLE
    documented = EXAMPLES[f"mistudio {words}"]
    assert list(ended.json) == list(documented)
    assert [ended.json[key] for key, value in documented.items() if isinstance(value, list) and key != "errors"] == [
        None
    ]
    assert [error["part"] for error in ended.json["errors"]] == ["ledger"]


def test_a_device_is_shown_as_documented() -> None:
    card = Device(0, "a", "u", 2, 1, 50.0, 60.0, 70.0, (GpuProcess(1, 2),), "lost")
    seen = Snapshot(devices=Devices((card,)), leases={"a-job": Lease("u", 8)})
    assert not list(differences(EXAMPLES["mistudio top --once --json"], json_shapes.everything(seen)))


def test_the_comparison_itself_sees_a_difference() -> None:
    documented = {"a": [{"b": 1}], "at": "2026-01-31T12:00:00.000Z"}
    assert list(differences(documented, {"a": [{"c": 1}], "at": "2026-01-31T12:00:00.000Z"}))
    assert list(differences(documented, {"a": [{"b": 1}], "at": "yesterday"}))
    assert not list(differences(documented, {"a": [{"b": None}], "at": "2027-01-31T12:00:00.000Z"}))
