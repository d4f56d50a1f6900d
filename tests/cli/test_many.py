"""`submit many`: one line, one job; all lines are checked before the first is submitted."""

from __future__ import annotations

import json
import subprocess

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.submission.bulk import BATCH
from tests.cli.conftest import MISTUDIO, Cli, Ended


def many(cli: Cli, *lines: object, words: tuple[str, ...] = ()) -> Ended:
    path = cli.home / "jobs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return cli("submit", "many", str(path), *words)


def answers(result: Ended) -> list[dict]:
    return [json.loads(line) for line in result.out.splitlines()]


def test_each_line_is_a_job_with_its_own_options(cli: Cli) -> None:
    lines = [
        {"kind": "nap", "name": "a", "priority": 9, "tags": ["x"], "gpu": "none", "ticks": 3},
        "",
        {"kind": "nap", "name": "b", "parent": "a"},
    ]
    first, second = answers(many(cli, *lines, words=("--json", "--tag", "all", "--priority", "2")))
    assert list(first) == ["line", "id", "kind", "queue", "name", "before", "replicated"]
    assert (first["line"], second["line"]) == (1, 3)
    jobs = [cli.ledger.need(result["id"]) for result in (first, second)]
    assert [(job.priority, job.tags, job.gpu) for job in jobs] == [(9, ("all", "x"), "none"), (2, ("all",), "any")]
    assert jobs[0].params["ticks"] == 3
    assert jobs[1].parents == (first["id"],)


def test_a_line_may_wait_for_a_job_and_what_it_needs_is_made_once(cli: Cli) -> None:
    corpus = cli.home / "corpus.txt"
    corpus.write_text("some text\n")
    before = cli("submit", "nap", "--json").json["id"]
    lines = [
        {"kind": "toy-model", "dataset": str(corpus), "seed": n, "name": f"m{n}", "after": [before]} for n in (0, 1)
    ]
    first, second = answers(many(cli, *lines, words=("--json",)))
    assert (len(first["before"]), second["before"]) == (1, [])
    for result in (first, second):
        assert cli.ledger.need(result["id"]).parents == (before, *first["before"])


def test_all_faults_are_reported_with_their_lines_and_nothing_is_submitted(cli: Cli) -> None:
    result = many(
        cli,
        {"kind": "nap"},
        {"kind": "nap", "ticks": "3", "tocks": 1},
        "{'kind': 'nap'}",
        "[]",
        {"ticks": 3},
        {"kind": "nap", "name": "x", "priority": 11},
        {"kind": "nap", "name": "y", "after": ["none"]},
        {"kind": "nap"},
        {"kind": "nap", "tags": "x"},
    )
    assert (result.code, result.out) == (Code.USAGE, "")
    path = cli.home / "jobs.jsonl"
    assert [line for line in result.err.splitlines() if not line.startswith("  ")] == [
        f"{path}:2: nap has no parameter 'tocks'.",
        f"{path}:2: --ticks must be a whole number, not '3'.",
        f"{path}:3: Not valid JSON: Expecting property name enclosed in double quotes (column 2).",
        f"{path}:4: A JSON object was expected, not [].",
        f"{path}:5: A kind is missing.",
        f"{path}:6: --priority must be between 0 and 10, not 11.",
        f"{path}:7: There is no job 'none'.",
        f"{path}:8: saes/nap-10 would be made twice.",
        f"{path}:9: tags must be a list of words, not 'x'.",
    ]
    assert cli.ledger.page().jobs == ()


def test_very_many_faults_are_reported_in_part(cli: Cli) -> None:
    result = many(cli, *[{"kind": "dream"}] * 80)
    assert result.err.splitlines()[-1] == "… and 30 more faults"


def test_more_than_a_batch_from_standard_input(cli: Cli) -> None:
    count = BATCH + 3
    text = "\n".join(json.dumps({"kind": "blink", "note": str(n)}) for n in range(count))
    done = subprocess.run(
        [MISTUDIO, "submit", "many", "-"], env=cli.environment, input=text, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, f"{count} of {count} lines were submitted.\n")
    ids = [line.split()[0] for line in done.stdout.splitlines()]
    assert [job.params["note"] for job in cli.ledger.many(ids) if job] == [str(n) for n in range(count)]
    assert cli.ledger.queues.counts()["high_priority"].pending == count


def test_a_dry_run_submits_nothing(cli: Cli) -> None:
    result = many(cli, {"kind": "nap"}, {"kind": "blink"}, words=("--dry-run", "--json")).json
    assert [job["kind"] for job in result["jobs"]] == ["nap", "blink"]
    assert cli.ledger.page().jobs == ()


@pytest.mark.parametrize(("content", "sentence"), [(None, "No such file"), (b"\xff", "not UTF-8")])
def test_a_file_that_cannot_be_read(cli: Cli, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (cli.home / "jobs.jsonl").write_bytes(content)
    result = cli("submit", "many", str(cli.home / "jobs.jsonl"))
    assert (result.code, sentence in result.err) == (Code.USAGE, True)
