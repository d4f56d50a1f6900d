"""What the quickstart says of its numbers is what they are, and what the README shows of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mistudio_cli.first_light_view import tell_numbers

README = Path(__file__).parents[2] / "README.md"
SAE = {
    "loss": 3.6208,
    "l0": 16.0,
    "explained_variance": 0.968,
    "pca_explained_variance": 0.674,
    "random_explained_variance": 0.479,
    "dead_share": 0.119,
    "d_sae": 1024,
    "tokens_per_s": 32924,
}


def test_the_readme_shows_the_numbers_and_their_meaning_as_the_quickstart_prints_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_numbers(SAE, {"patterned_share": 0.83, "live": 927})
    printed = [without_numbers(line) for line in capsys.readouterr().out.splitlines()]
    shown = [without_numbers(line) for line in README.read_text(encoding="utf-8").splitlines()]
    assert "loss N mean squared error on held-out tokens, normalised activations" in printed
    for line in filter(None, printed):
        assert line in shown, f"the README lacks: {line}"


def without_numbers(line: str) -> str:
    return re.sub(r"\b\d[\d.,]*", "N", " ".join(line.split()))
