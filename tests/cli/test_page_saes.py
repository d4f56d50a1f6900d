"""SAEs and features on the page, in Chromium: the list, one SAE with its densities, and features by search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.cli.conftest import CHROMIUM, Cli
from tests.cli.test_page_axe import WINDOWS, check
from tests.cli.test_page_browser import HOSTILE, opened, page_of
from tests.cli.test_rest_routes import server_of
from tests.cli.test_rest_saes import add_features, feature
from tests.cli.test_saes import add_sae

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture
def client(cli: Cli) -> Iterator[httpx.Client]:
    with server_of(cli) as client:
        yield client


def test_saes_are_listed_sorted_and_opened(browser: Browser, cli: Cli, client: httpx.Client) -> None:
    for name in ("b-sae", "a-sae"):
        add_sae(cli.home, name)
    with page_of(browser, client, "#/saes") as page:
        page.get_by_text("2 SAEs, page 1", exact=True).wait_for()
        names = page.locator("tbody tr td:first-child")
        assert names.all_inner_texts() == ["a-sae", "b-sae"]
        page.get_by_role("button", name="Name").click()
        page.get_by_role("button", name="Name ▲").click()
        assert names.all_inner_texts() == ["b-sae", "a-sae"]
        assert "25 %" in page.locator("tr", has_text="a-sae").inner_text()
        assert page.get_by_role("link", name="0123456789ab").first.get_attribute("href") == "#/jobs/0123456789ab"
        page.get_by_role("link", name="a-sae").click()
        page.get_by_role("heading", name="a-sae").wait_for()
        assert page.locator("nav a[aria-current]").inner_text() == "SAEs"
        page.get_by_text("No extraction has finished. Run: mistudio submit extract --sae a-sae").wait_for()


def test_an_sae_shows_its_densities_drawn_and_as_a_table(browser: Browser, cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    with page_of(browser, client, "#/saes/mine") as page:
        figure = page.locator("figure.density")
        figure.get_by_text("12 of 48 features never fired").wait_for()
        heights = figure.locator("rect").evaluate_all("bars => bars.map((bar) => +bar.getAttribute('height'))")
        assert (len(heights), heights.index(max(heights)), heights.count(0)) == (14, 10, 11)
        figure.get_by_text("As a table").click()
        rows = [row.split() for row in figure.locator("tbody tr").all_inner_texts()]
        assert (rows[0], rows[9], rows[11]) == (["never", "12"], ["1e-3", "1e-2.5", "4"], ["1e-2", "1e-1.5", "24"])


def test_features_are_read_on_demand_and_searched(browser: Browser, cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "mine", "mine", [feature(n, f" word{n}", " shared") for n in range(45)])
    with page_of(browser, client, "#/saes/mine") as page:
        page.get_by_text("20 features shown").wait_for()
        page.get_by_role("button", name="More features").click()
        page.get_by_text("40 features shown").wait_for()
        page.get_by_role("button", name="More features").click()
        page.get_by_text("45 features shown, no more").wait_for()
        assert not page.get_by_role("button", name="More features").is_visible()
        page.get_by_label("Token or feature number").fill("word44")
        page.keyboard.press("Enter")
        page.get_by_text("1 feature shown, no more", exact=True).wait_for()
        assert page.locator("article h3").all_inner_texts() == ["Feature 44"]
        page.get_by_role("button", name="Feature 2", exact=True).click()
        page.get_by_role("heading", name="Feature 2", exact=True).wait_for()
        assert page.get_by_label("Token or feature number").input_value() == "2"


def test_a_stronger_activation_is_bolder_and_underlined_and_not_only_darker(
    browser: Browser, cli: Cli, client: httpx.Client
) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "mine", "mine", [feature(1, " peak")])
    with page_of(browser, client, "#/saes/mine") as page:
        page.locator("article mark").first.wait_for()
        look = """marks => marks.map((mark) => {
          const style = getComputedStyle(mark);
          return [mark.textContent, +style.fontWeight, style.textDecorationLine, style.backgroundColor];
        })"""
        (peak, heavy, line, back), (weak, light, dotted, pale) = page.locator("article mark").evaluate_all(look)
        assert (peak, weak, line, dotted) == (" peak", "!", "underline", "underline")
        assert heavy > light
        assert back != pale
        assert page.locator("article .example").inner_text().startswith("4")


def test_whole_numbers_of_an_sae_are_shown_to_the_last_digit(browser: Browser, cli: Cli, client: httpx.Client) -> None:
    path = add_sae(cli.home, "mine") / "manifest.json"
    more = '"layer": 1, "seed": 1234567, "width": 24576, "lr": 0.000123456'
    path.write_text(path.read_text().replace('"layer": 1', more))
    with page_of(browser, client, "#/saes/mine") as page:
        for name, value in (("seed", "1234567"), ("width", "24576"), ("lr", "1.23e-4")):
            row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
            row.get_by_text(value, exact=True).wait_for()


def test_what_files_of_the_store_say_is_text(browser: Browser, cli: Cli, client: httpx.Client) -> None:
    path = add_sae(cli.home, "mine") / "manifest.json"
    path.write_text(path.read_text().replace("tokens/words", HOSTILE).replace('"train"', f'"{HOSTILE}"'))
    odd = feature(1, f" {HOSTILE}", "y" * 10_000, "\n\t‮")
    add_features(cli.home, "mine", "mine", [odd])
    with page_of(browser, client, "#/saes/mine") as page:
        page.get_by_text("1 feature shown, no more", exact=True).wait_for()
        assert page.locator("article").inner_text().count(HOSTILE) == 2
        assert HOSTILE in page.locator("main").inner_text()
        assert page.locator("main img, main script, main iframe").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_an_sae_that_there_is_not_is_said(browser: Browser, client: httpx.Client) -> None:
    with opened(browser) as page:  # whose console has the 404
        page.goto(f"{client.base_url}#/saes/none")
        page.get_by_text("The store has no saes/none.").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", WINDOWS)
def test_axe_finds_nothing_in_an_sae_with_densities_and_features(
    browser: Browser, cli: Cli, client: httpx.Client, window: str, scheme: str
) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "mine", "mine", [feature(n, f" word{n}", " shared") for n in range(3)])
    width, height = WINDOWS[window]
    choices = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "bypass_csp": True}
    with page_of(browser, client, "#/saes/mine", **choices) as page:
        page.locator("article mark").first.wait_for()
        page.get_by_text("As a table").click()
        check(page, "an SAE")
        page.evaluate("location.hash = '#/saes'")
        page.get_by_text("1 SAE, page 1", exact=True).wait_for()
        check(page, "SAEs")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
