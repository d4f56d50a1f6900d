"""The tile of a kernel covers rows of every width, wastes little of itself, and is of a size that Triton accepts."""

from __future__ import annotations

import pytest

from tasks.sae.ops.block_sizes import SEGMENT, blocks_for

WIDTHS = [1, 2, 15, 16, 17, 48, 255, 256, 257, 512, 768, 1024, 1100, 2048, 2304, 4096, 4608, 16384]


@pytest.mark.parametrize("d", WIDTHS)
def test_a_tile_has_sides_that_are_powers_of_two_and_a_warp_at_least(d: int):
    tile = blocks_for(d)
    for side in (tile.columns, tile.rows, tile.warps):
        assert side > 0
        assert side & (side - 1) == 0
    assert SEGMENT % tile.rows == 0
    assert tile.columns / (32 * tile.warps) <= 8, "numbers of a row that a thread holds"


@pytest.mark.parametrize("d", WIDTHS)
def test_columns_beyond_the_end_of_a_row_are_few(d: int):
    columns = blocks_for(d).columns
    idle = -d % columns
    assert columns == 16 or idle < d
    assert d < 2048 or idle <= d / 7


@pytest.mark.parametrize(("d", "columns"), [(48, 64), (768, 256), (1024, 1024), (2304, 512), (4608, 1024)])
def test_the_widths_of_common_models_have_the_tile_of_the_table(d: int, columns: int):
    assert blocks_for(d).columns == columns
