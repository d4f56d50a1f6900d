"""Each architecture's hand-written step does what its formula says, over all pairs and over the active ones alike."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from tasks.errors import UserError
from tasks.sae import coder as coders
from tasks.sae.architectures import build, coder_class, names
from tasks.sae.coder import Coder, CoderConfig, StepState
from tasks.sae.ops import active_pairs
from tasks.sae.ops.gradients import Sums
from tasks.sae.ops.preactivations import Exact

NOBODY = torch.zeros(0, dtype=torch.int64)
DEAD = torch.tensor([3, 7, 11, 30, 31])
#: More than half of the dimensions that a transcoder here reads or writes.
MANY_DEAD = torch.arange(0, 64, 4)

#: Every architecture, and every choice that changes a formula.
CHOICES: dict[str, dict[str, Any]] = {
    "standard": {"l1": 0.3},
    "standard free": {"l1": 0.3, "decoder": "free"},
    "gated": {"l1": 0.3},
    "p_anneal": {"l1": 0.3},
    "jumprelu": {"l0": 0.3, "threshold": 0.4, "bandwidth": 0.5},
    "jumprelu tanh": {"l0": 0.3, "threshold": 0.4, "bandwidth": 0.5, "penalty": "tanh", "pre_act": 0.2},
    "jumprelu target": {"l0": 0.3, "threshold": 0.4, "bandwidth": 0.5, "penalty": "target-l0", "target_l0": 5.0},
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka": {"k": 4, "groups": 3},
}
SHAPES = {"autoencoder": {}, "transcoder": {"d_out": 10}, "skip transcoder": {"d_out": 10, "skip": True}}


def config(choice: str, d_in: int = 16, d_sae: int = 64, **changes: Any) -> CoderConfig:
    architecture = choice.split()[0]
    return CoderConfig(architecture, d_in, d_sae, coder_class(architecture).Options(**CHOICES[choice]), **changes)


def small(choice: str, bias: float = 0.0, **shape: Any) -> Coder:
    """A coder away from its symmetric start; with a low `bias` few of its features are active."""
    coder = build(config(choice, **shape), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in coder.parameters.items():
        tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        if name in ("b_enc", "b_gate"):
            tensor.add_(bias)
    coder.constrain()
    if "free" in choice:
        coder.W_dec *= torch.linspace(0.5, 2, len(coder.W_dec))[:, None]
    return coder


def random(rows: int, width: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def slow_gradient(
    coder: Coder, x: torch.Tensor, target: torch.Tensor, step_state: StepState
) -> tuple[torch.Tensor, dict]:
    """The loss and its gradients by autograd."""
    for parameter in coder.parameters.values():
        parameter.grad = None
        parameter.requires_grad_()
    loss = coder.slow_loss(x, target, step_state)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in coder.parameters.items()}
    for parameter in coder.parameters.values():
        parameter.requires_grad_(False)
    return loss.detach(), gradients


def check_step(coder: Coder, batch: int, dead: torch.Tensor) -> None:
    """The fast step's loss and gradients are those of autograd, whatever the gradients of the step before were."""
    x = random(batch, coder.config.d_in)
    for parameter in coder.parameters.values():
        parameter.grad = torch.full_like(parameter, math.nan)
    target = random(batch, coder.config.d_out, seed=4) if coder.is_transcoder else x
    step_state = StepState(dead, pressure=0.7)
    result = coder.step(x, target, step_state)
    fast = {name: parameter.grad.clone() for name, parameter in coder.parameters.items()}
    loss, slow = slow_gradient(coder, x, target, step_state)
    torch.testing.assert_close(result.loss, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.loss, result.reconstruction + result.sparsity + result.auxiliary)
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", [{}, {"blocks": 2}], ids=["free decoder", "crosscoder"])
def test_a_feature_that_writes_nothing_has_a_gradient_like_any_other(shape: dict[str, int]):
    coder = small("standard" if shape else "standard free", **shape)
    coder.W_dec[7] = 0
    coder.W_dec[9, : 16 // 2] = 0
    check_step(coder, 50, NOBODY)


def test_the_files_are_the_list_and_reading_them_needs_no_torch():
    assert set(names()) == {choice.split()[0] for choice in CHOICES}
    code = (
        "import sys; from tasks.sae.architectures import coder_class, names;"
        "[coder_class(name).Options() for name in names()];"
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(UserError, match="no SAE architecture 'gate'"):
        coder_class("gate")


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("dead", [NOBODY, DEAD], ids=["all alive", "five dead"])
@pytest.mark.parametrize("batch", [50, 1, 1100])
def test_the_fast_gradient_is_the_slow_ones(choice: str, dead: torch.Tensor, batch: int):
    check_step(small(choice), batch, dead)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("shape", ["transcoder", "skip transcoder"])
def test_a_transcoder_learns_from_what_it_is_to_write(choice: str, shape: str):
    check_step(small(choice, **SHAPES[shape]), 50, DEAD)
    check_step(small(choice, **SHAPES[shape]), 50, MANY_DEAD)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_crosscoder_counts_the_length_in_each_layer(choice: str):
    check_step(small(choice, blocks=2), 50, DEAD)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all pairs", "active pairs"])
def test_the_pairs_that_are_worked_on_change_no_gradient(monkeypatch: pytest.MonkeyPatch, choice: str, share: float):
    monkeypatch.setattr(active_pairs, "SPARSE_SHARE", share)
    monkeypatch.setattr(active_pairs, "SLICE", 7)
    check_step(small(choice), 50, DEAD)
    check_step(small(choice, bias=-1.5), 50, NOBODY)
    check_step(small(choice, bias=-1e3), 5, NOBODY)  # nothing is active


@pytest.mark.parametrize("choice", CHOICES)
def test_a_step_counts_what_is_active(choice: str):
    coder = small(choice)
    x = random(40, 16, seed=4)
    result = coder.step(x, x, StepState(NOBODY))
    coder.calibrate([x], len(x))  # with the threshold of this batch, its codes in use are those of the step
    codes = coder.activate(coder.preactivations(x))
    assert torch.equal(result.fired, (codes > 0).any(0))
    assert result.l0.item() == pytest.approx((codes > 0).sum(1).float().mean().item())
    assert choice not in ("batchtopk", "matryoshka") or result.l0.item() == 4
    assert (codes >= 0).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_the_error_of_a_step_is_that_of_the_whole_dictionary(choice: str):
    coder, x = small(choice), random(40, 16, seed=4)
    result, pre = coder.step(x, x, StepState(NOBODY)), coder.preactivations(x)
    codes = coder.dense_codes(pre) if hasattr(coder, "dense_codes") else coder.activate(pre)
    torch.testing.assert_close(result.error, (coder.complete(codes, x) - x).square().sum(1).mean())


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("d_out", [None, 5])
def test_nothing_that_a_step_needs_stays_behind_when_a_coder_is_moved(choice: str, d_out: int | None):
    coder, x = build(config(choice, d_out=d_out)).to("meta"), torch.empty(6, 16, device="meta")
    sums = Sums(coder, x, torch.empty(6, d_out or 16, device="meta"))
    assert {each.device.type for each in (coder.bias(), sums.active, sums.to_pre)} == {"meta"}


def test_what_made_up_for_a_fall_of_the_power_is_found_once(monkeypatch: pytest.MonkeyPatch):
    times = []
    positive = Exact.positive
    monkeypatch.setattr(Exact, "positive", lambda self: times.append(1) or positive(self))
    coder, x = small("p_anneal"), random(40, 16)
    for _ in range(3):
        coder.step(x, x, StepState(NOBODY, progress=0.5))
    assert times == [1]


@pytest.mark.parametrize("choice", CHOICES)
def test_the_loss_does_not_depend_on_the_number_of_vectors(choice: str):
    coder = small(choice)
    x = random(6, 16)
    one, many = coder.step(x, x, StepState(NOBODY)), coder.step(x.repeat(9, 1), x.repeat(9, 1), StepState(NOBODY))
    torch.testing.assert_close(one.loss, many.loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_state_is_all_there_is_to_a_coder(choice: str):
    coder, other = small(choice), build(config(choice), seed=9)
    coder.step(random(40, 16), random(40, 16), StepState(NOBODY, progress=0.9))
    other.load(coder.state)
    x = random(20, 16, seed=8)
    assert torch.equal(coder(x), other(x))
    assert torch.equal(
        coder.step(x, x, StepState(NOBODY, progress=0.95)).loss, other.step(x, x, StepState(NOBODY, progress=0.95)).loss
    )


def by_hand(choice: str, **options: Any) -> Coder:
    """Two features along the two axes of the plane; the encoder reads them as they are."""
    architecture = choice.split()[0]
    coder = build(CoderConfig(architecture, 2, 2, coder_class(architecture).Options(**options)))
    coder.W_dec.copy_(torch.eye(2))
    coder.W_enc.copy_(torch.eye(2))
    coder.b_dec.copy_(torch.tensor([1.0, 0.0]))
    coder.b_enc.copy_(torch.tensor([0.0, -1.0]))
    return coder


def reported(coder: Coder, vectors: list[list[float]], dead: torch.Tensor = NOBODY, **step_state: float) -> Any:
    x = torch.tensor(vectors)
    return coder.step(x, x, StepState(dead, **step_state))


def test_topk_loss_by_hand():
    # x - b_dec = (3, 2); pre-activations (3, 1); the larger one is kept: (3, 0); x_hat = (4, 0); error (0, -2).
    result = reported(by_hand("topk", k=1), [[4.0, 2.0]])
    assert result.reconstruction.item() == pytest.approx(4.0)
    assert result.loss.item() == pytest.approx(4.0)
    assert result.l0.item() == 1


def test_topk_auxiliary_loss_by_hand():
    # Left over are (0, 2) and (-1, 0), of variance 1.25; the inputs' is 5. So the weight is (1/32) * 5 / 1.25 = 1/8.
    # The dead second feature, with codes 1 and 0, explains (0, 1) and nothing: squared errors 1 and 1.
    result = reported(by_hand("topk", k=1), [[4.0, 2.0], [0.0, 0.0]], torch.tensor([1]))
    assert result.reconstruction.item() == pytest.approx(2.5)
    assert result.auxiliary.item() == pytest.approx(1 / 8)
    assert result.loss.item() == pytest.approx(2.5 + 1 / 8)


def test_standard_loss_by_hand():
    # Codes (3, 1); x_hat = (4, 1); error (0, -1); penalty 0.5 * (3 + 1), half of it at half pressure.
    result = reported(by_hand("standard", l1=0.5), [[4.0, 2.0]])
    assert result.reconstruction.item() == pytest.approx(1.0)
    assert result.sparsity.item() == pytest.approx(2.0)
    assert result.l0.item() == 2
    assert reported(by_hand("standard", l1=0.5), [[4.0, 2.0]], pressure=0.5).sparsity.item() == pytest.approx(1.0)


def test_a_free_decoders_penalty_by_hand():
    # Rows of length 2 and 1: x_hat = (1 + 6, 1), error (3, -1); penalty 0.5 * (3 * 2 + 1 * 1).
    coder = by_hand("standard", l1=0.5, decoder="free")
    coder.W_dec[0] *= 2
    result = reported(coder, [[4.0, 2.0]])
    assert (result.reconstruction.item(), result.sparsity.item()) == (pytest.approx(10.0), pytest.approx(3.5))
    assert not coder.has_unit_decoder


def test_a_crosscoders_penalty_by_hand():
    # Rows (3, 0, 0, 4) and (0, 1, 0, 0) have lengths 3 + 4 and 1 + 0 in their two layers; codes are (1, 2).
    coder = build(CoderConfig("standard", 4, 2, coder_class("standard").Options(l1=0.5), blocks=2))
    coder.W_dec.copy_(torch.tensor([[3.0, 0.0, 0.0, 4.0], [0.0, 1.0, 0.0, 1e-9]]))
    coder.W_enc.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    assert reported(coder, [[1.0, 2.0, 0.0, 0.0]]).sparsity.item() == pytest.approx(0.5 * (7 * 1 + 1 * 2))


def test_gated_loss_by_hand():
    # z = (3, 2); gates z + (0, -1) = (3, 1), both open; magnitudes exp(0) z + (0, 0) = (3, 2): x_hat = x, no error.
    # The gate's own values give (4, 1): error (0, -1). Penalty 0.5 * (3 + 1).
    coder = by_hand("gated", l1=0.5)
    coder.b_gate.copy_(torch.tensor([0.0, -1.0]))
    result = reported(coder, [[4.0, 2.0]])
    assert result.reconstruction.item() == pytest.approx(0.0)
    assert (result.auxiliary.item(), result.sparsity.item()) == (pytest.approx(1.0), pytest.approx(2.0))


def test_p_annealed_loss_by_hand():
    # Codes (3, 1). At p = 1 the penalty is 0.5 * 4, as the standard one. At p = 0.5 the weight makes up for the change:
    # 4 / (sqrt(3) + 1) times as much, so that the penalty of the same vector stays 2.
    coder = by_hand("p_anneal", l1=0.5, p_end=0.5, anneal_from=0.0)
    assert reported(coder, [[4.0, 2.0]]).sparsity.item() == pytest.approx(2.0)
    assert reported(coder, [[4.0, 2.0]], progress=0.999).sparsity.item() == pytest.approx(2.0)
    assert coder.power.item() == pytest.approx(0.5)
    assert coder.weight.item() == pytest.approx(4 / (3**0.5 + 1))
    assert reported(coder, [[10.0, 2.0]], progress=0.999).sparsity.item() == pytest.approx(
        0.5 * (9**0.5 + 1) * 4 / (3**0.5 + 1)
    )


def test_jumprelu_loss_by_hand():
    # Pre-activations (3, 1) with thresholds 2: codes (3, 0); x_hat = (4, 0); error (0, -2). One active feature.
    result = reported(by_hand("jumprelu", l0=0.5, threshold=2.0), [[4.0, 2.0]])
    assert (result.reconstruction.item(), result.sparsity.item()) == (pytest.approx(4.0), pytest.approx(0.5))
    target = by_hand("jumprelu", l0=0.5, threshold=2.0, penalty="target-l0", target_l0=4.0)
    assert reported(target, [[4.0, 2.0]]).sparsity.item() == pytest.approx(0.5 * 2 / 4 * (1 - 4) ** 2)
    tanh = by_hand("jumprelu", l0=0.5, threshold=2.0, penalty="tanh", tanh_scale=0.1)
    assert reported(tanh, [[4.0, 2.0]]).sparsity.item() == pytest.approx(0.5 * torch.tensor(0.3).tanh().item())


def test_a_threshold_learns_from_what_is_near_and_from_nothing_else():
    # Error (0, -2), so the gradient to the second code is -4. Its pre-activation 1 is 0.1 below its threshold 1.1:
    # threshold gradient -(1.1 / 0.4) * -4 - 0.5 / 0.4. The first is 1.9 above.
    coder = by_hand("jumprelu", l0=0.5, threshold=1.1, bandwidth=0.4)
    reported(coder, [[4.0, 2.0]])
    assert coder.threshold.grad.tolist() == [0.0, pytest.approx((1.1 * 4 - 0.5) / 0.4)]


def test_batchtopk_shares_its_features_among_the_vectors_of_a_batch():
    # Pre-activations (3, 1) and (-1, -1): the two largest are both the first vector's.
    coder = by_hand("batchtopk", k=1)
    result = reported(coder, [[4.0, 2.0], [0.0, 0.0]])
    assert result.l0.item() == 1
    assert result.reconstruction.item() == pytest.approx((1 + 1) / 2)
    assert coder.threshold.item() == 0, "a step calibrates nothing"
    coder.calibrate([torch.tensor([[4.0, 2.0], [0.0, 0.0]]), torch.tensor([[6.0, 3.0]])], 3)
    # Of (3, 1), (-1, -1) and (5, 2) the three largest are 5, 3 and 2; the next is 1.
    assert coder.threshold.item() == pytest.approx((1 + 2) / 2)


def test_batchtopk_keeps_the_largest_whatever_it_expected():
    coder = small("batchtopk")
    for seed in range(4):
        pre = random(30, 64, seed=seed) * (seed + 1) ** 2
        chosen, codes = coder.choose(Exact(pre))
        assert sorted(codes.tolist()) == sorted(pre.flatten().topk(30 * 4).values.tolist())
        assert torch.equal(chosen.of(pre), codes)
    few = torch.full((30, 64), -1.0)
    few[3, 5] = 2.0
    assert coder.choose(Exact(few))[1].tolist() == [2.0]
    of_equals = coder.choose(Exact(torch.ones(30, 64)))[0].features.tolist()
    assert of_equals == [*range(64), *range(56)], "the first"


def test_matryoshka_loss_by_hand():
    # Two dictionaries, of one feature and of two. Codes (3, 1): reconstructions (4, 0) and (4, 1) of (4, 2).
    coder = by_hand("matryoshka", k=2, groups=2)
    assert coder.ends() == [1, 2]
    result = reported(coder, [[4.0, 2.0]])
    assert result.reconstruction.item() == pytest.approx((4 + 1) / 2)
    assert result.error.item() == pytest.approx(1)


@pytest.mark.parametrize("rows", [random(40, 128), random(40, 128).round(), torch.ones(3, 128), random(9, 100)])
def test_the_strongest_pairs_of_a_vector_are_those_of_its_sorted_row(rows: torch.Tensor):
    chosen, values = Exact(rows).largest(3)
    assert torch.equal(values, chosen.of(rows))
    assert torch.equal(values.view(-1, 3).sort(1, descending=True).values, rows.topk(3, dim=1).values)
    assert all(len(set(row)) == 3 for row in chosen.features.view(-1, 3).tolist())


def test_what_is_no_number_is_seen_among_the_strongest():
    rows = random(5, 128)
    rows[2, 77] = torch.nan
    assert Exact(rows).largest(3)[1].isnan().nonzero().flatten().tolist()[0] // 3 == 2


def test_topk_uses_k_features_and_fewer_where_pre_activations_are_negative():
    coder = by_hand("topk", k=1)
    assert coder.encode(torch.tensor([[4.0, 9.0], [0.0, 0.0]])).tolist() == [[0.0, 8.0], [0.0, 0.0]]


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if "free" not in choice])
def test_decoder_rows_stay_unit_vectors_and_the_gradient_turns_them_only(choice: str):
    coder = small(choice)
    x = random(30, 16, seed=5)
    coder.step(x, x, StepState(NOBODY))
    coder.constrain_gradient()
    assert (coder.W_dec.grad * coder.W_dec).sum(1).abs().max() < 1e-5
    coder.W_dec *= 3
    coder.constrain()
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(64))


