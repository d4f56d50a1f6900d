"""Products are done by the library that is faster on the processor, and never by one that rounds more than float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from tasks.activations.hook_sites import Hook
from tasks.activations.hooks import catch, find
from tasks.activations.stream import read
from tasks.models import cpu_backend


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    cpu_backend._faster.cache_clear()
    yield
    cpu_backend._faster.cache_clear()
    torch.set_float32_matmul_precision(before)


def rounding(self: torch.Tensor, other: torch.Tensor, plain: Any = torch.Tensor.__matmul__) -> torch.Tensor:
    """What a processor with units for bfloat16 makes of a product that may be rounded."""
    if self.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
        return plain(self.bfloat16().float(), other.bfloat16().float())
    return plain(self, other)


def test_whatever_the_processor_products_are_exact() -> None:
    for vendor in ("AuthenticAMD", "GenuineIntel", "aarch64", None):
        assert cpu_backend.choose(vendor=vendor)
        assert cpu_backend.is_exact()


def test_only_amd_gets_the_other_library() -> None:
    assert cpu_backend.choose(vendor="GenuineIntel") == "MKL: the processor is not AMD's"
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_processor_that_would_round_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    torch.set_float32_matmul_precision("medium")
    assert not cpu_backend.is_exact()
    assert cpu_backend.choose(vendor="AuthenticAMD") == "MKL: oneDNN would round to bfloat16 on this processor"
    assert torch.get_float32_matmul_precision() == "highest"
    assert cpu_backend.is_exact()


def test_other_devices_keep_what_was_chosen_for_them() -> None:
    torch.set_float32_matmul_precision("high")
    assert cpu_backend.choose("cuda") == "the device's own"
    assert torch.get_float32_matmul_precision() == "high"


def test_a_choice_for_a_while_is_taken_back() -> None:
    torch.set_float32_matmul_precision("high")
    with cpu_backend.chosen() as raised:
        assert raised.startswith(("MKL", "oneDNN"))
    assert torch.get_float32_matmul_precision() == "high"


class Fused(TorchDispatchMode):
    """Counts how often attention is computed in one fused kernel while this lasts."""

    times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += "flash_attention" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("positions", "times"), [(2, 0), (191, 0), (192, 2)])
def test_a_model_attends_in_the_way_that_is_faster_for_its_positions(positions: int, times: int) -> None:
    config = AutoConfig.for_model("gpt_neox", hidden_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=50)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, points = np.random.default_rng(0).integers(50, size=(3, positions)), [find(model, Hook("resid", 1))]
    with Fused() as fused:
        found = read(model, ids, points, pad=7)
    assert fused.times == times
    seen = torch.from_numpy(ids != 7)
    (with_mask,) = catch(model, points, {"input_ids": torch.from_numpy(ids), "attention_mask": seen})
    torch.testing.assert_close(found[0][seen], with_mask[seen])


def test_other_devices_attend_as_torch_has_them() -> None:
    with cpu_backend.attending("meta", 2):
        assert torch.backends.cuda.flash_sdp_enabled()
    with cpu_backend.attending("cpu", 2):
        assert not torch.backends.cuda.flash_sdp_enabled()
