"""`/api/v1/saes`: the list, one SAE, and the features that extractions found, from a real store and server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistudio_cli.rest.routes import API, ROUTES
from tasks.storage.store import Store
from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import check, server_of
from tests.cli.test_saes import DENSITIES, add_sae
from tests.fixtures.work_folders import next_attempt

HOSTILE = "<img src=x onerror=alert(1)>"


def feature(number: int, *peaks: str, **changes: Any) -> dict[str, Any]:
    """A line of `features.jsonl`: one example for each peak's token."""
    examples = [
        {"position": 5, "tokens": ["the", peak, "!"], "activations": [0.0, 4.0 - place, 0.5], "peak": 1}
        for place, peak in enumerate(peaks)
    ]
    known = {"id": number, "density": 0.25, "contexts": 40, "max_activation": 4.0, "examples": examples}
    return {**known, "pattern": {"where": "at", "token": peaks[0], "share": 0.9}, **changes}


def add_features(
    home: Path, name: str, sae: str, lines: list[Any], created_at: str = "2026-02-01T12:00:00+00:00"
) -> Path:
    """An artifact of an extraction, as a worker would have published it; texts among the lines stand as they are."""
    store = Store(home / "store")
    output = next_attempt(store, f"job-{name}") / "output"
    written = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    (output / "features.jsonl").write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
    (output / "index.html").write_text("<script>alert(1)</script>")
    result = {"features": 48, "fired": 40, "live": 30, "tokens": 1000, "telling": [{"feature": 2}], "hook": "layers.1"}
    manifest = {"job": f"job-{name}", "created_at": created_at, "params": {"sae": sae}, "result": result}
    store.seal(output, manifest)
    return store.publish(output, "features", name)


@pytest.fixture
def client(cli: Cli) -> Iterator[httpx.Client]:
    with server_of(cli) as client:
        yield client


def answer(client: httpx.Client, path: str, **words: object) -> Any:
    got = client.get(f"{API}/saes{path}", params=words)
    assert got.status_code == 200, got.text
    template = "/{name}/features" if path.endswith("/features") else "/{name}" if path else ""
    check(next(route for route in ROUTES if route.path == f"{API}/saes{template}"), got.json())
    return got.json()


def ids(page: dict[str, Any]) -> list[int]:
    return [each["id"] for each in page["features"]]


def test_saes_are_listed_by_name_a_page_at_a_time(cli: Cli, client: httpx.Client) -> None:
    assert answer(client, "") == {"saes": [], "next": None, "errors": []}
    for name in ("b", "a", "c"):
        add_sae(cli.home, name)
    first = answer(client, "", limit=2)
    assert ([sae["name"] for sae in first["saes"]], first["next"]) == (["a", "b"], "b")
    assert [sae["name"] for sae in answer(client, "", limit=2, after="b")["saes"]] == ["c"]
    sae = first["saes"][0]
    assert (sae["job"], sae["d_sae"], sae["l0"], sae["dead_fraction"]) == ("0123456789ab", 48, 4.0, 0.25)
    assert sae["bytes"] == sum(path.stat().st_size for path in (cli.home / "store/saes/a").iterdir()) - manifest_size(
        cli, "a"
    )


def manifest_size(cli: Cli, name: str) -> int:
    return (cli.home / "store" / "saes" / name / "manifest.json").stat().st_size


def test_a_damaged_manifest_hides_no_other_sae(cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "a")
    (add_sae(cli.home, "b") / "manifest.json").write_text("{")
    found = answer(client, "")
    assert [sae["name"] for sae in found["saes"]] == ["a"]
    assert "saes/b" in found["errors"][0]["message"]
    assert client.get(f"{API}/saes/b").status_code == 503


def test_an_sae_has_its_densities_its_configuration_and_its_extractions(cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "early", "mine", [feature(1, " a")], "2026-01-31T13:00:00+00:00")
    add_features(cli.home, "late", "mine", [feature(1, " a")])
    add_features(cli.home, "other", "yours", [feature(1, " a")])
    found = answer(client, "/mine")
    assert found["result"]["density_histogram"] == DENSITIES
    assert (found["config"]["architecture"], found["made_from"]["dataset"]) == ("topk", "tokens/words")
    assert [each["name"] for each in found["extractions"]] == ["late", "early"]
    assert (found["extractions"][0]["interpretable"], found["extractions"][0]["job"]) == ([2], "job-late")


def test_numbers_that_json_does_not_have_are_null(cli: Cli, client: httpx.Client) -> None:
    path = add_sae(cli.home, "mine") / "manifest.json"
    path.write_text(path.read_text().replace('"l0": 4.0', '"l0": NaN'))
    assert answer(client, "/mine")["l0"] is None
    assert answer(client, "")["saes"][0]["l0"] is None


@pytest.mark.parametrize("path", ["/none", "/none/features", "/..%2f..%2fetc", "/a%2fb", "/.hidden", "/%00"])
def test_an_sae_that_there_is_not_is_a_404(client: httpx.Client, path: str) -> None:
    assert client.get(f"{API}/saes{path}").status_code == 404


