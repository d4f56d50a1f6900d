"""The numbers beside an SAE mean what they say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.activations.token_means import per_row, ratio
from tasks.errors import UserError
from tasks.sae import coder as coders
from tasks.sae.architectures import build, names
from tasks.sae.baselines import compare, pca_explained_variance, random_explained_variance
from tasks.sae.density import LOG10_EDGES, histogram
from tasks.sae.metrics import Measurement, measure, total_variance
from tests.fixtures.bench import shaped


def test_measures_by_hand():
    coder = build(shaped("standard", 2, 3, l1=0.5))
    with torch.no_grad():
        coder.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        coder.W_enc.copy_(coder.W_dec)
        coder.b_enc.copy_(torch.tensor([0.0, -1.0, -100.0]))
    # Codes (1, 0, 0), (0, 2, 0), (3, 0, 0); reconstructions (1, 0), (0, 2), (3, 0); the mean is (4/3, 4/3).
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0], [3.0, 1.0]])
    found = measure(coder, x)
    assert found.mse == pytest.approx(2 / 3)
    assert (found.l0, found.l1) == (pytest.approx(1.0), pytest.approx(2.0))
    assert found.density.tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert found.dead_fraction == pytest.approx(1 / 3)
    variance = float((x - x.mean(0)).square().sum())
    assert found.fvu == pytest.approx(2 / variance)
    assert found.explained_variance == pytest.approx(1 - 2 / variance)
    lengths = [1.0, 3.0, 10**0.5]
    assert found.l2_norm_in == pytest.approx(sum(lengths) / 3)
    assert found.l2_norm_out == pytest.approx((1 + 2 + 3) / 3)
    assert found.l2_ratio == pytest.approx((1 + 2 / 3 + 3 / 10**0.5) / 3)
    assert found.cosine_similarity == pytest.approx((1 + 1 + 3 / 10**0.5) / 3)
    assert found.relative_reconstruction_bias == pytest.approx((1 + 4 + 9) / (1 + 6 + 9))
    errors = [0.0, 1.0, 1.0]
    spread = sum((error - 2 / 3) ** 2 for error in errors) / 2
    assert found.standard_errors["mse"] == pytest.approx((spread / 3) ** 0.5)


@pytest.mark.parametrize("arch", names())
def test_measures_of_pieces_are_those_of_the_whole_and_have_the_units_of_the_activations(arch: str):
    """Whatever the scale of the activations is, and however far their mean lies from zero."""
    coder, scale = build(shaped(arch, 12, 96, k=4)), 0.02
    raw = (torch.randn(700, 12, generator=torch.Generator().manual_seed(5)) + 40) / scale
    counts = np.array([7] * 100)
    coder.calibrate([raw * scale], 700)
    whole, pieces = measure(coder, raw * scale, unit=1 / scale, counts=counts), Measurement(coder, 1 / scale)
    for start in range(0, 700, 140):
        pieces.add(raw[start : start + 140] * scale, counts=counts[:20])
    found = pieces.result()
    for name, value in whole.as_json().items():
        if isinstance(value, float):
            assert getattr(found, name) == pytest.approx(value, rel=1e-5), name
    for name, error in whole.standard_errors.items():
        assert found.standard_errors[name] == pytest.approx(error, rel=0.02), name
    made = coder(raw * scale) / scale
    assert whole.mse == pytest.approx(float((made - raw).square().sum(1).mean()), rel=1e-4)
    assert whole.l2_norm_in == pytest.approx(float(raw.norm(dim=1).mean()), rel=1e-5)
    assert whole.fvu == pytest.approx(float((made - raw).square().sum() / total_variance(raw)), rel=1e-4)


def test_a_piece_without_vectors_changes_nothing():
    coder, x = build(shaped("topk", 12, 96, k=4)), torch.randn(50, 12, generator=torch.Generator().manual_seed(5))
    pieces = Measurement(coder)
    for piece in (x[:0], x, x[:0]):
        pieces.add(piece)
    assert pieces.result().as_json() == measure(coder, x).as_json()


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_nothing_is_measured_of_what_is_not_finite(wrong: float):
    coder, x = build(shaped("topk", 12, 96, k=4)), torch.randn(50, 12, generator=torch.Generator().manual_seed(5))
    broken = x.clone()
    broken[30, 3] = wrong
    with pytest.raises(UserError, match="Activations that are held out are infinite or no numbers"):
        measure(coder, broken)
    coder.W_dec[:, 3] = wrong
    with pytest.raises(UserError, match="What the SAE reconstructs is infinite or no number"):
        measure(coder, x)


def test_rows_whose_tokens_are_alike_make_a_mean_less_certain_than_as_many_tokens_each_by_itself():
    drawn = torch.randn(50, 1, generator=torch.Generator().manual_seed(1)).double()
    counts = torch.full((50,), 20)
    alike = per_row(drawn.repeat_interleave(20, 0), counts)[:, 0]
    value, error = ratio(alike, counts.double())
    assert (value, error) == (pytest.approx(float(drawn.mean())), pytest.approx(float(drawn.std() / 50**0.5)))
    _, alone = ratio(drawn.repeat_interleave(20, 0)[:, 0], torch.ones(1000).double())
    assert error > 4 * alone
    assert ratio(alike[:1], counts[:1].double())[1] is None, "one row says nothing of others"


def test_a_standard_error_is_how_far_means_of_other_rows_lie_apart():
    """The mean of rows of different lengths, drawn many times over: its spread is what one draw of rows says."""
    generator = torch.Generator().manual_seed(3)
    means, errors = [], []
    for _ in range(300):
        counts = torch.randint(1, 9, (80,), generator=generator).double()
        of_rows, of_tokens = torch.randn(2, 80, generator=generator)
        sums = counts * (5 + of_rows) + counts.sqrt() * of_tokens
        value, error = ratio(sums, counts)
        means.append(value), errors.append(error)
    assert float(torch.tensor(means).std()) == pytest.approx(sum(errors) / 300, rel=0.15)


def test_densities_are_counted_into_half_decades_by_hand():
    assert LOG10_EDGES == (-7, -6.5, -6, -5.5, -5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0)
    counts = torch.tensor([0, 1, 9, 10, 31, 32, 99, 100, 316, 317, 1000, 0])  # of 1000 vectors, as `measure` divides
    result = histogram(counts.float() / 1000).to_dict()
    # Up to 10^0.5 thousandths: 1. Up to a hundredth: 9. To 0.0316: 10 and 31. To a tenth: 32, 99. To 0.316: 100, 316.
    assert result["counts"] == [0] * 8 + [1, 1, 2, 2, 2, 2]
    assert result["never"] == 2
    assert result["log10_edges"] == list(LOG10_EDGES)
    assert json.dumps(result)


@pytest.mark.parametrize("decade", range(8))
def test_a_density_at_an_edge_belongs_to_the_bin_above(decade: int):
    found = histogram(torch.ones(1) / 10**decade).counts
    assert found.index(1) == min(13, 14 - 2 * decade), "but one that always fires to the last"


def test_what_fires_less_than_any_bin_is_in_the_first():
    assert histogram(torch.tensor([1e-9, 5e-8, 0.0])).to_dict()["counts"] == [2] + [0] * 13


@pytest.mark.parametrize("name", names())
def test_every_feature_is_in_one_bin(name: str):
    coder = build(shaped(name, 12, 96, k=4))
    x = torch.randn(700, 12, generator=torch.Generator().manual_seed(5))
    found = measure(coder, x)
    result = histogram(found.density)
    assert result.never + sum(result.counts) == 96
    assert result.never / 96 == pytest.approx(found.dead_fraction)
    below = sum(count for count, edge in zip(result.counts, LOG10_EDGES[1:], strict=True) if edge <= -1)
    fired = coder.encode(x).gt(0).sum(0)
    assert below == int(((fired > 0) & (fired < 70)).sum())


def test_pca_explains_exactly_the_dimensions_there_are():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(500, 3, generator=generator) @ torch.randn(3, 10, generator=generator) + 5
    assert pca_explained_variance(flat, flat, 3) == pytest.approx(1.0, abs=1e-5)
    assert 0.3 < pca_explained_variance(flat, flat, 1) < 0.99
    assert pca_explained_variance(flat, flat, 99) == pytest.approx(1.0, abs=1e-5)


def test_the_principal_directions_of_few_wide_vectors_are_those_of_as_many_as_one_likes():
    generator = torch.Generator().manual_seed(0)
    few, held_out = torch.randn(20, 50, generator=generator), torch.randn(300, 50, generator=generator)
    for components in (1, 5, 19):
        found = [pca_explained_variance(vectors, held_out, components) for vectors in (few, few.repeat(5, 1))]
        assert found[0] == pytest.approx(found[1], abs=1e-5)
    flat = torch.randn(9, 3, generator=generator) @ torch.randn(3, 50, generator=generator) + 5
    assert pca_explained_variance(flat, flat, 7) == pytest.approx(1.0, abs=1e-5), "more than there are"


def test_a_random_dictionary_explains_more_with_more_directions_and_never_everything():
    noise = torch.randn(2000, 16, generator=torch.Generator().manual_seed(1))
    explained = [random_explained_variance(noise, noise, 64, active) for active in (1, 4, 12)]
    assert explained == sorted(explained)
    assert 0.1 < explained[0] < 0.4
    assert explained[-1] < 1


def test_least_squares_is_the_best_decoding_of_the_chosen_directions():
    noise = torch.randn(600, 8, generator=torch.Generator().manual_seed(2))
    noise -= noise.mean(0)
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(32, 8, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    error = 0.0
    for vector in noise:
        chosen = directions[(directions @ vector).topk(3).indices]
        error += float(
            (vector - chosen.T @ torch.linalg.lstsq(chosen.T, vector[:, None]).solution[:, 0]).square().sum()
        )
    expected = 1 - error / float(noise.square().sum())
    assert random_explained_variance(noise, noise, 32, 3) == pytest.approx(expected, abs=1e-4)


def test_the_baselines_get_the_l0_of_the_sae():
    coder = build(shaped("topk", 16, 64, k=4))
    x = torch.randn(600, 16, generator=torch.Generator().manual_seed(3))
    found = measure(coder, x)
    result, active = compare(found, x, x), round(found.l0)
    assert result["pca_explained_variance"] == pca_explained_variance(x, x, active)
    assert result["random_explained_variance"] == random_explained_variance(x, x, 64, active)
    assert result["baseline_tokens"] == found.tokens == 600


class Largest(TorchDispatchMode):
    """Looks how many numbers the largest tensor has that is made while this lasts."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [each for each in (made if isinstance(made, (tuple, list)) else [made]) if torch.is_tensor(each)]
        self.numbers = max([self.numbers, *(each.numel() for each in tensors)])
        return made


@pytest.mark.parametrize("arch", names())
def test_codes_of_many_vectors_are_never_all_there_at_once(arch: str, monkeypatch: pytest.MonkeyPatch):
    coder, x = build(shaped(arch, 8, 64)), torch.randn(2000, 8)
    whole, made = measure(coder, x), coder(x)
    monkeypatch.setattr(coders, "SLICE_NUMBERS", 1 << 13)
    with Largest() as seen:
        sliced, made_again = measure(coder, x), coder(x)
    assert seen.numbers == max(x.numel(), 1 << 13) < 2000 * 64
    torch.testing.assert_close(made_again, made)
    assert (sliced.fvu, sliced.l0) == (pytest.approx(whole.fvu), pytest.approx(whole.l0))
