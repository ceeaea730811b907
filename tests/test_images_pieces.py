"""Images stored in pieces: each decoded about once, whatever pipeline does it, and what is kept is a band."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr
from conftest import toy_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from image_files import fails, make_pixels, tiff, zarr_array
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.storage import MemoryStore

import tilesegment
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.pieces import PieceReader, Take, pieces
from tilesegment.images.zarr_chunks import Chunks
from tilesegment.ome_zarr.arrays import open_stored, with_zarrs

PLANE = make_pixels(1, 150, 211)


class Pieces:
    """A plane in memory that is read in pieces of `side`; `decoded` lists these."""

    def __init__(self, side: tuple[int, int]) -> None:
        self.reader = PieceReader()
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
    assert not plane.reader._kept


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


def test_a_chunk_of_several_planes_counts_whole(tmp_path: Path) -> None:
    with open_image(zarr_array("zyx", (2, 32, 32))(tmp_path, make_pixels(5, 1, 32, 32))) as source:
        source.read(Region(0, 0, 32, 32), z=3)
        assert source.decoded_bytes == 2 * 32 * 32


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c * 2, lambda c: b""])
def test_a_damaged_chunk_is_named_wherever_it_lies(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = zarr_array("yx", (32, 32), compressors=None)(tmp_path, PLANE)
    for key in ("c/1/2", "c/4/6"):  # within the image, and at its corner
        content = (path / key).read_bytes()
        (path / key).write_bytes(change(content))
        assert key in fails(path, "is damaged")
        (path / key).write_bytes(content)


class Vanishing:
    """An array whose first chunk is deleted just before it is read."""

    def __init__(self, array: Any, chunk: Path) -> None:
        self.array, self.chunk = array, chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self.array, name)

    def __getitem__(self, index: Any) -> np.ndarray:
        self.chunk.unlink(missing_ok=True)
        return self.array[index]


def test_a_chunk_that_vanishes_while_it_is_read_is_no_background(tmp_path: Path) -> None:
    folder = zarr_array("yx", (64, 64))(tmp_path, PLANE)
    chunks = Chunks(folder)
    chunks._array = chunks._fast = Vanishing(chunks._array, folder / "c" / "0" / "0")  # type: ignore[assignment]
    with pytest.raises(ValueError, match="c/0/0 vanished while it was read"):
        chunks.read((slice(0, 128), slice(0, 128)))


def test_both_pipelines_read_the_same(tmp_path: Path) -> None:
    path = zarr_array("yx", (16, 16), shards=(64, 64))(tmp_path, PLANE)
    slow, _ = open_stored(path)
    fast = with_zarrs(slow)
    if fast is None:
        pytest.skip("zarrs is not installed")
    for region in blocks(60, 7):
        np.testing.assert_array_equal(fast[region.slices], slow[region.slices])


def test_other_threads_may_make_arrays_while_one_is_opened(tmp_path: Path) -> None:
    """They get zarr's own pipeline, which writes atomically, and not a word of what the fast one was told."""
    path = zarr_array("yx", (16, 16))(tmp_path, PLANE)
    slow, _ = open_stored(path)
    if with_zarrs(slow) is None:
        pytest.skip("zarrs is not installed")
    ended = threading.Event()

    def keep_opening() -> None:
        while not ended.is_set():
            assert type(cast(zarr.Array, with_zarrs(slow)).async_array.codec_pipeline).__name__.startswith("Zarrs")

    with ThreadPoolExecutor(2) as opening:
        others = [opening.submit(keep_opening) for _ in range(2)]
        try:
            made = [zarr.create_array(MemoryStore(), shape=(8, 8), chunks=(4, 4), dtype="u1") for _ in range(100)]
        finally:
            ended.set()
        for other in others:
            other.result()
    assert {type(array.async_array.codec_pipeline) for array in made} == {BatchedCodecPipeline}


@pytest.mark.parametrize("options", [{"order": "F"}, {"dtype": ">u2"}])
def test_what_zarrs_does_not_read_is_read_without_it(tmp_path: Path, options: dict[str, str]) -> None:
    pixels = PLANE.astype(options.pop("dtype", "u1"))
    path = zarr_array("yx", (32, 32), zarr_format=2, **options)(tmp_path, pixels)
    assert with_zarrs(open_stored(path)[0]) is None
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape)), pixels)


def test_a_run_tells_how_much_more_it_decoded_than_it_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk once: what is more are the parts of chunks beyond the image and what margins reach."""
    monkeypatch.setattr("tilesegment.prediction.tiling.BLOCK", 384)
    toy_model().save(tmp_path / "toy.safetensors")
    image = zarr_array("yx", (64, 64))(tmp_path, make_pixels(1, 600, 900))
    done = tilesegment.predict(image, tmp_path / "m.zarr", tmp_path / "toy.safetensors", tile=88)
    expected = 640 * 960 / (600 * 900)
    assert done.read_amplification == pytest.approx(expected)
    record = tilesegment.open_mask(tmp_path / "m.zarr").spec.provenance
    assert record["read_amplification"] == pytest.approx(expected)
    again = tilesegment.predict(image, tmp_path / "m.zarr", tmp_path / "toy.safetensors", tile=88)
    assert again.read_amplification is None, "nothing was read"
