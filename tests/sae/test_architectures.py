"""Each architecture's hand-written step does what its formula says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tasks.problem import Problem
from tasks.sae.architectures import build, coder_class, names
from tasks.sae.coder import Coder, CoderConfig

NOBODY = torch.zeros(0, dtype=torch.int64)


def small(architecture: str, d_in: int = 16, d_sae: int = 64, k: int = 4) -> Coder:
    """A coder away from its symmetric start."""
    coder = build(CoderConfig(architecture, d_in, d_sae, k=k, l1=0.3), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        coder.W_enc += 0.3 * torch.randn(d_sae, d_in, generator=generator)
        coder.b_dec += torch.randn(d_in, generator=generator)
        coder.b_enc += 0.5 * torch.randn(d_sae, generator=generator)
    return coder


def test_the_files_are_the_list_and_listing_them_needs_no_torch():
    assert {"standard", "topk"} <= set(names())
    code = "import sys; from tasks.sae.architectures import names; names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(Problem, match="no SAE architecture 'gate'"):
        coder_class("gate")


@pytest.mark.parametrize("architecture", names())
@pytest.mark.parametrize("dead", [NOBODY, torch.tensor([3, 7, 11, 30, 31])], ids=["all alive", "five dead"])
@pytest.mark.parametrize("batch", [50, 1, 2100])
def test_the_fast_gradient_is_the_slow_ones(architecture: str, dead: torch.Tensor, batch: int):
    coder = small(architecture)
    x = torch.randn(batch, 16, generator=torch.Generator().manual_seed(3))
    told = coder.step(x, dead, pressure=0.7)
    fast = {name: parameter.grad for name, parameter in coder.named_parameters()}
    coder.zero_grad(set_to_none=True)
    loss = coder.slow_loss(x, dead, pressure=0.7)
    loss.backward()
    torch.testing.assert_close(told.loss, loss.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in coder.named_parameters():
        torch.testing.assert_close(fast[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("architecture", names())
def test_a_step_counts_what_encode_shows(architecture: str):
    coder = small(architecture)
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(4))
    told, codes = coder.step(x, NOBODY), coder.encode(x)
    assert torch.equal(told.fired, (codes > 0).any(0))
    assert told.l0.item() == pytest.approx((codes > 0).sum(1).float().mean().item())
    assert (codes >= 0).all()


def by_hand(architecture: str) -> Coder:
    """Two features along the two axes of the plane; the encoder reads them as they are."""
    coder = build(CoderConfig(architecture, d_in=2, d_sae=2, k=1, l1=0.5))
    with torch.no_grad():
        coder.W_dec.copy_(torch.eye(2))
        coder.W_enc.copy_(torch.eye(2))
        coder.b_dec.copy_(torch.tensor([1.0, 0.0]))
        coder.b_enc.copy_(torch.tensor([0.0, -1.0]))
    return coder


def test_topk_loss_by_hand():
    # x - b_dec = (3, 2); pre-activations (3, 1); the larger one is kept: (3, 0); x_hat = (4, 0); error (0, -2).
    told = by_hand("topk").step(torch.tensor([[4.0, 2.0]]), NOBODY)
    assert told.reconstruction.item() == pytest.approx(4.0)
    assert told.loss.item() == pytest.approx(4.0)
    assert told.l0.item() == 1


def test_topk_auxiliary_loss_by_hand():
    # Left over are (0, 2) and (-1, 0), of variance 1.25; the inputs' is 5. So the weight is (1/32) * 5 / 1.25 = 1/8.
    # The dead second feature, with codes 1 and 0, explains (0, 1) and nothing: squared errors 1 and 1.
    told = by_hand("topk").step(torch.tensor([[4.0, 2.0], [0.0, 0.0]]), torch.tensor([1]))
    assert told.reconstruction.item() == pytest.approx(2.5)
    assert told.penalty.item() == pytest.approx(1 / 8)
    assert told.loss.item() == pytest.approx(2.5 + 1 / 8)


def test_standard_loss_by_hand():
    # Codes (3, 1); x_hat = (4, 1); error (0, -1); penalty 0.5 * (3 + 1), half of it at half pressure.
    told = by_hand("standard").step(torch.tensor([[4.0, 2.0]]), NOBODY)
    assert told.reconstruction.item() == pytest.approx(1.0)
    assert told.penalty.item() == pytest.approx(2.0)
    assert told.l0.item() == 2
    assert by_hand("standard").step(torch.tensor([[4.0, 2.0]]), NOBODY, 0.5).penalty.item() == pytest.approx(1.0)


def test_the_loss_does_not_depend_on_the_number_of_vectors():
    x = torch.tensor([[4.0, 2.0]])
    for architecture in names():
        one, many = by_hand(architecture).step(x, NOBODY), by_hand(architecture).step(x.repeat(9, 1), NOBODY)
        torch.testing.assert_close(one.loss, many.loss)


def test_topk_uses_k_features_and_fewer_where_pre_activations_are_negative():
    coder = by_hand("topk")
    assert coder.encode(torch.tensor([[4.0, 9.0], [0.0, 0.0]])).tolist() == [[0.0, 8.0], [0.0, 0.0]]


def test_decoder_rows_stay_unit_vectors_and_the_gradient_turns_them_only():
    coder = small("topk")
    coder.step(torch.randn(30, 16, generator=torch.Generator().manual_seed(5)), NOBODY)
    coder.constrain_gradient()
    assert (coder.W_dec.grad * coder.W_dec).sum(1).abs().max() < 1e-5
    with torch.no_grad():
        coder.W_dec *= 3
    coder.constrain()
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(64))
