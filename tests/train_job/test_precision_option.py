"""`--precision` is used, recorded and kept where it gains something, and refused with the reason where it does not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import UserError
from tasks.kinds import train
from tasks.models import bfloat16
from tasks.models.bfloat16 import ProductSpeed
from tasks.sae import precision
from tasks.sae.coder import BF16, FLOAT32, TF32
from tasks.sae.metrics import Measurement
from tasks.sae.precision import AUTO, Product
from tasks.sae.training.trainer import Trainer
from tests.fixtures.bench import Bench, Context
from tests.train_job.test_train import prepared

LARGE = Product(4096, 768, 12_288, 64)
SLOWER = ProductSpeed(0.5, "a product of 4096 x 768 x 12288 is 2.0 times as slow in bfloat16 as in float32 here")
FASTER = ProductSpeed(6.0, "a product of 4096 x 768 x 12288 is 6.0 times as fast in bfloat16 as in float32 here")


def machine(monkeypatch: pytest.MonkeyPatch, speed: ProductSpeed, small: bool = False) -> None:
    """A machine on which products of any size do that in bfloat16."""
    monkeypatch.setattr(bfloat16, "measured", lambda *shape: speed)
    monkeypatch.setattr(bfloat16, "is_small", lambda *shape: small)


def test_auto_takes_what_is_faster(monkeypatch: pytest.MonkeyPatch):
    machine(monkeypatch, FASTER)
    assert precision.decide(AUTO, LARGE, "cpu") == (BF16, FASTER.reason)
    assert precision.decide(FLOAT32, LARGE, "cpu").precision == FLOAT32
    machine(monkeypatch, SLOWER)
    assert precision.decide(AUTO, LARGE, "cpu") == (FLOAT32, SLOWER.reason)


@pytest.mark.parametrize(
    ("wanted", "product", "reason"),
    [
        (BF16, LARGE, "a product of 4096 x 768 x 12288 is 2.0 times as slow in bfloat16 as in float32 here"),
        (BF16, Product(64, 16, 64, None), "a product of 64 x 16 x 64 is too small to gain from bfloat16"),
        (BF16, Product(4096, 768, 12_288, 400), "400 of 12288 features are too many to be computed again in float32"),
        (TF32, LARGE, "TF32 is a format of NVIDIA's cards"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_precision_that_gains_nothing_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, wanted: str, product: Product, reason: str
):
    monkeypatch.setattr(bfloat16, "has_units", lambda: None)
    monkeypatch.setattr(bfloat16, "_measured", lambda *shape: SLOWER)
    for refuse in (
        lambda: precision.decide(wanted, product, "cpu"),
        lambda: precision.check_at_submit(wanted, product),
    ):
        with pytest.raises(UserError) as refused:
            refuse()
        assert str(refused.value) == (
            f"--precision {wanted} gains nothing here: {reason}. Leave --precision out: auto takes the fastest"
        )
    assert precision.decide(AUTO, product, "cpu").precision == FLOAT32


def test_a_submit_refuses_only_what_no_other_machine_or_card_could_do(monkeypatch: pytest.MonkeyPatch):
    machine(monkeypatch, SLOWER)
    with pytest.raises(UserError):
        precision.check_at_submit(BF16, LARGE)
    with monkeypatch.context() as joined:
        joined.setenv("CELERY_BROKER_URL", "redis://elsewhere:6379/0")
        precision.check_at_submit(BF16, LARGE)
        machine(joined, SLOWER, small=True)
        with pytest.raises(UserError):
            precision.check_at_submit(BF16, LARGE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    precision.check_at_submit(BF16, LARGE)
    precision.check_at_submit(TF32, LARGE)
    machine(monkeypatch, SLOWER, small=True)
    precision.check_at_submit(TF32, LARGE)
    precision.check_at_submit(TF32, dataclasses.replace(LARGE, k=LARGE.d_sae))


def test_nothing_is_measured_at_submit_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    monkeypatch.setattr(bfloat16, "measured", lambda *shape: pytest.fail("was measured"))
    assert prepared(bench)[0].precision == AUTO
    assert prepared(bench, precision="float32")[0].precision == FLOAT32


def test_a_submit_is_refused(bench: Bench):
    with pytest.raises(UserError, match="is too small to gain from bfloat16"):
        prepared(bench, precision="bf16", expansion=32)


def test_old_cards_multiply_in_float32(monkeypatch: pytest.MonkeyPatch):
    machine(monkeypatch, FASTER)
    capability = [(7, 5)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    assert precision.decide(AUTO, LARGE, "cuda") == (FLOAT32, "this card is older than compute capability 8.0")
    with pytest.raises(UserError, match=r"--precision tf32 gains nothing here: this card is older"):
        precision.decide(TF32, LARGE, "cuda")
    capability[0] = (9, 0)
    assert precision.decide(AUTO, LARGE, "cuda").precision == BF16
    assert precision.decide(TF32, LARGE, "cuda").precision == TF32
    assert precision.decide(AUTO, dataclasses.replace(LARGE, k=None), "cuda").precision == FLOAT32


def test_tf32_is_in_force_for_a_trainings_gradient_and_not_for_what_reads_or_measures(
    monkeypatch: pytest.MonkeyPatch, bench: Bench
):
    seen: dict[str, set[str]] = {}

    def noted(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def call(*args: Any, **values: Any) -> Any:
            seen.setdefault(name, set()).add(torch.get_float32_matmul_precision())
            return plain(*args, **values)

        monkeypatch.setattr(owner, name, call)

    noted(Trainer, "_gradient")
    noted(Trainer, "_batch")
    noted(Measurement, "add")
    monkeypatch.setattr(precision, "decide", lambda *wanted: precision.Decision(TF32, "as on a card"))
    assert trained(bench, bench.context())[0]["precision"] == TF32
    usual = {torch.get_float32_matmul_precision(), "medium"}
    assert seen["_gradient"] == {"high"}
    assert seen["_batch"] <= usual
    assert seen["add"] <= usual


def test_tf32_is_in_force_inside_and_nowhere_else():
    before = torch.get_float32_matmul_precision()
    with precision.rounding(TF32):
        assert torch.get_float32_matmul_precision() == "high"
    with precision.rounding(BF16):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


# Of 2048 features 4: few enough to be computed again.
WIDE: dict[str, Any] = {"width": 2048, "expansion": None, "lr": 0.01, "batch": 64, "steps": 12, "evaluate": 2}


def trained(bench: Bench, context: Context, **values: Any) -> tuple[dict[str, Any], Path]:
    params, _ = prepared(bench, **{**WIDE, **values})
    return train.run(params, context), context.output


def tensors_of(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


def test_what_was_used_is_recorded(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    machine(monkeypatch, FASTER)
    context = bench.context("fast")
    result, output = trained(bench, context)
    assert context.noted == [f"chooses features in bfloat16: {FASTER.reason}"]
    assert result["precision"] == "bf16"
    assert 0 <= result["unsure_fraction"] < 0.1
    metadata = json.loads((output / "cfg.json").read_text())["metadata"]
    assert metadata["training"]["precision"] == "bf16"
    machine(monkeypatch, SLOWER)
    result, _ = trained(bench, bench.context("slow"))
    assert (result["precision"], result["unsure_fraction"]) == ("float32", None)


def test_a_job_is_refused_where_its_machine_is_slower(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    machine(monkeypatch, FASTER)
    params, _ = prepared(bench, **WIDE, precision="bf16")
    machine(monkeypatch, SLOWER)
    with pytest.raises(UserError, match=r"--precision bf16 gains nothing here: .* 2.0 times as slow"):
        train.run(params, bench.context())


def interrupted(bench: Bench, at: int = 6, **values: Any) -> Context:
    """The context of a second attempt, after a first one that was stopped with a checkpoint."""
    from tasks.jobs.kind import Stopped

    first = bench.context("job", stop=lambda done: done >= at * 64)
    with pytest.raises(Stopped):
        trained(bench, first, **values)
    return bench.context("job", attempt=2)


def test_a_training_resumed_where_it_gains_as_much_has_the_same_bits(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    machine(monkeypatch, FASTER)
    _, whole = trained(bench, bench.context("whole"))
    again = interrupted(bench)
    result, output = trained(bench, again)
    assert again.noted == ["resumes from step 7"]
    assert result["precision"] == "bf16"
    assert tensors_of(output) == tensors_of(whole)


@pytest.mark.parametrize("wanted", ["auto", "bf16"])
def test_a_training_resumed_where_it_gains_nothing_continues_in_float32_and_says_so(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, wanted: str
):
    machine(monkeypatch, FASTER)
    again = interrupted(bench, precision=wanted)
    params, _ = prepared(bench, **WIDE, precision=wanted)
    machine(monkeypatch, SLOWER)
    result = train.run(params, again)
    assert again.noted == ["resumes from step 7", f"continues in float32, not in bf16 as before: {SLOWER.reason}"]
    assert result["precision"] == "bf16, then float32"
    metadata = json.loads((again.output / "cfg.json").read_text())["metadata"]
    assert metadata["training"]["precision"] == "bf16, then float32"


def test_a_training_begun_in_float32_stays_in_it(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    machine(monkeypatch, SLOWER)
    _, whole = trained(bench, bench.context("whole"))
    again = interrupted(bench)
    machine(monkeypatch, FASTER)
    result, output = trained(bench, again)
    assert (result["precision"], again.noted) == ("float32", ["resumes from step 7"])
    assert tensors_of(output) == tensors_of(whole)


def test_a_checkpoint_of_before_is_resumed_in_float32(monkeypatch: pytest.MonkeyPatch, bench: Bench):
    machine(monkeypatch, SLOWER)
    again = interrupted(bench)
    for path in again.workdir.rglob("state.json"):
        state = json.loads(path.read_text())
        del state["precision"]
        path.write_text(json.dumps(state))
    machine(monkeypatch, FASTER)
    assert trained(bench, again)[0]["precision"] == "float32"
