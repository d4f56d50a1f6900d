"""The page's view of a job in Chromium: its charts, its log, and the jobs it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from mistudio_cli.rest.routes import API
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job, State
from tests.cli.conftest import CHROMIUM, Cli
from tests.cli.test_page_browser import HOSTILE, page_of, state_of, submit
from tests.conftest import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
LOG = "End of the log"


def submit_chatter(client: httpx.Client, folder: Path, **params: object) -> str:
    """A job that writes to its log and runs until its file is there."""
    body = {"kind": "chatter", "params": {"until": str(folder / "end"), **params}, "name": "chatter"}
    made = client.post(f"{API}/jobs", json=body)
    assert made.status_code == 201, made.text
    return made.json()["id"]


def marks(page: Page) -> list[str]:
    return page.get_by_label(LOG).locator("mark").all_inner_texts()


def test_one_switch_and_one_weight_serve_all_charts_of_a_job_and_are_kept(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    job = submit(page_server, "charts", tmp_path)
    with page_of(browser, page_server, f"#/jobs/{job}") as page:
        snores = page.locator('figure[data-metric="snores"] figcaption')
        page.locator('figure[data-metric="depth"] canvas').wait_for()
        page.get_by_label("Log scale").check()
        page.get_by_text("not above 0, left out on a log scale").first.wait_for()
        page.get_by_label("Smoothing").press("ArrowRight")
        page.get_by_text("moving average, weight 0.01").wait_for()
        until(lambda: "raw" in snores.inner_text(), "the raw value beside the smoothed one")
        page.locator('figure[data-metric="depth"] .plot').press("Home")
        page.locator('figure[data-metric="snores"] .u-cursor-x:not(.u-off)').wait_for(state="attached")
        page.reload()
        page.locator('figure[data-metric="depth"] canvas').wait_for()
        assert page.get_by_label("Log scale").is_checked()
        assert page.get_by_label("Smoothing").input_value() == "0.01"
        until(lambda: "raw" in snores.inner_text(), "the kept weight in the charts")
    (tmp_path / "end").touch()


def test_a_link_to_a_job_that_is_gone_shows_that_and_the_way_back_alone(
    browser: Browser, page_server: httpx.Client
) -> None:
    with page_of(browser, page_server, "#/jobs/1kgone", missing=3) as page:
        page.get_by_text("There is no job '1kgone'. Its record may have been removed.").wait_for()
        assert page.get_by_role("main").get_by_role("heading").count() == 1
        assert page.get_by_role("main").get_by_role("textbox").count() == 0
        page.get_by_role("link", name="All jobs").click()
        page.get_by_label("State").wait_for()


def test_a_job_that_failed_is_on_the_first_view_and_says_why(
    browser: Browser, page_server: httpx.Client, world: Cli
) -> None:
    job = world.ledger.submit(Job(new_job_id(), "nap", "fails-here", "training", {}, digest="that no worker has"))
    claim = world.ledger.claim(job.id, "w@h", "h", 7)
    assert claim is not None
    why = "The loss was no longer a number by step 33"
    world.ledger.finish(claim, State.FAILED, why, error={"type": "UserError", "message": why})
    for fragment in ("#/now", "#/jobs"):
        with page_of(browser, page_server, fragment, viewport={"width": 1440, "height": 900}) as page:
            row = page.locator("tr", has_text="fails-here")
            row.get_by_text(why).wait_for()
            state = row.get_by_text("failed", exact=True)
            assert state.evaluate("node => getComputedStyle(node).color") != row.locator("td").nth(1).evaluate(
                "node => getComputedStyle(node).color"
            )
    with page_of(browser, page_server, f"#/jobs/{job.id}") as page:
        page.get_by_text(f"mistudio jobs logs {job.id}").wait_for()
        assert page.locator("main h2:visible").all_inner_texts() == ["Log"]
        first = page.locator("main").evaluate("node => node.innerText")
        assert first.index(why) < first.index("Search the log") < first.index("Parameters")
        assert "claimed" not in first
    assert world("jobs", "rm", job.id).code == 0


def test_a_queued_job_says_what_is_the_matter_with_its_queue(
    browser: Browser, page_server: httpx.Client, world: Cli
) -> None:
    world.ledger.queues.pause("training")
    job = world.ledger.submit(Job(new_job_id(), "nap", "queued-here", "training", {}))
    with page_of(browser, page_server, "#/now") as page:
        row = page.locator("tr", has_text="queued-here")
        row.get_by_text("training is paused").wait_for()
        assert world("jobs", "cancel", job.id).code == 0
    world.ledger.queues.resume("training")
    assert world("jobs", "rm", job.id).code == 0


def test_a_queued_job_says_its_turn_and_why_it_is_queued_again(
    browser: Browser, page_server: httpx.Client, world: Cli
) -> None:
    lasting = [Job(new_job_id(), "nap", f"turn-{n}", "datasets", {}, digest="that no worker has") for n in range(3)]
    jobs = [world.ledger.submit(job).id for job in lasting]
    with page_of(browser, page_server, "#/now") as page:
        second, third = (page.locator("tr", has_text=f"turn-{n}") for n in (1, 2))
        second.get_by_text("#2 in datasets", exact=True).wait_for()
        claim = world.ledger.claim(jobs[2], "w@h", "h")  # whose lease runs out after a while
        assert claim is not None
        world.ledger.put_back(claim, "its worker was stopped", loss=False)
        third.get_by_text(re.compile(r"#\d in datasets: its worker was stopped")).wait_for()
        page.evaluate("location.hash = '#/jobs'")
        second.get_by_text("queued in datasets", exact=True).wait_for()
        assert world("jobs", "cancel", *jobs).code == 0
    assert world("jobs", "rm", *jobs).code == 0


def test_where_the_eta_of_a_queue_is_unknown_the_page_says_why(
    browser: Browser, page_server: httpx.Client, world: Cli
) -> None:
    kind, digest = "hike", "that no worker has"
    more_than_slots = [Job(new_job_id(), kind, f"hike-{n}", "datasets", {}, digest=digest) for n in range(9)]
    jobs = [world.ledger.submit(job).id for job in more_than_slots]
    with page_of(browser, page_server, "#/now") as page:
        page.get_by_text("datasets: ETA unknown: of a kind that runs or is queued here").wait_for()
        assert world("jobs", "cancel", *jobs).code == 0
        page.get_by_text("ETA unknown").wait_for(state="detached")
    assert world("jobs", "rm", *jobs).code == 0


def test_a_search_of_the_log_marks_counts_and_walks_the_matches(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    job = submit_chatter(page_server, tmp_path)
    with page_of(browser, page_server, f"#/jobs/{job}") as page:
        log, search = page.get_by_label(LOG), page.get_by_label("Search the log")
        log.get_by_text("has printed").wait_for()
        assert log.locator(".level").first.inner_text() == "INFO"
        search.fill("PRINT")
        assert marks(page) == ["print", "print"]
        current = page.locator("mark[aria-current]")
        page.get_by_text("2 of 2 matches").wait_for()
        search.press("Enter")
        page.get_by_text("1 of 2 matches").wait_for()
        assert current.locator("xpath=..").inner_text() == "begins to print"
        page.get_by_role("button", name="Previous").click()
        page.get_by_text("2 of 2 matches").wait_for()
        search.fill("[.*")
        page.get_by_text("no match in these lines").wait_for()
        search.fill("is over")
        (tmp_path / "end").touch()
        page.get_by_text("1 match", exact=True).wait_for()
        search.fill("")
        assert marks(page) == []


def test_the_log_follows_until_the_reader_scrolls_back(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    job = submit_chatter(page_server, tmp_path, megabytes=0.02)
    with page_of(browser, page_server, f"#/jobs/{job}") as page:
        log, follow = page.get_by_label(LOG), page.get_by_label("Follow")
        log.get_by_text("has printed").wait_for()
        at_end = "it => it.scrollHeight - it.scrollTop - it.clientHeight <= 4"
        until(lambda: log.evaluate(at_end), "the end of the log")
        log.evaluate("it => { it.scrollTop = 100; }")
        until(lambda: not follow.is_checked(), "following to end")
        (tmp_path / "end").touch()
        log.get_by_text("is over").wait_for(state="attached")
        assert not log.evaluate(at_end)
        follow.check()
        until(lambda: log.evaluate(at_end), "the end again")


def test_a_hostile_line_is_text_and_so_are_its_marks(
    browser: Browser, page_server: httpx.Client, world: Cli, tmp_path: Path
) -> None:
    job = submit_chatter(page_server, tmp_path, hostile=True)
    with page_of(browser, page_server, f"#/jobs/{job}") as page:
        lines = [{"time": None, "level": None, "message": HOSTILE * 100}]
        page.evaluate(
            """(lines) => import("/static/parts/job_log.js").then(({ LogTail }) => {
          const tail = new LogTail();
          document.getElementById("main").replaceChildren(tail.node);
          tail.add(lines, []);
        })""",
            lines,
        )
        page.get_by_label("Search the log").fill("<IMG")
        page.get_by_text("of at least 50 matches").wait_for()
        assert page.locator("main img").count() == 0
        assert page.get_by_label(LOG).inner_text().startswith(HOSTILE)
        assert "more characters" in page.get_by_label(LOG).inner_text()
    (tmp_path / "end").touch()


def test_a_job_links_its_parent_its_child_and_the_job_it_is_a_retry_of(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    parent = submit(page_server, "lineage-parent", tmp_path)
    body = {"kind": "nap", "params": {"ticks": 1}, "name": "lineage-child", "after": [parent]}
    child = page_server.post(f"{API}/jobs", json=body).json()["id"]
    page_server.post(f"{API}/jobs/{child}/cancel", json={})
    until(lambda: state_of(page_server, child) == "cancelled")
    retried = page_server.post(f"{API}/jobs/{child}/retry", json={}).json()["jobs"][-1]["id"]
    with page_of(browser, page_server, f"#/jobs/{retried}") as page:
        related = page.get_by_role("table", name="Related jobs")
        related.get_by_role("row", name="retry of").get_by_role("link", name=child).click()
        related.get_by_role("row", name="parent").get_by_role("link", name="lineage-parent").click()
        page.get_by_role("heading", name="lineage-parent").wait_for()
        related.get_by_role("row", name="child").get_by_role("link", name="lineage-child").first.wait_for()
    (tmp_path / "end").touch()
