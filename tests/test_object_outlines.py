"""Outlines of pieces: exact, simple, and the same however the image is cut."""

from collections.abc import Iterable

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from shapely.geometry import MultiPolygon, Polygon

from tilesegment.geometry import Region
from tilesegment.objects import outlines
from tilesegment.objects.outlines import Corners, Rings, corners_of_block, trace
from tilesegment.objects.polygons import Polygons, is_intact, polygons_of, simplify


def pieces_of(mask: np.ndarray) -> np.ndarray:
    """Number the 4-connected components of equal values, 0 aside, by their first pixel."""
    pieces = np.zeros(mask.shape, np.uint32)
    for value in range(1, int(mask.max()) + 1):
        found, _ = ndimage.label(mask == value)
        pieces[found > 0] = found[found > 0] + pieces.max()
    numbers, first = np.unique(pieces, return_index=True)
    order = np.zeros(int(numbers.max()) + 1, np.uint32)
    order[numbers[numbers > 0][np.argsort(first[numbers > 0])]] = np.arange(1, (numbers > 0).sum() + 1)
    return order[pieces]


def corners(pieces: np.ndarray, side: int, seed: int | None = None) -> Corners:
    """The corners of all blocks of `side`, their order shuffled."""
    parts = [block_corners(pieces, region) for region in Region.of_shape(pieces.shape).squares(side)]
    if seed is not None:
        np.random.default_rng(seed).shuffle(parts)
    return Corners.concatenate(parts)


def block_corners(pieces: np.ndarray, region: Region) -> Corners:
    """The corners of one block."""
    around = np.pad(pieces, 1)[region.y0 : region.y1 + 2, region.x0 : region.x1 + 2]
    return corners_of_block(around, region, pieces.shape)


def outlined(pieces: np.ndarray, side: int = 1000) -> Polygons:
    """Each piece as an object."""
    return polygons_of(trace(corners(pieces, side)), np.arange(int(pieces.max()) + 1))


def equal(one: Rings | Polygons, other: Rings | Polygons) -> bool:
    """Whether all arrays are equal, dtypes too."""
    pairs = [(vars(one)[name], vars(other)[name]) for name in vars(one)]
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def ring_in_ring(side: int) -> np.ndarray:
    """Squares in squares of two classes and background in between."""
    y, x = np.mgrid[:side, :side]
    return np.array([1, 0, 2])[np.minimum(np.minimum(y, side - 1 - y), np.minimum(x, side - 1 - x)) % 3]


def spiral(side: int) -> np.ndarray:
    """A path one pixel wide that winds inwards, with one pixel of background between its turns."""
    mask = np.zeros((side, side), int)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = 1

    def is_free(y: int, x: int) -> bool:
        return 0 <= y < side and 0 <= x < side and not mask[y, x]

    def goes_on() -> bool:
        ahead = (y + 2 * dy, x + 2 * dx)
        beyond = not (0 <= ahead[0] < side and 0 <= ahead[1] < side)
        return is_free(y + dy, x + dx) and (beyond or is_free(*ahead))

    while True:
        if not goes_on():
            dy, dx = dx, -dy
            if not goes_on():
                return mask
        y, x = y + dy, x + dx
        mask[y, x] = 1


def frame_with_diagonal_holes() -> np.ndarray:
    """A piece with holes that touch each other, and its shell, in corners only."""
    mask = np.ones((7, 7), int)
    for y, x in ((0, 0), (1, 1), (2, 2), (3, 3), (2, 4), (4, 4), (5, 5)):
        mask[y, x] = 0
    return mask


