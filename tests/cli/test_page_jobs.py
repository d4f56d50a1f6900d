"""The page's list of jobs in Chromium: several chosen, cancelled, retried, undone and compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from mistudio_cli.rest.routes import API
from tests.cli.conftest import CHROMIUM, Cli
from tests.cli.test_page_browser import TOKEN, page_of, state_of, submit
from tests.conftest import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


def submit_waiting(client: httpx.Client, count: int, name: str, folder: Path) -> list[str]:
    """Jobs that wait for one that runs until its file is there."""
    parent = submit(client, f"{name}-parent", folder)
    made = []
    for number in range(count):
        body = {"kind": "nap", "params": {"ticks": 1 + number}, "name": f"{name}-{number}", "after": [parent]}
        made.append(client.post(f"{API}/jobs", json=body).json()["id"])
    return made


def only(page: Page, *names: str) -> Locator:
    """The checkboxes of the jobs of these names, which alone are shown."""
    page.get_by_label("Name", exact=True).fill(",".join(names))
    page.get_by_role("button", name="Filter").click()
    page.get_by_text(f"{len(names)} {'job' if len(names) == 1 else 'jobs'}, page 1", exact=True).wait_for()
    return page.locator("td.select input")


def set_field(world: Cli, job: str, field: str, value: object) -> None:
    """Put a field into a job's record."""
    text = value if isinstance(value, str) else json.dumps(value)
    world.ledger.client.call("HSET", f"mistudio:job:{job}", field, text)


