"""schemathesis over /openapi.json, with all its checks, with and without a token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_rest_routes import TOKEN, server_of

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
DEEPER = bool(os.environ.get("MISTUDIO_TEST_DEEPER"))
EXAMPLES = "50" if DEEPER else "8"

#: The phase of boundary values alone takes minutes.
PHASES = "examples,coverage,fuzzing,stateful" if DEEPER else "examples,fuzzing,stateful"

#: Routes without an end, and parts of the product that are installed beside.
LEFT_OUT = r"/events$|/metrics$|^/$|/static/"

#: What is refused for a reason that no schema can say: no such job, a name that is taken, an artifact that is missing.
CONFIGURATION = """\
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 409, 413, 415, 422]

[[operations]]
include-name = "GET /api/v1/jobs"  # `since` may be later than `until`
checks.positive_data_acceptance.expected-statuses = ["2xx", 400]
"""


@pytest.mark.timeout(1600)
@pytest.mark.parametrize("with_token", [True, False], ids=["with a token", "without"])
@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed")
def test_schemathesis_finds_nothing(cli: Cli, tmp_path: Path, with_token: bool) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with server_of(cli) as client:
        words = [
            str(client.base_url.join("/openapi.json")),
            "--checks",
            "all",
            "--phases",
            PHASES,
            "--max-examples",
            EXAMPLES,
        ]
        words += ["--exclude-path-regex", LEFT_OUT, "--seed", "5", "--request-timeout", "150", "--no-color"]
        words += ["--suppress-health-check", "too_slow"]  # that the machine is slow is no fault of the schema
        header = ["--header", f"Authorization: Bearer {TOKEN}"] if with_token else []
        done = subprocess.run(
            [str(SCHEMATHESIS), "run", *words, *header],
            capture_output=True,
            text=True,
            timeout=1500,
            cwd=tmp_path,
            env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path / "h")},
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
