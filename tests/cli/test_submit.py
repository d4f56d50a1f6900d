"""`submit KIND`: every parameter of every kind is a flag, and what cannot work is refused before it is queued."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from mistudio_cli.errors import Code
from mistudio_cli.submission.request import SubmitRequest, read_request
from tasks.accelerators.devices import NO_DRIVER, Device, Devices
from tasks.jobs.kind import kinds
from tasks.ledger.client import Ledger
from tasks.redis_client.redis_connection import Client
from tasks.redis_client.redis_url import Address
from tasks.storage.store import Store
from tasks.submission import plan
from tasks.submission.plan import SubmitOptions
from tests.cli.conftest import MISTUDIO, Cli
from tests.cli.test_main import WHAT_WAS_IMPORTED
from tests.fixtures.bench import tiny_model


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_parameter_of_a_kind_has_its_flag_and_its_help(cli: Cli, kind: str) -> None:
    result = " ".join(cli("submit", kind, "--help", COLUMNS="200").out.split())
    for spec in dataclasses.fields(kinds()[kind].params):
        flag = spec.metadata["flag"] or "--" + spec.name.replace("_", "-")
        shown = spec.name.upper() if spec.metadata["positional"] else flag
        assert shown in result
        assert spec.metadata["help"] in result
        assert all(choice in result for choice in spec.metadata["choices"] or ())
    assert all(flag in result for flag in ("--name", "--priority", "--after", "--wait", "--json"))


def test_the_list_of_kinds_is_not_cut_off(cli: Cli) -> None:
    result = " ".join(cli("submit", "--help").out.split())
    assert all(kind.summary in result for kind in kinds().values())


def test_json_is_the_receipt_of_the_contract(cli: Cli) -> None:
    result = cli("submit", "nap", "--ticks", "3", "--json").json
    assert list(result) == ["id", "kind", "queue", "state", "name", "before", "replicated"]
    assert {**result, "id": "x"} == {
        "id": "x",
        "kind": "nap",
        "queue": "training",
        "state": "queued",
        "name": "nap-3",
        "before": [],
        "replicated": None,
    }
    assert cli.ledger.need(result["id"]).params == {"ticks": 3, "end": "well", "parent": None, "until": "", "marks": ""}


def test_values_arrive_with_their_types_and_the_message_is_enqueued(cli: Cli) -> None:
    result = cli("submit", "cleanup", "--hours", "1.5", "--count-only", "--priority", "9", "--json").json
    job = cli.ledger.need(result["id"])
    assert job.params["hours"] == 1.5
    assert job.params["count_only"] is True
    assert job.priority == 9
    assert cli.ledger.queues.messages("low_priority") == 1


def test_jobs_after_others_wait_and_jobs_that_must_come_first_are_printed(cli: Cli) -> None:
    corpus = cli.home / "corpus.txt"
    corpus.write_text("some text\n" * 50)
    first = cli("submit", "nap", "--name", "first", "--json").json
    after = cli("submit", "nap", "--name", "second", "--after", first["id"][:13], "--json").json
    assert (after["state"], cli.ledger.need(after["id"]).parents) == ("waiting", (first["id"],))
    result = cli("submit", "toy-model", "--dataset", str(corpus), "--json").json
    assert [(job["kind"], job["state"]) for job in result["before"]] == [("download", "queued")]
    assert result["state"] == "waiting"


@pytest.mark.parametrize(
    "words",
    [
        "train --model models/nosuch --dataset {text} --layer 1",
        "train --model here/nosuch --dataset {text} --layer 1",
        "tokenize --dataset {text} --model models/nosuch",
        "activations --model ./nosuch --dataset {text} --layer 1",
        "download here/nosuch",
        "tokenize --dataset here/nosuch --model gpt2",
        "download ./nosuch",
        "import here/nosuch",
        "import models/nosuch",
    ],
)
def test_a_path_that_leads_nowhere_is_refused_at_submit(cli: Cli, words: str) -> None:
    (cli.home / "here").mkdir()
    (cli.home / "text.txt").write_text("some text")
    result = cli("submit", *words.format(text=cli.home / "text.txt").split())
    assert (result.code, result.out) == (Code.USAGE, ""), result.err
    assert "nosuch" in result.err
    assert re.search(r"is not a model|no folder|no file or folder", result.err)
    assert cli.ledger.page().jobs == ()


def test_a_person_reads_one_line_a_job_and_the_command_to_watch_it(cli: Cli) -> None:
    result = cli("submit", "nap")
    job_id = result.out.split()[0]
    assert result.out == f"{job_id} nap nap-10 in training\n"
    assert result.err == f"Watch it: mistudio jobs wait {job_id}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "nap --end badly",
            "--end 'badly' is not one of: well, raise, crash, full-disk, full-gpu, lost-gpu, hang.",
        ),
        ("nap --ticks many", "Invalid value for '--ticks': 'many' is not a valid int"),
        ("nap --priority 11", "Invalid value for '--priority': 11 is not in the range 0<=x<=10."),
        ("nap --name ../x", "'../x' cannot be the name of an artifact."),
        ("tokenize --dataset d --model m --context 1", "--context-length must be at least 2, not 1."),
        (f"toy-model --dataset d --seed {2**63}", f"--seed must be at most {2**63 - 1}, not {2**63}."),
        ("cleanup --hours inf", "--hours must be a finite number, not inf."),
        ("cleanup --hours nan", "--hours must be a finite number, not nan."),
        ("train --warmup 1.5", "--warmup must be at most 1, not 1.5."),
        ("tokenize --dataset d", "Missing option '--model'."),
        ("describe", "Missing argument '"),
        ("describe datasets/none", "datasets/none"),
        ("download /no/such/file", "/no/such/file"),
        ("dream", "No such command 'dream'."),
    ],
)
def test_what_cannot_work_is_one_sentence_and_nothing_is_queued(cli: Cli, words: str, sentence: str) -> None:
    result = cli("submit", *words.split())
    assert (result.code, result.out) == (Code.USAGE, "")
    assert sentence in result.err.splitlines()[0]
    assert "Traceback" not in result.err
    assert cli.ledger.page().jobs == ()


def test_a_model_dtype_that_does_not_pay_on_this_machine_is_refused(cli: Cli) -> None:
    tiny_model().save_pretrained(cli.home / "model")
    (cli.home / "text.txt").write_text("some text")
    words = f"train --model {cli.home / 'model'} --dataset {cli.home / 'text.txt'} --layer 1 --model-dtype"
    result = cli("submit", *words.split(), "bf16")
    assert (result.code, result.out) == (Code.USAGE, "")
    assert "--model-dtype bf16 gains nothing for" in result.err.splitlines()[0]
    assert "is too small to gain from bfloat16" in result.err.splitlines()[0]
    assert cli.ledger.page().jobs == ()
    assert "does not pay" not in cli("submit", *words.split(), "float32").err


def test_what_is_planned_from_a_models_shape_needs_no_torch(cli: Cli) -> None:
    tiny_model().save_pretrained(cli.home / "model")
    (cli.home / "text.txt").write_text("some text")
    words = ["train", "--model", str(cli.home / "model"), "--dataset", str(cli.home / "text.txt"), "--layer", "1"]
    command = [sys.executable, "-P", "-c", WHAT_WAS_IMPORTED, "submit", *words, "--dry-run"]
    done = subprocess.run(command, env=cli.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers", "datasets"} & set(done.stderr.partition("IMPORTED ")[2].split())


def test_a_request_in_a_file_names_parameters_as_the_command_line_does() -> None:
    given = {"kind": "train", "model": "m", "layer": 1, "d_sae": 64, "learning-rate": 1e-3, "training_tokens": "10k"}
    read = read_request(given, SubmitOptions())
    assert isinstance(read, SubmitRequest), read
    assert read.values == {"model": "m", "layer": 1, "width": 64, "lr": 1e-3, "tokens": 10_000}
    ((key, problem),) = read_request({**given, "width": 32}, SubmitOptions())
    assert (key, "sets a parameter that another key sets too" in problem.sentence) == ("width", True)
    faults = dict(read_request({**given, "d_sae": 0, "learning_rates": 1}, SubmitOptions()))
    assert sorted(faults) == ["d_sae", "learning_rates"]
    assert faults["learning_rates"].hint == "Did you mean learning-rate? See: mistudio submit train --help"


def test_only_a_redis_of_this_machine_says_that_jobs_run_here(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(cli.home / "store")
    monkeypatch.setattr(plan, "read_devices", lambda: Devices(reason=NO_DRIVER))
    assert plan.ArtifactCatalog(cli.ledger, store).jobs_run_on_this_cpu()
    assert not plan.ArtifactCatalog(Ledger(Client(Address(host="elsewhere"))), store).jobs_run_on_this_cpu()
    monkeypatch.setattr(plan, "read_devices", lambda: Devices((Device(0),)))
    assert not plan.ArtifactCatalog(cli.ledger, store).jobs_run_on_this_cpu()


def test_a_parent_that_is_not_there_is_not_found(cli: Cli) -> None:
    assert cli("submit", "nap", "--after", "none").code == Code.NOT_FOUND
    assert cli.ledger.page().jobs == ()


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_what_was_submitted_and_cannot_be_printed_is_no_fault_of_the_request(cli: Cli, words: tuple[str, ...]) -> None:
    """Who takes it for one submits again, and runs the job twice."""
    with open("/dev/full", "w") as full:
        argv = [MISTUDIO, "submit", "nap", "--name", "once", *words]
        done = subprocess.run(argv, env=cli.environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    (job,) = cli.ledger.page().jobs
    assert done.returncode == Code.FAILED
    assert done.stderr.startswith(f"{job.id} was submitted, which cannot be printed: No space left on device.")
