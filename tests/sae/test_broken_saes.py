"""A broken SAE folder is refused in one sentence, or gives its files' codes: no traceback, no hang."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from tasks.errors import UserError
from tasks.jobs.kind import kind_named
from tasks.sae.formats.native import load_sae
from tasks.sae.importing.convert import take
from tests.conftest import deadline
from tests.fixtures.bench import Bench
from tests.sae.broken_npz import SPRUNG
from tests.sae.broken_saes import break_one
from tests.sae.foreign_oracle import codes_of
from tests.sae.sound_saes import SOUND
from tests.sae.test_importing import X

SEED = int(os.environ.get("MISTUDIO_TEST_SEED", "14"))
FOLDERS = 450 * (8 if os.environ.get("MISTUDIO_TEST_DEEPER") else 1)
DEADLINE_S = 20.0
LARGEST = 1e30


def outcome(folder: Path, output: Path) -> str:
    """`refused` or `taken`; AssertionError where an import did anything else than refuse or give the files' codes."""
    try:
        take(folder, output, str(folder), {})
    except UserError as problem:
        sentence = problem.sentence
        assert sentence.endswith("."), sentence
        assert sentence.isprintable(), repr(sentence)
        assert len(sentence) < 700, sentence
        assert not any(output.iterdir()), "nothing was written"
        return "refused"
    check(load_sae(output).encode(X), codes_of(folder, X))
    return "taken"


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    """The same codes; a flipped bit can make a weight so large that float32 cannot hold the codes of its feature."""
    held = expected.abs().amax(0) < LARGEST
    found, expected = found[:, held].double(), expected[:, held]
    scale = expected.abs().max().clamp_min(1e-30) if expected.numel() else 1.0
    assert not expected.numel() or float((found - expected).abs().max() / scale) < 1e-4, "not the codes of its files"


@pytest.mark.parametrize("form", sorted(SOUND))
def test_a_sound_folder_of_each_form_is_taken(tmp_path: Path, form: str):
    (tmp_path / "ours").mkdir()
    SOUND[form](tmp_path / "theirs")
    assert outcome(tmp_path / "theirs", tmp_path / "ours") == "taken"
    assert (codes_of(tmp_path / "theirs", X) > 0).any()


def test_broken_folders_are_refused_or_read_right(tmp_path: Path):
    counted: Counter[str] = Counter()
    for number in range(FOLDERS):
        theirs, ours = tmp_path / f"theirs{number}", tmp_path / f"ours{number}"
        ours.mkdir()
        what = f"number {number} of seed {SEED}: {break_one(theirs, number, SEED)}"
        with deadline(DEADLINE_S, what):
            try:
                counted[outcome(theirs, ours)] += 1
            except BaseException as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    print(dict(counted))
    assert not SPRUNG.exists(), "no pickle was loaded"
    assert counted["refused"] > FOLDERS * 0.6
    assert counted["taken"] > FOLDERS * 0.05, "some are broken where it does not matter"


def test_a_broken_sae_in_the_store_is_refused_wherever_it_is_used(tmp_path: Path):
    ours = sorted(SOUND).index("ours")
    for number in range(ours, FOLDERS, len(SOUND)):
        folder = tmp_path / f"sae{number}"
        what = f"number {number} of seed {SEED}: {break_one(folder, number, SEED)}"
        with deadline(DEADLINE_S, what):
            try:
                check(load_sae(folder).encode(X), codes_of(folder, X))
            except UserError:
                continue
            except BaseException as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def test_nothing_of_a_broken_folder_is_published(bench: Bench):
    kind = kind_named("import")
    for number in range(0, 60, 7):
        break_one(bench.root / "theirs", number, SEED)
        context = bench.context(f"job{number}")
        params = kind.read_params({"source": str(bench.root / "theirs")})
        try:
            kind.prepare(params, bench.known)
            kind.run(params, context)
        except UserError:
            assert not any(context.output.iterdir())
