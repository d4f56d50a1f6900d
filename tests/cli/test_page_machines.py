"""History on the page, and its view of machines, in Chromium: charts grow, and hosts show what they have."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tasks.accelerators.card_processes import CardProcess
from tasks.fleet.host_heartbeat import Gpu
from tasks.ledger import history
from tasks.ledger.client import Ledger
from tasks.ledger.history import FINE
from tests.cli.conftest import CHROMIUM, Cli, repeated
from tests.cli.test_hosts import GIB, busy_worker, heartbeat, worker_heartbeat
from tests.cli.test_page_axe import WINDOWS, check
from tests.cli.test_page_browser import HOSTILE, opened, page_of
from tests.cli.test_rest_devices import process
from tests.cli.test_rest_routes import server_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
CARD = Gpu(0, "a card", "GPU-far", 24 * GIB, 20 * GIB, utilisation=75.0, temperature=61, power=302.6)
SHOW_USE = """async (job) => {
  const { DeviceUse } = await import("/static/charts/device_use.js");
  window.use?.node.remove();
  window.use?.close();
  window.use = new DeviceUse();
  document.getElementById("main").prepend(window.use.node);
  window.use.show(job);
}"""


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@pytest.fixture
def client(cli: Cli) -> Iterator[httpx.Client]:
    with server_of(cli) as client:
        yield client


def add_rows(cli: Cli, part: str, *rows: dict[str, list[float | None]] | None) -> int:
    """Rows of the history that end now; None where nobody wrote. The time of the last one."""
    now = int(cli.ledger.now()) // FINE.step_s * FINE.step_s
    key = f"mistudio:{history.key(part, FINE)}"
    for before, cells in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
        if cells is not None:
            cli.ledger.client.call("RPUSH", key, json.dumps([now - before * FINE.step_s, cells]))
    return now


def name_device(cli: Cli, name: str, host: str) -> None:
    about = {
        "at": cli.ledger.now(),
        "host": host,
        "uuid": f"GPU-{host}",
        "index": 0,
        "instance": None,
        "name": "a card",
    }
    cli.ledger.client.call("HSET", f"mistudio:{history.NAMES_KEY}", name, json.dumps(about))


def chart(page: Page, name: str, within: str = "") -> Locator:
    return page.locator(f'{within} figure[data-metric="{name}"]')


def test_now_shows_how_many_jobs_waited_and_how_busy_gpus_were(
    browser: Browser, cli: Cli, client: httpx.Client
) -> None:
    waiting = ({"training": [pending, 1, 0], "datasets": [0, 0, 0]} for pending in (3, 4, 7))
    add_rows(cli, "queues", next(waiting), *[None] * 20, next(waiting), next(waiting))
    for name, host in (("ab", "lab"), ("cd", "nas")):
        name_device(cli, name, host)
    add_rows(cli, "devices", *({"ab": [busy, 1000, 300, 60], "cd": [5, 10, 30, 40]} for busy in (80, 90)))
    with page_of(browser, client) as page:
        pending = chart(page, "Pending jobs, last 15 min")
        pending.get_by_text("training: 7", exact=True).wait_for()
        pending.locator("canvas").wait_for()
        chart(page, "GPU utilization, last 15 min").get_by_text("lab GPU 0: 90 %").wait_for()
        add_rows(cli, "queues", {"training": [9, 1, 0], "datasets": [0, 0, 0]})
        pending.get_by_text("training: 9", exact=True).wait_for()
        whole = pending.locator(".plot").get_attribute("aria-label") or ""
        assert re.search(r"of training from 3 at .* to 9 at ", whole), whole


def test_a_history_that_cannot_be_read_is_said_and_drawn_when_it_can(
    browser: Browser, cli: Cli, client: httpx.Client
) -> None:
    key = f"mistudio:{history.key('queues', FINE)}"
    cli.ledger.client.call("SET", key, "text")
    with opened(browser) as page:  # whose console has the refusal
        page.goto(str(client.base_url))
        page.get_by_text("The history could not be read:").wait_for()
        assert not chart(page, "Pending jobs, last 15 min").is_visible()
        cli.ledger.client.call("DEL", key)
        add_rows(cli, "queues", {"training": [9, 1, 0], "datasets": [0, 0, 0]})
        chart(page, "Pending jobs, last 15 min").wait_for()
        page.get_by_text("The history could not be read:").wait_for(state="hidden")


def test_this_machine_shows_its_gpus_and_whose_the_processes_on_them_are(
    browser: Browser, cli: Cli, driver: Path
) -> None:
    here = socket.gethostname()
    name_device(cli, "ab", here)
    add_rows(cli, "devices", {"ab": [80, 2048, 300, 60]}, {"ab": [90, 3072, 310, 61]})
    with (
        repeated(cli, lambda ledger: heartbeat(ledger, here, clock_offset_s=1.25)),
        process("tasks.runner", "01kg9t2v8ch7mq") as pid,
        process(HOSTILE, "--api-key=hunter22") as other,
    ):
        words = {"LD_LIBRARY_PATH": str(driver), "FAKE_GPUS": "1"}
        for shown, link in ((pid, True), (other, False)):
            with (
                server_of(cli, **words, FAKE_PID=str(shown)) as client,
                page_of(browser, client, "#/machines") as page,
            ):
                row = page.locator("table", has_text="Processes on GPUs").locator("tr", has_text=str(shown))
                row.get_by_text("3.0 GiB").wait_for()
                assert row.get_by_role("link", name="01kg9t2v8ch7mq").count() == link
                if not link:
                    assert HOSTILE in row.inner_text()
                    assert "hunter22" not in row.inner_text()
                gpu = page.locator("tr", has_text="Fake GPU 0")
                assert "SW power cap, HW thermal slowdown" in gpu.inner_text()
                assert ("2.0 GiB" if link else "5.0 GiB") in gpu.inner_text()
                facts = page.locator("table", has_text="Clock offset")
                assert "1.250 s" in facts.inner_text()
                chart(page, "Memory used").get_by_text("3 GiB").wait_for()
                page.get_by_label("24 hours").check()
                chart(page, "Memory used").wait_for(state="hidden")  # no minute is over


def test_other_hosts_show_what_their_supervisors_say_and_a_silent_one_that_it_is(
    browser: Browser, cli: Cli, client: httpx.Client
) -> None:
    job = busy_worker(cli.ledger, "far")
    processes = CardProcess(4711, GIB, "alice", "a runner", job), CardProcess(4712, GIB // 2, "bob", HOSTILE)
    card = dataclasses.replace(CARD, processes=processes, more_processes=5, others_bytes=3 * GIB)
    heartbeat(cli.ledger, "gone", age_s=60)

    def send(ledger: Ledger) -> None:
        worker_heartbeat(ledger, "far")
        heartbeat(ledger, "far", gpus=(card, Gpu(1, error="GPU is lost")))

    with repeated(cli, send), page_of(browser, client, "#/machines") as page:
        far = page.locator("details", has=page.get_by_role("heading", name="far"))
        far.get_by_text("4.0 GiB of 24 GiB").wait_for()
        assert "GPU is lost" in far.inner_text()
        assert far.get_by_role("link", name="a", exact=True).get_attribute("href") == f"#/jobs/{job}"
        assert far.locator("tr", has_text="w@far").count() == 1
        gpu = far.locator("tr", has_text="a card")
        assert gpu.get_by_role("link", name=job).count() == 1
        assert "3.0 GiB" in gpu.inner_text(), "of others"
        rows = far.locator("table", has_text="Processes on GPUs").locator("tbody tr")
        assert [re.split(r"\s+", row.inner_text())[0] for row in rows.all()] == ["4711", "4712", "5"]
        assert rows.nth(0).get_by_role("link", name=job).count() == 1
        assert HOSTILE in rows.nth(1).inner_text()
        gone = page.locator("details", has=page.get_by_role("heading", name="gone"))
        assert "silent" in gone.locator("summary").inner_text()


def test_a_job_shows_what_its_own_gpu_did_while_it_ran(browser: Browser, cli: Cli, client: httpx.Client) -> None:
    for name, host in (("ab", "lab"), ("cd", "nas")):
        name_device(cli, name, host)
    rows = ({"ab": [busy, 2048, 300, 60], "cd": [5, 10, 30, 40]} for busy in range(10, 90, 10))
    now = add_rows(cli, "devices", *rows)
    job = {"worker": "w@lab", "device": "cuda:0", "started_at": iso(now - 25), "finished_at": iso(now - 15)}
    with page_of(browser, client, "#/jobs") as page:
        page.evaluate(SHOW_USE, job)
        use = chart(page, "GPU utilization")
        use.locator("canvas").wait_for()
        assert "GPU utilization: 50 %" in use.locator("figcaption").inner_text(), "that of 15 s ago"
        assert "GPU utilization from" in (use.locator(".plot").get_attribute("aria-label") or "")
        page.evaluate(SHOW_USE, {**job, "worker": "w@elsewhere"})
        page.get_by_text("Nothing was recorded of its GPU.").wait_for()
        page.evaluate(SHOW_USE, {**job, "started_at": iso(now - 200_000), "finished_at": iso(now - 190_000)})
        page.get_by_text("What GPUs did is kept for a day.").wait_for()
        page.evaluate(SHOW_USE, {**job, "device": "cpu"})
        assert not page.get_by_text("GPU while it ran").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS)
def test_axe_finds_nothing_in_hosts_with_gpus_processes_and_charts(
    browser: Browser, cli: Cli, driver: Path, window: str, scheme: str
) -> None:
    here = socket.gethostname()
    for host, name in ((here, "ab"), ("far", "cd")):
        name_device(cli, name, host)

    def send(ledger: Ledger) -> None:
        worker_heartbeat(ledger, "far")
        for host in (here, "far"):
            heartbeat(ledger, host, gpus=(dataclasses.replace(CARD, uuid=f"GPU-{host}"), Gpu(1, error="GPU is lost")))

    busy_worker(cli.ledger, "far")
    add_rows(cli, "devices", *({"ab": [busy, 2048, 300, 60], "cd": [5, 10, 30, 40]} for busy in (80, 90)))
    add_rows(cli, "queues", *({"training": [pending, 1, 0], "datasets": [0, 0, 0]} for pending in (3, 4)))
    width, height = WINDOWS[window]
    choices = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "bypass_csp": True}
    with (
        repeated(cli, send),
        process() as pid,
        server_of(cli, LD_LIBRARY_PATH=str(driver), FAKE_PID=str(pid)) as client,
        page_of(browser, client, "#/machines", **choices) as page,
    ):
        page.locator("tr", has_text=str(pid)).first.wait_for()
        chart(page, "Memory used").locator("canvas").first.wait_for()
        check(page, "machines")
        page.evaluate("location.hash = '#/now'")
        chart(page, "GPU utilization, last 15 min").locator("canvas").wait_for()
        check(page, "now")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