def test_features_come_in_pages_with_their_strongest_examples(cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "mine", "mine", [feature(n, " river", " river", " bank") for n in range(45)])
    pages, after = [], 0
    while after is not None:
        page = answer(client, "/mine/features", after=after, limit=20, examples=2)
        pages.append(page)
        after = page["next"]
    assert [ids(page) for page in pages] == [list(range(20)), list(range(20, 40)), list(range(40, 45))]
    assert (pages[0]["read_fraction"] < 0.5, pages[-1]["read_fraction"]) == (True, 1.0)
    first = pages[0]["features"][0]
    assert (first["top_tokens"], first["more_examples"], len(first["examples"])) == ([" river", " bank"], 1, 2)
    assert first["examples"][0]["activations"] == [0.0, 4.0, 0.5]
    assert (first["density"], first["pattern"]["token"]) == (0.25, " river")


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("RIVER", [1, 2]),
        ("3", [3, 4]),
        ("ü", [5]),
        ("the", []),
        (HOSTILE, [6]),
        (" ", [1, 2, 6]),
        ("\\n", []),
        ('"', []),
    ],
)
def test_features_are_searched_by_number_and_by_the_token_of_a_peak(
    cli: Cli, client: httpx.Client, search: str, found: list[int]
) -> None:
    add_sae(cli.home, "mine")
    peaks = (" river", " a river", "x", "43", "GRÜN", f" {HOSTILE}")
    add_features(cli.home, "mine", "mine", [feature(n + 1, peak) for n, peak in enumerate(peaks)])
    assert ids(answer(client, "/mine/features", search=search)) == found


def test_the_newest_extraction_is_read_unless_another_of_the_same_sae_is_named(cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "early", "mine", [feature(1, " a")], "2026-01-31T13:00:00+00:00")
    add_features(cli.home, "late", "mine", [feature(2, " a")])
    add_features(cli.home, "other", "yours", [feature(3, " a")])
    assert ids(answer(client, "/mine/features")) == [2]
    assert ids(answer(client, "/mine/features", extraction="early")) == [1]
    for name in ("other", "..", "none"):
        assert client.get(f"{API}/saes/mine/features", params={"extraction": name}).status_code == 404


def test_before_an_extraction_the_answer_says_how_to_run_one(cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    got = client.get(f"{API}/saes/mine/features")
    assert (got.status_code, "mistudio submit extract --sae mine" in got.json()["detail"]) == (404, True)


def test_lines_that_others_damaged_are_counted_and_hide_no_feature(cli: Cli, client: httpx.Client) -> None:
    add_sae(cli.home, "mine")
    odd = [
        feature(3, " a", density=float("nan"), max_activation="x", pattern=7),
        feature(4, " a", examples=[{"tokens": ["a"], "activations": [1, 2], "peak": 0}, {"tokens": 1}, 5, None]),
        feature(5, " a", examples=[{"tokens": ["a"], "activations": [1e999], "peak": 7}]),
        feature(6, "y" * 1000, examples=[{"tokens": ["z" * 5000] * 300, "activations": [1.0] * 300, "peak": 150}]),
    ]
    broken = ["{", "[]", "null", '{"id": "x"}', "[" * 5000]
    add_features(cli.home, "mine", "mine", [*broken, *odd])
    page = answer(client, "/mine/features")
    assert (ids(page), page["unreadable"]) == ([3, 4, 5, 6], len(broken))
    by_id = {each["id"]: each for each in page["features"]}
    assert (by_id[3]["density"], by_id[3]["max_activation"], by_id[3]["pattern"]) == (None, None, None)
    assert (by_id[4]["examples"], by_id[5]["examples"]) == ([], [])
    (long,) = by_id[6]["examples"]
    assert (len(long["tokens"]), long["peak"], max(map(len, long["tokens"]))) == (81, 40, 101)


@pytest.mark.parametrize(
    "words", [{"limit": 0}, {"limit": 101}, {"examples": 21}, {"after": 3}, {"after": -1}, {"after": "x"}, {"odd": 1}]
)
def test_other_bounds_are_refused(cli: Cli, client: httpx.Client, words: dict[str, Any]) -> None:
    add_sae(cli.home, "mine")
    add_features(cli.home, "mine", "mine", [feature(1, " a")])
    assert client.get(f"{API}/saes/mine/features", params=words).status_code == 400


def test_features_behind_a_link_out_of_the_store_are_not_read(cli: Cli, client: httpx.Client, tmp_path: Path) -> None:
    add_sae(cli.home, "mine")
    path = add_features(cli.home, "mine", "mine", []) / "features.jsonl"
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(feature(1, "secret")) + "\n")
    path.unlink()
    path.symlink_to(secret)
    got = client.get(f"{API}/saes/mine/features")
    assert (got.status_code, "leads out of the store" in got.text) == (400, True)


def test_a_disk_that_does_not_answer_is_said_within_the_patience(cli: Cli) -> None:
    path = add_sae(cli.home, "stuck") / "manifest.json"
    path.unlink()
    os.mkfifo(path)
    with server_of(cli, MISTUDIO_READ_PATIENCE_S="1") as client:
        got = client.get(f"{API}/saes/stuck")
        with path.open("w") as pipe:  # whoever reads it may end
            path.unlink()
            pipe.write("{}")
    assert (got.status_code, got.json()["detail"]) == (503, "The disk of the store does not answer.")
