"""The route of the kinds of job: what it declares is what a submission is held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mistudio_cli.rest.routes import API
from tasks.jobs.kind import kinds
from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import BEARER, server_of


@pytest.fixture(scope="module")
def served(world: Cli) -> Iterator[httpx.Client]:
    with server_of(world) as client:
        client.headers.update(BEARER)
        yield client


@pytest.fixture
def answer(served: httpx.Client) -> dict[str, Any]:
    return served.get(f"{API}/kinds").json()


def params_of(answer: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    (found,) = [each for each in answer["kinds"] if each["name"] == kind]
    return {row["name"]: row for row in found["params"]}


def test_every_kind_has_its_parameters_with_type_default_bounds_and_help(answer: dict[str, Any]) -> None:
    assert set(kinds()) <= {kind["name"] for kind in answer["kinds"]}
    params = params_of(answer, "nap")
    assert (params["ticks"]["type"], params["ticks"]["default"], params["ticks"]["required"]) == ("integer", 10, False)
    assert "full-disk" in params["end"]["choices"]
    assert (params["parent"]["artifact"], params["parent"]["nullable"], params["parent"]["main"]) == (
        "saes",
        True,
        True,
    )
    of_train = params_of(answer, "train")
    assert (of_train["lr"]["type"], of_train["lr"]["flag"], of_train["warmup"]["maximum"]) == (
        "number",
        "--learning-rate",
        1,
    )
    assert (of_train["skip"]["type"], of_train["together"]["type"]) == ("boolean", "object")
    assert {"model", "dataset", "layer"} <= {name for name, row in of_train.items() if row["main"]}
    assert all(row["help"] for kind in answer["kinds"] for row in kind["params"])


def test_the_options_of_a_submission_are_declared_beside_the_kinds(answer: dict[str, Any]) -> None:
    options = {row["name"]: row for row in answer["options"]}
    assert {"name", "priority", "tags", "gpu"} <= set(options)
    assert (options["priority"]["minimum"], options["priority"]["maximum"], options["tags"]["type"]) == (0, 10, "array")


def test_what_is_declared_required_is_what_a_submission_is_refused_without(
    served: httpx.Client, answer: dict[str, Any]
) -> None:
    for kind in answer["kinds"]:
        for row in kind["params"]:
            if row["required"]:
                others = {
                    each["name"]: 1 if each["type"] == "integer" else "x" for each in kind["params"] if each["required"]
                }
                del others[row["name"]]
                refused = served.post(f"{API}/jobs", json={"kind": kind["name"], "params": others})
                assert refused.status_code == 422
                assert f"{kind['name']} needs {row['flag']}." in refused.json()["detail"]
