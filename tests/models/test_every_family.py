"""In each family of transformers a block's output is the model's own hidden state, or the family is refused."""

from __future__ import annotations

import os
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.models.every_family import Verdict, families, judge

DEEPER = bool(os.environ.get("MISTUDIO_TEST_DEEPER"))
TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "families.md"

EQUAL = [
    *("bert", "bloom", "distilbert", "falcon", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox", "granite"),
    *("llama", "mamba", "mistral", "mixtral", "mpt", "openai-gpt", "opt", "qwen3", "roberta", "xglm", "xlnet"),
]
REFUSED = {
    "albert": "4 layers of AlbertModel were not found",
    "gemma3n_text": r"put out \(4, 2, 8, 32\)",
    "longformer": r"put out \(2, 512, 32\)",
    "squeezebert": "are not run on tokens",
    "xlm": "are not chained: layer 1 reads something else than layer 0 puts out",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", EQUAL)
def test_what_passes_a_block_is_the_models_own_hidden_state(family: str, tmp_path: Path):
    assert judge(family, tmp_path) == Verdict(family, "equal")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_blocks_cannot_be_proven_is_refused_in_one_sentence(family: str, tmp_path: Path):
    verdict = judge(family, tmp_path)
    assert verdict.outcome == "refused"
    assert re.search(REFUSED[family], verdict.result)


@pytest.mark.skipif(not DEEPER, reason="takes minutes: MISTUDIO_TEST_DEEPER=1, as in make soak")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(1800)
def test_every_family_is_right_or_refused_and_the_table_says_which(tmp_path: Path):
    verdicts = [judge(family, tmp_path / family) for family in sorted(families())]
    TABLE.write_text(_table(verdicts), encoding="utf-8")
    assert [verdict for verdict in verdicts if verdict.outcome in ("wrong", "exception")] == []
    assert Counter(verdict.outcome for verdict in verdicts)["equal"] > 180


def _table(verdicts: list[Verdict]) -> str:
    count = Counter(verdict.outcome for verdict in verdicts)
    outcomes = ("equal", "refused", "not built", "wrong", "exception")
    return "\n".join(
        [
            "# The residual stream of every family of transformers",
            "",
            "Each causal and each encoder family of the installed transformers is built small, saved, and loaded as a",
            "job does. *equal*: what `--hook resid` reads after each layer is the model's own `output_hidden_states`.",
            "*refused*: the job would end with that sentence. *not built*: transformers itself makes no small model of",
            "it. Written by `MISTUDIO_TEST_DEEPER=1 .venv/bin/python -m pytest tests/models/test_every_family.py`.",
            "",
            f"transformers {version('transformers')}, torch {version('torch')}: "
            + ", ".join(f"{count[outcome]} {outcome}" for outcome in outcomes)
            + f", of {len(verdicts)} families.",
            "",
            "| family | outcome | sentence or reason |",
            "|---|---|---|",
            *(f"| {v.family} | {v.outcome} | {_cell(v.result)} |" for v in verdicts),
            "",
        ]
    )


def _cell(text: str) -> str:
    short = text if len(text) <= 200 else f"{text[:200]} …"
    return short.replace("|", "\\|").replace("<", "&lt;")
