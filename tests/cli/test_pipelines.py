"""`submit pipeline`: steps of a recipe become jobs that wait for each other; all errors are reported with
their lines.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio_cli.errors import Code
from tasks.jobs.record import Job, State
from tests.cli.conftest import Cli, Ended

NAPS = """\
[vars]
ticks = 1
word = "well"

[[step]]
id = "first"
kind = "nap"
name = "one-${ticks}"
ticks = "${ticks}"
end = "${word}"

[[step]]
id = "second"
kind = "nap"
name = "two"
parent = "${first}"

[[step]]
kind = "blink"
after = ["second"]
note = "${first} and ${ticks}"
"""


def submitted(cli: Cli, recipe: str, *words: str) -> Ended:
    path = cli.home / "naps.toml"
    path.write_text(recipe)
    return cli("submit", "pipeline", str(path), *words)


def jobs_of(cli: Cli, result: Ended) -> list[Job]:
    return [cli.ledger.need(job["id"]) for job in result.json["jobs"]]


def test_each_step_waits_for_those_whose_artifacts_it_names(cli: Cli) -> None:
    result = submitted(cli, NAPS, "--json", "--priority", "8", "--tag", "mine")
    first, second, third = jobs_of(cli, result)
    assert result.json["tag"] == "pipeline:naps"
    assert (first.parents, second.parents, third.parents) == ((), (first.id,), (second.id, first.id))
    assert (first.name, second.params["parent"], third.params["note"]) == ("one-1", "one-1", "one-1 and 1")
    assert {job.tags for job in (first, second, third)} == {("pipeline:naps", "mine")}
    assert {job.priority for job in (first, second, third)} == {8}
    assert [job.state for job in (first, second, third)] == [State.QUEUED, State.WAITING, State.WAITING]


def test_variables_keep_their_types_and_can_be_set(cli: Cli) -> None:
    first, *_ = jobs_of(cli, submitted(cli, NAPS, "--json", "--set", "ticks=7", "--set", "word=raise"))
    assert (first.name, first.params["ticks"], first.params["end"]) == ("one-7", 7, "raise")


def test_a_step_may_name_an_artifact_and_have_options_of_its_own(cli: Cli) -> None:
    recipe = """
        name = "mine"
        step = [
          {kind = "nap", name = "a", priority = 9, tags = ["hot"], gpu = "none"},
          {kind = "nap", id = "b", parent = "a"},
        ]
    """
    first, second = jobs_of(cli, submitted(cli, recipe, "--json"))
    assert (first.priority, first.tags, first.gpu) == (9, ("pipeline:mine", "hot"), "none")
    assert (second.priority, second.tags, second.parents) == (5, ("pipeline:mine",), (first.id,))


def test_all_faults_are_reported_at_once_with_their_lines_and_nothing_is_submitted(cli: Cli) -> None:
    recipe = """\
[vars]
n = 1

[[step]]
id = "a"
kind = "nap"
ticks = "${m}"
end = "badly"

[[step]]
kind = "dream"

[[step]]
id = "b"
kind = "nap"
parent = "${c}"

[[step]]
id = "c"
kind = "nap"
parent = "${a}"
tocks = 1

[[step]]
id = "c"
kind = "blink"
after = ["d", "none-such"]

