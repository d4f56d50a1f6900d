"""Compiled blocks hand on what plain ones do, for any rows, and are given up where the compiler is wrong or fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo import config as tracing
from torch._dynamo.utils import counters
from torch._inductor import codecache, config

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import find
from tasks.activations.storage import StoredVectors
from tasks.activations.stream import ModelVectors
from tasks.activations.token_mask import Mask
from tasks.kinds import activations as kind
from tasks.kinds import train
from tests.fixtures.bench import Bench, some_tokens, tiny_model
from tests.train_job.test_train import prepared

WITHOUT_A_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler, as torch.compile needs")
PLAIN = Mask()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where what is compiled goes; what torch keeps in the process of it, or could not compile, is for one test."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "of-torch"))  # set as it was imported
    with config.patch({"aot_inductor.debug_compile": True}):  # which optimizes nothing, and takes less time
        yield tmp_path / "compiled"
    torch.compiler.reset()


def vectors(*hooks: Hook) -> ModelVectors:
    model = tiny_model()
    return ModelVectors(model, some_tokens(6)[:, :11], [find(model, hook) for hook in hooks], PLAIN)


def compiled(source: ModelVectors, folder: Path) -> str:
    said: list[str] = []
    source.compile(folder, said.append)
    (sentence,) = said
    return sentence


def graphs() -> int:
    """How many graphs the compiler has made in this process."""
    return counters["stats"]["unique_graphs"]


def compiled_blocks(source: ModelVectors) -> list[int]:
    blocks: Any = source.model.gpt_neox.layers
    return [number for number, block in enumerate(blocks) if "forward" in vars(block)]


@WITHOUT_A_COMPILER
def test_rows_of_any_number_and_length_pass_the_same_compiled_blocks(folder: Path) -> None:
    """One that needs code of its own, a row alone, passes the plain ones where the compiler fails by then."""
    source = vectors(Hook("mlp", 1), Hook("resid", 2))
    rows = [some_tokens(5, seed=1), some_tokens(4, seed=2)[:, :9], some_tokens(7, seed=3)]
    plain, before = [source.read_all(each) for each in rows], graphs()
    assert compiled(source, folder).startswith("2 blocks of the model are compiled, in ")
    assert compiled_blocks(source) == [0, 2], "the hook in block 1 would not be seen"
    made = graphs()
    assert made > before
    for each, wanted in zip(rows, plain, strict=True):
        torch.testing.assert_close(source.read_all(each), wanted, rtol=1e-4, atol=1e-5)
    assert graphs() == made, "it compiled again"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".so" for path in files)
    assert not (folder.parent / "of-torch").exists(), "others may write there"
    assert not {path.name for path in folder.rglob("*")} & {"fxgraph", "aotautograd"}, "a cache of pickles"
    assert codecache._precompile_header.cache_info().misses == 0, "it compiled with what others may have written"
    alone = some_tokens(1, seed=4)
    with config.patch({"cpp.cxx": ("/nonexistent/c++",)}):
        with tracing.patch(suppress_errors=False), pytest.raises(Exception, match="nonexistent"):
            source.read_all(alone)
        late = source.read_all(alone)
    torch.testing.assert_close(late, vectors(Hook("mlp", 1), Hook("resid", 2)).read_all(alone), rtol=0, atol=0)


def test_nothing_is_compiled_after_the_last_hook_nor_where_one_is_within(folder: Path) -> None:
    source, before = vectors(Hook("attn", 0)), graphs()
    assert compiled(source, folder) == "no block is compiled: there is none before the hook"
    assert compiled_blocks(source) == []
    assert graphs() == before


@pytest.mark.parametrize("wrong", [lambda made: made * 1.01, lambda made: made * torch.nan])
def test_blocks_that_compute_something_else_are_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    source = vectors(Hook("resid", 1))
    rows = some_tokens(4, seed=1)
    plain = source.read_all(rows)
    monkeypatch.setattr(
        torch, "compile", lambda forward, **_: lambda *args, **named: _changed(forward, wrong, args, named)
    )
    assert "the model is not compiled: what passes its hook would be " in compiled(source, folder)
    assert torch.equal(source.read_all(rows), plain)
    assert compiled_blocks(source) == []


def _changed(forward: Any, wrong: Callable[[torch.Tensor], torch.Tensor], args: Any, named: Any) -> Any:
    made = forward(*args, **named)
    return (wrong(made[0]), *made[1:]) if isinstance(made, tuple) else wrong(made)


def test_without_a_compiler_the_job_continues_and_says_why(bench: Bench) -> None:
    plain, _ = made(bench, "plain")
    with config.patch({"cpp.cxx": ("/nonexistent/c++",)}):
        stored, noted = made(bench, "asked", compile=True)
    assert [note for note in noted if note.startswith("the model is not compiled: ")]
    assert all("\n" not in note for note in noted)
    assert torch.equal(stored, plain)


def made(bench: Bench, name: str, **values: Any) -> tuple[torch.Tensor, list[str]]:
    """All stored vectors, and what was noted on the way."""
    requested = {"model": "tiny", "dataset": "words", "layer": 1, "dtype": "float32", **values}
    params, _ = kind.prepare(kind.KIND.read_params(requested), bench.known)
    context = bench.context(name)
    result = kind.run(params, context)
    bench.store.seal(context.output, {"job": name, "params": vars(params), "result": result})
    stored = StoredVectors(bench.store.publish(context.output, "activations", name))
    return torch.cat([*stored.read(np.arange(stored.shape[0]))]), context.noted


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A compiler that changes nothing: `dynamic` of each call of what it made."""
    called: list[bool] = []

    def compiled_alike(forward: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
        return lambda *args, **named: called.append(dynamic) or forward(*args, **named)

    monkeypatch.setattr(torch, "compile", compiled_alike)
    return called


def test_what_a_compiled_model_hands_on_is_stored(bench: Bench, calls: list[bool]) -> None:
    plain, nothing = made(bench, "plain")
    assert (nothing, calls) == ([], [])
    stored, noted = made(bench, "asked", compile=True)
    assert [note.partition(",")[0] for note in noted] == ["2 blocks of the model are compiled"]
    assert calls
    assert torch.equal(stored, plain)


def test_a_training_on_compiled_blocks_is_like_any_other(bench: Bench, calls: list[bool]) -> None:
    """The same SAE, and the same figures, of predictions too."""
    plain = bench.context("plain")
    wanted = train.run(prepared(bench)[0], plain)
    assert calls == []
    context = bench.context("compiled")
    found = train.run(prepared(bench, compile=True)[0], context)
    assert [note.partition(",")[0] for note in context.noted] == ["2 blocks of the model are compiled"]
    assert calls
    assert set(calls) == {True}, "it would be compiled again for other rows"
    assert found["ce_loss_recovered"] == wanted["ce_loss_recovered"]
    assert found["fvu"] == wanted["fvu"]
    weights = [(each.output / "sae_weights.safetensors").read_bytes() for each in (plain, context)]
    assert weights[0] == weights[1]
