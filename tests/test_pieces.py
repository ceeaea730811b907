"""Images stored in pieces: each is decoded about once, and what is kept is a band."""

from pathlib import Path

import numpy as np
import pytest
from conftest import toy_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from image_files import make_pixels, tiff, zarr_array

import tilesegment
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.pieces import PieceReader, Take, pieces

PLANE = make_pixels(1, 150, 211)


class Pieces:
    """A plane in memory that is read in pieces of `side`; `decoded` lists these."""

    def __init__(self, side: tuple[int, int], most_kept: int = 1 << 20) -> None:
        self.reader = PieceReader(most_kept)
        self.side = side
        self.decoded: list[Region] = []

    def decode(self, needed: list[Region], take: Take) -> None:
        self.decoded += needed
        for own in needed:
            take(own, PLANE[:, *own.slices])

    def read(self, region: Region) -> np.ndarray:
        pixels = np.zeros((1, *region.shape), np.uint8)
        self.reader.read(pixels, region, ("a plane", PLANE.shape[1:], self.side), self.decode)
        return pixels


@settings(max_examples=40)
@given(st.data(), st.tuples(st.integers(9, 70), st.integers(9, 70)))
def test_reads_in_any_order_give_the_pixels(data: st.DataObject, side: tuple[int, int]) -> None:
    plane = Pieces(side)
    for _ in range(6):
        y0, x0 = data.draw(st.integers(0, 150)), data.draw(st.integers(0, 211))
        region = Region(y0, x0, data.draw(st.integers(y0, 150)), data.draw(st.integers(x0, 211)))
        np.testing.assert_array_equal(plane.read(region), PLANE[:, *region.slices])


def blocks(side: int, margin: int) -> list[Region]:
    """What blocks of `side` read, row by row."""
    whole = Region.of_shape(PLANE.shape[1:])
    return [
        Region(y - margin, x - margin, y + side + margin, x + side + margin).intersect(whole)
        for y in range(0, 150, side)
        for x in range(0, 211, side)
    ]


@settings(max_examples=40)
@given(st.integers(16, 80), st.tuples(st.integers(9, 70), st.integers(9, 70)), st.data())
def test_blocks_row_by_row_decode_each_piece_once_and_leave_nothing(
    block: int, side: tuple[int, int], data: st.DataObject
) -> None:
    plane, margin = Pieces(side), data.draw(st.integers(0, block // 8))
    # a last block that is narrower than the margin is all read with the one before it
    assume(all((length - 1) % block >= margin for length in PLANE.shape[1:]))
    for region in blocks(block, margin):
        plane.read(region)
    assert sorted(plane.decoded) == sorted(pieces(Region.of_shape(PLANE.shape[1:]), PLANE.shape[1:], side))
    assert plane.reader.kept_bytes == 0


@settings(max_examples=40)
@given(st.integers(16, 80), st.tuples(st.integers(9, 70), st.integers(9, 70)), st.integers(0, 3), st.data())
def test_what_is_expected_is_what_is_decoded(
    block: int, side: tuple[int, int], ahead: int, data: st.DataObject
) -> None:
    """Of blocks that are told of before they are read, each piece is expected once."""
    plane, margin = Pieces(side), data.draw(st.integers(0, block // 8))
    assume(all((length - 1) % block >= margin for length in PLANE.shape[1:]))
    regions, expected = blocks(block, margin), []
    for number, region in enumerate(regions):
        for told in regions[: ahead + 1] if number == 0 else regions[number + ahead : number + ahead + 1]:
            expected += plane.reader.expect(told, ("a plane", PLANE.shape[1:], side))
        plane.read(region)
    assert expected == plane.decoded
    again = plane.reader.expect(regions[0], ("a plane", PLANE.shape[1:], side))
    assert again == pieces(regions[0], PLANE.shape[1:], side), "what was dropped is expected anew"


def test_what_is_kept_does_not_grow_with_the_height() -> None:
    plane, kept = Pieces((8, 8)), []
    for region in blocks(32, 3):
        plane.read(region)
        kept.append(plane.reader.kept_bytes)
    assert kept[-1] == 0
    # two rows of pieces across the image, and two columns beside the block
    assert max(kept) <= 2 * 8 * 216 + 2 * 8 * 48


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
def test_a_source_tells_what_it_decoded(tmp_path: Path, kind: str) -> None:
    pixels = make_pixels(1, 96, 128)
    write = zarr_array("yx", (32, 32)) if kind == "zarr" else tiff("yx", tile=(32, 32), compression="zlib")
    with open_image(write(tmp_path, pixels)) as source:
        assert source.decoded_bytes == 0
        source.read(Region(0, 0, 33, 32))
        assert source.decoded_bytes == 2 * 32 * 32
        assert source.cache_bytes == pixels.nbytes


def test_what_is_kept_is_bounded() -> None:
    plane = Pieces((10, 211), most_kept=2 * 10 * 211)
    for region in (Region(0, 0, 30, 9), Region(10, 0, 30, 9), Region(0, 0, 10, 9)):
        plane.read(region)
        assert plane.reader.kept_bytes <= 2 * 10 * 211
    assert [own.y0 // 10 for own in plane.decoded] == [0, 1, 2, 0]


def test_a_run_tells_how_much_more_it_decoded_than_it_needed(tmp_path: Path) -> None:
    """Every chunk once: what is more are the parts of chunks beyond the image."""
    toy_model().save(tmp_path / "toy.safetensors")
    image = zarr_array("yx", (64, 64))(tmp_path, make_pixels(1, 100, 150))
    for expected in (128 * 192 / (100 * 150), None):  # the second time nothing is read
        done = tilesegment.predict(image, tmp_path / "m.zarr", tmp_path / "toy.safetensors", tile=88)
        assert done.read_amplification == (expected and pytest.approx(expected))
