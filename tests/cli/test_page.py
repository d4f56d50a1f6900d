"""The page's files as they are served: headers, size, and nothing from elsewhere."""

from __future__ import annotations

import gzip
import re
from importlib.resources import files

import httpx
import pytest

from mistudio_cli.page.files import file_named
from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import server_of

NAMES = sorted(path.name for path in files("mistudio_cli.page").iterdir() if not path.name.endswith((".py", "__")))
MOST_BYTES = 120 * 1024
LEAST_CONTRAST = 4.5


def body_of(name: str) -> bytes:
    found = file_named(name)
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
        assert client.get(f"/static/{name}").status_code == 404


def test_the_whole_page_is_small() -> None:
    assert sum(len(gzip.compress(body_of(name))) for name in NAMES) <= MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_origin_or_makes_markup_of_text(name: str) -> None:
    text = body_of(name).decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(
        r"https?://|[\"'(]//\w|@import|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", text
    )
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=\"", text)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".js")])
def test_modules_import_only_what_is_there(name: str) -> None:
    found = re.findall(r'from "\./(\w+\.js)"', body_of(name).decode())
    assert set(found) <= set(NAMES)


def luminance(color: str) -> float:
    """Relative luminance of `#rgb` or `#rrggbb`, as WCAG 2 defines it."""
    digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme: int) -> None:
    blocks = re.findall(r":root \{([^}]*--back[^}]*)\}", body_of("page.css").decode())
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", blocks[scheme]))
    pairs = [(text, "back") for text in ("text", "dim", "link", "bad", "fill")]
    for text, back in [*pairs, ("text", "warn-back"), ("text", "button"), ("dim", "button")]:
        low, high = sorted((luminance(colors[text]), luminance(colors[back])))
        assert (high + 0.05) / (low + 0.05) >= LEAST_CONTRAST, (text, back)
