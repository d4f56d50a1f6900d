"""Which pairs a step works on: few enough, whatever the pre-activations are."""

from __future__ import annotations

import math

from tasks.sae.ops.active_pairs import at_least
from tests.sae.test_architectures import random


def test_of_values_that_are_no_numbers_no_more_pairs_are_chosen_than_wanted():
    """A loss that is no longer a number is reported after its step, which must come to its end."""
    dense = random(20, 320)
    dense[:5] = math.nan
    pairs, _ = at_least(dense, 4)
    assert len(pairs.features) < 20 * 10
    assert set(pairs.vectors.tolist()) == set(range(20))