CHECKERS = np.indices((9, 8)).sum(0) % 2
SHAPES = {
    "one pixel": np.ones((1, 1), int),
    "a line": np.ones((1, 9), int),
    "all": np.ones((5, 7), int),
    "checkers": CHECKERS,
    "two colours": CHECKERS + 1,
    "rings": ring_in_ring(17),
    "spiral": spiral(23),
    "diagonal holes": frame_with_diagonal_holes(),
    "bridges": np.kron(np.eye(4, dtype=int), np.ones((4, 4), int)) | np.eye(16, k=1, dtype=int),
    "nothing": np.zeros((4, 4), int),
}


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Random classes of random density, up to three classes."""
    shape = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    return draw(arrays.arrays(np.int64, shape, elements=st.sampled_from(draw(st.sampled_from(DENSITIES)))))


DENSITIES = ([0, 1], [0, 1, 1, 1], [0, 0, 0, 1], [0, 1, 2], [1, 2, 3])


@pytest.mark.parametrize("side", [1, 2, 5])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, side: int) -> None:
    check_rings(pieces_of(SHAPES[name]), side, seed=side)


@pytest.mark.slow
@settings(max_examples=300)
@given(masks(), st.integers(1, 20), st.integers(0, 99))
def test_any_mask(mask: np.ndarray, side: int, seed: int) -> None:
    check_rings(pieces_of(mask), side, seed)


def check_rings(pieces: np.ndarray, side: int, seed: int) -> None:
    """Rings of blocks of `side` are those of the whole, and enclose the pixels of their piece."""
    rings = trace(corners(pieces, side, seed))
    assert equal(rings, trace(corners(pieces, 1000)))
    count = int(pieces.max())
    # one shell each, counter-clockwise with y up; the area is the number of pixels
    assert np.array_equal(rings.piece[~rings.is_hole], np.arange(1, count + 1))
    assert np.array_equal(rings.areas() < 0, rings.is_hole)
    areas = np.zeros(count + 1, int)
    np.add.at(areas, rings.piece, rings.areas())
    assert np.array_equal(areas[1:], np.bincount(pieces.ravel(), minlength=count + 1)[1:])
    for start, stop in zip(rings.offsets, rings.offsets[1:], strict=False):
        check_canonical(rings.vertices[start:stop])
    shapes = outlined(pieces).shapes()
    assert shapely.is_valid(shapes).all()
    assert (shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON).all()
    assert np.array_equal(drawn(shapes, range(1, count + 1), pieces.shape), pieces)


def drawn(shapes: Iterable[Polygon | MultiPolygon], ids: Iterable[int], shape: tuple[int, int]) -> np.ndarray:
    """Fill each shape with its id: the pixels whose centres it contains."""
    y, x = np.indices(shape) + 0.5
    filled = np.zeros(shape, np.uint32)
    for one, number in zip(shapes, ids, strict=True):
        inside = shapely.contains_xy(one, x, y)
        assert not filled[inside].any()
        filled[inside] = number
    return filled


def check_canonical(ring: np.ndarray) -> None:
    """No point twice, edges along the axes that turn everywhere, the smallest point first."""
    assert len(np.unique(ring, axis=0)) == len(ring)
    edges = np.diff(ring, axis=0, append=ring[:1])
    assert ((edges != 0).sum(1) == 1).all()
    is_vertical = edges[:, 0] != 0
    assert (is_vertical != np.roll(is_vertical, 1)).all()
    assert tuple(ring[0]) == min(map(tuple, ring))


def test_touching_holes_stay_apart() -> None:
    pieces = pieces_of(frame_with_diagonal_holes())
    rings = trace(corners(pieces, 2))
    (cut,) = [r for r in range(len(rings)) if not rings.is_hole[r]]
    assert np.diff(rings.offsets)[cut] == 6  # the corner pixel is outside
    assert rings.is_hole.sum() == 6 and set(rings.areas()[rings.is_hole]) == {-1}


@pytest.mark.parametrize(
    ("pieces", "shift"), [((1, 2**32 - 2), (2**31 - 10, 2**31 - 10)), ((5, 5), (2**30, 2**31 - 10))]
)
def test_far_away(pieces: tuple[int, int], shift: tuple[int, int]) -> None:
    """Keys that do not fit into one number, of rows or of columns, are sorted another way with the same result."""
    near = corners(pieces_of(SHAPES["diagonal holes"]), 4)
    here, there = (np.full_like(near.piece, piece) for piece in pieces)
    far = Corners(there, near.y + np.int32(shift[0]), near.x + np.int32(shift[1]), near.kind)
    rings, alone = trace(Corners.concatenate([far, Corners(here, near.y, near.x, near.kind)])), trace(near)
    half = len(alone.vertices)
    assert np.array_equal(rings.vertices[:half], alone.vertices)
    assert np.array_equal(rings.vertices[half:].astype(np.int64) - shift, alone.vertices)
    assert np.array_equal(rings.areas(), np.tile(alone.areas(), 2))


def test_a_huge_piece() -> None:
    """So are those of its columns."""
    side = 2**31 - 1
    y, x = (np.array(column, np.int32) for column in ((0, 0, 2**30, 2**30), (0, side, 0, side)))
    rings = trace(Corners(np.full(4, 7, np.uint32), y, x, np.array([8, 4, 2, 1], np.uint8)))
    assert rings.vertices.tolist() == [[0, 0], [0, side], [2**30, side], [2**30, 0]]
    assert rings.areas().tolist() == [side << 30]


def test_rings_of_any_length_at_once() -> None:
    """A spiral of thousands of corners beside single pixels."""
    mask = np.zeros((101, 120), int)
    mask[:, :101] = spiral(101)
    mask[::2, 102::2] = 1
    pieces = pieces_of(mask)
    rings = trace(corners(pieces, 16, 1))
    assert np.diff(rings.offsets).max() > 150 and (np.diff(rings.offsets) == 4).sum() > 400
    areas = np.bincount(rings.piece, rings.areas())
    assert np.array_equal(areas[1:], np.bincount(pieces.ravel())[1:])


def test_missing_corners_are_noticed() -> None:
    found = corners(pieces_of(SHAPES["rings"]), 4)
    with pytest.raises(AssertionError, match="missing"):
        trace(found[1:])


def test_corners_go_through_files_and_numberings() -> None:
    pieces = pieces_of(SHAPES["rings"])
    found = corners(pieces, 4)
    assert equal(trace(Corners.from_arrays(found.to_arrays())), trace(found))
    numbers = np.zeros(int(pieces.max()) + 1, np.uint32)
    numbers[2] = 9
    kept = trace(found.renumbered(numbers))
    assert set(kept.piece) == {9} and kept.areas().sum() == (pieces == 2).sum()
    assert len(outlines.trace(Corners.concatenate([]))) == 0


@settings(max_examples=100)
@given(masks(), st.integers(1, 5), st.integers(0, 99))
def test_objects_are_their_pieces_sorted(mask: np.ndarray, modulus: int, seed: int) -> None:
    """Objects of scattered pieces, as 8-connected ones or those of others."""
    ids = pieces_of(mask) % modulus * 7
    pieces = pieces_of(ids)
    # numbered in any order
    numbers = np.random.default_rng(seed).permutation(int(pieces.max())).astype(np.uint32) + 1
    pieces = np.append(0, numbers)[pieces].astype(np.uint32)
    object_of = np.zeros(int(pieces.max()) + 1, np.uint32)
    object_of[pieces] = ids
    polygons = polygons_of(trace(corners(pieces, 5, seed)), object_of)
    assert np.array_equal(polygons.ids, np.unique(ids[ids > 0]))
    assert np.array_equal(polygons.areas(), np.unique(ids[ids > 0], return_counts=True)[1])
    shapes = polygons.shapes()
    assert shapely.is_valid(shapes).all()
    assert np.array_equal(drawn(shapes, polygons.ids, mask.shape), ids)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    first = [(int(one), *min((y, x) for x, y in part.exterior.coords)) for one, part in zip(owner, parts, strict=True)]
    assert first == sorted(first)
    # rows are taken, joined and sorted without a change
    halves = [polygons.rows(0, len(polygons) // 2), polygons.rows(len(polygons) // 2, len(polygons))]
    assert equal(Polygons.concatenate(halves), polygons)
    assert equal(Polygons.concatenate(halves[::-1]).sorted(), polygons)


@pytest.mark.slow
@given(masks(), st.sampled_from([0.5, 1.0, 3.0]))
def test_simpler_outlines_are_valid_and_nobody_vanishes(mask: np.ndarray, tolerance: float) -> None:
    ids = pieces_of(mask) % 4
    pieces = pieces_of(ids)
    object_of = np.zeros(int(pieces.max()) + 1, np.uint32)
    object_of[pieces] = ids
    polygons = polygons_of(trace(corners(pieces, 5)), object_of)
    simple = simplify(polygons, tolerance)
    shapes, exact = simple.shapes(), polygons.shapes()
    assert np.array_equal(simple.ids, polygons.ids) and shapely.is_valid(shapes).all()
    assert (simple.areas() > 0).all() and np.array_equal(simple.areas(), shapely.area(shapes))
    assert (shapely.hausdorff_distance(shapes, exact) <= 2 * tolerance + 1e-9).all()
    assert len(simple.vertices) <= len(polygons.vertices)


def test_what_is_broken_is_noticed() -> None:
    square, away = shapely.box(0, 0, 2, 2), shapely.box(5, 5, 6, 6)
    two = MultiPolygon([square, away])
    bow = Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    simple = [square, Polygon([(0, 0), (2, 0), (2, 2)]), Polygon(), bow, square, MultiPolygon([square])]
    assert is_intact(np.array(simple), np.array([square] * 4 + [two] * 2)).tolist() == [True] * 2 + [False] * 4


def test_a_disc_becomes_simple() -> None:
    y, x = np.mgrid[:60, :60]
    polygons = outlined(pieces_of(np.hypot(y - 30, x - 30) < 25).astype(np.uint32))
    simple = simplify(polygons, 1)
    assert len(simple.vertices) * 3 < len(polygons.vertices)
    assert simple.areas()[0] == pytest.approx(polygons.areas()[0], rel=0.05)
    assert equal(simplify(polygons, 0), polygons)
