"""Arrays as images: the same pixels, masks and messages as of the same image in a file."""

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from conftest import toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

import tilesegment
from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import Region
from tilesegment.images.arrays import ImageArray, write_array
from tilesegment.images.layout import Choices
from tilesegment.prediction import predict as predicting

MODELS = {count: toy_model(channels=count, depth=1, base=4) for count in (1, 3)}
AXES = ("yx", "cyx", "yxc", "zyx", "zcyx", "yxzc", "xy")
KINDS = ("numpy", "turned", "dask", "zarr")


def as_kind(pixels: np.ndarray, kind: str, chunk: int) -> Any:
    """The same array, of another library or not contiguous."""
    match kind:
        case "dask":
            return dask.array.from_array(pixels, chunks=tuple(min(chunk, n) for n in pixels.shape))
        case "zarr":
            chunks = tuple(min(chunk, n) for n in pixels.shape)
            array = zarr.create_array(MemoryStore(), shape=pixels.shape, chunks=chunks, dtype=pixels.dtype)
            array[...] = pixels
            return array
        case "turned":
            return np.ascontiguousarray(pixels.T).T
    return pixels


def drawn(axes: str, dtype: str, height: int, width: int, channels: int) -> np.ndarray:
    """Random values, whatever the axes are."""
    sizes = {"y": height, "x": width, "z": 2, "c": channels}
    values = np.random.default_rng(height * width).integers(0, 256, [sizes[axis] for axis in axes])
    return (values / 255 if dtype == "float32" else values).astype(dtype)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(AXES),
    st.sampled_from(("uint8", "uint16", "float32", ">u2")),
    st.sampled_from(KINDS),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(3, 40),
    st.data(),
)
def test_any_region_is_what_the_array_holds(
    axes: str, dtype: str, kind: str, height: int, width: int, chunk: int, data: st.DataObject
) -> None:
    pixels = drawn(axes, dtype, height, width, 3)
    names = [*(axis for axis in "zc" if axis not in axes), *axes]
    whole = pixels.reshape((1,) * (4 - len(axes)) + pixels.shape)
    planes = whole.transpose([names.index(axis) for axis in "zcyx"])
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Region(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    with ImageArray.of(as_kind(pixels, kind, chunk)).open(Choices(axes, {}, None, False)) as source:
        assert (source.shape, source.depth) == ((height, width), 2 if "z" in axes else None)
        for z in range(source.depth or 1):
            found = source.read_stored(region, 0, z)
            np.testing.assert_array_equal(found, planes[z][:, *region.slices])
            assert found.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("axes", "dtype"), [("yx", "uint8"), ("yxc", "uint8"), ("zyx", "uint16"), ("cyx", "float32")])
def test_the_mask_is_that_of_the_file(tmp_path: Path, kind: str, axes: str, dtype: str) -> None:
    height, width = np.random.default_rng(KINDS.index(kind) + len(axes)).integers(30, 90, 2).tolist()
    pixels = drawn(axes, dtype, height, width, 3)
    model, options = MODELS[3 if "c" in axes else 1], {"tile": 44, "block": 40, "normalise": "image"}
    write_array(tmp_path / "image.zarr", pixels, axes)
    tilesegment.predict(tmp_path / "image.zarr", tmp_path / "mask.zarr", model, **options)
    whole = tilesegment.open_mask(tmp_path / "mask.zarr")
    planes = [whole.read(Region(0, 0, height, width), 0, z) for z in range(2 if "z" in axes else 1)]
    expected = np.stack(planes) if "z" in axes else planes[0]
    mask = tilesegment.predict(as_kind(pixels, kind, 32), None, model, axes=axes, **options)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)
    assert len(np.unique(mask)) > 1


def test_with_out_there_is_a_result_and_a_second_call_finds_it_done(tmp_path: Path) -> None:
    pixels = drawn("yx", "uint8", 60, 50, 1)
    out = tmp_path / "mask.zarr"
    first = tilesegment.predict(pixels, out, MODELS[1], normalise="image")
    again = tilesegment.predict(pixels, out, MODELS[1], normalise="image")
    assert (first.blocks, again.blocks) == (1, 0)
    assert first.plan is not None and first.plan.image == "array of 60 x 50 uint8"
    other = pixels.copy()
    other[3, 4] ^= 1
    with pytest.raises(tilesegment.MaskError, match=r"mask\.zarr"):
        tilesegment.predict(other, out, MODELS[1], normalise="image")


def test_a_path_without_out_gives_an_array_too(tmp_path: Path) -> None:
    write_array(tmp_path / "image.zarr", drawn("yx", "uint8", 60, 50, 1), None)
    mask = tilesegment.predict(tmp_path / "image.zarr", model=MODELS[1], normalise="image")
    assert mask.shape == (60, 50)


def test_objects_of_an_array_are_written(tmp_path: Path) -> None:
    table = tmp_path / "objects.csv"
    found = tilesegment.predict(drawn("yx", "uint8", 60, 50, 1), None, MODELS[1], objects=table, normalise="image")
    assert found.objects is not None and found.objects.count == len(table.read_text().splitlines()) - 1


def test_a_mask_too_large_for_an_array_is_refused_before_it_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "MOST_RETURNED", 2999)
    with pytest.raises(PlanError, match=r"3,000 pixels; at most 2,999 .* out="):
        tilesegment.predict(drawn("yx", "uint8", 60, 50, 1), None, MODELS[1], normalise="image")


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (np.zeros((4, 5, 6), np.uint8), {}, 'give its --axes, .* "yxc"'),
        (np.zeros((4, 5), np.uint8), {"axes": "zyx"}, "axes z,y,x do not fit an array of 4 x 5"),
        (np.zeros((4, 5), complex), {}, "complex128; allowed: numbers"),
        ([[1, 2]], {}, "the image is a list; allowed: a path, or an array"),
        (np.zeros((4, 5), np.uint8), {"preview": "p.png"}, "preview needs an image that can be opened again"),
        (np.zeros((4, 5), np.uint8), {"part": (1, 2)}, "name the mask with --out"),
        (np.zeros((4, 5), np.uint8), {"tyle": 3}, "there is no setting 'tyle'"),
    ],
)
def test_what_cannot_be_predicted_is_said(image: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ImageError, PlanError), match=said):
        tilesegment.predict(image, None, MODELS[1], **options)


def test_of_a_computed_array_only_the_chunks_of_a_region_are_computed() -> None:
    """Of ten thousand chunks a few dozen."""
    computed: list[tuple[int, int]] = []

    def compute(block_info: Any = None) -> np.ndarray:
        (y0, y1), (x0, x1) = block_info[None]["array-location"]
        computed.append((y0, x0))
        return np.full((y1 - y0, x1 - x0), (y0 + x0) // 1000 % 7, np.uint8)

    huge = dask.array.map_blocks(
        compute, chunks=((1000,) * 100, (1000,) * 100), dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
    )
    mask = tilesegment.predict(huge, None, MODELS[1], roi=Region(1500, 2500, 1600, 2600))
    assert mask.shape == (100, 100)
    assert (1000, 2000) in computed and len(set(computed)) < 40
