"""`train --log`: TensorBoard and W&B get each step once, whatever struck the training; what is missing is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.kinds import train
from tasks.train_job import loggers
from tests.fixtures.bench import Bench
from tests.train_job.killed_attempt import attempt
from tests.train_job.test_resume import STEPS, made_by, values_of
from tests.train_job.test_train import prepared


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds in event files."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    return {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


def histograms(folder: Path) -> dict[str, list[tuple[int, list[float], list[float]]]]:
    """The step, upper edges and counts of each histogram, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={HISTOGRAMS: 0}).Reload()
    return {
        name: [
            (event.step, event.histogram_value.bucket_limit, event.histogram_value.bucket)
            for event in read.Histograms(name)
        ]
        for name in read.Tags()["histograms"]
    }


def metrics_in(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def records_in(log: bytes) -> Iterator[bytes]:
    """The records of a W&B file, which has the form of LevelDB's logs: blocks of 32 KiB, records in parts."""
    place, record = 7, b""
    while place + 7 <= len(log):
        if 32768 - place % 32768 < 7:  # too little is left of the block for another part
            place += 32768 - place % 32768
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        record += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield record
            record = b""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_tensorboard_has_each_step_of_a_struck_training_once(bench: Bench, blow: signal.Signals) -> None:
    values = {**values_of("topk"), "log": "tensorboard"}
    assert attempt(bench.root, "logged", values, 1, (20, blow)) == -blow
    assert attempt(bench.root, "logged", values, 2, (40, blow)) == -blow
    assert attempt(bench.root, "logged", values, 3, None) == 0
    output = made_by(bench.root, "logged", 3)
    found, lines = scalars(output / "tensorboard"), metrics_in(output)
    assert [step for step, _ in found["loss"]] == list(range(1, STEPS + 1))
    for name in ("loss", "fvu", "l0", "sparsity_loss", "dead_features"):
        assert [value for _, value in found[name]] == pytest.approx([line[name] for line in lines], rel=1e-5)
    evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").read_text().splitlines()]
    assert [step for step, _ in found["held_out/fvu"]] == [line["step"] for line in evaluations] == [15, 30, 45, 60]
    assert not [name for name in found if name.endswith("_tokens")], "that it is the same each time is no news"
    drawn = histograms(output / "tensorboard")["held_out/log10_density"]
    for (step, limits, counts), line in zip(drawn, evaluations, strict=True):
        result = line["density_histogram"]
        assert (step, limits, counts) == (line["step"], result["log10_edges"][1:], result["counts"])
    paces = [json.loads(line) for line in (output / "pace.jsonl").read_text().splitlines()]
    assert [step for step, _ in found["tokens_per_s"]] == [line["step"] for line in paces]


def test_a_training_that_is_not_asked_to_log_does_not(bench: Bench) -> None:
    context = bench.context()
    train.run(prepared(bench, steps=3)[0], context)
    assert not (context.output / "tensorboard").exists()
    assert not (context.output / "wandb").exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: pip install 'mistudio[logging]'")
def test_an_offline_run_of_wandb_has_each_step_of_a_struck_training_once(bench: Bench) -> None:
    from wandb.proto import wandb_internal_pb2

    values = {**values_of("topk"), "log": "wandb, tensorboard"}
    assert attempt(bench.root, "logged", values, 1, (20, signal.SIGKILL)) == -signal.SIGKILL
    assert attempt(bench.root, "logged", values, 2, None) == 0
    output = made_by(bench.root, "logged", 2)
    (run,) = (output / "wandb").iterdir()
    losses: dict[int, float] = {}
    densities: dict[int, list[int]] = {}
    for data in records_in((run / "run-logged.wandb").read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        result = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        if "held_out/log10_density.values" in result:
            densities[record.history.step.num] = json.loads(result["held_out/log10_density.values"])
        if result:
            assert record.history.step.num not in losses
            losses[record.history.step.num] = json.loads(result["loss"])
        assert not record.run.run_id or record.run.run_id == "logged"
    assert list(losses.items()) == [(line["step"], pytest.approx(line["loss"])) for line in metrics_in(output)]
    evaluations = [json.loads(line) for line in (output / "evaluations.jsonl").read_text().splitlines()]
    assert densities == {line["step"]: line["density_histogram"]["counts"] for line in evaluations}
    assert len(scalars(output / "tensorboard")["loss"]) == STEPS


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: pip install 'mistudio[logging]'")
def test_each_of_several_saes_has_a_run_of_wandb_of_its_own(bench: Bench) -> None:
    from wandb.proto import wandb_internal_pb2

    values = {**values_of("topk"), "log": "wandb", "together": {"lr": [0.01, 0.001]}}
    del values["lr"]
    assert attempt(bench.root, "logged", values, 1, None) == 0
    for output in (made_by(bench.root, "logged", 1) / f"logged-lr{rate}" for rate in ("0.01", "0.001")):
        (run,) = (output / "wandb").iterdir()
        records = [
            wandb_internal_pb2.Record.FromString(data)
            for file in run.glob("*.wandb")
            for data in records_in(file.read_bytes())
        ]
        result = [
            {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            for record in records
        ]
        losses = [json.loads(row["loss"]) for row in result if "loss" in row]
        assert losses == [pytest.approx(line["loss"]) for line in metrics_in(output)]


def test_a_word_that_is_not_known_is_refused_at_submit(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"--log 'tensorbored' is not one of: tensorboard, wandb\."):
        prepared(bench, log="tensorbored")
    with pytest.raises(UserError, match=r"--log ', ' names nothing\. It may name: tensorboard, wandb"):
        prepared(bench, log=", ")
    assert prepared(bench, log="tensorboard,")[0].log == "tensorboard,"
    assert loggers.requested_loggers(None) == loggers.requested_loggers("") == []
    assert loggers.requested_loggers("tensorboard, tensorboard") == ["tensorboard"]


def test_a_package_that_is_not_installed_is_refused_at_submit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(UserError, match="--log wandb needs the package wandb") as refused:
        prepared(bench, log="wandb")
    assert "pip install 'mistudio[logging]'" in str(refused.value)
    monkeypatch.undo()
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not loggers._is_installed("left_behind"), "a folder is no package"
