"""`python -m docs.screenshots`: makes docs/img from a home in which the quickstart and a small sweep have run.

Needs Debian's chromium, or another in MISTUDIO_CHROMIUM. Takes some minutes; nothing else depends on it.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.home import Home, home_with_workers, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = Path(__file__).parent / "img"
CHROMIUM = os.environ.get("MISTUDIO_CHROMIUM", "/usr/bin/chromium")
SIZES = {"": {"width": 1440, "height": 900}, "-phone": {"width": 360, "height": 740}}
#: Views that are also shown on a phone.
ON_A_PHONE = ("now", "job")


def fill(home: Home) -> tuple[str, list[str]]:
    """Do the work. Returns the id of a training that runs, and those of the ended ones."""
    home.type("quickstart")
    made = jobs(home, "--kind", "train")[0]
    params = json.loads(home.type("jobs", "show", made["id"], "--json"))["params"]
    source = ("--model", params["model"], "--dataset", params["dataset"], "--layer", str(params["layer"]))
    home.type("submit", "train", *source, "--k", "8,24,32", "--steps", "600", "--batch-size", "1024")
    home.type("jobs", "wait", *[job["id"] for job in jobs(home, "--kind", "train")])
    ended = [job["id"] for job in jobs(home, "--kind", "train", "--state", "succeeded")[:3]]
    home.type("submit", "train", *source, "--arch", "batchtopk", "--steps", "100000", "--name", "long-batchtopk")
    home.type("submit", "train", *source, "--arch", "jumprelu,gated", "--steps", "4000")
    return jobs(home, "--name", "long-batchtopk")[0]["id"], ended


def jobs(home: Home, *words: str) -> list[dict[str, Any]]:
    """The jobs that are meant, newest first."""
    found: list[dict[str, Any]] = json.loads(home.type("jobs", "ls", "--json", *words))["jobs"]
    return found


def take(browser: Browser, address: str, token: str, views: dict[str, str]) -> None:
    """An image of each view, by its name and fragment, light and dark; of some on a phone, too."""
    for scheme in ("light", "dark"):
        for suffix, size in SIZES.items():
            context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
            page = context.new_page()
            page.goto(f"{address}/#token={token}")
            for name, fragment in views.items():
                if suffix and name not in ON_A_PHONE:
                    continue
                page.goto(f"{address}/{fragment}")
                page.wait_for_timeout(4000)  # two rounds of what is live, so that charts have their lines
                page.screenshot(path=IMAGES / f"{name}-{scheme}{suffix}.png")
            context.close()


def main() -> None:
    """Make all images."""
    from playwright.sync_api import sync_playwright

    token = secrets.token_urlsafe()
    IMAGES.mkdir(exist_ok=True)
    with home_with_workers("full") as home:
        running, ended = fill(home)
        sae = json.loads(home.type("saes", "ls", "--json"))["saes"][0]["name"]
        views = {
            "now": "#/now",
            "jobs": "#/jobs",
            "job": f"#/jobs/{running}",
            "compare": f"#/compare/{','.join(ended)}",
            "saes": "#/saes",
            "sae": f"#/saes/{sae}",
            "machines": "#/machines",
            "submit": f"#/submit/{running}",
        }
        with served({**home.environment, "MISTUDIO_API_TOKEN": token}) as (port, _), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            take(browser, f"http://127.0.0.1:{port}", token, views)
            browser.close()


if __name__ == "__main__":
    main()
