"""Where trainings on a real language model end with features chosen in bfloat16, and where in float32.

Every architecture, three seeds, two thousand steps each on the same stored activations of the model that
`MISTUDIO_REAL_MODEL` names (see `benchmarks.real_model`); measured on held-out tokens. The figures are means over the
seeds; what counts is how far those of bfloat16 are from those of float32. Two trainings whose numbers differ in their
last bit lead to other dead features: how far that goes is shown by a third one in float32, with a learning rate that is
a millionth higher.
"""

from __future__ import annotations

import json
from statistics import mean
from typing import Any

from benchmarks.home import Home, home_with_workers, real_model

LAYER, CONTEXT, TEXT_BYTES, STORED = 9, 128, 1_000_000, 196_608
#: Of fewer features a product is too small for bfloat16 to be chosen.
STEPS, BATCH, D_SAE, EVALUATED = 2000, 512, 3328, 16_384
SEEDS, PRECISIONS = (0, 1, 2), ("float32", "bf16")
#: What the learning rate of a third training, in float32, is multiplied with.
NUDGE, NUDGED = 1 + 1e-6, "float32, nudged"
ARCHITECTURES = ("topk", "batchtopk", "jumprelu", "matryoshka", "standard", "gated", "p_anneal")
_MEASURED = ("fvu", "l0", "dead_fraction")


def measure() -> list[dict[str, Any]]:
    """A row for each architecture: FVU, L0 and dead fraction in both precisions."""
    model = real_model()
    with home_with_workers() as home:
        home.download_text("text", TEXT_BYTES)
        home.submit(
            "tokenize", "--dataset", "text", "--model", model, "--context-length", str(CONTEXT), "--name", "rows"
        )
        read = ("--model", model, "--dataset", "rows", "--layer", str(LAYER), "--max-tokens", str(STORED))
        home.submit("activations", *read, "--name", "stored")
        return [_row(home, architecture) for architecture in ARCHITECTURES]


def _row(home: Home, architecture: str) -> dict[str, Any]:
    found = {precision: [_trained(home, architecture, seed, precision) for seed in SEEDS] for precision in PRECISIONS}
    rates = [result["lr"] * NUDGE for result in found["float32"]]
    found[NUDGED] = [
        _trained(home, architecture, seed, "float32", rate) for seed, rate in zip(SEEDS, rates, strict=True)
    ]
    row: dict[str, Any] = {"name": architecture}
    for name in _MEASURED:
        means = {side: mean(result[name] for result in results) for side, results in found.items()}
        row |= {f"{name}, {side}": round(value, 5) for side, value in means.items()}
        for side in ("bf16", NUDGED):
            if name == "dead_fraction":
                row[f"{name}, {side}, apart"] = round(means[side] - means["float32"], 4)
            else:
                row[f"{name}, {side} / float32"] = round(means[side] / means["float32"], 4)
    print(json.dumps(row), flush=True)
    return row


def _trained(home: Home, architecture: str, seed: int, precision: str, rate: float | None = None) -> dict[str, Any]:
    chosen = ("--arch", architecture, "--seed", str(seed), "--precision", precision, "--d-sae", str(D_SAE))
    length = ("--steps", str(STEPS), "--batch-size", str(BATCH), "--evaluate", "1", "--eval-tokens", str(EVALUATED))
    name = f"{architecture}-{precision}-{seed}{'' if rate is None else '-nudged'}"
    nudge = () if rate is None else ("--learning-rate", repr(rate))
    result = home.submit("train", "--activations", "stored", *chosen, *length, *nudge, "--name", name)
    assert result["precision"].startswith(precision), result["precision"]
    return result
