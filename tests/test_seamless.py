"""The test that defines the project: the stitched mask equals the mask of one pass over the mirror-padded image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise, toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from one_pass import plain_pass
from PIL import Image

import tilesegment
from tilesegment.geometry import Block, FieldOfView, Region, TileGrid
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

CPU = torch.device("cpu")


def mirrored(image: np.ndarray, region: Region) -> np.ndarray:
    """The pixels of a region, mirrored by numpy itself, not by the function that is under test."""
    for axis, (start, stop) in enumerate(((region.y0, region.y1), (region.x0, region.x1)), 1):
        size = image.shape[axis]
        before, after = max(-start, 0), max(stop - size, 0)
        indices = np.pad(np.arange(size), (before, after), mode="reflect")[start + before : stop + before]
        image = image.take(indices, axis)
    return image


def blocks_of(image: np.ndarray, grid: TileGrid) -> Iterator[tuple[np.ndarray, Block]]:
    return ((mirrored(image, block.read), block) for block in grid)


@settings(max_examples=30, deadline=None)
@given(
    depth=st.integers(1, 4),
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    steps=st.integers(2, 6),
    tiles=st.integers(1, 3),
    batch=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_tiled_equals_untiled_in_float64(
    depth: int, height: int, width: int, steps: int, tiles: int, batch: int, seed: int
) -> None:
    """Any size down to 1 x 1, any tile, block and batch: equal but for the last digit, which BLAS rounds by shape."""
    model, image = toy_model(depth=depth, seed=seed), noise((1, height, width), seed)
    step = steps * 2**depth * (1 if depth > 2 else 4)
    expected = plain_pass(model, image).numpy()
    predictor = TorchPredictor(model, CPU, "fp64", batch=batch)
    grid = TileGrid(Region(0, 0, height, width), step, tiles * step, model.field_of_view)
    for pixels, block in blocks_of(image, grid):
        ids, found = predictor.predict_probabilities(pixels, block)
        here = expected[:, *block.write.slices]
        np.testing.assert_allclose(found, here, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(ids, here[1] > 0.5)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(0, 99))
def test_views_are_seamless_too(height: int, width: int, seed: int) -> None:
    """The mean over the 8 symmetries does not depend on the tiles either."""
    model, image = toy_model(depth=3, seed=seed), noise((1, height, width), seed)
    predictor = TorchPredictor(model, CPU, "fp64", tta=True)
    (_, small), (_, large) = (predict_array(predictor, image, step) for step in (24, 152))
    np.testing.assert_allclose(small, large, rtol=0, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.integers(30, 90), st.integers(30, 90), st.integers(0, 29), st.integers(0, 29), st.integers(0, 99))
def test_a_region_equals_its_part_of_the_whole(height: int, width: int, y: int, x: int, seed: int) -> None:
    """Wherever a region starts, its tiles stand on the pooling grid of the image."""
    model, image = toy_model(depth=3, seed=seed), noise((1, height, width), seed)
    predictor = TorchPredictor(model, CPU, "fp64")
    whole, _ = predict_array(predictor, image, 96)
    for pixels, block in blocks_of(image, TileGrid(Region(y, x, height, width), 16, 32, model.field_of_view)):
        np.testing.assert_array_equal(predictor.predict(pixels, block), whole[block.write.slices])


def test_the_step_of_the_paper_leaves_seams() -> None:
    """388 of a tile of 572 is not a multiple of 16: this test can fail, and does with the step that everyone uses."""
    model, image = toy_model(depth=4, base=4, seed=1), noise((1, 500, 500), 1)
    expected = plain_pass(model, image)[:, :388, 388:].numpy()
    pixels = torch.from_numpy(mirrored(image, Region(-92, 388 - 92, 480, 388 - 92 + 572)).astype(np.float64))
    with torch.inference_mode():
        naive = torch.softmax(model.network.double()((pixels[None] - 128) / 70), 1)[0, :, :, : 500 - 388].numpy()
    assert np.abs(naive - expected).max() > 1e-3
    assert ((naive[1] > 0.5) != (expected[1] > 0.5)).any()


def test_the_margin_is_no_larger_than_it_must_be() -> None:
    """The outermost context pixel changes what is decided: with a margin one pixel smaller the mask would differ."""
    model = toy_model(depth=2, seed=3)
    block = TileGrid(Region(0, 0, 8, 8), 8, 8, model.field_of_view).at(0, 0)
    pixels = noise((1, *block.read.shape), 3)
    changed = pixels.copy()
    changed[:, :, 0] = 255 - changed[:, :, 0]
    predictor = TorchPredictor(model, CPU, "fp64")
    before, after = (predictor.predict_probabilities(each, block)[1] for each in (pixels, changed))
    assert np.abs(before - after).max() > 0


def in_blocks(model: Model, image: np.ndarray, block: int, batch: int) -> np.ndarray:
    """Probabilities (K, H, W) in fp32, tiles of one size in blocks of another."""
    predictor = TorchPredictor(model, CPU, "fp32", batch=batch)
    whole = np.empty((len(model.header.classes), *image.shape[1:]), np.float32)
    region = Region.of_shape((image.shape[1], image.shape[2]))
    for pixels, one in blocks_of(image, TileGrid(region, 48, block, model.field_of_view)):
        whole[:, *one.write.slices] = predictor.predict_probabilities(pixels, one)[1]
    return whole


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_in_fp32_equal_tile_shapes_give_equal_pixels(batch: int) -> None:
    """Bit for bit, whatever the blocks and wherever in a batch a tile comes; another batch is rounding only."""
    model, image = toy_model(depth=3, base=8), noise((1, 200, 170))
    expected = in_blocks(model, image, 240, batch)
    for block in (48, 96):
        np.testing.assert_array_equal(in_blocks(model, image, block, batch), expected)
    one = in_blocks(model, image, 240, 1)
    np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(one.argmax(0), expected.argmax(0))


@pytest.mark.parametrize(("height", "width", "tile"), [(1, 1, 60), (301, 97, 76), (64, 513, 92)])
def test_the_file_holds_the_untiled_mask(height: int, width: int, tile: int, tmp_path: Path) -> None:
    """End to end, from an image file to a mask file."""
    model, image = toy_model(depth=2, base=6), noise((1, height, width))
    Image.fromarray(image[0]).save(tmp_path / "image.png")
    tilesegment.predict(tmp_path / "image.png", tmp_path / "mask.zarr", model, tile=tile, precision="fp64")
    found = tilesegment.open_mask(tmp_path / "mask.zarr").read(Region(0, 0, height, width))
    np.testing.assert_array_equal(found, plain_pass(model, image)[1] > 0.5)


def test_steps_and_tiles_are_those_of_the_paper() -> None:
    view = toy_model(depth=4).field_of_view
    assert view == FieldOfView(16, 92, 96, True)
    assert [view.tile_of(step) for step in (256, 384, 512, 1024, 2048)] == [444, 572, 700, 1212, 2236]
