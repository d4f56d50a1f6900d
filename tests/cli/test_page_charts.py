"""The page's charts in Chromium: what the pointer, the keyboard and a screen reader get from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.cli.conftest import CHROMIUM
from tests.cli.test_page_browser import page_of
from tests.conftest import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
DRAW = """async ([name, options, style, series]) => {
  const { Chart } = await import("/static/charts/chart.js");
  const chart = new Chart(name, options);
  chart.setStyle(style);
  document.getElementById("main").prepend(chart.node);
  chart.show(series);
  (window.charts ??= {})[name] = chart;
}"""
HAS_COLOR = """([name, wanted]) => {
  const canvas = document.querySelector(`figure[data-metric="${name}"] canvas`);
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] === 255 && wanted.every((part, index) => data[at + index] === part)) return true;
  }
  return false;
}"""


@pytest.fixture
def page(browser: Browser, page_server: httpx.Client) -> Iterator[Page]:
    with page_of(browser, page_server, "#/jobs", color_scheme="light") as page:
        yield page


def draw(page: Page, name: str, *series: dict[str, Any], style: dict[str, Any] | None = None, **options: Any) -> None:
    page.evaluate(DRAW, [name, options, style or {}, list(series)])
    page.locator(f'figure[data-metric="{name}"] canvas').wait_for()


def line(values: list[float | None], at: list[float] | None = None, name: str = "a") -> dict[str, Any]:
    return {"name": name, "at": at or list(range(len(values))), "values": values}


def readout(page: Page, name: str) -> str:
    return page.locator(f'figure[data-metric="{name}"] figcaption').inner_text().strip()


def plot(page: Page, name: str) -> Any:
    return page.locator(f'figure[data-metric="{name}"] .plot')


def test_the_arrow_keys_read_each_value(page: Page) -> None:
    draw(page, "loss", line([4, 2.5, 1], at=[10, 20, 40]), unit="nats")
    assert readout(page, "loss") == "loss: 1 nats at 40"
    page.locator("#skip").focus()
    while page.evaluate("document.activeElement.className") != "plot":
        page.keyboard.press("Tab")
    for key, expected in (("Home", "4 nats at 10"), ("ArrowRight", "2.5 nats at 20"), ("End", "1 nats at 40"),
                          ("ArrowRight", "1 nats at 40"), ("ArrowLeft", "2.5 nats at 20")):  # fmt: skip
        page.keyboard.press(key)
        assert readout(page, "loss") == f"loss: {expected}"
    page.evaluate("charts.loss.show([{ name: 'a', at: [10, 20, 40, 400], values: [4, 3, 1, 0.5] }])")
    until(lambda: readout(page, "loss") == "loss: 3 nats at 20", "the cursor to stay at its step")
    page.keyboard.press("Tab")
    assert readout(page, "loss") == "loss: 0.5 nats at 400"


def test_charts_of_a_group_share_their_cursor(page: Page) -> None:
    draw(page, "loss", line([3, 2, 1]), group="job")
    draw(page, "l0", line([30, 20, 10]), group="job")
    draw(page, "other", line([9, 8, 7]))
    plot(page, "loss").press("Home")
    assert [readout(page, name) for name in ("loss", "l0", "other")] == ["loss: 3 at 0", "l0: 30 at 0", "other: 7 at 2"]
    plot(page, "l0").locator(".u-over").hover()
    until(lambda: readout(page, "loss") == "loss: 2 at 1", "the pointer's step in the other chart")
    plot(page, "other").locator(".u-over").hover()
    until(lambda: readout(page, "loss") == "loss: 1 at 2", "the end again")


def test_what_is_no_number_is_a_gap_and_counted(page: Page) -> None:
    draw(page, "loss", line([1, float("nan"), float("inf"), None, 5]))
    assert readout(page, "loss") == "loss: 5 at 4 (3 not finite or missing)"
    plot(page, "loss").press("Home")
    plot(page, "loss").press("ArrowRight")
    assert readout(page, "loss") == "loss: – at 1 (3 not finite or missing)"


def test_a_chart_without_a_number_says_so(page: Page) -> None:
    draw(page, "loss", line([None, float("nan")]), style={"log": True})
    assert readout(page, "loss") == "loss: – (2 not finite or missing)"
    assert plot(page, "loss").get_attribute("aria-label") == "loss: no finite value"


def test_a_log_scale_leaves_out_what_is_not_above_0_and_says_how_many(page: Page) -> None:
    draw(page, "loss", line([0, -1, 100, 1]))
    page.evaluate("charts.loss.setStyle({ log: true })")
    assert readout(page, "loss") == "loss: 1 at 3 (2 not above 0, left out on a log scale)"
    middle = page.evaluate("new Promise((done) => queueMicrotask(() => done(charts.loss.plot.valToPos(10, 'y'))))")
    ends = page.evaluate("[100, 1].map((value) => charts.loss.plot.valToPos(value, 'y'))")
    assert middle == pytest.approx(sum(ends) / 2), "10 is halfway from 1 to 100"


def test_smoothing_is_a_moving_average_beside_the_raw_value(page: Page) -> None:
    draw(page, "loss", line([0, None, 4, 4]), style={"smoothing": 0.5})
    plot(page, "loss").press("Home")
    assert readout(page, "loss").startswith("loss: 0, raw 0 at 0")
    plot(page, "loss").press("End")
    # ((0 · 0.5 + 4 · 0.5) · 0.5 + 4 · 0.5) / (1 - 0.5³)
    assert readout(page, "loss").startswith(f"loss: {3 / 0.875:.4g}, raw 4 at 3")
    page.evaluate("charts.loss.setStyle({ smoothing: 0 })")
    assert readout(page, "loss").startswith("loss: 4 at 3")


def test_several_lines_have_names_and_differ_by_more_than_color(page: Page) -> None:
    draw(page, "loss", line([3, 2, 1], name="first"), line([5, 4], at=[1, 3], name="second"))
    plot(page, "loss").press("Home")
    plot(page, "loss").press("ArrowRight")
    assert [part.strip() for part in readout(page, "loss").split("\n")] == ["loss at 1", "first: 2", "second: 5"]
    dashes = page.locator(".swatch line").evaluate_all("lines => lines.map((line) => line.outerHTML)")
    assert len({dash.partition("stroke-dasharray")[2] for dash in dashes}) == 2
    strokes = page.evaluate("charts.loss.plot.series.slice(1).map((line) => JSON.stringify(line.dash))")
    assert len(set(strokes)) == 2


def test_no_two_of_many_lines_look_alike(page: Page) -> None:
    looks = page.evaluate("""import("/static/charts/chart_readout.js").then(({ colorOf, dashOf }) =>
      Array.from({ length: 64 }, (_, place) => `${colorOf(place)} ${dashOf(place)}`))""")
    assert len(set(looks)) == 64


def test_a_time_axis_shows_times(page: Page) -> None:
    draw(page, "pending", line([1, 2], at=[1790000000, 1790000060]), x="time")
    expected = page.evaluate("new Date(1790000060000).toLocaleString([], { dateStyle: 'short', timeStyle: 'medium' })")
    assert readout(page, "pending") == f"pending: 2 at {expected}"


def test_a_summary_is_there_for_who_does_not_see_the_lines(page: Page) -> None:
    draw(page, "loss", line([3, 1], name="first"), line([5, 4], name="second"))
    summary = "loss of first from 3 at 0 to 1 at 1; loss of second from 5 at 0 to 4 at 1"
    assert plot(page, "loss").get_attribute("aria-label") == summary


def test_a_chart_follows_the_width_and_the_color_scheme(page: Page) -> None:
    draw(page, "loss", line([3, 3, 3]))
    until(lambda: page.evaluate(HAS_COLOR, ["loss", [0x1D, 0x4E, 0xD8]]), "the color of a light page")
    page.emulate_media(color_scheme="dark")
    until(lambda: page.evaluate(HAS_COLOR, ["loss", [0x8A, 0xB4, 0xF8]]), "the color of a dark page")
    page.set_viewport_size({"width": 400, "height": 700})
    until(lambda: plot(page, "loss").locator("canvas").evaluate("it => it.clientWidth") < 400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_value_between_two_gaps_is_drawn(page: Page) -> None:
    draw(page, "loss", line([None, 3, None]))
    until(lambda: page.evaluate(HAS_COLOR, ["loss", [0x1D, 0x4E, 0xD8]]), "a point")
