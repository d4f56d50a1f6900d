"""The page by keyboard in Chromium: single keys go to views and rows, and none acts where text is typed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cli.conftest import CHROMIUM
from tests.cli.test_page_browser import page_of, state_of, submit
from tests.conftest import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture
def page(browser: Browser, page_server: httpx.Client) -> Iterator[Page]:
    with page_of(browser, page_server, "#/now") as page:
        page.get_by_role("heading", name="Now").wait_for()
        yield page


def test_keys_alone_find_choose_and_open_a_job(page: Page, page_server: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "end").touch()
    for name in ("keys-a", "keys-b"):
        job = submit(page_server, name, tmp_path)
        until(lambda job=job: state_of(page_server, job) == "succeeded")
    keyboard = page.keyboard
    for key in ("g", "j"):
        keyboard.press(key)
    page.get_by_role("heading", name="Jobs").wait_for()
    keyboard.press("/")
    keyboard.type("keys-a,keys-b")
    keyboard.press("Enter")
    page.get_by_text("2 jobs, page 1", exact=True).wait_for()
    assert page.get_by_role("heading", level=1).all_inner_texts() == ["Jobs"]
    page.get_by_role("button", name="Filter").focus()
    for key in ("j", "j", "j", "k", "x"):
        keyboard.press(key)
    page.get_by_text("1 selected").wait_for()
    assert page.get_by_label("Select keys-b").is_checked(), "down to the last, and up to the first"
    for key in ("j", "Enter"):
        keyboard.press(key)
    page.get_by_role("heading", name="keys-a").wait_for()
    keyboard.press("Escape")
    page.get_by_role("heading", name="Jobs").wait_for()
    keyboard.press("g")
    keyboard.press("n")
    page.get_by_role("heading", name="Now").wait_for()


def test_no_key_acts_where_text_is_typed_or_with_a_modifier(page: Page) -> None:
    page.keyboard.press("g")
    page.keyboard.press("j")
    name = page.get_by_label("Name", exact=True)
    name.press_sequentially("?gnjkx/")
    name.press("Escape")
    assert name.input_value() == "?gnjkx/"
    page.get_by_role("button", name="Filter").focus()
    page.keyboard.press("Control+/")
    assert page.evaluate("document.activeElement.textContent") == "Filter"
    assert page.get_by_role("dialog").count() == 0
    assert page.get_by_role("heading", level=1).all_inner_texts() == ["Jobs"]


def test_the_list_of_keys_has_the_views_there_are_and_can_turn_them_off(page: Page) -> None:
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    links = page.locator("nav a").all_inner_texts()
    listed = [text for text in dialog.locator("td").all_inner_texts() if text.startswith("Go to ")]
    assert sorted(listed) == sorted([*(f"Go to {link}" for link in links), "Go to the filter or search"])
    dialog.get_by_label("Single keys act").uncheck()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.reload()
    page.get_by_role("heading", name="Now").wait_for()
    page.keyboard.press("?")
    page.keyboard.press("g")
    page.keyboard.press("j")
    assert dialog.count() == 0
    assert page.get_by_role("heading", level=1).all_inner_texts() == ["Now"]
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_label("Single keys act").check()
    dialog.get_by_role("button", name="Close").click()
    page.keyboard.press("g")
    page.keyboard.press("j")
    page.get_by_role("heading", name="Jobs").wait_for()
