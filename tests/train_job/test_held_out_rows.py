"""Of the rows that are held out those count that have vectors, wherever they stand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tasks.activations.hook_sites import Hook
from tasks.activations.hook_wiring import wiring_of
from tasks.activations.hooks import find
from tasks.activations.stream import ModelVectors, split_rows
from tasks.activations.token_mask import Mask
from tasks.kinds import train
from tasks.sae.training.trainer import CALIBRATED, Trainer
from tasks.train_job import batches, evaluation
from tasks.train_job.batches import Reading
from tests.fixtures.bench import VOCABULARY, Bench, some_tokens, tiny_model
from tests.sae.test_training import config
from tests.train_job.test_train import prepared

ROWS, HELD = 200, 20
PAD = VOCABULARY - 1


def reading_of(tokens: np.ndarray, folder: Path) -> Reading:
    model, hook = tiny_model(), Hook("resid", 0)
    vectors = ModelVectors(model, tokens, [find(model, hook)], Mask(ids=(PAD,), pad=PAD))
    return Reading(vectors, [hook], batch=64, seed=0, on_read=lambda: None, spill=folder)


def test_rows_without_vectors_are_not_measured_on_and_a_row_of_one_vector_is_not_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluation, "VECTORS", 1)  # rows longer than that
    monkeypatch.setattr(batches, "HELD_OUT_VECTORS", 1)
    tokens = some_tokens(ROWS) % PAD
    _, held = split_rows(ROWS, HELD, 0)
    tokens[held[:2]] = PAD
    tokens[held[2], 1:] = PAD
    reading = reading_of(tokens, tmp_path)
    assert reading.held_rows.tolist() == held[2:].tolist()
    assert reading.near_rows.tolist() == held[2:4].tolist(), "of one vector nothing can be measured"
    trainer = Trainer(config("topk", steps=3), (seen := reading.see(wiring_of("resid", (0,)))).batch)
    trainer.run(tmp_path)
    line = evaluation.Evaluation(trainer, seen, times=1).write(tmp_path)
    assert math.isfinite(line["fvu"])
    assert line["evaluated_tokens"] == 1 + tokens.shape[1]


def test_to_measure_on_few_tokens_makes_no_worse_threshold(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    wanted, calibrate = [], Trainer.calibrate
    monkeypatch.setattr(Trainer, "calibrate", lambda self, count: (wanted.append(count), calibrate(self, count)))
    for eval_tokens in (2, 2 * CALIBRATED):
        params, _ = prepared(bench, arch="batchtopk", evaluate=0, eval_tokens=eval_tokens)
        train.run(params, bench.context(str(eval_tokens)))
    assert wanted == [CALIBRATED, 2 * CALIBRATED]
