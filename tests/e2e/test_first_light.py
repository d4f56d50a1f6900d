"""First light: what the README promises a newcomer, typed as it stands there."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess

import pytest

from tests.conftest import until
from tests.e2e.conftest import MISTUDIO, Home
from tests.fixtures.processes import asked

Lit = tuple[Home, "subprocess.CompletedProcess[str]"]

#: A cold quickstart on a busy machine; the clock is no promise of this test.
pytestmark = pytest.mark.timeout(1800)


def features_of(home: Home) -> list[dict]:
    page = home.folder / "store" / "features" / "toy-l1-topk-k16"
    return [json.loads(line) for line in (page / "features.jsonl").read_text().splitlines()]


def test_the_quickstart_ends_with_numbers_features_and_a_page(lit_home: Lit) -> None:
    home, said = lit_home
    for word in ("explained variance", "PCA", "random dictionary", "dead features", "tokens/s", "patterned share"):
        assert word in said.stdout
    assert said.stdout.count("\n  feature ") == 5
    assert "mistudio workers start full" in said.stdout
    page = home.folder / "store" / "features" / "toy-l1-topk-k16" / "index.html"
    assert str(page) in said.stdout
    assert "http" not in page.read_text().split("<body")[0].replace("http-equiv", "")


def test_the_quickstart_leaves_no_process_behind(lit_home: Lit) -> None:
    home, _ = lit_home
    assert home.processes() == []


def test_the_sae_explains_far_more_than_chance_and_than_pca_with_as_many_components(lit_home: Lit) -> None:
    home, _ = lit_home
    result = json.loads((home.folder / "store" / "saes" / "toy-l1-topk-k16" / "manifest.json").read_text())["result"]
    assert result["l0"] == pytest.approx(16, abs=0.5)
    assert result["explained_variance"] > result["random_explained_variance"] + 0.2
    assert result["explained_variance"] > result["pca_explained_variance"]


def test_at_least_half_of_the_live_features_mean_something(lit_home: Lit) -> None:
    """The rule: seven of a feature's ten strongest contexts peak on the same token, or right after the same token.

    A feature is live when it has ten contexts. Counted here from the file alone, not taken from the program's word.
    """
    home, _ = lit_home
    live = [feature for feature in features_of(home) if len(feature["examples"]) == 10]
    assert len(live) > 200

    def shared(feature: dict) -> bool:
        at, before = [], []
        for example in feature["examples"]:
            tokens, peak = example["tokens"], example["peak"]
            at.append(tokens[peak])
            before.append(tokens[peak - 1] if peak > 0 else None)
        most = [max((words.count(word) for word in words if word is not None), default=0) for words in (at, before)]
        return max(most) >= 7

    assert sum(map(shared, live)) / len(live) >= 0.5


def test_running_it_again_uses_what_is_there_and_says_so(lit_home: Lit) -> None:
    home, first = lit_home
    again = home.type("quickstart")
    assert "Everything was there already" in again.stderr
    assert again.stdout == first.stdout
    assert home.processes() == []


def test_a_half_done_quickstart_does_the_rest_with_the_workers_that_are_there(lit_home: Lit) -> None:
    home, _ = lit_home
    shutil.rmtree(home.folder / "store" / "tokens" / "python-stdlib-toy-128")
    home.type("workers start datasets")
    try:
        said = home.type("quickstart").stderr
        assert "there already: models/toy" in said
        assert "tokenize the corpus         succeeded" in said
        assert "Starting" not in said
        assert [worker["state"] for worker in home.read("workers status")["workers"]] == ["running"] * 4
    finally:
        home.type("workers stop --all")


def test_ctrl_c_leaves_no_process_and_no_half_made_artifact_behind(home: Home) -> None:
    quickstart = subprocess.Popen(
        [MISTUDIO, "quickstart"],
        env=home.environment,
        cwd=home.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until(lambda: (home.folder / "store" / "datasets" / "python-stdlib").exists())
    jobs = {job["kind"]: job["id"] for job in home.read("jobs ls")["jobs"]}
    home.type(f"jobs wait {jobs['download']}")  # its runner lives on for a moment after it has published
    home.runner_of(jobs["toy-model"])
    quickstart.send_signal(signal.SIGINT)
    said, _ = quickstart.communicate(timeout=600)
    assert quickstart.returncode == 130, said
    until(lambda: home.processes() == [])
    assert not (home.folder / "store" / "models" / "toy").exists()
    home.type("queue resume --all")  # reading starts no Redis; this does
    states = {job["kind"]: job["state"] for job in home.read("jobs ls")["jobs"]}
    assert states == {
        "download": "succeeded",
        "toy-model": "cancelled",
        "tokenize": "cancelled",
        "train": "cancelled",
        "extract": "cancelled",
    }


def test_what_was_submitted_before_there_was_a_worker_survives_a_power_cut(home: Home) -> None:
    submitted = home.read("submit cleanup")
    assert submitted["state"] == "queued"
    home.kill_all()
    home.type("queue resume --all")
    queues = {queue["name"]: queue for queue in home.read("queue ls")["queues"]}
    assert (queues["low_priority"]["pending"], queues["low_priority"]["state"]) == (1, "no worker")
    home.type("workers start minimal")
    home.type(f"jobs wait {submitted['id']}")


def test_a_foreign_tasks_py_changes_nothing(home: Home) -> None:
    (home.folder / "tasks.py").write_text("raise SystemExit('the foreign module was imported')")
    home.type("workers start minimal")
    home.type("submit cleanup --wait")


def test_redis_listens_on_a_private_socket_and_nothing_on_tcp(home: Home) -> None:
    home.type("submit cleanup")
    assert home.processes()
    of_each = [asked(process, lambda each: each.net_connections("tcp")) for process in home.processes()]
    assert [connection for found in of_each for connection in found or ()] == []
    sockets = [path for path in (home.folder / "run").iterdir() if path.is_socket()]
    assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}
