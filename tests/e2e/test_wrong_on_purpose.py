"""Wrong on purpose: each mistake is one clear sentence, at submit time where it can be known then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import until
from tests.e2e.conftest import Home

pytestmark = pytest.mark.timeout(1800)

AT_SUBMIT = {
    "submit download /no/such/file": "no file or folder '/no/such/file'",
    "submit train --model nope --dataset python-stdlib --layer 1": "'nope' is not a model",
    "submit train --model toy --dataset python-stdlib --layer 9": "toy has no layer 9: its layers are 0 to 2",
    "submit train --model toy --dataset nope --layer 1": "'nope' is no dataset",
    "submit train --model toy --dataset python-stdlib --layer 1 --arch foo": "'foo' is not one of: batchtopk, gated",
    "submit train --model toy --dataset python-stdlib --layer 1 --k 5000": "more than the 1024 features",
    "submit train --model toy --dataset python-stdlib --layer 1 --name ../x": "cannot be the name of an artifact",
    "submit train --model toy --dataset python-stdlib --layer 1 --name toy-l1-topk-k16": "is there already",
    "submit extract --sae nope": "There is no saes/nope",
    "submit describe ../../etc/passwd": "",
    "submit no-such-kind": "No such command",
    "workers start no-such-profile": "Profiles: datasets, full, jetson, minimal",
}


@pytest.mark.parametrize("command", AT_SUBMIT)
def test_what_can_be_known_at_submit_time_is_said_then(lit_home: tuple[Home, object], command: str) -> None:
    home, _ = lit_home
    before = contents(home)
    result = home.type(command, code=2)
    assert AT_SUBMIT[command] in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert contents(home) == before


def test_an_unreachable_broker_is_said_with_its_address_and_an_exit_code_of_its_own(home: Home) -> None:
    result = home.type("--broker-url redis://:secret@127.0.0.1:1/0 queue ls", code=4)
    assert "redis://127.0.0.1:1/0" in result.stderr
    assert "secret" not in result.stderr + result.stdout


def test_what_only_the_work_can_know_fails_the_job_with_a_sentence(home: Home) -> None:
    (home.folder / "bad.jsonl").write_text('{"a": "x", "b": "y"}\n' * 2)
    (home.folder / "mixed.jsonl").write_text('{"text": "x"}\n{"text": 3}\n')
    home.type("workers start minimal")
    for file, sentence in (("bad.jsonl", "column"), ("mixed.jsonl", "text")):
        done = home.type(f"submit download {home.folder / file} --wait", code=None)
        assert done.returncode in (1, 2)
        assert sentence in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
    assert not list((home.folder / "store" / "datasets").glob("*"))
    until(
        lambda: not list((home.folder / "store" / ".tmp").glob("*"))
    )  # a slot tidies up after it has recorded the end


def contents(home: Home) -> set[Path]:
    return {path for path in (home.folder / "store").rglob("*") if ".tmp" not in path.parts}
