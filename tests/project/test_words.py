"""An old word is found wherever it is: `make check` looks for them in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.word_check import check

OLD = "be" + "ll"  # in two parts, or this file would be found


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("tasks/a.py", f"x = 1\nlast_{OLD} = 2\n", 2),
        ("tasks/a.py", f"class {OLD.title()}Queue:\n    pass\n", 1),
        ("tasks/a.py", f'"""Keeps a queue.\n\nEach {OLD} names a job.\n"""\n', 3),
        ("tasks/a.py", f'raise ValueError("There is no {OLD}.")\n', 1),
        ("tasks/a.py", f'job = "a"\nlog.info(f"the {OLD} of {{job}}")\n', 2),
        ("tasks/a.py", f"x = 1  # a {OLD}\n", 1),
        ("docs/a.md", f"# A page\n\nA {OLD.upper()} starts a job.\n", 3),
        ("deploy/templates/a.yaml", f"# A {OLD}.\nkind: Pod\n", 1),
        ("README.md", f"A {OLD}.\n", 1),
        ("tasks/lua/a.lua", f"local x = 1\n-- A {OLD}.\n", 2),
        ("tasks/lua/a.lua", f"local function last_{OLD}()\n", 1),
        ("tests/a.py", f"def test_a_lost_{OLD}_is_found() -> None: ...\n", 1),
    ],
)
def test_an_old_word_is_found_with_its_line_and_a_better_one(tmp_path: Path, file: str, text: str, line: int) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    (found,) = check(tmp_path)
    assert found.startswith(f"{file}:{line}: ")
    assert found.endswith("-> message")


def test_a_phrase_is_found_across_lines_of_a_comment(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/a.py").write_text("# The job goes\n" + "# on without a lease.\n")
    assert check(tmp_path) == ["tasks/a.py:1: " + "goes" + " on -> continue, resume"]


def test_wire_names_and_parts_of_other_words_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/a.py").write_text(
        f'reply = {{"mend": "", "telling": []}}\nlabelled = f"{OLD}ow"\nbeaten = heartbeats\n'
    )
    assert check(tmp_path) == []