def test_several_jobs_are_cancelled_and_retried_after_one_question_each(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    jobs = submit_waiting(page_server, 4, "many", tmp_path)
    names = [f"many-{number}" for number in range(4)]
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        page.get_by_role("link", name="Jobs").click()
        boxes = only(page, *names)
        boxes.nth(0).click()
        boxes.nth(2).click(modifiers=["Shift"])
        page.get_by_text("3 selected", exact=True).wait_for()
        page.get_by_role("button", name="Cancel selected").click()
        page.locator("#question", has_text="Cancel 3 jobs?").wait_for()
        page.get_by_role("button", name="No").click()
        page.get_by_label("Select all on this page").check()
        page.get_by_text("4 selected", exact=True).wait_for()
        boxes.nth(3).uncheck()
        assert page.get_by_label("Select all on this page").evaluate("box => box.indeterminate")
        page.get_by_role("button", name="Cancel selected").click()
        page.get_by_role("button", name="Yes").click()
        page.get_by_text("3 jobs: 3 cancelled").wait_for()
        assert [state_of(page_server, job) for job in jobs] == ["waiting"] + ["cancelled"] * 3
        page.get_by_role("button", name="Retry 3 jobs").wait_for()
        page.locator("tr", has_text="cancelled").nth(2).wait_for()
        page.get_by_label("Select all on this page").check()
        page.get_by_role("button", name="Retry selected").click()
        page.locator("#question", has_text="Retry 3 jobs? 1 of 4 selected stay as they are.").wait_for()
        page.get_by_role("button", name="Yes").click()
        page.get_by_text("3 jobs: 3 submitted again").wait_for()
    retried = page_server.get(f"{API}/jobs?name={','.join(names)}").json()["jobs"]
    assert len(retried) == 7
    (tmp_path / "end").touch()


def test_a_change_that_fails_is_counted_with_its_reason(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    submit_waiting(page_server, 2, "refused", tmp_path)
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        page.get_by_role("link", name="Jobs").click()
        boxes = only(page, "refused-0", "refused-1")
        page.get_by_label("Select all on this page").check()
        refused = boxes.nth(0).evaluate("box => box.job.id")
        page.route(f"**/{refused}/cancel", lambda route: route.fulfill(status=200, body='{"state": "succeeded"}'))
        page.get_by_role("button", name="Cancel selected").click()
        page.get_by_role("button", name="Yes").click()
        page.get_by_text("2 jobs: 1 succeeded, 1 cancelled").wait_for()
        page.get_by_role("button", name="Retry 1 job", exact=True).wait_for()
    (tmp_path / "end").touch()


#: The lines that the text of an element takes.
_LINES = """node => {
  const range = document.createRange();
  range.selectNodeContents(node);
  return new Set([...range.getClientRects()].map(({ bottom }) => Math.round(bottom / 8))).size;
}"""


def test_no_word_of_a_state_a_kind_or_a_button_is_broken_on_a_desk(
    browser: Browser, page_server: httpx.Client, world: Cli, tmp_path: Path
) -> None:
    name = "wide-" + "-".join(["a-name-with-many-parts"] * 4)
    job = submit(page_server, name, tmp_path)
    until(lambda: state_of(page_server, job) == "running")
    with page_of(browser, page_server, f"#token={TOKEN}", viewport={"width": 1100, "height": 900}) as page:
        page.get_by_role("link", name="Jobs").click()
        only(page, name)
        for cell in page.locator("td.word, td.action button").all():
            assert cell.evaluate(_LINES) == 1, cell.inner_text()
    (tmp_path / "end").touch()
    until(lambda: state_of(page_server, job) != "running")
    assert world("jobs", "rm", job).code == 0


def test_without_the_token_jobs_can_be_chosen_to_compare_and_not_to_change(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    submit_waiting(page_server, 2, "seen", tmp_path)
    with page_of(browser, page_server, "#/jobs") as page:
        only(page, "seen-0", "seen-1").nth(0).check()
        page.get_by_text("1 selected (2 to 8 can be compared)").wait_for()
        page.get_by_label("Select seen-0").check()
        page.get_by_label("Select seen-1").check()
        page.get_by_role("link", name="Compare 2 jobs").wait_for()
        assert page.get_by_role("button", name="Cancel selected").count() == 0
        page.get_by_role("button", name="Clear selection").click()
        assert page.locator("td.select input:checked").count() == 0
    (tmp_path / "end").touch()


def test_pausing_a_queue_and_cancelling_a_job_can_be_undone(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    (job,) = submit_waiting(page_server, 1, "undone", tmp_path)
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        queue = page.locator("tr", has_text="datasets")
        page.get_by_role("button", name="Pause datasets").click()
        page.get_by_role("button", name="Yes").click()
        outcome = page.get_by_role("status")
        outcome.get_by_text("datasets is paused").wait_for()
        queue.get_by_text("paused", exact=True).wait_for()
        for said, state in (("resumed", "ok"), ("paused", "paused"), ("resumed", "ok")):
            outcome.get_by_role("button", name="Undo", exact=True).focus()
            page.keyboard.press("Enter")
            outcome.get_by_text(f"datasets is {said}").wait_for()  # with another Undo, which may come after the state
            queue.get_by_text(state, exact=True).wait_for()
        page.goto(f"{page_server.base_url}/#/jobs/{job}")
        page.get_by_role("button", name="Cancel undone-0").click()
        page.get_by_role("button", name="Yes").click()
        page.get_by_role("status").get_by_role("button", name="Retry").dblclick()
        page.get_by_text("Submitted again as").wait_for()
    assert len(page_server.get(f"{API}/jobs?name=undone-0").json()["jobs"]) == 2, "a double click retries once"
    (tmp_path / "end").touch()


def test_jobs_are_compared_by_curves_results_and_parameters(
    browser: Browser, page_server: httpx.Client, world: Cli, tmp_path: Path
) -> None:
    jobs = []
    for ticks, (l0, fvu) in ((3, (30.0, 0.2)), (4, (60.0, 0.1))):
        body = {"kind": "nap", "params": {"ticks": ticks}, "name": f"compared-{ticks}"}
        jobs.append(page_server.post(f"{API}/jobs", json=body).json()["id"])
        until(lambda: state_of(page_server, jobs[-1]) == "succeeded")
        set_field(world, jobs[-1], "metrics", {"l0": l0, "fvu": fvu, "tokens_per_s": 1234.0})
    with page_of(browser, page_server, "#/jobs") as page:
        only(page, "compared-3", "compared-4")
        page.get_by_label("Select all on this page").check()
        page.get_by_role("link", name="Compare 2 jobs").click()
        depth = page.locator('figure[data-metric="depth"]')
        depth.locator("canvas").wait_for()
        assert [part.split(":")[0].strip() for part in depth.locator("li").all_inner_texts()] == [
            "compared-4",
            "compared-3",
        ]
        results = page.get_by_role("table", name="Results: last metrics")
        row = results.get_by_role("row", name="compared-3").inner_text()
        assert re.search(r"succeeded\s.*\s1,234\s+30\s+0\.2$", row, re.DOTALL), row
        different = page.get_by_role("table", name="Parameters that differ").locator("tbody tr")
        assert [cell.strip() for cell in different.locator("td").all_inner_texts()] == ["ticks", "4", "3"]
        page.get_by_text("4 parameters are equal.").wait_for()
        scatter = page.locator("svg.scatter")
        assert scatter.get_attribute("aria-label") == "compared-4: L0 60, FVU 0.1; compared-3: L0 30, FVU 0.2"
        forms = scatter.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.getAttribute('d'))")
        assert len(set(forms)) == 2
        page.get_by_text("As a table").click()
        page.get_by_role("table", name="L0 and FVU").get_by_role("row", name="compared-3 30 0.2").wait_for()


def test_a_metric_that_only_one_job_has_is_unknown_for_the_other(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    (bare,) = submit_waiting(page_server, 1, "unmeasured", tmp_path)
    parent = page_server.get(f"{API}/jobs/{bare}").json()["parents"][0]
    with page_of(browser, page_server, f"#/compare/{bare},{parent}") as page:
        lines = page.locator('figure[data-metric="depth"] li')
        until(lambda: [line.partition(":")[0].strip() for line in lines.all_inner_texts()]
              == ["unmeasured-0", "unmeasured-parent"])  # fmt: skip
        assert lines.first.inner_text().strip() == "unmeasured-0: –"
    (tmp_path / "end").touch()


def test_compare_says_which_job_is_missing_or_has_no_metrics(
    browser: Browser, page_server: httpx.Client, world: Cli, tmp_path: Path
) -> None:
    (job,) = submit_waiting(page_server, 1, "bare", tmp_path)
    name = "<b>bare</b>"
    set_field(world, job, "name", name)
    with page_of(browser, page_server, f"#/compare/{job},none", missing=1) as page:
        page.get_by_text("There is no job 'none'.").wait_for()
        page.get_by_text(f"{name} has no metrics.").wait_for()
        assert page.locator("main b").count() == 0
        page.get_by_role("link", name=name).wait_for()
    for ids in ("", job, ",".join(map(str, range(9)))):
        with page_of(browser, page_server, f"#/compare/{ids}") as page:
            page.get_by_text("Compare takes 2 to 8 jobs").wait_for()
    (tmp_path / "end").touch()
