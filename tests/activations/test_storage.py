"""Activations on disk are the model's own, whole, the same after an interruption, and no larger than was said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tasks.activations import storage, stream
from tasks.activations.hook_sites import Hook
from tasks.activations.storage import ShardWriter, StoredVectors, read_info
from tasks.activations.stream import ModelVectors, open_model
from tasks.errors import UserError
from tasks.jobs.kind import Request, Stopped
from tasks.kinds import activations as kind
from tests.fixtures.bench import CONTEXT, Bench
from tests.fixtures.work_folders import left_by

REQUESTED = {"model": "tiny", "dataset": "marked", "layer": 1, "dtype": "float32"}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eleven rows, forward passes of three."""
    monkeypatch.setattr(storage, "SHARD_BYTES", 11 * CONTEXT * 16 * 4)
    monkeypatch.setattr(stream, "FORWARD_TOKENS", 3 * CONTEXT)


@pytest.fixture
def marked(bench: Bench) -> Bench:
    """A store whose tokens `marked` have BOS in the middle of rows."""
    bench.add_tokens("marked", rows=50, bos_id=5)
    return bench


def made(bench: Bench, name: str = "acts", attempt: int = 1, stop: Any = lambda done: False, **values) -> Path:
    """Prepare, run and publish; the artifact's folder."""
    params, _ = kind.prepare(kind.KIND.read_params({**REQUESTED, **values}), bench.known)
    context = bench.context(name, attempt=attempt, stop=stop, stops_in="reading")
    result = kind.run(params, context)
    bench.store.seal(context.output, {"job": name, "params": vars(params), "result": result})
    return bench.store.publish(context.output, "activations", name)


def live(bench: Bench, hook: str = "resid", skip_bos: bool = True) -> ModelVectors:
    return open_model(bench.store, "tiny", "marked", [Hook(hook, 1)], skip_bos, "cpu")


@pytest.mark.parametrize("hook", ["resid", "mlp", "mlp-in"])
@pytest.mark.parametrize("skip_bos", [True, False])
def test_what_is_stored_is_what_passes_the_hook(marked: Bench, hook: str, skip_bos: bool):
    stored, source = StoredVectors(made(marked, hook=hook, skip_bos=skip_bos)), live(marked, hook, skip_bos)
    assert (stored.shape, stored.d_in, stored.mask) == (source.shape, source.d_in, source.mask)
    assert [point[:2] for point in stored.points] == [point[:2] for point in source.points]
    assert stored.counts.tolist() == source.counts.tolist()
    assert (len(set(source.counts.tolist())) > 1) == skip_bos, "rows differ in what is left out of them"
    numbers = np.random.default_rng(0).permutation(50)[:40]
    torch.testing.assert_close(torch.cat([*stored.read(numbers)]), torch.cat([*source.read(numbers)]))


def test_bfloat16_takes_half_the_disk_and_is_rounded_once(marked: Bench):
    whole, half = made(marked, "whole"), made(marked, "half", dtype="bfloat16")
    read = [torch.cat([*StoredVectors(folder).read(np.arange(50))]) for folder in (whole, half)]
    assert torch.equal(read[1], read[0].bfloat16().float())
    sizes = [sum(path.stat().st_size for path in folder.glob("shard-*.bin")) for folder in (whole, half)]
    assert sizes[0] == 2 * sizes[1] == read_info(whole).vectors * 16 * 4


def test_the_shards_are_plain_numbers_for_a_memory_map(marked: Bench):
    folder = made(marked)
    shards = sorted(folder.glob("shard-*.bin"))
    assert len(shards) == 5
    vectors = np.concatenate([np.memmap(path, "<f4", "r").reshape(-1, 16) for path in shards])
    counts = np.fromfile(folder / "counts.bin", "<u4")
    assert counts.sum() == len(vectors) == read_info(folder).vectors
    torch.testing.assert_close(torch.from_numpy(vectors), torch.cat([*live(marked).read(np.arange(50))]))
    np.testing.assert_allclose(np.fromfile(folder / "mean.bin", "<f4"), vectors.mean(0), rtol=1e-4, atol=1e-6)
    assert read_info(folder).mean_norm == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-5)


def test_the_result_and_the_estimate_say_what_it_takes(marked: Bench):
    params, _ = kind.prepare(kind.KIND.read_params(REQUESTED), marked.known)
    before = kind.estimate(params, marked.known)
    folder = made(marked)
    result = json.loads((folder / "manifest.json").read_text())["result"]
    outcome = {key: result[key] for key in ("vectors", "rows", "d_in", "shards", "hook")}
    info = read_info(folder)
    assert outcome == {"vectors": info.vectors, "rows": 50, "d_in": 16, "shards": 5, "hook": "gpt_neox.layers.1"}
    on_disk = sum(path.stat().st_size for path in folder.iterdir())
    assert result["bytes"] < on_disk
    assert before.disk_bytes == 50 * CONTEXT * 16 * 4
    assert before.disk_bytes == pytest.approx(on_disk, rel=0.2)
    assert before.memory_bytes < before.gpu_memory_bytes
    half = kind.estimate(kind.KIND.read_params({**vars(params), "dtype": "bfloat16", "max_tokens": 80}), marked.known)
    assert (half.disk_bytes, half.seconds) == (80 * 16 * 2, pytest.approx(80 / result["tokens_per_s"]))


