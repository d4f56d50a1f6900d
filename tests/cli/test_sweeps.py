"""Sweeps: options with several values become one job for each combination; `--dry-run` says which, and submits none."""

from __future__ import annotations

import pytest

from mistudio_cli.errors import Code
from tasks.jobs.kind import kinds
from tasks.text.tokens import TokenWriter
from tests.cli.conftest import Cli
from tests.fixtures.bench import CONTEXT, VOCABULARY, some_tokens, tiny_model


@pytest.fixture
def corpus(cli: Cli) -> str:
    path = cli.home / "corpus.txt"
    path.write_text("some text\n" * 50)
    return str(path)


@pytest.fixture
def trainable(cli: Cli) -> Cli:
    """A home whose store has a model and tokens."""
    store = cli.home / "store"
    folders = [store / artifact for artifact in ("models/tiny", "tokens/words")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    tiny_model(layers=2).save_pretrained(folders[0])
    with TokenWriter(folders[1], CONTEXT, VOCABULARY) as writer:
        writer.append(some_tokens(4))
    return cli


TRAIN = ["train", "--model", "tiny", "--dataset", "words", "--layer", "1"]


def test_the_product_is_submitted_under_one_tag_and_names_that_contain_the_values(trainable: Cli) -> None:
    result = trainable("submit", *TRAIN, "--k", "16,32,64", "--lr", "1e-4,3e-4", "--json").json
    assert [job["name"] for job in result["jobs"]] == [
        f"tiny-l1-topk-k{k}-lr{lr}" for lr in ("0.0001", "0.0003") for k in (16, 32, 64)
    ]
    jobs = [trainable.ledger.need(job["id"]) for job in result["jobs"]]
    assert [(job.params["k"], job.params["lr"]) for job in jobs] == [
        (k, lr) for lr in (1e-4, 3e-4) for k in (16, 32, 64)
    ]
    assert result["tag"].startswith("sweep:")
    assert {job.tags for job in jobs} == {(result["tag"],)}


def test_choices_are_swept_and_what_a_name_does_not_contain_is_added(trainable: Cli) -> None:
    result = trainable("submit", *TRAIN, "--arch", "topk,batchtopk", "--k", "4,8", "--batch", "64,128", "--json").json
    assert [job["name"] for job in result["jobs"]] == [
        f"tiny-l1-{arch}-k{k}-batch{batch}" for arch in ("topk", "batchtopk") for batch in (64, 128) for k in (4, 8)
    ]
    penalties = trainable("submit", *TRAIN, "--arch", "standard", "--l1", "2,0.5,1e20", "--dry-run", "--json").json
    assert [job["name"] for job in penalties["jobs"]] == [
        "tiny-l1-standard-l1-2",
        "tiny-l1-standard-l1-0.5",
        "tiny-l1-standard-l1-1e-20-l1-1e20",
    ]
    named = trainable("submit", *TRAIN, "--arch", "standard,topk", "--name", "mine", "--dry-run", "--json").json
    assert [job["name"] for job in named["jobs"]] == ["mine-standard", "mine-topk"]


def test_what_all_of_a_sweep_need_is_made_once(cli: Cli, corpus: str) -> None:
    result = cli("submit", "toy-model", "--dataset", corpus, "--layers", "1,2", "--seed", "0,1", "--json").json
    assert [job["kind"] for job in result["jobs"]] == ["download"] + ["toy-model"] * 4
    download, *models = result["jobs"]
    assert {tuple(job["parents"]) for job in models} == {(download["id"],)}
    assert len({job["name"] for job in models}) == 4
    assert cli.ledger.need(download["id"]).tags == (result["tag"],)


def test_text_is_never_taken_for_several_values(cli: Cli) -> None:
    result = cli("submit", "nap", "--until", "a,b", "--json").json
    assert cli.ledger.need(result["id"]).params["until"] == "a,b"


def test_several_values_are_shown_with_their_type_in_the_help(cli: Cli) -> None:
    result = cli("submit", "train", "--help", COLUMNS="200").out
    assert "--k <int>,..." in result
    assert "--learning-rate <float>,..." in result
    assert "--arch batchtopk|gated|jumprelu|matryoshka|p_anneal|standard|topk,..." in result
    assert "--model <str> " in result


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--ticks 1,many", "Invalid value for '--ticks': 'many' is not a valid int."),
        ("--ticks 1,", "Invalid value for '--ticks': '' is not a valid int."),
        ("--ticks 1,2,1", "Invalid value for '--ticks': '1,2,1' names a value twice."),
        (
            "--end well,badly",
            "--end 'badly' is not one of: well, raise, crash, full-disk, full-gpu, lost-gpu, hang.",
        ),
        (f"--ticks {','.join(map(str, range(1001)))}", "The sweep (1001 ticks) has 1001 jobs, more than 1000."),
        (f"--ticks 1,2 --name {'x' * 95}", "cannot be the name of an artifact."),
        ("--ticks 1,2 --tag !", "'!' cannot be a tag."),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_whole(cli: Cli, words: str, sentence: str) -> None:
    result = cli("submit", "nap", *words.split())
    assert (result.code, result.out) == (Code.USAGE, "")
    assert sentence in result.err.splitlines()[0]
    assert cli.ledger.page().jobs == ()


def test_a_dry_run_shows_the_jobs_in_order_with_their_parents_and_submits_nothing(cli: Cli, corpus: str) -> None:
    words = ("submit", "toy-model", "--dataset", corpus, "--layers", "1,2", "--dry-run", "--tag", "mine")
    result = cli(*words, "--json").json
    assert [job["kind"] for job in result["jobs"]] == ["download", "toy-model", "toy-model"]
    assert [job["parents"] for job in result["jobs"]] == [[], *[[{"id": None, "index": 0}]] * 2]
    assert all(job["tags"] == [result["tag"], "mine"] for job in result["jobs"])
    shown = cli(*words)
    header, *rows = shown.out.splitlines()
    assert header.split() == ["#", "KIND", "NAME", "QUEUE", "AFTER", "TIME", "MEMORY", "DISK"]
    assert [row.split()[4] for row in rows] == ["-", "#1", "#1"]
    assert shown.err == "Nothing was submitted.\n"
    assert cli.ledger.page().jobs == ()
    assert not (cli.home / "store").exists()


def test_a_dry_run_is_refused_as_the_submission_would_be(cli: Cli) -> None:
    result = cli("submit", "nap", "--dry-run", "--end", "badly")
    assert (result.code, result.out) == (Code.USAGE, "")


def test_tags_and_the_gpu_option_are_in_the_record(cli: Cli) -> None:
    result = cli("submit", "nap", "--tag", "a", "--tag", "b=1", "--gpu", "0,1", "--json").json
    job = cli.ledger.need(result["id"])
    assert (job.tags, job.gpu) == (("a", "b=1"), "0,1")
    refused = cli("submit", "nap", "--gpu", "first")
    assert (refused.code, refused.err.splitlines()[0]) == (
        Code.USAGE,
        "--gpu 'first' is neither any nor none nor indices such as 0,1.",
    )


def test_no_kind_has_a_parameter_that_is_a_flag_of_every_submission() -> None:
    from mistudio_cli.submission.options import FLAGS

    for kind in kinds().values():
        assert not set(FLAGS) & set(kind.params.__dataclass_fields__), kind.name


def test_together_makes_one_job_of_all_combinations(trainable: Cli) -> None:
    result = trainable("submit", *TRAIN[:-2], "--layer", "0,1", "--k", "16,32", "--together", "--json").json
    (job,) = trainable.ledger.page().jobs
    assert (result["id"], result["name"]) == (job.id, "tiny-l0.l1-k16.k32")
    assert job.params["together"] == {"layer": [0, 1], "k": [16, 32]}
    names = [f"tiny-l{layer}-topk-k{k}" for layer in (0, 1) for k in (16, 32)]
    assert [artifact.removeprefix("saes/") for artifact in job.artifacts] == names
    shown = trainable("jobs", "show", job.id, "--json").json
    assert shown["artifacts"] == list(job.artifacts)
    lines = trainable("jobs", "show", job.id).out.splitlines()
    assert lines[lines.index("artifacts") + 1 :][:4] == [f"  {artifact}" for artifact in job.artifacts]
    child = trainable("submit", "extract", "--sae", names[3], "--dry-run", "--json").json
    assert child["jobs"][-1]["parents"] == [{"id": job.id, "index": None}]


def test_together_is_refused_where_there_is_nothing_to_put_together(trainable: Cli) -> None:
    result = trainable("submit", *TRAIN, "--together")
    assert (result.code, result.err.splitlines()[0]) == (
        Code.USAGE,
        "--together needs an option with several values.",
    )
    result = trainable("submit", *TRAIN, "--batch", "64,128", "--together")
    assert (result.code, result.err.splitlines()[0]) == (
        Code.USAGE,
        "SAEs that are trained together share --batch-size.",
    )
    result = trainable("submit", *TRAIN, "--k", "8,16", "--arch", "standard", "--together")
    assert (result.code, result.out) == (Code.USAGE, "")
    assert trainable.ledger.page().jobs == ()


def test_a_dry_run_shows_all_that_one_job_would_make(trainable: Cli) -> None:
    result = trainable("submit", *TRAIN, "--k", "8,16,32", "--together", "--dry-run", "--json").json
    (job,) = result["jobs"]
    assert job["artifacts"] == [f"saes/tiny-l1-topk-k{k}" for k in (8, 16, 32)]
    assert job["artifact"] == "saes/tiny-l1-topk-k8"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--precision bf16 --k 4 --width 512", "a product of 4096 x 16 x 512 is too small to gain from bfloat16"),
        ("--precision bf16 --k 4", "4 of 128 features are too many to be computed again in float32"),
    ],
)
def test_a_precision_that_gains_nothing_is_refused_at_submit_in_one_sentence(
    trainable: Cli, words: str, reason: str
) -> None:
    result = trainable("submit", *TRAIN, *words.split())
    assert (result.code, result.out) == (Code.USAGE, "")
    assert " ".join(result.err.split()).endswith(
        f"--precision bf16 gains nothing here: {reason}. Leave --precision out: auto takes the fastest"
    )
    assert trainable.ledger.page().jobs == ()
    assert trainable("submit", *TRAIN, *words.split()[2:]).code == Code.OK
