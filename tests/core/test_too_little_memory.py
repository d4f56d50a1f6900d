"""What a job asks for and does not get: too little memory is one sentence, and what mends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tasks.job import State, kind_named
from tasks.memory import enough_for
from tasks.problem import Problem
from tests.core.lab import Lab
from tests.core.test_estimate import add_model, add_tokens

MENDS = "Use a smaller --batch-size or --d-sae or --expansion or a larger --accumulate."


@pytest.mark.parametrize("sizes", [(10**15, 16), (2**62, 16)], ids=["too much", "not even to be counted"])
@pytest.mark.parametrize("allocate", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_too_little_memory_is_told_in_a_sentence(allocate: Callable[..., Any], sizes: tuple[int, int]) -> None:
    with pytest.raises(Problem) as told, enough_for(kind_named("train")):
        allocate(sizes)
    assert str(told.value) == f"There is not enough memory for this train job. {MENDS}"


@pytest.mark.parametrize(
    "raised",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["torch", "cuBLAS"],
)
def test_too_little_memory_of_a_gpu_is_told_as_such(raised: RuntimeError) -> None:
    with pytest.raises(Problem) as told, enough_for(kind_named("train")):
        raise raised
    assert str(told.value) == f"There is not enough GPU memory for this train job. {MENDS}"


def test_a_kind_with_nothing_to_make_smaller_needs_another_machine() -> None:
    with pytest.raises(Problem) as told, enough_for(kind_named("tokenize")):
        raise MemoryError
    assert str(told.value) == "There is not enough memory for this tokenize job. Run it where there is more."


def test_what_has_another_cause_is_told_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="must match the size"), enough_for(kind_named("train")):
        torch.ones(2).add_(torch.ones(3))


def test_a_training_that_asks_for_more_memory_than_there_is_fails_once_and_says_so(lab: Lab) -> None:
    add_model(lab, "model", 16)
    add_tokens(lab, "words", 100)
    lab.start_worker()
    ended = lab.ended(lab.submit("train", model="model", dataset="words", layer=0, width=10**15, k=8, steps=4))
    assert (ended.state, ended.attempt) == (State.FAILED, 1)
    assert ended.reason == f"There is not enough memory for this train job. {MENDS}"
