"""The page by the rules of axe-core: every view and dialog, light and dark, on a phone and on a desk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

import httpx
import pytest

from mistudio_cli.rest.routes import API
from tests.cli.conftest import CHROMIUM, Cli
from tests.cli.test_page_browser import TOKEN, page_of, state_of, submit
from tests.conftest import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
AXE = (files("axe_playwright_python") / "axe.min.js").read_text() if CHROMIUM else ""
#: What only a view that has been loaded has.
LOADED = {
    "#/now": "main progress",
    "#/jobs": "td.select",
    "#/jobs/": ".log div",
    "#/compare/": "main li",
    "#/saes": "main caption",
    "#/submit": "main option:nth-child(2)",
    "#/submit/": "#param-ticks",
    "#/machines": "main summary",
}
WINDOWS = {"phone": (360, 740), "desk": (1440, 900)}


@pytest.fixture(scope="module")
def jobs(page_server: httpx.Client, world: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A running job, and one that waits for it, both with a metric of an SAE."""
    folder = tmp_path_factory.mktemp("axe")
    running = submit(page_server, "axe-runs", folder)
    until(lambda: state_of(page_server, running) == "running")
    body = {"kind": "nap", "params": {"ticks": 1}, "name": "axe-waits", "after": [running]}
    waiting = page_server.post(f"{API}/jobs", json=body).json()["id"]
    for job in (running, waiting):
        world.ledger.client.call("HSET", f"mistudio:job:{job}", "result", json.dumps({"l0": 30.0, "fvu": 0.1}))
    yield [running, waiting]
    (folder / "end").touch()


def check(page: Page, what: str) -> None:
    """Axe finds nothing in what is shown."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    assert found["passes"], "axe has run"
    wrong = [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found["violations"]]
    assert wrong == [], what


def views_of(page: Page, jobs: list[str]) -> list[str]:
    """The addresses of all views, with what only a loaded one has."""
    links = page.locator("nav a").evaluate_all("links => links.map((link) => link.getAttribute('href'))")
    assert {"#/now", "#/jobs"} <= set(links)
    return [*links, f"#/jobs/{jobs[0]}", f"#/compare/{','.join(jobs)}", f"#/compare/{jobs[0]}", f"#/submit/{jobs[0]}"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS)
def test_axe_finds_nothing_in_any_view(
    browser: Browser, page_server: httpx.Client, jobs: list[str], window: str, scheme: str
) -> None:
    width, height = WINDOWS[window]
    choices = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "bypass_csp": True}
    with page_of(browser, page_server, f"#token={TOKEN}", **choices) as page:
        page.locator("tr", has_text="axe-runs").first.wait_for()
        for view in views_of(page, jobs):
            page.evaluate("view => { location.hash = view; }", view)
            page.locator(LOADED.get(view.partition(jobs[0])[0], "h1")).first.wait_for(state="attached")
            check(page, view)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_dialogs_and_outcomes(
    browser: Browser, page_server: httpx.Client, jobs: list[str], scheme: str
) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}", color_scheme=scheme, bypass_csp=True) as page:
        page.get_by_role("button", name="Keys").click()
        check(page, "keys")
        page.keyboard.press("Escape")
        for verb in ("Pause", "Resume"):
            page.get_by_role("button", name=f"{verb} datasets").click()
            check(page, "question")
            page.get_by_role("button", name="Yes").click()
            page.get_by_role("status").get_by_text(f"datasets is {verb.lower()}d").wait_for()
            check(page, "outcome")
