"""A model runs in its checkpoint's dtype where that is fast, its activations leave in float32; a resume keeps it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.intervention import can_splice, splice
from tasks.activations.stream import FORWARD_TOKENS, ModelVectors, read
from tasks.activations.token_mask import Mask
from tasks.errors import UserError
from tasks.jobs.kind import Stopped
from tasks.kinds import activations, train
from tasks.models import bfloat16, model_dtype
from tasks.models.bfloat16 import ProductSpeed
from tasks.models.cpu_backend import attending
from tasks.models.loading import load_model
from tasks.models.model_config import mlp_shape
from tasks.models.model_dtype import Wanted, choose, dtype_in_files, keep, wanted
from tasks.models.model_files import check_weights
from tasks.models.size_estimate import ModelShape
from tasks.sae.formats.exporting import for_sae_lens
from tests.fixtures.bench import VOCABULARY, Bench, Catalog, some_tokens, tiny_model
from tests.fixtures.work_folders import left_by
from tests.models.every_family import NoStore, build
from tests.models.families import model_of
from tests.train_job.test_train import prepared

MLP = (16, 64)
FAST, SLOW = ProductSpeed(2.0, "it is 2.0 times as fast"), ProductSpeed(0.25, "it is 4.0 times as slow")
EVEN, SMALL = ProductSpeed(1.2, "it is 1.2 times as fast"), ProductSpeed(None, "it is too small")


def this_machine_is(monkeypatch: pytest.MonkeyPatch, speed: ProductSpeed) -> None:
    monkeypatch.setattr(bfloat16, "measured", lambda rows, inner, columns, device: speed)
    monkeypatch.setattr(bfloat16, "has_units", lambda: speed is FAST)


def save_as(bench: Bench, name: str, dtype: torch.dtype, family: str | None = None) -> Path:
    """A model of the store that is saved in that dtype."""
    folder = bench.add("models", name)
    (model_of(family) if family else tiny_model()).to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("speed", "in_files", "device", "dtype"),
    [
        (FAST, "bfloat16", "cpu", "bfloat16"),
        (FAST, "bfloat16", "cuda", "bfloat16"),
        (EVEN, "bfloat16", "cpu", "float32"),
        (SLOW, "bfloat16", "cpu", "float32"),
        (SLOW, "bfloat16", "cuda", "bfloat16"),
        (SMALL, "bfloat16", "cpu", "float32"),
        (FAST, "float16", "cpu", "float32"),
        (SLOW, "float16", "cuda", "float16"),
        (FAST, "float32", "cpu", "float32"),
        (FAST, "float32", "cuda", "float32"),
    ],
)
def test_a_checkpoints_own_dtype_is_taken_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, speed: ProductSpeed, in_files: str, device: str, dtype: str
) -> None:
    this_machine_is(monkeypatch, speed)
    assert choose(Wanted(), in_files, MLP, device, "m").dtype == dtype
    assert choose(Wanted("float32"), in_files, MLP, device, "m").dtype == "float32"
    assert choose(Wanted("auto", "bfloat16"), in_files, MLP, device, "m").dtype == "bfloat16"
    assert choose(Wanted("auto", "float32"), in_files, MLP, device, "m").dtype == "float32"


@pytest.mark.parametrize("in_files", ["bfloat16", "float16", "float32"])
def test_bf16_that_was_asked_for_is_refused_only_where_it_is_slower(
    monkeypatch: pytest.MonkeyPatch, in_files: str
) -> None:
    for speed in (FAST, EVEN):
        this_machine_is(monkeypatch, speed)
        assert choose(Wanted("bf16"), in_files, MLP, "cpu", "m").dtype == "bfloat16"
    for speed in (SLOW, SMALL):
        this_machine_is(monkeypatch, speed)
        with pytest.raises(UserError, match=f"^--model-dtype bf16 gains nothing for m: {speed.reason}. Leave"):
            choose(Wanted("bf16"), in_files, MLP, "cpu", "m")
    this_machine_is(monkeypatch, FAST)
    with pytest.raises(UserError, match=r"config\.json does not say"):
        choose(Wanted("bf16"), in_files, None, "cpu", "m")


def test_the_product_that_is_measured_has_the_shape_of_the_models_mlp(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(bfloat16, "measured", lambda *shape: seen.append(shape) or FAST)
    choose(Wanted(), "bfloat16", (512, 2048), "cpu", "m")
    assert seen == [(4096, 512, 2048, "cpu")]
    choose(Wanted(), "float32", (512, 2048), "cpu", "m")
    choose(Wanted("float32"), "bfloat16", (512, 2048), "cpu", "m")
    assert len(seen) == 1, "nothing is measured where nothing depends on it"


@pytest.mark.parametrize(
    ("result", "shape"),
    [
        ({"intermediate_size": 48}, (16, 48)),
        ({"n_inner": None}, (16, 64)),
        ({"ffn_dim": 32}, (16, 32)),
        ({"intermediate_size": "many", "d_ff": True}, (16, 64)),
        ({"intermediate_size": 0}, (16, 64)),
    ],
)
def test_the_width_of_an_mlp_is_read_by_the_names_of_all_families(
    result: dict[str, Any], shape: tuple[int, int]
) -> None:
    assert mlp_shape(result, 16) == shape
    assert mlp_shape(result, None) is None


@pytest.mark.parametrize(
    ("word", "in_files", "mlp", "units", "on_cpu", "on_cuda"),
    [
        ("auto", "bfloat16", (512, 512), True, "bfloat16", "bfloat16"),
        ("auto", "bfloat16", (512, 512), False, "float32", "bfloat16"),
        ("auto", "bfloat16", (512, 511), True, "float32", "bfloat16"),
        ("auto", "bfloat16", None, True, "float32", "bfloat16"),
        ("auto", "float16", (512, 512), True, "float32", "float16"),
        ("auto", "float32", (512, 512), True, "float32", "float32"),
        ("float32", "bfloat16", (512, 512), True, "float32", "float32"),
        ("bf16", "float32", (512, 512), False, "bfloat16", "bfloat16"),
    ],
)
def test_an_estimate_expects_the_dtype_that_a_job_would_find(
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    in_files: str,
    mlp: tuple[int, int] | None,
    units: bool,
    on_cpu: str,
    on_cuda: str,
) -> None:
    monkeypatch.setattr(bfloat16, "has_units", lambda: units)
    assert (model_dtype.expected(word, in_files, mlp, "cpu"), model_dtype.expected(word, in_files, mlp, "cuda")) == (
        on_cpu,
        on_cuda,
    )
    shape = ModelShape(512, 1000, in_files=in_files, mlp=mlp)
    assert shape.bytes_on("cpu", word) == (4000 if on_cpu == "float32" else 2000)
    assert shape.bytes_on("cuda", word) == (4000 if on_cuda == "float32" else 2000)


def test_an_estimate_knows_the_same_tokens_as_the_measurement() -> None:
    assert model_dtype._TOKENS == FORWARD_TOKENS


def test_most_numbers_in_the_files_decide_what_a_checkpoints_dtype_is(tmp_path: Path) -> None:
    tensors = {"norm": torch.ones(4), "w": torch.ones(8, 8, dtype=torch.bfloat16), "ids": torch.arange(100)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert dtype_in_files(check_weights(tmp_path, "m")) == "bfloat16"
    assert dtype_in_files({}) == "float32"


def test_a_model_in_bfloat16_predicts_what_it_does_in_float32_to_the_precision_of_bfloat16(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_as(bench, "half", torch.bfloat16)
    this_machine_is(monkeypatch, FAST)
    with caplog.at_level(logging.INFO, "mistudio.models"):
        model = load_model("half", bench.store)
    assert "half runs in bfloat16: it is 2.0 times as fast" in caplog.text
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    this_machine_is(monkeypatch, SLOW)
    exact = load_model("half", bench.store)
    assert {parameter.dtype for parameter in exact.parameters()} == {torch.float32}
    ids = torch.from_numpy(some_tokens(20))
    left = (model(input_ids=ids).logits.float() - exact(input_ids=ids).logits).norm() / exact(
        input_ids=ids
    ).logits.norm()
    assert 0 < float(left) < 2 * 2**-8 * 3**0.5, "a few roundings for each of three blocks"


def test_a_checkpoint_in_float32_runs_in_bfloat16_where_that_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    this_machine_is(monkeypatch, FAST)
    assert load_model("tiny", bench.store).dtype == torch.float32
    assert load_model("tiny", bench.store, dtype=Wanted("bf16")).dtype == torch.bfloat16


def test_a_family_that_cannot_run_in_bfloat16_runs_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build("xlnet").bfloat16().save_pretrained(tmp_path)
    this_machine_is(monkeypatch, FAST)
    with caplog.at_level(logging.INFO, "mistudio.models"):
        model = load_model(str(tmp_path), NoStore())
    assert model.dtype == torch.float32
    assert "runs in float32: it cannot in bfloat16: it fails: " in caplog.text
    assert find(model, Hook("resid", 1)).position_first
    with pytest.raises(UserError, match=r"cannot run in bfloat16: it fails: .* Leave --model-dtype out"):
        load_model(str(tmp_path), NoStore(), dtype=Wanted("bf16"))


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "gemma2", "opt", "bert", "llama"])
@pytest.mark.parametrize("hook", ["resid", "mlp", "attn", "mlp-in"])
def test_activations_leave_every_hook_of_a_bfloat16_model_in_float32(family: str, hook: str) -> None:
    model, exact = model_of(family).bfloat16(), model_of(family)
    for parameter, half in zip(exact.parameters(), model.parameters(), strict=True):
        parameter.data = half.data.float()
    ids = some_tokens(20)
    (found,) = read(model, ids, [find(model, Hook(hook, 1))])
    (wanted,) = read(exact, ids, [find(exact, Hook(hook, 1))])
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.parametrize("context", [16, 256])
def test_what_a_bfloat16_model_answers_does_not_depend_on_the_other_rows(context: int) -> None:
    model = model_of("gpt_neox sequential").bfloat16()
    model.config.max_position_embeddings = context
    ids = np.random.default_rng(0).integers(1, VOCABULARY, size=(12, context))
    ids[3, 9:] = ids[5, 2:] = 0
    point = find(model, Hook("resid", 1))
    (whole,) = read(model, ids, [point], pad=0)
    for size in (1, 2, 5):
        parts = [read(model, ids[start : start + size], [point], pad=0)[0] for start in range(0, 12, size)]
        seen = torch.from_numpy(ids != 0)
        torch.testing.assert_close(torch.cat(parts)[seen], whole[seen], rtol=2**-7, atol=2**-7)


def test_broken_weights_are_found_in_bfloat16_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_as(bench, "broken", torch.bfloat16)
    this_machine_is(monkeypatch, FAST)
    weights = load_file(folder / "model.safetensors")
    for wrong in (float("nan"), float("inf")):
        weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][0, 0] = wrong
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"not finite numbers: gpt_neox\.layers\.1\.mlp"):
            load_model("broken", bench.store)
    weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"][0] = 3e38  # whose sum alone is infinite
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model("broken", bench.store).dtype == torch.bfloat16


def vectors_of(model: Any, hook: str = "resid") -> ModelVectors:
    return ModelVectors(model, some_tokens(20), [find(model, Hook(hook, 1))], Mask())


def test_the_cross_entropy_of_a_bfloat16_model_is_a_sum_in_float32() -> None:
    model = tiny_model().bfloat16()
    source, ids = vectors_of(model.requires_grad_(False)), torch.from_numpy(some_tokens(20))
    found = splice(source, np.arange(20), 1, lambda x: x)
    with attending("cpu", ids.shape[1]):
        logits = model(input_ids=ids).logits[:, :-1].float().flatten(0, 1)
    result = found.clean
    assert result == pytest.approx(float(functional.cross_entropy(logits, ids[:, 1:].flatten())), rel=1e-6)
    assert (found.spliced, found.kl) == (result, 0.0), "what was read is put back in the model's own dtype"
    assert found.ablated != result


def test_only_a_causal_model_is_asked_for_predictions_in_bfloat16() -> None:
    assert can_splice(vectors_of(tiny_model().bfloat16()))
    assert not can_splice(vectors_of(model_of("bert").bfloat16()))


def in_bf16(bench: Bench, **values: Any) -> train.Params:
    return prepared(bench, model="half", **values)[0]


def test_a_training_records_the_dtype_of_its_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    save_as(bench, "half", torch.bfloat16)
    this_machine_is(monkeypatch, FAST)
    context = bench.context()
    result = train.run(in_bf16(bench, lr=0.01), context)
    assert result["model_dtype"] == "bfloat16"
    assert result["explained_variance"] > result["random_explained_variance"]
    assert 0 < result["ce_loss"] < 10
    metadata = json.loads((context.output / "cfg.json").read_text())["metadata"]
    assert metadata["model_dtype"] == "bfloat16"
    assert for_sae_lens(metadata)["model_from_pretrained_kwargs"] == {"dtype": "bfloat16"}
    exact = bench.context("exact")
    assert train.run(in_bf16(bench, lr=0.01, model_dtype="float32"), exact)["model_dtype"] == "float32"
    metadata = json.loads((exact.output / "cfg.json").read_text())["metadata"]
    assert metadata["model_dtype"] == "float32"
    assert "model_from_pretrained_kwargs" not in for_sae_lens(metadata)
    assert (exact.output / "sae_weights.safetensors").read_bytes() != (
        context.output / "sae_weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("word", "first", "later"),
    [("auto", FAST, SLOW), ("auto", SLOW, FAST), ("bf16", FAST, SLOW), ("bf16", FAST, SMALL)],
)
def test_a_resume_keeps_the_dtype_to_the_last_bit_on_a_machine_that_would_choose_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, word: str, first: ProductSpeed, later: ProductSpeed
) -> None:
    save_as(bench, "half", torch.bfloat16)
    params = in_bf16(bench, model_dtype=word)
    this_machine_is(monkeypatch, first)
    whole = bench.context("whole")
    uninterrupted = train.run(params, whole)
    with pytest.raises(Stopped):
        train.run(params, bench.context("parts", stop=lambda done: done >= 11 * 256))
    this_machine_is(monkeypatch, later)
    again = bench.context("parts", attempt=2)
    resumed = train.run(params, again)
    assert again.noted == ["resumes from step 12"]
    assert resumed["model_dtype"] == uninterrupted["model_dtype"] == ("bfloat16" if first is FAST else "float32")
    for name in ("sae_weights.safetensors", "metrics.jsonl", "evaluations.jsonl", "cfg.json"):
        assert (again.output / name).read_bytes() == (whole.output / name).read_bytes(), name


def test_a_training_that_an_older_version_began_continues_in_float32(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_as(bench, "half", torch.bfloat16)
    params = in_bf16(bench)
    this_machine_is(monkeypatch, SLOW)
    with pytest.raises(Stopped):
        train.run(params, bench.context("old", stop=lambda done: done >= 11 * 256))
    (left_by(bench.store, "old") / "model-dtype.txt").unlink()
    this_machine_is(monkeypatch, FAST)
    again = bench.context("old", attempt=2)
    assert train.run(params, again)["model_dtype"] == "float32"
    assert again.noted == ["resumes from step 12"]
    assert train.run(params, bench.context("new"))["model_dtype"] == "bfloat16"


def test_a_note_in_the_work_folder_is_what_a_resume_goes_by(tmp_path: Path) -> None:
    assert wanted("auto", tmp_path, False, "cpu") == Wanted("auto", None)
    assert wanted("auto", tmp_path, True, "cpu") == Wanted("auto", "float32")
    assert wanted("auto", tmp_path, True, "cuda") == Wanted("auto", None), "older versions kept the checkpoint's there"
    noted: list[str] = []
    keep(tiny_model().bfloat16(), tmp_path, noted.append)
    assert (
        wanted("auto", tmp_path, True, "cpu") == wanted("auto", tmp_path, False, "cuda") == Wanted("auto", "bfloat16")
    )
    keep(tiny_model().bfloat16(), tmp_path, noted.append)
    assert noted == []
    keep(tiny_model(), tmp_path, noted.append)
    assert noted == ["the model runs in float32: it ran in bfloat16 until now, which it cannot on this machine"]
    assert wanted("auto", tmp_path, True, "cpu") == Wanted("auto", "float32")


def test_stored_activations_say_the_dtype_of_their_model_and_so_does_an_sae_trained_on_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_as(bench, "half", torch.bfloat16)
    this_machine_is(monkeypatch, FAST)
    values = {"model": "half", "dataset": "words", "layer": 1, "dtype": "float32"}
    read_params, _ = activations.prepare(activations.KIND.read_params(values), bench.known)
    context = bench.context("stored")
    result = activations.run(read_params, context)
    assert result["model_dtype"] == "bfloat16"
    outcome = json.loads((context.output / "activations.json").read_text())
    assert (outcome["model_dtype"], outcome["dtype"]) == ("bfloat16", "float32")
    manifest = {"name": "stored", "params": {**values, "hook": "resid", "skip_bos": True}, "result": result}
    bench.store.seal(context.output, manifest)  # as of a version without the option
    bench.store.publish(context.output, "activations", "stored")
    from_stored = {"model": None, "dataset": None, "layer": None, "activations": "stored"}
    with pytest.raises(UserError, match="were read with --model-dtype auto, not float32"):
        prepared(bench, **from_stored, model_dtype="float32")
    trained = bench.context("trained")
    assert train.run(prepared(bench, **from_stored)[0], trained)["model_dtype"] == "bfloat16"
    assert json.loads((trained.output / "cfg.json").read_text())["metadata"]["model_dtype"] == "bfloat16"


def test_a_reading_that_resumes_keeps_the_dtype(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    save_as(bench, "half", torch.bfloat16)
    bench.add_tokens("many", rows=600)
    values = {"model": "half", "dataset": "many", "layer": 1}
    params, _ = activations.prepare(activations.KIND.read_params(values), bench.known)
    this_machine_is(monkeypatch, FAST)
    with pytest.raises(Stopped):
        activations.run(params, bench.context("a", stop=lambda done: done > 0, stops_in="reading"))
    this_machine_is(monkeypatch, SLOW)
    assert activations.run(params, bench.context("a", attempt=2))["model_dtype"] == "bfloat16"


@pytest.mark.parametrize("speed", [SLOW, SMALL])
def test_bf16_is_refused_when_it_is_submitted_if_jobs_run_here_and_when_the_job_runs_if_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, speed: ProductSpeed
) -> None:
    save_as(bench, "half", torch.bfloat16)
    this_machine_is(monkeypatch, speed)
    sentence = f"bf16 gains nothing for half: {speed.reason}"
    with pytest.raises(UserError, match=sentence):
        in_bf16(bench, model_dtype="bf16", known=Catalog(bench.store, is_this_cpu=True))
    in_bf16(bench, known=Catalog(bench.store, is_this_cpu=True))
    params = in_bf16(bench, model_dtype="bf16")
    with pytest.raises(UserError, match=sentence):
        train.run(params, bench.context())


def test_saes_that_share_a_forward_pass_share_the_models_dtype(bench: Bench) -> None:
    with pytest.raises(UserError, match="trained together share --model-dtype"):
        prepared(bench, together={"model_dtype": ["float32", "bf16"]})
