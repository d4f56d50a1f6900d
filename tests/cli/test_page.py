"""The page's files as they are served: headers, size, and nothing from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import posixpath
import re
from importlib.resources import files

import httpx
import pytest

from mistudio_cli.page.files import file_named
from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import server_of

PAGE = files("mistudio_cli.page")
OURS = sorted(
    f"{folder}{path.name}"
    for folder in ("", "views/", "parts/", "charts/")
    for path in (PAGE / folder).iterdir()
    if path.is_file() and not path.name.endswith(".py")
)
#: As their authors published them, with their SHA-256.
OF_OTHERS = {
    "vendor/uPlot.esm.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "vendor/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
NAMES = [*OURS, *OF_OTHERS]
MOST_BYTES = 120 * 1024
LEAST_CONTRAST = 4.5
LEAST_CONTRAST_OF_LINES = 3.0


def body_of(name: str) -> bytes:
    folder, _, file = name.rpartition("/")
    found = file_named(file, folder or None)
    assert found is not None
    return found[0]


def check_headers(answer: httpx.Response, media_type: str) -> None:
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


def test_the_page_and_its_files_need_no_token_and_have_strict_headers(cli: Cli) -> None:
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    with server_of(cli) as client:
        check_headers(client.get("/"), "text/html")
        for name in NAMES:
            answer = client.get(f"/static/{name}", headers={"X-Forwarded-For": "10.0.0.1"})
            check_headers(answer, types[name.rpartition(".")[2]])


@pytest.mark.parametrize(
    "name", ["files.py", "__init__.py", "none.js", "..%2ffiles.py", "%2e%2e", "index.html%00", "A.js"]
)
def test_nothing_else_is_served(cli: Cli, name: str) -> None:
    with server_of(cli) as client:
        for folder in ("", "views/", "parts/", "vendor/", "none/", "..%2f", "views%2f"):
            assert client.get(f"/static/{folder}{name}").status_code == 404


def test_the_whole_page_is_small() -> None:
    assert sum(len(gzip.compress(body_of(name))) for name in NAMES) <= MOST_BYTES


def test_the_code_of_others_is_what_its_authors_published_and_has_its_license() -> None:
    readme = (PAGE / "vendor" / "README.md").read_text()
    for name, digest in OF_OTHERS.items():
        assert hashlib.sha256(body_of(name)).hexdigest() == digest
        assert f"| `{name.removeprefix('vendor/')}` |" in readme
        assert digest in readme
    there = {path.name for path in (PAGE / "vendor").iterdir()}
    assert {f"vendor/{name}" for name in there - {"README.md", "LICENSE-uPlot"}} == set(OF_OTHERS)


def test_the_code_of_others_makes_no_markup_of_text() -> None:
    for name in OF_OTHERS:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|@import|url\(",
                             body_of(name).decode())  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_no_file_names_another_origin_or_makes_markup_of_text(name: str) -> None:
    text = body_of(name).decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"https?://|[\"'(]//\w|@import|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", text
    )
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=\"", text)


@pytest.mark.parametrize("name", [name for name in OURS if name.endswith(".js")])
def test_modules_import_only_what_is_there(name: str) -> None:
    folder = posixpath.dirname(name)
    found = re.findall(r'from "([^"]+)"', body_of(name).decode())
    assert {posixpath.normpath(posixpath.join(folder, other)) for other in found} <= set(NAMES)


def contrast(one: str, other: str) -> float:
    """The contrast of two colors, as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    """Relative luminance of `#rgb` or `#rrggbb`, as WCAG 2 defines it."""
    digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def colors_of(scheme: int) -> dict[str, str]:
    """The variables of the light scheme (0) or the dark one (1)."""
    blocks = re.findall(r":root \{([^}]*--back[^}]*)\}", body_of("page.css").decode())
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", blocks[scheme]))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme: int) -> None:
    colors = colors_of(scheme)
    pairs = [(text, "back") for text in ("text", "dim", "link", "bad", "fill")]
    for text, back in [*pairs, ("text", "warn-back"), ("text", "button"), ("dim", "button"), ("on-mark", "mark")]:
        assert contrast(colors[text], colors[back]) >= LEAST_CONTRAST, (text, back)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_lines_of_a_chart_have_enough_contrast(scheme: int) -> None:
    colors = colors_of(scheme)
    lines = [name for name in colors if name.startswith("series-")]
    assert len(lines) == 8
    for line in lines:
        assert contrast(colors[line], colors["back"]) >= LEAST_CONTRAST_OF_LINES, line