def test_an_interrupted_reading_resumes_with_the_first_shard_that_is_missing(marked: Bench):
    whole = made(marked, "whole")
    with pytest.raises(Stopped):
        made(marked, "cut", stop=lambda done: done >= 400)
    part = sorted(path.name for path in (left_by(marked.store, "cut") / "shards").glob("*.bin"))
    assert part == ["shard-00000.bin", "shard-00001.bin"]
    broken = left_by(marked.store, "cut") / "shards" / part[1]
    broken.write_bytes(broken.read_bytes()[:-4])  # as a power cut may leave it
    sums = broken.with_name("shard-00000.sums")
    assert ShardWriter(broken.parent, StoredVectors(whole).counts, 16, 16, "float32").has(0)
    left = sums.read_bytes()
    sums.write_bytes(left[:-1])
    assert not ShardWriter(broken.parent, StoredVectors(whole).counts, 16, 16, "float32").has(0)
    sums.write_bytes(left)
    context = marked.context("cut", attempt=2)
    params, _ = kind.prepare(kind.KIND.read_params(REQUESTED), marked.known)
    kind.run(params, context)
    first = next(done for phase, done, _, _ in context.said if phase == "reading")
    begun = int(read_info(whole).rows_per_shard)
    assert first > StoredVectors(whole).counts[:begun].sum(), "the first shard was not read again"
    assert first <= StoredVectors(whole).counts[: begun + 3].sum(), "the broken one was"
    for path in whole.iterdir():
        if path.name != "manifest.json":
            assert (context.output / path.name).read_bytes() == path.read_bytes(), path.name


def test_an_attempt_that_ends_while_it_publishes_has_nothing_to_read_again(marked: Bench):
    params, _ = kind.prepare(kind.KIND.read_params(REQUESTED), marked.known)
    first = kind.run(params, marked.context("late"))
    context = marked.context("late", attempt=2)
    second = kind.run(params, context)
    assert [phase for phase, *_ in context.said] == ["loading"]
    assert second == {**first, "tokens_per_s": None}


def test_fewer_tokens_are_spread_over_all(marked: Bench):
    folder = made(marked, max_tokens=10 * CONTEXT)
    stored = StoredVectors(folder)
    assert stored.shape == (10, CONTEXT)
    torch.testing.assert_close(
        torch.cat([*stored.read(np.arange(10))]), torch.cat([*live(marked).read(np.arange(0, 50, 5))])
    )


def test_the_jobs_that_must_come_first_are_asked_for(bench: Bench):
    bench.add("datasets", "books")
    params, requests = kind.prepare(kind.KIND.read_params({**REQUESTED, "dataset": "books"}), bench.known)
    assert requests == [Request("tokenize", params.dataset, {"dataset": "books", "model": "tiny", "context": 64})]
    assert kind.default_name(params) == f"tiny-l1-resid-{params.dataset}"
    assert kind.estimate(params, bench.known).disk_bytes is None, "how many tokens there will be is not known"
    few = kind.KIND.read_params({**vars(params), "max_tokens": 100})
    assert kind.estimate(few, bench.known).disk_bytes == 100 * 16 * 4


def test_what_is_not_whole_or_cannot_be_is_one_sentence(marked: Bench):
    with pytest.raises(UserError, match="no finished activations"):
        StoredVectors(marked.store.path("activations", "none"))
    folder = made(marked)
    shard = folder / "shard-00004.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard-00004\.bin ends too early"):
        list(StoredVectors(folder).read(np.arange(50)))
    with pytest.raises(UserError, match="tiny has no layer 3"):
        made(marked, "deep", layer=3)
    with pytest.raises(UserError, match="--dtype 'float16' is not one of: bfloat16, float32"):
        made(marked, "odd", dtype="float16")


def test_a_disk_that_cannot_hold_them_is_said_before_anything_is_read(marked: Bench, monkeypatch: pytest.MonkeyPatch):
    class Nearly(NamedTuple):
        free: int

    needed = int(live(marked).counts.sum()) * 16 * 4
    monkeypatch.setattr(kind.shutil, "disk_usage", lambda folder: Nearly(needed - 1))
    with pytest.raises(UserError, match=r"GB more, and the store's disk has 0\.0 GB free"):
        made(marked, "large")
    assert not list((left_by(marked.store, "large") / "shards").iterdir())
    monkeypatch.setattr(kind.shutil, "disk_usage", lambda folder: Nearly(needed))
    assert made(marked, "fits").exists()


@pytest.mark.parametrize("hook", ["resid", "attn", "mlp"])
@pytest.mark.parametrize("value", [3e38, 1e38])  # finite, and its products are not
def test_a_model_that_answers_no_numbers_is_said(marked: Bench, value: float, hook: str):
    import safetensors.torch as st

    path = marked.store.path("models", "tiny") / "model.safetensors"
    weights = st.load_file(path)
    for layer in (0, 1):
        weights[f"gpt_neox.layers.{layer}.mlp.dense_h_to_4h.bias"][:] = value
    st.save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match="no finite numbers"):
        made(marked, hook=hook)
