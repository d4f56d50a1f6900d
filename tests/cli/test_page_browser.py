"""The page in Chromium, as a user sees it: progress grows, a job is cancelled, names are text, nothing leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from mistudio_cli.rest.routes import API
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tests.cli.conftest import CHROMIUM, Cli
from tests.cli.test_rest_routes import BEARER, TOKEN, server_of
from tests.conftest import PATIENCE_S, until
from tests.fixtures.ports import reserved_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
HOSTILE = "<img src=x onerror=alert(1)>"
#: What Chromium says of an answer 404, whatever the page makes of it.
NOT_FOUND = "Failed to load resource: the server responded with a status of 404 (Not Found)"


@dataclass
class Seen:
    """What a page asked for and said on its console."""

    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def served(world: Cli) -> Iterator[httpx.Client]:
    with server_of(world) as client:
        client.headers.update(BEARER)
        yield client


@contextmanager
def opened(browser: Browser, **choices: object) -> Iterator[Page]:
    """A page of its own, which is waited for as long as anything is."""
    context = browser.new_context(**choices)
    context.set_default_timeout(PATIENCE_S * 1000)
    try:
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def page_of(
    browser: Browser,
    client: httpx.Client,
    fragment: str = "",
    *,
    missing: int = 0,
    said: Sequence[str] = (),
    may_repeat: bool = False,
    **choices: object,
) -> Iterator[Page]:
    """An open page; in the end its console has `missing` answers 404 and `said`, and no request went elsewhere.

    `may_repeat`: what is asked for again and again may be said more than once.
    """
    origin, seen, expected = str(client.base_url).rstrip("/"), Seen(), [*[NOT_FOUND] * missing, *said]
    with opened(browser, **choices) as page:
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.console.append(message.text))
        page.on("pageerror", lambda error: seen.console.append(str(error)))
        page.on("dialog", lambda dialog: seen.console.append(f"dialog: {dialog.message}"))
        page.goto(f"{origin}/{fragment}")
        yield page
        if expected:  # what several answers bring comes one after the other
            until(lambda: page.title() is not None and len(seen.console) >= len(expected), f"{expected}")
    assert (sorted(set(seen.console)) if may_repeat else seen.console) == expected
    assert all(url.startswith(f"{origin}/") for url in seen.requests), seen.requests
    assert TOKEN not in "".join(seen.requests)


def submit(client: httpx.Client, name: str, folder: Path) -> str:
    """A job that runs until its file is there."""
    params = {"ticks": 4000, "until": str(folder / "end")}
    made = client.post(f"{API}/jobs", json={"kind": "nap", "params": params, "name": name})
    assert made.status_code == 201, made.text
    return made.json()["id"]


def finished(client: httpx.Client, name: str, folder: Path) -> str:
    """A job of that name that has succeeded."""
    (folder / "end").touch()
    job = submit(client, name, folder)
    until(lambda: state_of(client, job) == "succeeded")
    return job


def has_cursor_where_it_points(page: Page, metric: str) -> bool:
    """Whether a chart shows its cursor, with the pointer on it; what is read meanwhile may move it from under that."""
    page.locator(f'figure[data-metric="{metric}"] .u-over').hover()
    return page.locator(f'figure[data-metric="{metric}"] .u-cursor-x:not(.u-off)').count() > 0


def workers_of(page: Page) -> Locator:
    return page.locator("table", has_text="Last heartbeat").get_by_text("all-queues@")


def state_of(client: httpx.Client, job: str) -> str:
    return client.get(f"{API}/jobs/{job}").json()["state"]


def cancel_and_retry(page: Page, name: str) -> None:
    """On the page of a running nap: both buttons with their questions, and what is said then."""
    page.get_by_role("button", name=f"Cancel {name}").click()
    page.get_by_role("button", name="Yes").click()
    page.get_by_text("nap · cancelled").wait_for()
    page.get_by_role("button", name=f"Retry {name}").click()
    page.get_by_role("button", name="Yes").click()
    page.get_by_text("Submitted again as").wait_for()


def test_a_user_sees_progress_grow_opens_the_job_and_cancels_it(
    browser: Browser, served: httpx.Client, tmp_path: Path
) -> None:
    job = submit(served, "grows", tmp_path)
    with page_of(browser, served, f"#token={TOKEN}") as page:
        row = page.locator("tr", has_text="grows")
        row.wait_for()
        bar = row.locator("progress")
        first = bar.evaluate("bar => bar.value")
        until(lambda: bar.evaluate("bar => bar.value") > first)
        assert TOKEN not in page.url
        row.get_by_role("link", name="grows").click()
        until(lambda: has_cursor_where_it_points(page, "depth"), "a cursor in the chart")
        page.get_by_role("button", name="Cancel grows").click()
        page.get_by_role("button", name="No").click()
        assert state_of(served, job) == "running"
        cancel_and_retry(page, "grows")
    assert state_of(served, job) == "cancelled"
    (tmp_path / "end").touch()


def test_without_the_token_the_page_only_reads(browser: Browser, served: httpx.Client, tmp_path: Path) -> None:
    submit(served, "reads", tmp_path)
    with page_of(browser, served) as page:
        page.locator("tr", has_text="reads").wait_for()
        page.get_by_text("read-only").wait_for()
        assert page.get_by_role("main").get_by_role("button").count() == 0
    (tmp_path / "end").touch()


def test_a_queue_is_paused_and_resumed_by_keyboard_alone(browser: Browser, served: httpx.Client) -> None:
    with page_of(browser, served, f"#token={TOKEN}") as page:
        for verb, state in (("Pause", "paused"), ("Resume", "ok")):
            button = page.get_by_role("button", name=f"{verb} datasets")
            button.focus()
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.id") == "no"
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            page.locator("tr", has_text="datasets").get_by_text(state, exact=True).wait_for()


def test_jobs_are_filtered_and_sorted(browser: Browser, served: httpx.Client, tmp_path: Path) -> None:
    for name in ("sorted-b", "sorted-a"):
        finished(served, name, tmp_path)
    with page_of(browser, served, "#/jobs") as page:
        page.get_by_label("Name", exact=True).fill("sorted-a,sorted-b")
        page.get_by_role("button", name="Filter").click()
        page.get_by_text("2 jobs, page 1", exact=True).wait_for()
        names = page.locator("tbody td.name")
        assert names.all_inner_texts() == ["sorted-a", "sorted-b"]
        page.get_by_role("button", name="Name").click()
        page.get_by_role("button", name="Name ▲").click()
        assert names.all_inner_texts() == ["sorted-b", "sorted-a"]
        assert page.locator("th[aria-sort=descending]").inner_text() == "Name ▼"


def test_a_filter_counts_once_it_is_sent_and_one_that_is_wrong_is_said(
    browser: Browser, served: httpx.Client, tmp_path: Path
) -> None:
    finished(served, "still-shown", tmp_path)
    bad = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    with page_of(browser, served, "#/jobs", said=[bad], may_repeat=True) as page:
        row = page.get_by_role("link", name="still-shown", exact=True)
        row.wait_for()
        page.get_by_label("Kind", exact=True).fill("na")
        with page.expect_response(re.compile("/jobs\\?")) as refreshed:
            pass
        assert (refreshed.value.status, "kind=" in refreshed.value.url) == (200, False)
        assert row.is_visible()
        page.get_by_role("button", name="Filter").click()
        page.get_by_text("kind 'na' is none of: ").wait_for()
        with page.expect_response(re.compile("/jobs\\?")) as refreshed:
            pass
        assert (refreshed.value.status, "kind=" in refreshed.value.url) == (200, False), "the list stays live"
        assert page.get_by_text("kind 'na' is none of: ").is_visible()
        page.get_by_label("Kind", exact=True).fill("nap")
        page.get_by_role("button", name="Filter").click()
        page.get_by_text("kind 'na' is none of: ").wait_for(state="hidden")
        row.wait_for()


def test_a_hostile_name_is_text_in_every_view(
    browser: Browser, served: httpx.Client, world: Cli, tmp_path: Path
) -> None:
    job = submit(served, "hostile", tmp_path)
    until(lambda: state_of(served, job) == "running")
    world.ledger.client.call("HSET", f"mistudio:job:{job}", "name", HOSTILE)
    with page_of(browser, served, f"#token={TOKEN}") as page:
        page.get_by_role("link", name=HOSTILE).wait_for()
        page.get_by_role("link", name="Jobs").click()
        page.get_by_role("link", name=HOSTILE).click()
        page.get_by_role("heading", name=HOSTILE).wait_for()
        page.get_by_role("button", name=f"Cancel {HOSTILE}").click()
        page.locator("#question", has_text=HOSTILE).wait_for()
        assert page.locator("img").count() == 0
    (tmp_path / "end").touch()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_view_without_scrolling_sideways(
    browser: Browser, served: httpx.Client, world: Cli, tmp_path: Path, scheme: str
) -> None:
    job = submit(served, f"narrow-{scheme}-" + "x" * 60, tmp_path)
    until(lambda: state_of(served, job) == "running")
    other = submit(served, f"beside-narrow-{scheme}", tmp_path)
    choices = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme}
    for fragment in ("#/now", "#/jobs", f"#/jobs/{job}", f"#/compare/{job},{other}", f"#/submit/{job}"):
        with page_of(browser, served, fragment, **choices) as page:
            page.get_by_text(f"narrow-{scheme}").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
    (tmp_path / "end").touch()
    until(lambda: state_of(served, job) == "succeeded")
    assert world("jobs", "rm", job).code == 0, "so long a name would change the tables of other tests"


def test_the_tab_says_stale_when_the_server_is_gone_and_names_alarms(browser: Browser, cli: Cli) -> None:
    with opened(browser) as page:
        with server_of(cli) as client:
            page.goto(str(client.base_url))
            until(lambda: re.fullmatch(r"\d+ alarms? – Now – mistudio", page.title()))
        until(lambda: re.match(r"stale \d+ s – ", page.title()))
        page.get_by_text("stale: nothing received").wait_for()


@pytest.mark.parametrize("has_clipboard", [True, False])
def test_an_alarm_has_its_command_as_text_and_a_button_that_copies_it(
    browser: Browser, cli: Cli, has_clipboard: bool
) -> None:
    """Without a clipboard, as of a page without TLS from another machine, the button selects the command."""
    cli.ledger.submit(Job(new_job_id(), "train", "a", "training", {}))
    permissions = ["clipboard-read", "clipboard-write"]
    with server_of(cli) as client, opened(browser, permissions=permissions) as page:
        if not has_clipboard:
            page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        page.goto(str(client.base_url))
        alarm = page.locator("#alarms li").first
        alarm.get_by_text("Alarm: No worker consumes any queue: 1 pending").wait_for()
        assert alarm.locator("code").inner_text() == "mistudio workers start full"
        alarm.get_by_role("button", name="Copy mistudio workers start full").click()
        alarm.get_by_text("Copied" if has_clipboard else "Selected", exact=True).wait_for()
        taken = "navigator.clipboard.readText()" if has_clipboard else "String(getSelection())"
        assert page.evaluate(taken) == "mistudio workers start full"


def test_without_events_the_page_polls(browser: Browser, served: httpx.Client, tmp_path: Path) -> None:
    submit(served, "polled", tmp_path)
    with opened(browser) as page:
        page.route("**/api/v1/events", lambda route: route.abort())
        page.goto(str(served.base_url))
        row = page.locator("tr", has_text="polled")
        row.wait_for()
        first = row.locator("progress").evaluate("bar => bar.value")
        until(lambda: row.locator("progress").evaluate("bar => bar.value") > first)
        page.get_by_text("polling", exact=True).wait_for()
        workers_of(page).wait_for()
    (tmp_path / "end").touch()


def test_where_reads_need_the_token_the_page_says_so_and_reads_with_it(browser: Browser, served: httpx.Client) -> None:
    with opened(browser, extra_http_headers={"X-Forwarded-For": "10.0.0.1"}) as page:
        page.goto(str(served.base_url))
        page.get_by_text("This server needs a token.").wait_for()
        page.goto(f"{served.base_url}/#token=wrong")
        page.get_by_text("The token is not this server's.").wait_for()
        page.goto(f"{served.base_url}/#token={TOKEN}")
        workers_of(page).wait_for()
        page.get_by_text("live", exact=True).wait_for()


def test_a_token_of_another_server_is_refused_as_the_page_opens(browser: Browser, served: httpx.Client) -> None:
    with page_of(browser, served, f"#token={TOKEN}") as page:
        page.get_by_text("with token", exact=True).wait_for()
        page.evaluate("sessionStorage.setItem('mistudio-token', 'expired')")
        page.reload()
        page.get_by_text("The token is not this server's. Run mistudio serve --new-token, and open").wait_for()
        page.get_by_text("read-only", exact=True).wait_for()
        workers_of(page).wait_for()
        page.goto(f"{served.base_url}/#token={TOKEN}")
        page.get_by_text("with token", exact=True).wait_for()


def test_after_a_restart_of_the_server_the_page_is_live_again(browser: Browser, cli: Cli) -> None:
    with reserved_port() as port, opened(browser) as page:
        with server_of(cli, "--port", str(port)) as client:
            page.goto(str(client.base_url))
            page.get_by_text("live", exact=True).wait_for()
        until(lambda: page.title().startswith("stale"))
        with server_of(cli, "--port", str(port)):
            page.get_by_text("live", exact=True).wait_for()
            until(lambda: not page.title().startswith("stale"))
