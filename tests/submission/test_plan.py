"""Planning: a request is checked and what it needs is found before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.jobs.record import State
from tasks.ledger.client import Ledger
from tasks.storage.store import Store
from tasks.submission.plan import ArtifactCatalog, SubmitOptions, plan, submit


@pytest.fixture
def known(ledger: Ledger, tmp_path: Path, kinds_of_the_tests: None) -> ArtifactCatalog:
    return ArtifactCatalog(ledger, Store(tmp_path / "store"))


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "corpus.txt").write_text("some text\n")
    return str(tmp_path / "corpus.txt")


def test_planning_writes_nothing_and_what_was_planned_is_submitted_as_it_was(
    known: ArtifactCatalog, corpus: str
) -> None:
    jobs = plan(known, "toy-model", {"dataset": corpus}, submit_options=SubmitOptions(8, tags=("a", "b", "a")))
    assert [job.kind for job in jobs] == ["download", "toy-model"]
    assert jobs[1].parents == (jobs[0].id,)
    assert not known.ledger.page().jobs
    assert not known.store.root.exists()
    submitted = known.ledger.submit_all(jobs)
    assert [job.state for job in submitted] == [State.QUEUED, State.WAITING]
    assert [(job.id, job.name, job.params, job.priority, job.tags) for job in submitted] == [
        (job.id, job.name, job.params, 8, ("a", "b")) for job in jobs
    ]


def test_what_a_job_planned_earlier_makes_can_be_named_and_makes_it_a_parent(
    known: ArtifactCatalog, corpus: str
) -> None:
    *_, model = plan(known, "toy-model", {"dataset": corpus}, name="model")
    (tokens,) = plan(known, "tokenize", {"dataset": corpus_name(model.params), "model": "model"})
    (sae,) = plan(known, "train", {"model": "model", "dataset": tokens.name, "layer": 0}, name="sae")
    (features,) = plan(known, "extract", {"sae": "sae"})
    (look,) = plan(known, "describe", {"artifact": "saes/sae"})
    download = known.planned[f"datasets/{corpus_name(model.params)}"]
    assert tokens.parents == (download.id, model.id)
    assert sae.parents == (model.id, tokens.id)
    assert (features.parents, look.parents) == ((sae.id,), (sae.id,))


def corpus_name(params: dict[str, Any]) -> str:
    return params["dataset"]


NAMES_WHAT_IS_COMING: list[tuple[str, dict[str, Any], list[str]]] = [
    ("describe", {"artifact": "saes/sae"}, ["saes/sae"]),
    ("export", {"sae": "sae", "folder": "/nowhere/at-all"}, ["saes/sae"]),
    ("push", {"sae": "sae", "repo": "owner/name"}, ["saes/sae"]),
    ("extract", {"sae": "sae"}, ["saes/sae"]),
    ("train", {"model": "m", "dataset": "t", "layer": 0, "init_from": "sae"}, ["models/m", "tokens/t", "saes/sae"]),
    ("import", {"source": "owner/name", "model": "m"}, ["models/m"]),
    ("tokenize", {"dataset": "d", "model": "m"}, ["datasets/d", "models/m"]),
    ("activations", {"model": "m", "dataset": "t", "layer": 0}, ["models/m", "tokens/t"]),
]


@pytest.mark.parametrize(("kind", "values", "awaited"), NAMES_WHAT_IS_COMING)
def test_a_job_of_any_kind_waits_for_what_it_names_that_is_still_being_made(
    known: ArtifactCatalog, corpus: str, kind: str, values: dict[str, Any], awaited: list[str]
) -> None:
    plan(known, "download", {"source": corpus}, name="d")
    plan(known, "toy-model", {"dataset": "d"}, name="m")
    plan(known, "tokenize", {"dataset": "d", "model": "m"}, name="t")
    plan(known, "train", {"model": "m", "dataset": "t", "layer": 0}, name="sae")
    (job,) = plan(known, kind, values, name="another")
    assert sorted(job.parents) == sorted(known.planned[artifact].id for artifact in awaited)


def test_what_two_planned_jobs_need_is_made_once(known: ArtifactCatalog, corpus: str) -> None:
    first = plan(known, "toy-model", {"dataset": corpus}, name="a")
    second = plan(known, "toy-model", {"dataset": corpus}, name="b")
    assert [job.kind for job in second] == ["toy-model"]
    assert second[0].parents == (first[0].id,)


def test_what_would_be_made_twice_is_refused(known: ArtifactCatalog) -> None:
    plan(known, "nap", {}, name="a")
    with pytest.raises(UserError, match="saes/a would be made twice"):
        plan(known, "nap", {"ticks": 3}, name="a")
    submit(known.ledger, known.store, "nap", {}, name="b")
    with pytest.raises(UserError, match="saes/b is being made by job"):
        plan(known, "nap", {}, name="b")


def test_a_name_ends_in_the_marks_it_does_not_have(known: ArtifactCatalog) -> None:
    assert plan(known, "nap", {"ticks": 3}, marks=("ticks3",))[-1].name == "nap-3-ticks3"
    assert plan(known, "nap", {}, name="a-ticks3", marks=("ticks3", "k4"))[-1].name == "a-ticks3-k4"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"ticks": "3"}, "--ticks must be a whole number, not '3'"),
        ({"ticks": True}, "--ticks must be a whole number, not True"),
        ({"ticks": None}, "--ticks must be a whole number, not None"),
        ({"ticks": 3.0}, "--ticks must be a whole number, not 3.0"),
        ({"until": 3}, "--until must be text, not 3"),
        ({"end": ["well"]}, r"--end must be text, not \['well'\]"),
        ({"parent": 1}, "--parent must be text, not 1"),
    ],
)
def test_a_value_of_another_type_is_refused(known: ArtifactCatalog, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        plan(known, "nap", values)


@pytest.mark.parametrize(
    ("submit_options", "sentence"),
    [
        (SubmitOptions(priority=11), "--priority must be between 0 and 10, not 11"),
        (SubmitOptions(tags=("with space",)), "'with space' cannot be a tag"),
        (SubmitOptions(tags=("",)), "'' cannot be a tag"),
        (SubmitOptions(gpu="cuda:0"), "--gpu 'cuda:0' is neither any nor none nor indices"),
    ],
)
def test_an_option_that_cannot_be_met_is_refused(
    known: ArtifactCatalog, submit_options: SubmitOptions, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        plan(known, "nap", {}, submit_options=submit_options)


def test_the_gpu_option_is_the_jobs_and_not_that_of_what_it_needs(known: ArtifactCatalog, corpus: str) -> None:
    download, model = plan(
        known, "toy-model", {"dataset": corpus}, submit_options=SubmitOptions(gpu="0,1", tags=("x",))
    )
    assert (download.gpu, download.tags) == ("any", ("x",))
    assert known.ledger.submit_all([download, model])[1].gpu == "0,1"
