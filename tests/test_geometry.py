"""Tile arithmetic: which pixels are read, which are written."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.errors import PlanError
from tilesegment.geometry import FieldOfView, Region, TileGrid, mirror_indices

PAPER = FieldOfView(divisor=16, before=92, after=96, crops=True)
SAME = FieldOfView(divisor=16, before=96, after=96, crops=False)


@st.composite
def regions(draw: st.DrawFn, most: int = 90) -> Region:
    """A region of at least one pixel that starts at or after the origin."""
    y, x = draw(st.integers(0, most)), draw(st.integers(0, most))
    return Region(y, x, y + draw(st.integers(1, most)), x + draw(st.integers(1, most)))


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    """A grid of any divisor, context, step and block."""
    divisor = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    view = FieldOfView(divisor, draw(st.integers(0, 20)), draw(st.integers(0, 20)), draw(st.booleans()))
    step = divisor * draw(st.integers(1, 4))
    return TileGrid(draw(regions()), step, step * draw(st.integers(1, 4)), view)


@settings(max_examples=150, deadline=None)
@given(grids())
def test_every_pixel_is_written_by_exactly_one_tile(grid: TileGrid) -> None:
    region = grid.region
    by_tiles, by_blocks = np.zeros((2, region.y1, region.x1), int)
    for block in grid:
        by_blocks[block.write.slices] += 1
        for tile in block.tiles:
            assert block.write.contains(tile.write), "a tile writes into another block"
            by_tiles[tile.write.slices] += 1
    expected = np.zeros_like(by_tiles)
    expected[region.slices] = 1
    np.testing.assert_array_equal(by_tiles, expected)
    np.testing.assert_array_equal(by_blocks, expected)


@settings(max_examples=150, deadline=None)
@given(grids())
def test_tiles_stand_on_the_pooling_grid_and_hold_their_context(grid: TileGrid) -> None:
    """`read` begins `before` ahead of a multiple of the divisor and reaches at least the context beyond `write`."""
    view = grid.view
    for block in grid:
        for tile in block.tiles:
            read, write = tile.read, tile.write
            assert (read.y0 + view.before) % view.divisor == (read.x0 + view.before) % view.divisor == 0
            assert read.shape == (view.tile_of(grid.step),) * 2
            context = Region(
                write.y0 - view.before, write.x0 - view.before, write.y1 + view.after, write.x1 + view.after
            )
            assert read.contains(context)
            assert write.area > 0, "a tile that decides nothing is work for nothing"
            assert block.read.contains(read)


@settings(max_examples=80, deadline=None)
@given(grids())
def test_blocks_count_iterate_and_index_alike(grid: TileGrid) -> None:
    blocks = list(grid)
    rows, columns = grid.shape
    assert len(blocks) == len(grid) == rows * columns
    assert [(b.row, b.column) for b in blocks] == [(r, c) for r in range(rows) for c in range(columns)]
    assert blocks[-1] == grid.at(rows - 1, columns - 1)
    assert sum(len(block.tiles) for block in blocks) == grid.tiles


def test_blocks_start_where_the_region_starts() -> None:
    """So that a stored object of the mask is one block, wherever in the image the region lies."""
    grid = TileGrid(Region(37, 11, 200, 150), 16, 64, PAPER)
    assert grid.at(1, 1).write == Region(101, 75, 165, 139)
    assert grid.at(1, 1).tiles[0].read.y0 == 96 - 92


def test_a_read_is_as_large_as_its_tiles_need() -> None:
    """The example of the design: block (0, 1) of step 512 and block 2048 reads y -92:2144, x 1956:4192."""
    block = TileGrid(Region(0, 0, 9000, 9000), 512, 2048, PAPER).at(0, 1)
    assert block.read == Region(-92, 1956, 2144, 4192)
    assert block.tiles[-1].write == Region(1536, 3584, 2048, 4096)
    assert block.tiles[-1].read == Region(1444, 3492, 2144, 4192)


def test_a_million_blocks_cost_nothing_until_asked_for() -> None:
    grid = TileGrid(Region(0, 0, 2_000_000, 2_000_000), 384, 1920, PAPER)
    assert len(grid) == 1042**2
    assert grid.at(1041, 1041).write == Region(1998720, 1998720, 2000000, 2000000)


@given(st.integers(1, 400), st.sampled_from([PAPER, SAME, FieldOfView(2, 8, 8, True), FieldOfView(1, 0, 0, True)]))
def test_step_and_tile_are_inverse(steps: int, view: FieldOfView) -> None:
    step = steps * view.divisor
    assert view.step_of(view.tile_of(step)) == step
    assert view.nearest_tile(view.tile_of(step)) == view.tile_of(step)


@given(st.integers(-100, 3000), st.sampled_from([PAPER, SAME]))
def test_the_nearest_tile_is_the_largest_that_fits(tile: int, view: FieldOfView) -> None:
    nearest = view.nearest_tile(tile)
    assert view.step_of(nearest) >= view.divisor
    smallest = view.tile_of(view.divisor)
    assert tile - view.divisor < nearest <= tile if tile >= smallest else nearest == smallest


@pytest.mark.parametrize(
    ("tile", "below", "above"), [(570, 556, 572), (573, 572, 588), (203, 204, 220), (0, 204, 220), (-5, 204, 220)]
)
def test_a_tile_that_does_not_fit_is_refused_with_the_two_that_do(tile: int, below: int, above: int) -> None:
    with pytest.raises(PlanError, match=rf"tile {tile} .* {below} and {above}$"):
        PAPER.step_of(tile)
    assert (PAPER.step_of(below), PAPER.step_of(above)) == (below - 188, above - 188)


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_mirrored_indices_are_those_of_numpy(size: int, before: int, after: int) -> None:
    """Any margin, many times the axis, and an axis of one pixel."""
    expected = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(mirror_indices(-before, size + after, size), expected)


@given(st.integers(1, 9), st.integers(-60, 60), st.integers(0, 30))
def test_mirrored_indices_may_start_anywhere(size: int, start: int, length: int) -> None:
    """A block that lies wholly beyond the image is a part of the same mirrored axis."""
    whole = mirror_indices(-60, 90, size)
    np.testing.assert_array_equal(mirror_indices(start, start + length, size), whole[start + 60 : start + 60 + length])


@given(regions(30), regions(30))
def test_regions_meet_as_sets_of_pixels_do(a: Region, b: Region) -> None:
    def pixels(region: Region) -> set[tuple[int, int]]:
        return {(y, x) for y in range(region.y0, region.y1) for x in range(region.x0, region.x1)}

    assert pixels(a.intersect(b)) == pixels(a) & pixels(b)
    assert a.contains(b) == (pixels(b) <= pixels(a))
    assert a.area == len(pixels(a)) == a.height * a.width
    assert b.within(a).shift(a.y0, a.x0) == b


@given(regions(40), st.integers(1, 50))
def test_a_region_is_cut_into_squares_row_by_row(region: Region, side: int) -> None:
    squares = list(region.squares(side))
    cover = np.zeros(region.shape, int)
    for square in squares:
        cover[square.within(region).slices] += 1
        assert max(square.shape) <= side
    assert (cover == 1).all()
    assert squares == sorted(squares, key=lambda square: (square.y0, square.x0))
    assert len(squares) == -(-region.height // side) * -(-region.width // side)


def test_regions_are_plain_values() -> None:
    region = Region.of_shape((5, 7))
    assert (str(region), region.shape, region.slices) == ("0:5,0:7", (5, 7), (slice(0, 5), slice(0, 7)))
    grid = TileGrid(region, 16, 32, PAPER)
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert {grid.at(0, 0): 1}[grid.at(0, 0)] == 1