def test_an_option_means_the_same_in_each_architecture_that_has_it():
    said: dict[str, set] = {}
    for name in names():
        for spec in dataclasses.fields(coder_class(name).Options):
            result = spec.metadata
            bounds = (result["choices"], result["minimum"], result["maximum"])
            said.setdefault(spec.name, set()).add((spec.type, result["help"], *bounds))
    assert {name: result for name, result in said.items() if len(result) > 1} == {}


@pytest.mark.parametrize(
    "choice", [choice for choice in CHOICES if choice.split()[0] not in ("topk", "batchtopk", "matryoshka")]
)
def test_active_pairs_that_are_too_many_to_hold_at_once_are_worked_on_part_by_part(
    choice: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(active_pairs, "SPARSE_SHARE", 1.0)
    monkeypatch.setattr(active_pairs, "MOST", 200)
    coder = small(choice)
    parts = list(active_pairs.split(random(50, 64), 0.0))
    assert [part.rows.start for part in parts] == sorted({part.rows.start for part in parts})
    assert (len(parts) > 3, parts[-1].rows.stop) == (True, 50)
    check_step(coder, 50, NOBODY)


def test_a_batch_is_coded_alike_whatever_was_guessed():
    coder = small("batchtopk")
    pre = random(50, 64)
    found = []
    for guess in (0.0, 1e-3, 100.0):
        coder._least = guess
        chosen, codes = coder.choose(Exact(pre))
        found.append((chosen.vectors.tolist(), chosen.features.tolist(), codes.tolist()))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 50 * 4
    coder._least = 0.0
    assert len(coder.choose(Exact(-pre.abs()))[0].vectors) == 0


@pytest.mark.parametrize("d", [1, 48, 300])
def test_inner_products_have_the_same_bits_whichever_rows_are_read_in_order(monkeypatch: pytest.MonkeyPatch, d: int):
    vectors, matrix = random(20, d), random(64, d, seed=4)
    for wanted in (random(20, 64, seed=5) > 1, torch.zeros(20, 64, dtype=torch.bool), torch.ones(20, 64) > 0):
        chosen, found = active_pairs.pairs_at(wanted), []
        for larger in (1, 1000):
            monkeypatch.setattr(active_pairs, "LARGER", larger)
            found.append(chosen.pull(vectors, matrix))
        assert torch.equal(*found)
        torch.testing.assert_close(found[0], (vectors @ matrix.T)[wanted], rtol=1e-4, atol=1e-4)


def test_decoder_rows_that_are_looked_at_in_slices_keep_their_bits(monkeypatch: pytest.MonkeyPatch):
    found = []
    for at_once in (7, 1000):
        monkeypatch.setattr(coders, "AT_ONCE", at_once)
        coder = small("topk", d_in=300)
        coder.W_dec.mul_(3).grad = random(64, 300)
        coder.constrain_gradient()
        coder.constrain()
        found.append(torch.cat([coder.W_dec, coder.W_dec.grad]))
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numpy_compares_as_torch_does(dtype: torch.dtype):
    values = random(40, 64).to(dtype)
    values[3, 5:9] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    for floor in (0.0, 0.5, values.abs()[:, :1], values.abs()[0].float()):
        than = torch.as_tensor(floor, dtype=dtype)
        assert torch.equal(active_pairs.is_above(values, floor), values > than)
