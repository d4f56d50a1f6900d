"""A training from stored activations is the training on the model itself, without the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.activations import shuffle_buffer, storage
from tasks.activations.storage import StoredVectors
from tasks.activations.stream import ActivationStream
from tasks.errors import UserError
from tasks.kinds import activations as reading
from tasks.kinds import train
from tasks.sae import memory_estimate
from tests.fixtures.bench import CONTEXT, Bench, Catalog

FROM = {"model": "tiny", "dataset": "marked", "layer": 1}
SHORT = {"k": 4, "batch": 256, "steps": 30, "expansion": 4, "lr": 0.01}


@pytest.fixture
def stored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A store with tokens that have BOS in the middle of rows, and activations of several shards from them."""
    monkeypatch.setattr(storage, "SHARD_BYTES", 30 * CONTEXT * 16 * 4)
    bench.add_tokens("marked", rows=200, bos_id=5)
    stored_at(bench, "whole", dtype="float32")
    stored_at(bench, "half")
    stored_at(bench, "mlp", hook="mlp", skip_bos=False)
    return bench


def stored_at(bench: Bench, name: str, **values: Any) -> None:
    """Read activations and publish them under that name."""
    params, _ = reading.prepare(reading.KIND.read_params({**FROM, **values}), bench.known)
    context = bench.context(name)
    result = reading.run(params, context)
    bench.store.seal(context.output, {"job": name, "params": vars(params), "result": result})
    bench.store.publish(context.output, "activations", name)


def trained(bench: Bench, name: str, **values: Any) -> tuple[dict[str, Any], Path]:
    params, requests = train.prepare(train.KIND.read_params({**SHORT, **values}), bench.known)
    assert requests == []
    context = bench.context(name)
    return train.run(params, context), context.output


def test_the_sae_is_the_same_and_no_model_is_needed(stored: Bench):
    measured, live = trained(stored, "live", **FROM)
    shutil.rmtree(stored.store.path("models", "tiny"))
    shutil.rmtree(stored.store.path("tokens", "marked"))
    again, from_files = trained(stored, "files", activations="whole")
    # The same vectors in the same batches; only how many went through the model at once may differ in the last bits.
    weights = [load_file(folder / "sae_weights.safetensors") for folder in (live, from_files)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)
    result = [json.loads((folder / "cfg.json").read_text()) for folder in (live, from_files)]
    scales = [cfg["metadata"].pop("activation_scale") for cfg in result]
    assert result[0] == result[1]
    assert scales[0] == pytest.approx(scales[1])
    for name in ("explained_variance", "mse", "l0", "dead_fraction"):
        assert again[name] == pytest.approx(measured[name], rel=1e-3)
    assert measured["explained_variance"] > 0.5
    assert measured["predicted_tokens"] > 0
    assert (again["ce_loss_recovered"], again["predicted_tokens"]) == (None, None), "nobody was there to predict"


def test_half_the_precision_costs_no_quality(stored: Bench):
    measured = {name: trained(stored, name, activations=name)[0] for name in ("whole", "half")}
    assert measured["half"]["explained_variance"] == pytest.approx(measured["whole"]["explained_variance"], abs=0.01)
    assert measured["half"] != measured["whole"]


def test_each_stored_vector_is_served_once_an_epoch(stored: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle_buffer, "BATCHES", 3)
    vectors = StoredVectors(stored.store.path("activations", "whole"))
    rows = torch.arange(20, 60).numpy()
    source = ActivationStream(vectors, rows, 1, seed=4)
    whole, total = torch.cat([*vectors.read(rows)]), source.total
    served = torch.cat([source(step) for step in range(3 * total)])
    assert len(whole) == total
    assert sorted(map(tuple, served.tolist())) == sorted(3 * list(map(tuple, whole.tolist())))
    for epoch in (0, 1):
        assert not torch.equal(served[epoch * total :][:total], whole), "in an order of its own"
    assert not torch.equal(served[:total], served[total : 2 * total])
    assert torch.equal(ActivationStream(vectors, rows, 1, seed=4)(7), served[7:8])


