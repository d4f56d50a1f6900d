"""The GPU memory that a job is expected to hold is that of its tensors and a fixed part, or it is unknown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.activations import intervention, stream
from tasks.activations import shuffle_buffer as buffers
from tasks.features import collect, feature_records
from tasks.jobs.kind import Estimate
from tasks.kinds import extract, train
from tasks.sae import baselines, calibration, coder, memory_estimate
from tasks.sae.architectures import build
from tasks.sae.coder import StepState
from tasks.sae.ops import active_pairs
from tasks.sae.ops.backend import BackendChoice, TorchPasses
from tasks.sae.training import checkpoint
from tasks.sae.training import trainer as trainer_module
from tasks.sae.training.schedule import TrainConfig
from tasks.sae.training.trainer import Trainer
from tasks.text.tokens import TokenWriter
from tasks.train_job import evaluation
from tests.fixtures.bench import Bench, shaped, tiny_model
from tests.sae.live_memory import LiveMemory

PARAMS = train.Params("tiny", "words", 1, batch=256, width=20_000)


def expected(bench: Bench, **changes: object) -> int:
    """What a training is expected to hold beside CUDA itself, in bytes."""
    found = train.estimate(dataclasses.replace(PARAMS, **changes), bench.known).gpu_memory_bytes
    assert found is not None
    return found - memory_estimate.CUDA


def trained(folder: Path, arch: str, precision: str) -> Trainer:
    config = TrainConfig(shaped(arch, 16, 20_000, k=4), steps=2, batch=256)
    trainer = Trainer(config, lambda step: torch.randn(256, 16))
    trainer.precision = precision
    trainer.run(folder)
    return trainer


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "standard", "jumprelu"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_training_holds_about_what_is_expected(bench: Bench, tmp_path: Path, arch: str, precision: str) -> None:
    trainer = trained(tmp_path / "training", arch, precision)
    tensors = [*trainer.state_tensors().values(), *trainer.coder._scratch.values()]
    tensors += [parameter.grad for parameter in trainer.coder.parameters.values() if parameter.grad is not None]
    held = sum(tensor.nbytes for tensor in tensors)
    rest = expected(bench, width=1)  # what does not follow from the SAE's width: the model, the buffer
    # A step over all pairs has some slices of codes more, and the end is measured on codes as large as a batch's.
    assert held <= expected(bench, arch=arch, precision=precision) - rest <= 12 * held


def peak_of_step(groups: int) -> int:
    """The most bytes that a step of nested dictionaries makes at once: 128 vectors of 512 numbers, 256 features."""
    coder = build(shaped("matryoshka", 512, 256, k=4, groups=groups), seed=0)
    x = torch.randn(128, 512, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), LiveMemory() as memory:
        coder.step(x, x, StepState(torch.zeros(0, dtype=torch.int64)))
    return memory.peak


def test_each_nested_dictionary_is_expected_to_take_what_it_takes() -> None:
    shape = memory_estimate.TrainingShape(4, 256, 1, 128, 128)
    few, many = (memory_estimate.of_step(dataclasses.replace(shape, groups=groups), 512) for groups in (2, 8))
    assert peak_of_step(8) - peak_of_step(2) == pytest.approx(many - few, rel=0.1)


def peak_of_third_step(folder: Path, accumulate: int, passes: TorchPasses, monkeypatch: pytest.MonkeyPatch) -> int:
    for module in (active_pairs, trainer_module):
        monkeypatch.setattr(module, "choice", lambda device: BackendChoice(passes, ""))
    plan = TrainConfig(shaped("topk", 256, 2048, k=16), steps=3, batch=64, lr=1e-3, accumulate=accumulate)
    with torch.no_grad(), LiveMemory() as memory:
        trainer = Trainer(plan, lambda step: torch.randn(64, 256))
        trainer.begin(folder)
        for _ in range(3):
            memory.start_again()
            trainer.advance(folder)
    return memory.peak


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_holds_no_more_where_sums_are_not_written_in_place(
    accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, in_place = (
        peak_of_third_step(tmp_path / str(way), accumulate, TorchPasses(writes_in_place=way), monkeypatch)
        for way in (False, True)
    )
    assert fresh == pytest.approx(in_place, rel=0.02)


def test_features_chosen_in_bfloat16_take_the_buffers_that_are_expected(bench: Bench, tmp_path: Path) -> None:
    buffers = {
        precision: sum(
            tensor.nbytes for tensor in trained(tmp_path / precision, "topk", precision).coder._scratch.values()
        )
        for precision in ("float32", "bf16")
    }
    assert buffers["bf16"] == 256 * 20_000 * 2 + 16 * 20_000 * 2
    vectors = 256 * 16 * 6  # less the mean, and rounded: not kept from one step to the next
    of = {precision: expected(bench, precision=precision) for precision in ("auto", "float32", "tf32", "bf16")}
    assert of["bf16"] - of["float32"] == buffers["bf16"] + vectors - buffers["float32"] < 0
    assert of["auto"] == of["tf32"] == of["float32"], "the larger of both"


def test_a_wider_sae_and_a_larger_batch_are_expected_to_hold_more(bench: Bench) -> None:
    assert expected(bench, width=40_000) > expected(bench)
    assert expected(bench, batch=512) > expected(bench)
    assert expected(bench, width=None, expansion=1250) == expected(bench)


def test_what_is_not_on_this_machine_yet_is_unknown(bench: Bench) -> None:
    assert train.estimate(dataclasses.replace(PARAMS, model="someone/large"), bench.known) == Estimate()
    assert extract.estimate(extract.Params("nowhere"), bench.known) == Estimate()
    assert extract.estimate(extract.Params("nowhere", model="tiny"), bench.known) == Estimate()


def test_a_batch_in_parts_is_expected_to_hold_less(bench: Bench) -> None:
    assert expected(bench, batch=4096, accumulate=16) < expected(bench, batch=4096)


def test_a_way_past_the_features_is_expected_to_have_a_gradient_and_moments_too(bench: Bench) -> None:
    way = 4 * 16 * 16
    plain, with_it = (expected(bench, hook="mlp-in", target="mlp", skip=skip) for skip in (False, True))
    assert 4 * way <= with_it - plain <= 5 * way


def test_no_more_vectors_are_expected_to_wait_than_there_are(bench: Bench) -> None:
    bench.add_tokens("many", rows=4000)
    assert expected(bench, width=64, batch=2048, dataset="many") > expected(bench, width=64, batch=2048)


def test_a_model_in_half_precision_takes_half_of_a_gpu_and_the_same_of_a_cpu(bench: Bench) -> None:
    model = tiny_model()
    bench.add("models", "half")
    model.to(torch.float16).save_pretrained(bench.store.path("models", "half"))
    whole, half = (train.estimate(dataclasses.replace(PARAMS, model=name), bench.known) for name in ("tiny", "half"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    requested = train.estimate(dataclasses.replace(PARAMS, model_dtype="bf16"), bench.known)
    assert half.memory_bytes == pytest.approx(whole.memory_bytes, rel=1e-3)
    for one, other in (
        (whole.memory_bytes, requested.memory_bytes),
        (whole.gpu_memory_bytes, requested.gpu_memory_bytes),
    ):
        assert one - other == pytest.approx(2 * parameters, rel=0.1)
    assert whole.gpu_memory_bytes - half.gpu_memory_bytes == pytest.approx(2 * parameters, rel=0.1)


@pytest.mark.parametrize("evaluate", [0, 2])
def test_a_training_takes_the_disk_that_is_expected_while_one_more_checkpoint_is_written(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluate: int
) -> None:
    folder, seen = tmp_path / "training", []
    trainer = Trainer(TrainConfig(shaped("topk", 16, 2000, k=4), steps=4, batch=256), lambda step: torch.randn(256, 16))
    monkeypatch.setattr(
        checkpoint, "sync_folder", lambda _: seen.append(sum(file.stat().st_size for file in folder.rglob("*.*s")))
    )
    trainer.begin(folder)
    while trainer.is_unfinished:
        trainer.advance(folder)
        trainer.save(folder, score=1.0 if evaluate and trainer.step == 1 else None)
    result = train.estimate(dataclasses.replace(PARAMS, width=2000, evaluate=evaluate), bench.known).disk_bytes
    assert max(seen) == pytest.approx(result, rel=0.05)


def test_an_extraction_holds_the_model_the_sae_and_its_examples(bench: Bench) -> None:
    bench.add("saes", "mine")
    folder = bench.store.path("saes", "mine")
    (folder / "manifest.json").write_text(
        json.dumps({"made_from": {"model": "models/tiny", "dataset": "tokens/words"}})
    )
    (folder / "sae_weights.safetensors").write_bytes(bytes(2 * 16 * 4 * 1000))
    result = [extract.estimate(extract.Params("mine", top=top), bench.known) for top in (10, 20)]
    few, many = (estimate.gpu_memory_bytes for estimate in result)
    assert few is not None
    assert many is not None
    assert few > memory_estimate.CUDA + 2 * 16 * 4 * 1000
    assert many - few == 1000 * 10 * 4 * (2 * 12 + 4)
    assert extract.estimate(extract.Params("mine", top=1), bench.known).gpu_memory_bytes == few, "ten judge a feature"
    with TokenWriter(bench.add("tokens", "long"), 8192, 8) as writer:
        writer.append(np.zeros((1, 8192), np.int64))
    long = extract.estimate(extract.Params("mine", tokens="long"), bench.known).gpu_memory_bytes
    assert long is not None
    assert long - few == 4 * (8192 - memory_estimate.FORWARD_TOKENS) * (2 * 1000 + 12 * 16), "a row is not divided"


def test_the_sizes_are_those_of_the_work_itself() -> None:
    assert stream.FORWARD_TOKENS == memory_estimate.FORWARD_TOKENS
    mine = (
        memory_estimate.BUFFER_BATCHES,
        memory_estimate.BUFFER_BYTES,
        memory_estimate.BUFFER_FILE_BYTES,
        memory_estimate.FEWEST_BATCHES,
    )
    assert mine == (buffers.BATCHES, buffers.MEMORY_BYTES, buffers.FILE_BYTES, buffers.FEWEST_BATCHES)
    for d_in, batch in ((16, 256), (4096, 4096), (8192, 4096), (16384, 1 << 20)):
        size = buffers.size_for(batch, d_in, may_use_disk=True)
        assert memory_estimate._buffer(d_in, batch)[size.on_disk] == size.batches * batch * d_in
    assert (memory_estimate.SLICE_NUMBERS, memory_estimate.BASELINE_NUMBERS) == (coder.SLICE_NUMBERS, baselines.NUMBERS)
    assert (memory_estimate.CODES, memory_estimate.PAIRS_SLICE) == (collect._CODES, active_pairs.SLICE)
    assert (memory_estimate.LOGITS, memory_estimate.LOGITS_SLICE) == (intervention.LOGITS, intervention.LOGITS_SLICE)
    assert (memory_estimate.EVALUATED, memory_estimate.MOST_KEPT) == (evaluation.VECTORS, calibration.MOST_KEPT)
    assert memory_estimate.JUDGED == feature_records.LIVE_CONTEXTS


def test_a_compiler_is_counted_on_the_host(bench: Bench) -> None:
    plain, compiled = (train.estimate(dataclasses.replace(PARAMS, compile=each), bench.known) for each in (False, True))
    assert compiled.memory_bytes == plain.memory_bytes + memory_estimate.COMPILER
    assert compiled.gpu_memory_bytes == plain.gpu_memory_bytes


def test_a_training_on_stored_activations_of_a_compiled_model_compiles_nothing(bench: Bench) -> None:
    bench.add("activations", "stored")
    stored = dataclasses.replace(PARAMS, activations="stored")
    plain, compiled = (train.estimate(dataclasses.replace(stored, compile=each), bench.known) for each in (False, True))
    assert plain.memory_bytes is not None
    assert compiled == plain
