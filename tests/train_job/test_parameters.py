"""Numbers of a training: those that cannot work are refused when it is submitted, those that just can are taken."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest

from tasks.errors import UserError
from tasks.kinds import train
from tests.fixtures.bench import Bench
from tests.train_job.test_train import prepared

MOST = 2**63 - 1
P_ANNEAL = {"arch": "p_anneal", "k": None}
JUMPRELU = {"arch": "jumprelu", "k": None, "expansion": None}
WANTED = {**JUMPRELU, "penalty": "target-l0"}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"lr": math.inf}, "--learning-rate must be a finite number, not inf."),
        ({"clip": math.nan}, "--max-grad-norm must be a finite number, not nan."),
        ({"seed": MOST + 1}, f"--seed must be at most {MOST}, not {MOST + 1}."),
        ({"expansion": MOST}, f"--d-sae must be at most {MOST}, not {16 * MOST}."),
        ({"warmup": 1.5}, "--warmup must be at most 1, not 1.5."),
        ({**P_ANNEAL, "p_end": 1.5}, "--p-end must be at most 1, not 1.5."),
        ({**P_ANNEAL, "anneal_from": 1.5}, "--anneal-from must be at most 1, not 1.5."),
        ({"warmup": 0.9}, "--warmup 0.9 and --decay 0.2 are more than the whole training."),
        ({"together": {"warmup": [0.1, 0.9]}}, "--warmup 0.9 and --decay 0.2 are more than the whole training."),
        ({"tokens": 512}, "--steps and --training-tokens both set the length of the training."),
        ({"accumulate": 257}, "--accumulate 257 is more parts than a batch has tokens: 256."),
        ({"resample": 16}, "--resample 16 is more often than the first half of the training has steps: 15."),
        ({"resample": 2, "steps": None, "tokens": 513}, "than the first half of the training has steps: 1."),
        ({"patience": 3, "evaluate": 9, "steps": 3}, "ends nothing that is measured 3 times. Train longer"),
        ({"patience": 3, "evaluate": 3, "steps": 4}, "ends nothing that is measured 3 times. Measure more often"),
        ({"arch": "matryoshka", "groups": 8}, "64 features can be halved into 7 dictionaries, not --groups 8."),
        ({"arch": "matryoshka", "k": 65}, "--k 65 is more than the 64 features of the SAE."),
        ({**WANTED, "width": 64, "target_l0": 64.5}, "--target-l0 64.5 is more than the 64 features of the SAE."),
        ({**WANTED, "width": 31}, "--target-l0 32 is more than the 31 features of the SAE."),
    ],
    ids=str,
)
def test_a_number_that_cannot_work_is_refused_with_a_sentence(bench: Bench, values: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=re.escape(sentence)):
        prepared(bench, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": MOST, "steps": None, "tokens": 512},
        {"warmup": 0.3, "decay": 0.7},
        {"warmup": 1.0, "decay": 0.0},
        {"accumulate": 256, "steps": 2},
        {"resample": 15},
        {"evaluate": 9, "steps": 3},
        {"patience": 3, "evaluate": 9, "steps": 4},
        {"arch": "matryoshka", "groups": 7},
        {**WANTED, "width": 32},
        {**JUMPRELU, "width": 8},
        {**P_ANNEAL, "p_end": 1.0, "anneal_from": 1.0},
    ],
    ids=str,
)
def test_a_number_that_just_can_is_trained_with_and_taken_again_as_it_is_recorded(bench: Bench, values: dict[str, Any]):
    params, _ = prepared(bench, **values)
    recorded = json.loads(json.dumps(dataclasses.asdict(params)))
    again, _ = train.prepare(train.KIND.read_params(recorded), bench.known)
    assert again == params
    assert train.run(again, bench.context())["steps"] == train.steps_of(params)
