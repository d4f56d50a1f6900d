"""Whatever host a command is typed on, it answers the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.jobs.record import State
from tasks.submission.plan import submit
from tests.cli.test_saes import add_sae
from tests.conftest import until
from tests.machines.hosts import Hosts
from tests.machines.network import Network, reason_to_skip
from tests.soak.fleet import kinds_of_the_tests

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

MISTUDIO = str(Path(sys.executable).parent / "mistudio")

LINES = [
    *("queue ls", "queue ls --json", "queue peek training", "queue peek training --json", "queue peek nosuch"),
    *("queue peek high_priority", "queue peek datasets --limit 1"),
    *("jobs ls", "jobs ls --json", "jobs ls --limit 2", "jobs ls --state queued", "jobs ls --state failed --json"),
    *("jobs ls --kind nap", "jobs ls --queue training", "jobs ls --tag night", "jobs ls --name quick"),
    *("jobs ls --since 2h", "jobs ls --until 2h", "jobs ls --state nosuch"),
    *("jobs show quick", "jobs show quick --json", "jobs show waiting", "jobs show last", "jobs show nosuch"),
    *("jobs explain quick", "jobs explain waiting", "jobs explain later", "jobs explain stopped --json"),
    *("jobs explain failing", "jobs logs talk", "jobs logs talk -n 1", "jobs logs talk --json"),
    *("jobs logs talk --attempt 1", "jobs logs waiting", "jobs export --state failed", "jobs wait quick"),
    *("jobs wait nosuch", "jobs wait failing", "hosts ls", "hosts show nosuch", "workers logs w@nowhere"),
    *("saes ls", "saes ls --json", "saes show a-sae", "saes show a-sae --json", "saes show nosuch"),
    *("jobs cancel nosuch", "jobs retry waiting"),
]

#: Times and ages pass between two commands, load and free memory change, a heartbeat is newer each time; and the file
#: in which a log is found is another one.
CHANGING = [
    re.compile(r"\S+\.log(\.gz)?"),
    re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?"),
    re.compile(r"\b\d+(\.\d+)? (ms|s|min|h|d)\b( \d+ (s|min|h)\b)?"),
    re.compile(r'"(\w+_age_s|load_1m|per_minute|memory_bytes|store_free_bytes|clock_offset_s)": [^,}\n]+'),
]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts, of which one has a worker, and jobs in every state but running, which would change."""
    if (reason := reason_to_skip()) is not None:
        pytest.skip(reason)
    network = Network(tmp_path, "a", "c")
    hosts = Hosts(network, tmp_path)
    try:
        add_sae(tmp_path, "a-sae")
        with kinds_of_the_tests():
            yield hosts
    finally:
        network.close()
        hosts.close()


def answers(hosts: Hosts, host: str) -> dict[str, tuple[int, str, str]]:
    """What each line answers there: exit code, and what is printed where, without what changes by itself."""
    script = "import json, subprocess, sys\n" + (
        "def typed(words):\n"
        f"    return subprocess.run([{MISTUDIO!r}, *words.split()], capture_output=True, text=True, timeout=100)\n"
        "print(json.dumps([(r.returncode, r.stdout, r.stderr) for r in map(typed, json.loads(sys.argv[1]))]))\n"
    )
    environment = {**hosts.environment(host), "COLUMNS": "200"}
    command = hosts.network.command(host, sys.executable, "-c", script, json.dumps(LINES))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return {
        line: (code, *map(_lasting, printed))
        for line, (code, *printed) in zip(LINES, json.loads(done.stdout), strict=True)
    }


def _lasting(text: str) -> str:
    for pattern in CHANGING:
        text = pattern.sub("…", text)
    return re.sub(r" {2,}", "  ", text)


def test_forty_lines_answer_the_same_on_the_host_of_the_workers_and_on_one_without(hosts: Hosts) -> None:
    hosts.start("a")
    hosts.run("blink", "quick", note="said")
    hosts.run("chatter", "talk", megabytes=0.001)
    failing = hosts.submit("chatter", "failing", variable="NO_SUCH_VARIABLE")
    until(lambda: hosts.ledger.need(failing.id).state is State.FAILED, hosts.story(failing))
    hosts.ledger.queues.pause("training")
    stopped = hosts.submit("nap", "stopped", ticks=5)
    hosts.ledger.request_cancel(stopped.id)
    waiting = hosts.submit("nap", "waiting", ticks=5)
    submit(hosts.ledger, hosts.store, "nap", {"ticks": 5}, name="later", after=(waiting.id,), tags=("night",))
    here, there = answers(hosts, "a"), answers(hosts, "c")
    assert len(LINES) >= 40
    assert {line for line in LINES if here[line] != there[line]} == set(), [
        (line, here[line], there[line]) for line in LINES if here[line] != there[line]
    ]
    assert {code for code, *_ in here.values()} >= {0, 1, 2, 3}
    assert not [line for line in LINES if "Traceback" in here[line][2]]
    assert "begins to print" in here["jobs logs talk"][1], "also where no log of it was written"
