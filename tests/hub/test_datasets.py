"""The real Hub client against a loopback server: a dataset is streamed, and each refusal is one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.hub.server import COMMIT, serve

_DOWNLOAD = """
import sys, json
from pathlib import Path
from tasks.kinds import download
from tasks.errors import UserError
class Context:
    output = Path(sys.argv[2])
    progress = staticmethod(lambda *_: None)
try:
    params, _ = download.prepare(download.Params(sys.argv[1], **json.loads(sys.argv[3])), None)
    print(json.dumps(download.run(params, Context)))
except UserError as problem:
    print(problem)
"""


def download(folder: Path, endpoint: str, source: str, options: str = "{}") -> str:
    """What a download in a process of its own says: the client reads its settings when it is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    output = folder / "output"
    output.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _DOWNLOAD, source, str(output), options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def hub():
    with serve() as address:
        yield address


def test_a_dataset_of_the_hub_is_streamed_whole_or_up_to_a_limit(tmp_path, hub):
    assert '"rows": 500' in download(tmp_path, hub, "owner/name")
    assert '"rows": 20' in download(tmp_path, hub, "owner/name", '{"limit": 20}')


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("owner/nothing", "{}", "The Hub has no dataset owner/nothing (and there is no such file here)"),
        ("owner/gated", "{}", "The dataset owner/gated is gated"),
        ("owner/broken", "{}", "The Hub answered 503 when asked for owner/broken"),
        ("owner/name", '{"column": "body"}', "There is no column 'body'; the columns are: text"),
        ("owner/name", '{"split": "nothing"}', "owner/name cannot be read: Bad split: nothing"),
    ],
)
def test_a_refusal_is_one_sentence(tmp_path, hub, source, options, sentence):
    assert download(tmp_path, hub, source, options).startswith(sentence)


def test_without_a_network_the_answer_comes_at_once_and_in_words(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        answer = download(tmp_path, f"http://127.0.0.1:{unused.getsockname()[1]}", "owner/name")
    assert answer.startswith("The Hugging Face Hub cannot be reached for the dataset owner/name")


def test_the_commit_that_was_read_is_in_the_result_and_an_unknown_revision_is_said(tmp_path, hub):
    assert f'"commit": "{COMMIT}"' in download(tmp_path, hub, "owner/name", '{"revision": "main"}')
    assert "owner/name has no such revision" in download(tmp_path, hub, "owner/name", '{"revision": "nothing"}')
