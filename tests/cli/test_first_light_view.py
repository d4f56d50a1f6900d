"""What the quickstart says of its numbers is what they are, and what the README shows of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mistudio_cli.submission.quickstart_view import print_numbers

README = Path(__file__).parents[2] / "README.md"
SAE = {
    "mse": 0.8214,
    "l0": 16.0,
    "explained_variance": 0.968,
    "pca_explained_variance": 0.674,
    "random_explained_variance": 0.479,
    "dead_fraction": 0.119,
    "d_sae": 1024,
    "tokens_per_s": 32924,
}


def test_the_readme_shows_the_numbers_and_their_meaning_as_the_quickstart_prints_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_numbers(SAE, {"patterned_share": 0.83, "live": 927})
    printed = [without_numbers(line) for line in capsys.readouterr().out.splitlines()]
    shown = [without_numbers(line) for line in README.read_text(encoding="utf-8").splitlines()]
    assert "MSE N squared error of a held-out token, over all dimensions" in printed
    for line in filter(None, printed):
        assert line in shown, f"the README lacks: {line}"


def test_an_sae_that_was_trained_before_metrics_had_their_names_is_shown_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = {name: value for name, value in SAE.items() if name not in ("mse", "dead_fraction")}
    print_numbers({**old, "loss": 3.62, "dead_share": 0.25}, {"patterned_share": 0.83, "live": 927})
    printed = capsys.readouterr().out
    assert re.search(r"^MSE +n/a", printed, re.M)
    assert re.search(r"^dead features +25\.0%", printed, re.M)


def without_numbers(line: str) -> str:
    return re.sub(r"\b\d[\d.,]*", "N", " ".join(line.split()))