[[step]]
id = "n"
kind = "extract"
sae = "nowhere"
top = "many"
"""
    result = submitted(cli, recipe, "--set", "n=many", "--set", "n", "--set", "k")
    path = cli.home / "naps.toml"
    assert (result.code, result.out) == (Code.USAGE, "")
    said = result.err.splitlines()
    assert [line for line in said if not line.startswith("  ")] == [
        "--set n=many: n is 1 in the recipe, and 'many' is not of that type.",
        "--set n: The value of n is missing.",
        "--set k: The recipe has no variable 'k'.",
        f"{path}:25 (step c): There is a step c before it.",
        f"{path}:30 (step n): n is a variable too.",
        f"{path}:7 (step a): There is no step or variable 'm'.",
        f"{path}:8 (step a): --end 'badly' is not one of: well, raise, crash, full-disk, full-gpu, lost-gpu, hang.",
        f"{path}:11 (step dream): There is no job kind 'dream'.",
        f"{path}:16 (step b): The step c does not come before this one.",
        f"{path}:22 (step c): nap has no parameter 'tocks'.",
        f"{path}:27 (step c): There is no job 'd'.",
        f"{path}:33 (step n): --top must be a whole number, not 'many'.",
    ]
    assert "  Move the step c up" in said
    assert cli.ledger.page().jobs == ()


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("kind = [", "Not valid TOML: Invalid value."),
        ("", "A recipe needs steps, each below a line [[step]]."),
        ("[step]\nkind = 'nap'", "A recipe needs steps, each below a line [[step]]."),
        ("steps = 1\n[[step]]\nkind = 'nap'", "A recipe has no 'steps' outside its steps."),
        ("name = 'a b'\n[[step]]\nkind = 'nap'", "'a b' cannot be a recipe's name."),
        ("vars = 3\n[[step]]\nkind = 'nap'", "[vars] must hold text, numbers, true or false."),
        ("[[step]]\nkind = 'nap'\nname = '../x'", "'../x' cannot be the name of an artifact."),
        ("[[step]]\nkind = 'nap'\nafter = 'x'", "after must be a list of ids, not 'x'."),
        ("[[step]]\nname = 'x'", "A kind is missing."),
        ("[[step]]\nkind = 'blink'\n[[step]]\nkind = 'nap'\nuntil = '${blink}'", "The step blink makes no artifact."),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_a_sentence(cli: Cli, recipe: str, sentence: str) -> None:
    result = submitted(cli, recipe)
    assert (result.code, result.out) == (Code.USAGE, "")
    assert f": {sentence}" in result.err.splitlines()[0]
    assert "Traceback" not in result.err


def test_a_recipe_that_is_not_there_or_not_given(cli: Cli) -> None:
    assert "No such file" in cli("submit", "pipeline", "none.toml").err
    result = cli("submit", "pipeline")
    assert (result.code, "--example" in result.err) == (Code.USAGE, True)


def test_a_step_that_is_under_way_with_the_same_parameters_is_not_submitted_again(cli: Cli) -> None:
    first, *_ = jobs_of(cli, submitted(cli, NAPS.partition('[[step]]\nid = "second"')[0], "--json"))
    result = submitted(cli, NAPS, "--json")
    second, _ = jobs_of(cli, result)
    assert second.parents == (first.id,)
    assert "saes/one-1 is there, or on its way, as asked for." in result.err
    again = submitted(cli, NAPS, "--set", "word=raise")
    assert again.code == Code.USAGE
    assert f"saes/one-1 is being made by job {first.id}." in again.err


def test_a_failed_step_fails_those_that_need_it(world: Cli) -> None:
    result = submitted(
        world, NAPS.replace("one-", "failing-").replace("two", "needy"), "--set", "word=raise", "--wait", "--json"
    )
    assert result.code == Code.FAILED
    first, second, third = jobs_of(world, result)
    assert [job.state for job in (first, second, third)] == [State.FAILED] * 3
    assert second.reason == f"its parent {first.name} (nap) failed: ValueError: asked to raise"


def test_the_example_runs_as_it_is_without_a_network_and_a_second_time_does_nothing(world: Cli, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.py").write_text("".join(f"def f{n}(x):\n    return x + {n}\n\n" for n in range(3000)))
    recipe = world("submit", "pipeline", "--example").out
    assert "# " in recipe
    words = ("--set", f"text={corpus}", "--set", "steps=3", "--set", "k=4")
    small = recipe.replace("batch = 1024", "batch = 64\neval_tokens = 512").replace(
        "max_tokens = 200_000", "max_tokens = 2000"
    )
    result = submitted(world, small, *words, "--wait", "--json")
    assert result.code == 0, result.err
    assert [(job.kind, job.state) for job in jobs_of(world, result)] == [
        (kind, State.SUCCEEDED) for kind in ("download", "toy-model", "tokenize", "train", "extract")
    ]
    assert {job.tags for job in jobs_of(world, result)} == {("pipeline:toy",)}
    again = submitted(world, small, *words, "--json")
    assert (again.code, again.json["jobs"]) == (0, [])
    (corpus / "b.py").write_text("more = 1\n")
    changed = submitted(world, small, *words)
    assert (changed.code, f"{corpus} has changed since datasets/" in changed.err) == (Code.USAGE, True), changed.err
