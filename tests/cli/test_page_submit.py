"""The page's view Submit in Chromium: a job is submitted, watched, cancelled, retried, and changed and sent again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from mistudio_cli.rest.routes import API
from tasks.jobs.job_id import new_job_id
from tasks.jobs.record import Job
from tests.cli.conftest import CHROMIUM, Cli
from tests.cli.test_page_browser import TOKEN, cancel_and_retry, finished, page_of, submit
from tests.cli.test_rest_routes import BEARER, server_of
from tests.conftest import PATIENCE_S, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
#: What Chromium says of refusals, and of an answer that never came.
FAILED = "Failed to load resource: "
UNPROCESSABLE = f"{FAILED}the server responded with a status of 422 (Unprocessable Entity)"
CONFLICT = f"{FAILED}the server responded with a status of 409 (Conflict)"
LOST = f"{FAILED}net::ERR_FAILED"


def open_form(page: Page, kind: str) -> None:
    """The form of that kind, with the token of the tab."""
    page.get_by_role("link", name="Submit", exact=True).click()
    page.get_by_label("Kind").select_option(kind)


def open_more(page: Page) -> None:
    page.get_by_text("More options").click()


def send(page: Page) -> None:
    page.get_by_role("button", name="Submit", exact=True).click()


def job_of(page: Page) -> str:
    """The id of the job whose view is shown."""
    page.wait_for_url(re.compile("#/jobs/.+"))
    return page.url.rpartition("/")[2]


def count_of(client: httpx.Client, kind: str) -> int:
    return len(client.get(f"{API}/jobs", params={"kind": kind}).json()["jobs"])


def test_a_user_submits_watches_the_curve_grow_cancels_and_retries(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        open_form(page, "nap")
        assert page.get_by_label("ticks").is_hidden()
        open_more(page)
        assert page.get_by_label("ticks").get_attribute("placeholder") == "10"
        assert page.get_by_label("end").input_value() == "well"
        page.get_by_label("ticks").fill("4000")
        page.get_by_label("until").fill(str(tmp_path / "end"))
        page.get_by_text("Job options").click()
        page.get_by_label("name", exact=True).fill("from-the-page")
        page.get_by_label("tags").fill("a, b")
        send(page)
        page.get_by_role("heading", name="from-the-page").wait_for()
        job = job_of(page)
        found = page_server.get(f"{API}/jobs/{job}").json()
        assert (found["params"]["ticks"], found["params"]["end"], found["tags"]) == (4000, "well", ["a", "b"])
        page.get_by_text("nap · running").wait_for()
        caption = page.locator('figure[data-metric="depth"] figcaption')
        caption.wait_for()
        first = caption.inner_text()
        until(lambda: caption.inner_text() != first, "the curve to grow")
        cancel_and_retry(page, "from-the-page")
    (tmp_path / "end").touch()
    until(lambda: not page_server.get(f"{API}/jobs?state=running,queued&name=from-the-page").json()["jobs"])


def test_a_refusal_is_beside_the_field_that_it_names_and_keeps_what_was_typed(
    browser: Browser, page_server: httpx.Client
) -> None:
    before = count_of(page_server, "toy-model")
    with page_of(browser, page_server, f"#token={TOKEN}", said=[UNPROCESSABLE] * 3) as page:
        open_form(page, "toy-model")
        open_more(page)
        page.get_by_label("layers").fill("2")
        page.get_by_text("More options").click()
        send(page)
        dataset = page.get_by_label("dataset (required)")
        page.locator("#param-dataset-error", has_text="toy-model needs --dataset.").wait_for()
        assert dataset.get_attribute("aria-invalid") == "true"
        assert dataset.evaluate("field => field === document.activeElement")
        dataset.fill("some-corpus")
        open_more(page)
        page.get_by_label("layers").fill("2.5")
        page.get_by_text("More options").click()
        send(page)
        page.locator("#param-layers-error", has_text="--layers must be a whole number, not 2.5.").wait_for()
        assert page.get_by_label("layers").is_visible(), "its details are open"
        assert dataset.input_value() == "some-corpus"
        assert dataset.get_attribute("aria-invalid") is None
        page.get_by_label("layers").fill("")
        page.get_by_text("Job options").click()
        page.get_by_label("name", exact=True).fill("../x")
        send(page)
        page.locator("#option-name-error", has_text="name must match").wait_for()
        page.get_by_label("Kind").select_option("nap")
        page.get_by_label("Kind").select_option("toy-model")
        assert dataset.input_value() == "some-corpus"
    assert count_of(page_server, "toy-model") == before


def test_a_refusal_that_names_no_field_is_above_the_button(browser: Browser, page_server: httpx.Client) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}", said=[CONFLICT]) as page:
        open_form(page, "describe")
        page.get_by_label("artifact (required)").fill("no-artifact")
        send(page)
        page.get_by_role("alert").get_by_text("'no-artifact' names no artifact. Write FAMILY/NAME").wait_for()
        assert page.get_by_label("artifact (required)").input_value() == "no-artifact"


def test_a_name_that_is_taken_is_said_beside_the_name(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    finished(page_server, "taken", tmp_path)
    with page_of(browser, page_server, f"#token={TOKEN}", said=[CONFLICT]) as page:
        open_form(page, "nap")
        page.get_by_text("Job options").click()
        page.get_by_label("name", exact=True).fill("taken")
        send(page)
        page.locator("#option-name-error", has_text="saes/taken").wait_for()


@pytest.mark.parametrize("text", ["1e", "0x10", "1e999", "10kk", "k", "-"])
def test_what_is_no_number_is_said_without_asking_the_server(
    browser: Browser, page_server: httpx.Client, text: str
) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        open_form(page, "nap")
        open_more(page)
        page.get_by_label("ticks").press_sequentially(text)
        send(page)
        page.get_by_text("--ticks must be a number.").wait_for()
        assert "#/submit" in page.url


@pytest.mark.parametrize(("text", "value"), [("4.001k", 4001), ("2e-3M", 2000), ("+7", 7), (".5K", 500)])
def test_numbers_are_typed_as_on_the_command_line(
    browser: Browser, page_server: httpx.Client, text: str, value: int
) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        open_form(page, "nap")
        open_more(page)
        page.get_by_label("ticks").fill(text)
        send(page)
        job = job_of(page)
    assert page_server.get(f"{API}/jobs/{job}").json()["params"]["ticks"] == value
    page_server.post(f"{API}/jobs/{job}/cancel").raise_for_status()


def test_a_double_click_makes_one_job(browser: Browser, page_server: httpx.Client) -> None:
    keys: list[str | None] = []
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        page.on(
            "request", lambda sent: keys.append(sent.headers.get("idempotency-key")) if sent.method == "POST" else None
        )
        open_form(page, "nap")
        page.get_by_text("Job options").click()
        page.get_by_label("name", exact=True).fill("clicked-twice")
        page.get_by_role("button", name="Submit", exact=True).dblclick()
        page.get_by_role("heading", name="clicked-twice").wait_for()
    assert len(page_server.get(f"{API}/jobs?name=clicked-twice").json()["jobs"]) == 1
    assert keys
    assert all(keys)


def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_key(
    browser: Browser, page_server: httpx.Client
) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}", said=[LOST]) as page:
        open_form(page, "nap")
        page.get_by_text("Job options").click()
        page.get_by_label("name", exact=True).fill("answer-lost")

        def lose(route: object) -> None:
            route.fetch(timeout=PATIENCE_S * 1000)
            route.abort()

        page.route("**/api/v1/jobs", lose, times=1)
        send(page)
        page.get_by_text("The server does not answer.").wait_for()
        send(page)
        page.get_by_role("heading", name="answer-lost").wait_for()
    assert len(page_server.get(f"{API}/jobs?name=answer-lost").json()["jobs"]) == 1


def test_without_a_token_there_is_no_button_but_how_to_get_one(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    job = submit(page_server, "not-again", tmp_path)
    (tmp_path / "end").touch()
    with page_of(browser, page_server, "#/submit") as page:
        page.get_by_text("Submitting needs a token. Run mistudio serve --new-token").wait_for()
        page.get_by_label("Kind").select_option("nap")
        page.get_by_text("More options").wait_for()
        assert page.get_by_role("main").get_by_role("button").count() == 0
        page.evaluate("job => { location.hash = `#/jobs/${job}`; }", job)
        page.get_by_role("heading", name="not-again").wait_for()
        assert page.get_by_role("link", name="Submit again with changes").count() == 0


def test_a_job_is_submitted_again_with_changes_by_keyboard_alone(
    browser: Browser, page_server: httpx.Client, tmp_path: Path
) -> None:
    job = finished(page_server, "the-first-try", tmp_path)
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        page.evaluate("job => { location.hash = `#/jobs/${job}`; }", job)
        page.get_by_role("link", name="Submit again with changes").press("Enter")
        page.get_by_text("Filled in from job the-first-try.").wait_for()
        ticks = page.get_by_label("ticks")
        assert (page.get_by_label("Kind").input_value(), ticks.input_value()) == ("nap", "4000")
        assert page.locator("#names-saes option[value=the-first-try]").count() == 1
        ticks.fill("3999")
        page.get_by_role("button", name="Submit", exact=True).press("Enter")
        again = job_of(page)
    params = page_server.get(f"{API}/jobs/{again}").json()["params"]
    assert params["ticks"] == 3999
    assert params["until"] == str(tmp_path / "end")


@pytest.mark.parametrize("chosen", [("--lr", "3e-4", "--arch", "jumprelu"), ("--k", "4,8", "--together")])
def test_a_training_is_filled_in_whole_so_that_only_what_is_changed_differs(
    browser: Browser, cli: Cli, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    """In a home without workers: that it can be submitted says that every parameter is what it was."""
    (tmp_path / "corpus.txt").write_text("some words " * 500)
    assert cli("submit", "toy-model", "--dataset", str(tmp_path / "corpus.txt"), "--name", "tiny").code == 0
    words = [
        "--model",
        "tiny",
        "--dataset",
        str(tmp_path / "corpus.txt"),
        "--layer",
        "1",
        "--steps",
        "20",
        "--tag",
        "a",
    ]
    made = cli("submit", "train", *words, *chosen, "--no-skip-bos", "--json")
    assert made.code == 0, made.err
    job = made.json["id"]
    with server_of(cli) as client:
        client.headers.update(BEARER)
        with page_of(browser, client, f"#token={TOKEN}", said=[CONFLICT]) as page:
            page.evaluate("job => { location.hash = `#/submit/${job}`; }", job)
            page.get_by_text("Filled in from job").wait_for()
            assert page.get_by_label("seed").is_visible(), "the details with what was given are open"
            page.get_by_label("seed").fill("7")
            send(page)
            page.locator("#option-name-error", has_text="is being made by job").wait_for()
            page.get_by_label("name", exact=True).fill("tiny-again")
            send(page)
            again = job_of(page)
        old, new = (client.get(f"{API}/jobs/{each}").json() for each in (job, again))
    assert new["params"] == {**old["params"], "seed": 7}
    assert (new["tags"], new["priority"]) == (old["tags"], old["priority"])


def test_what_the_kind_has_no_more_is_named(browser: Browser, page_server: httpx.Client, world: Cli) -> None:
    params = {"ticks": 3, "warmth": 1, "pillow": "soft"}
    job = world.ledger.submit(Job(new_job_id(), "nap", "of-an-older-version", "no-queue", params))
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        page.evaluate("job => { location.hash = `#/submit/${job}`; }", job.id)
        page.get_by_text("because this server's nap has no such parameters: warmth, pillow.").wait_for()
        assert page.get_by_label("ticks").input_value() == "3"
        send(page)
        again = job_of(page)
    assert page_server.get(f"{API}/jobs/{again}").json()["params"].keys().isdisjoint(params.keys() - {"ticks"})
    for each in (job.id, again):
        page_server.post(f"{API}/jobs/{each}/cancel").raise_for_status()


def test_a_job_that_is_gone_leaves_an_empty_form(browser: Browser, page_server: httpx.Client) -> None:
    with page_of(browser, page_server, "#/submit/1kgone", missing=1) as page:
        page.get_by_text("There is no job '1kgone'.").wait_for()
        assert page.get_by_label("Kind").input_value() == ""


def test_the_key_of_the_view_and_escape_that_loses_nothing(browser: Browser, page_server: httpx.Client) -> None:
    with page_of(browser, page_server, f"#token={TOKEN}") as page:
        page.get_by_role("heading", name="Now").wait_for()
        for key in ("g", "u"):
            page.keyboard.press(key)
        page.get_by_label("Kind").select_option("nap")
        page.get_by_role("button", name="Submit", exact=True).focus()
        page.keyboard.press("Escape")
        assert page.get_by_label("Kind").input_value() == "nap"
