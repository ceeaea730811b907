"""CZI written by the library of Zeiss, read through slideio; VSI, of which no writer is known."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from image_files import GREY, RGB, VOLUME, fails, make_pixels, tiff
from reader_contract import keep_the_contract

from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.identity import identity

pytest.importorskip("slideio", reason='needs pip install "tilesegment[czi]"')

Write = Callable[..., Path]
_LEFT, _TOP = -17, 33  # a scene may begin anywhere


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes planes (H, W) or (H, W, 3), by (channel, z, time, scene), in tiles that overlap by `overlap` pixels."""
    czi = pytest.importorskip("pylibCZIrw.czi", reason="needs pip install --no-deps pylibczirw xmltodict to write CZI")

    def written(planes: Mapping[tuple[int, int, int, int], np.ndarray], um: float = 0.5, overlap: int = 0) -> Path:
        path = tmp_path / "image.czi"
        with czi.create_czi(str(path), exist_ok=True) as file:
            for (c, z, t, scene), pixels in planes.items():
                cube = pixels.reshape(*pixels.shape[:2], -1)
                for y in range(0, len(cube), 64):
                    for x in range(0, cube.shape[1], 48):
                        tile = np.ascontiguousarray(cube[y : y + 64 + overlap, x : x + 48 + overlap])
                        place = (_LEFT + x + 1000 * scene, _TOP + y)
                        file.write(tile, location=place, plane={"C": c, "Z": z, "T": t}, scene=scene)
            file.write_metadata("image", scale_x=um * 1e-6, scale_y=um * 1e-6, scale_z=2e-6)
        return path

    return written


def test_planes_channels_and_time_points(write: Write) -> None:
    planes = {(c, z, t, 0): VOLUME[z, c] + 5 * t for z in range(4) for c in range(3) for t in range(2)}
    path = write(planes)
    fails(path, "2 time points")
    with open_image(path, select={"t": 1}) as source:
        assert (source.format, source.depth, source.channels, source.dtype) == ("CZI", 4, 3, np.uint16)
        assert source.pixel_size is not None and source.pixel_size.x == pytest.approx(0.5)
        assert source.frame.z.scale == pytest.approx(2)
        for z in range(4):
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape), z=z), VOLUME[z] + 5)
    keep_the_contract(lambda: open_image(path, select={"t": 1}))
    with open_image(path, select={"t": 0, "c": 2, "z": 1}) as source:
        np.testing.assert_array_equal(source.read(Region(3, 4, 50, 60)), VOLUME[1, 2:, 3:50, 4:60])


@pytest.mark.parametrize("overlap", [0, 9])
@pytest.mark.parametrize("pixels", [GREY, RGB, make_pixels(1, 150, 211, dtype="float32") / 7], ids=["1", "3", "float"])
def test_tiles_that_overlap_leave_no_seams(pixels: np.ndarray, overlap: int, write: Write) -> None:
    path = write({(0, 0, 0, 0): pixels.transpose(1, 2, 0)}, overlap=overlap)
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape)), pixels)
    keep_the_contract(lambda: open_image(path))


def test_scenes_are_series(write: Write) -> None:
    path = write({(0, 0, 0, 0): GREY[0, :60, :70], (0, 0, 0, 1): GREY[0]})
    with open_image(path) as source:
        assert len(source.contents) == 2 and "1 other image besides number 1" in " ".join(source.notes)
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape)), GREY)
    with open_image(path, series=0) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], GREY[0, :60, :70])
    fails(path, "no series 2", series=2)
    fails(path, "leave out --axes", axes="yx")


def test_a_damaged_czi_is_one_line(write: Write) -> None:
    path = write({(0, 0, 0, 0): GREY[0]})
    content = path.read_bytes()
    for length in (20, 600, len(content) // 2):
        path.write_bytes(content[:length])
        fails(path)


def test_a_vsi_is_no_tiff_though_it_begins_as_one(tmp_path: Path) -> None:
    """Its TIFF holds an overview alone; the pixels lie in a folder, which counts in its identity."""
    path = tiff("yx")(tmp_path, GREY).rename(tmp_path / "slide.vsi")
    fails(path, "without its pixels: copy the folder _slide_")
    alone = identity(path).digest
    (tmp_path / "_slide_").mkdir()
    (tmp_path / "_slide_" / "frame_t.ets").write_bytes(b"no pixels")
    assert identity(path).digest != alone
    fails(path, "frame_t.ets holds no pixels")


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slideio", None)
    monkeypatch.delitem(sys.modules, "tilesegment.images.czi", raising=False)
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(1000))
    fails(tmp_path / "a.czi", r'pip install "tilesegment\[czi\]"')
