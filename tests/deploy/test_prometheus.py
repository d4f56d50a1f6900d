"""The rules and the dashboard ask for metrics that a scrape has, and promtool finds no fault in the files."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mistudio_cli.metrics.families import FAMILIES
from tests.deploy.conftest import DEPLOY, ROOT

RULES, SCRAPE = DEPLOY / "prometheus" / "rules.yml", DEPLOY / "prometheus" / "scrape.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "mistudio.json").read_text(encoding="utf-8"))

#: The labels of each series of a scrape.
SERIES = {
    name: {*family.labels, *(("le",) if name.endswith("_bucket") else ())}
    for family in FAMILIES
    for name in family.series
}
#: A selector of PromQL: a metric, and what stands in its braces.
SELECTOR = re.compile(r"\b(mistudio[\w:]*|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"')
STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def rules() -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def of_dashboard() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


EXPRESSIONS = [*(rule["expr"] for rule in rules()), *of_dashboard()]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric in an expression, with the labels that its matchers name."""
    for name, matchers in SELECTOR.findall(_without_names_in_strings(expression)):
        yield name, {label for label, *_ in (found.groups() for found in MATCHER.finditer(matchers or ""))}


def _without_names_in_strings(expression: str) -> str:
    return STRINGS.sub('""', expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_in_a_scrape(expression: str) -> None:
    found = list(selectors(expression))
    assert found, "it asks for nothing of mistudio"
    known = SERIES | {key: {"kind"} for key in recorded()} | {"up": {"job", "instance"}}
    for name, labels in found:
        assert name in known, name
        assert labels <= known[name], name
    for names in GROUPING.findall(expression):
        labels = {label.strip() for label in names.split(",")}
        assert labels <= set.union(*(set(known[name]) for name, _ in found)), expression


def test_variables_of_the_dashboard_are_labels_of_their_metrics() -> None:
    queries = [variable["query"] for variable in DASHBOARD["templating"]["list"]]
    for query in (query["query"] for query in queries if isinstance(query, dict)):
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        assert label in SERIES[metric]


def test_legends_name_labels_that_the_series_keep() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            known = set().union(*(SERIES.get(name, {"kind"}) for name, _ in selectors(target["expr"])))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known, target


def test_the_dashboard_has_an_overview_a_run_and_a_machine_and_no_panel_lies_on_another() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "A run", "A machine"]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alert_is_tested_and_says_what_to_type() -> None:
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    tested = {test["alertname"] for group in tests for test in group["alert_rule_test"] if test["exp_alerts"]}
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {rule["alert"] for rule in alerts} == tested
    assert all(rule["annotations"]["command"] for rule in alerts)  # type: ignore[index]


def test_the_scrape_keeps_the_labels_of_mistudio() -> None:
    (job,) = yaml.safe_load(SCRAPE.read_text(encoding="utf-8"))["scrape_configs"]
    assert job["honor_labels"] is True, "`job` is the id of a training"
    assert job["job_name"] == "mistudio"


def test_the_page_names_every_metric() -> None:
    page = (ROOT / "docs" / "prometheus.md").read_text(encoding="utf-8")
    assert [family.full_name for family in FAMILIES if f"`{family.full_name}" not in page] == []


@pytest.mark.parametrize("words", ["check config scrape.yml", "check rules rules.yml", "test rules rules_test.yml"])
def test_promtool_finds_no_fault(promtool: str, words: str) -> None:
    done = subprocess.run(
        [promtool, *words.split()], cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_can_parse_what_the_dashboard_asks_for(promtool: str, tmp_path: Path) -> None:
    made = [{"record": f"panel:{n}", "expr": expression} for n, expression in enumerate(of_dashboard())]
    for rule in made:
        rule["record"] = rule["record"].replace(":", "_")
    (tmp_path / "r.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    done = subprocess.run([promtool, "check", "rules", str(tmp_path / "r.yml")], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
