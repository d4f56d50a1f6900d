"""What all deployment files have in common: they follow the table, and hold neither a secret nor anybody's home."""

from __future__ import annotations

import re

import pytest

from deploy import generate
from tasks.queues import QUEUES, Queue
from tests.deploy.conftest import DEPLOY, LADDER_S, ROOT, SEVEN, SEVENTH, TABLES

#: These are the same for every table.
WITHOUT_QUEUES = {
    "docker-compose.dev.yml",
    "kubernetes/api.yaml",
    "kubernetes/kustomization.yaml",
    "kubernetes/redis.yaml",
    "kubernetes/store.yaml",
}


def made(queues: tuple[Queue, ...] = QUEUES) -> dict[str, str]:
    return {str(path.relative_to(DEPLOY)): content for path, content in generate.wanted(queues).items()}


def test_what_is_committed_is_what_the_table_makes() -> None:
    stale = [name for name, content in made().items() if (DEPLOY / name).read_text(encoding="utf-8") != content]
    assert stale == [], "stale: run `make generate`"


def test_nothing_lies_there_that_no_template_makes() -> None:
    by_hand = {"Dockerfile", "generate.py", "grafana/mistudio.json"}
    by_hand |= {f"prometheus/{name}.yml" for name in ("scrape", "rules", "rules_test")}
    folders = ("templates", "__pycache__")
    there = {path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file()}
    assert {str(path) for path in there if path.parts[0] not in folders} == {*made(), *by_hand}


def test_a_new_queue_is_in_every_file_that_speaks_of_queues() -> None:
    before, after = made(), made(SEVEN)
    assert {name for name in after if before[name] == after[name]} == WITHOUT_QUEUES
    assert all(SEVENTH.worker in after[name] for name in after.keys() - WITHOUT_QUEUES)


@pytest.mark.parametrize("queues", TABLES)
def test_no_place_of_a_template_is_left_open(queues: tuple[Queue, ...]) -> None:
    assert {name: left for name, content in made(queues).items() if (left := re.findall(r"@\{|#@", content))} == {}


def test_a_place_that_nothing_fills_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        generate._filled("a: @{nothing}\n", QUEUES)


def test_a_line_with_an_empty_value_alone_is_left_out_and_an_empty_line_is_not() -> None:
    template = "#@ each queue\n- @{name}\n  @{gpu_limit}\n\n#@ end\n"
    filled = generate._filled(template, SEVEN)
    assert "- datasets\n\n- processing\n" in filled
    assert filled.endswith("- red_teaming\n  nvidia.com/gpu: 2\n\n")


def test_no_home_of_anybody_is_spelled_out() -> None:
    homes = re.compile(r"(?<![\w.])(?:/home/|/root\b|/Users/)")
    assert [name for name, content in made().items() if homes.search(content)] == []


def test_no_secret_is_written_down() -> None:
    """A token, a password or a key is named, never given: nothing after its name but a reference or nothing."""
    assignment = re.compile(r"(?i)\b[\w-]*(?:token|password|secret|api_?key)[\w-]*[ \t]*[:=][ \t]*(\S+)")
    reference = re.compile(r"^(?:\"?\$[({]|\{|false$)")
    result = {
        name: [value for value in assignment.findall(re.sub(r"(?m)^ *#.*$", "", content)) if not reference.match(value)]
        for name, content in made().items()
    }
    assert {name: values for name, values in result.items() if values} == {}
    assert not any(re.search(r"hf_[A-Za-z0-9]{8,}", content) for content in made().values())


def test_the_documentation_states_the_times_of_a_shutdown() -> None:
    result = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    seconds = [int(second) for second in re.findall(r"(?m)^\| (\d+) \|", result)]
    assert seconds == [0, generate.GRACE_S, LADDER_S, generate.STOP_S]