def test_what_they_were_read_from_is_taken_over(stored: Bench):
    params, _ = train.prepare(train.KIND.read_params({**SHORT, "activations": "mlp"}), stored.known)
    assert (params.model, params.dataset, params.layer) == ("tiny", "marked", 1)
    assert (params.hook, params.skip_bos, params.width) == ("mlp", False, 64)
    assert train.default_name(params) == "tiny-l1-mlp-topk-k4"
    assert train.prepare(params, stored.known) == (params, [])  # as when the job is tried again
    metadata = json.loads((trained(stored, "sae", activations="mlp")[1] / "cfg.json").read_text())["metadata"]
    assert (metadata["hook_name"], metadata["hook_module"]) == ("blocks.1.hook_mlp_out", "gpt_neox.layers.1.mlp")
    assert (metadata["model_name"], metadata["seqpos_slice"]) == ("tiny", [None])


@pytest.mark.parametrize("hook", ["resid", "attn", "mlp", "mlp-in"])
def test_the_hook_is_described_as_by_a_training_on_the_model(bench: Bench, hook: str):
    bench.add_tokens("marked", rows=200, bos_id=5)
    stored_at(bench, "stored", hook=hook)
    folders = [
        trained(bench, name, **values)[1]
        for name, values in (("live", {**FROM, "hook": hook}), ("files", {"activations": "stored"}))
    ]
    live, from_files = [json.loads((folder / "cfg.json").read_text())["metadata"] for folder in folders]
    hooks = {name: value for name, value in live.items() if "hook" in name}
    assert hooks == {name: value for name, value in from_files.items() if "hook" in name}
    assert ("hf_hook_name" in hooks) == (hook != "mlp-in"), "transformers' hooks do not catch what a module is given"


def test_what_is_still_being_read_can_be_waited_for(stored: Bench):
    class Coming(Catalog):
        def pending_params(self, family: str, name: str) -> tuple[str, dict[str, Any]]:
            return "activations", {**vars(reading.Params(**FROM)), "hook": "attn"}

    known = Coming(stored.store, {"activations/later"})
    params, _ = train.prepare(train.KIND.read_params({**SHORT, "activations": "later"}), known)
    assert (params.model, params.layer, params.hook, params.width) == ("tiny", 1, "attn", None)


def test_without_the_model_a_training_holds_less(stored: Bench):
    alike = {**SHORT, "evaluate": 0, "batch": 2048}  # a model predicts nothing, and one batch waits to be shuffled
    result = [
        train.estimate(train.prepare(train.KIND.read_params({**alike, **where}), stored.known)[0], stored.known)
        for where in (FROM, {"activations": "whole"})
    ]
    tensors = load_file(stored.store.path("models", "tiny") / "model.safetensors")
    weights = sum(tensor.nbytes for tensor in tensors.values())
    less = result[0].memory_bytes - result[1].memory_bytes
    assert less - memory_estimate.MODEL == pytest.approx(weights, rel=0.05), "weights, and what its classes hold"
    assert result[0].gpu_memory_bytes - result[1].gpu_memory_bytes == pytest.approx(weights, rel=0.05)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"activations": "none"}, "The store has no activations/none"),
        ({"activations": "whole", "layer": 2}, "activations/whole were read with --layer 1, not 2"),
        ({"activations": "whole", "hook": "mlp"}, "activations/whole were read with --hook resid, not mlp"),
        ({"activations": "whole", "skip_bos": False}, "activations/whole were read with --skip-bos True, not False"),
        ({"model": "tiny", "layer": 1}, "train needs --dataset"),
        ({"dataset": "marked", "layer": 1}, "train needs --model"),
        ({"model": "tiny", "dataset": "marked"}, "train needs --layer"),
    ],
)
def test_what_does_not_go_together_is_refused(stored: Bench, values: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        trained(stored, "sae", **values)
