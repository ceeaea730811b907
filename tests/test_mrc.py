"""MRC: old and odd ones, what is said of them, and what is refused."""

import gzip
import struct
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from image_files import GREY, STACK, fails, make_pixels, mrc, mrc_of_mode, read_all

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image

WORDS = make_pixels(4, 1, 30, 41, dtype="int16")


def patched(path: Path, place: int, value: bytes) -> Path:
    """Overwrites bytes of the header."""
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(value)
    return path


@pytest.mark.parametrize("cut", [1, 100, 41 * 30 * 2, 41 * 30 * 8, 41 * 30 * 8 + 500])
def test_a_truncated_file_is_refused(cut: int, tmp_path: Path) -> None:
    path = mrc(4.0)(tmp_path, WORDS)
    path.write_bytes(path.read_bytes()[:-cut])
    fails(path, "truncated|cannot be opened")


def test_a_packed_file_is_refused(tmp_path: Path) -> None:
    path = mrc(4.0)(tmp_path, WORDS)
    packed = tmp_path / "a.mrc.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    fails(packed, "packed with gzip.*unpack it first")
    fails(packed.rename(tmp_path / "a.mrc"), "packed with gzip.*unpack it first")
    mrcfile.write(tmp_path / "b.mrc.bz2", WORDS[:, 0])
    fails(tmp_path / "b.mrc.bz2", "packed with gzip.*unpack it first")


def test_what_is_complex_or_unknown_is_refused(tmp_path: Path) -> None:
    mrcfile.write(tmp_path / "a.mrc", np.ones((9, 8), np.complex64))
    fails(tmp_path / "a.mrc", "mode 4, complex numbers.*newstack")
    fails(patched(tmp_path / "a.mrc", 12, struct.pack("<i", 1007)), "mode 1007, which is unknown")


@pytest.mark.parametrize("place", [0, 4, 8])
@pytest.mark.parametrize("value", [0, -1, 2**31 - 1, 10**7 + 1])
def test_absurd_sizes_are_refused(place: int, value: int, tmp_path: Path) -> None:
    fails(patched(mrc(4.0)(tmp_path, WORDS), place, struct.pack("<i", value)))


def test_any_damage_of_the_header_is_one_line_or_harmless(tmp_path: Path) -> None:
    content, rng = mrc(4.0)(tmp_path, WORDS).read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, 232, rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        path = tmp_path / "damaged.mrc"
        path.write_bytes(damaged)
        try:
            read_all(path)
        except ImageError as error:
            message = str(error)
        else:
            message = str(path)
        assert "\n" not in message and str(path) in message


def test_an_old_file_without_a_mark_is_read_by_its_suffix(tmp_path: Path) -> None:
    """Files of before 2000, and of some programs since: the size has to fit."""
    path = patched(mrc(4.0)(tmp_path, WORDS), 208, bytes(8)).rename(tmp_path / "old.st")
    pixels, notes = read_all(path)
    np.testing.assert_array_equal(pixels, WORDS[:, 0])
    assert "Map ID string not found" in notes
    with open(path, "ab") as file:
        file.write(b"more")
    fails(path, "no MRC, or damaged")
    (tmp_path / "text.rec").write_text("no image " * 1000)
    fails(tmp_path / "text.rec")


def test_more_than_the_header_tells_is_said(tmp_path: Path) -> None:
    path = mrc(4.0)(tmp_path, WORDS)
    with open(path, "ab") as file:
        file.write(bytes(50))
    pixels, notes = read_all(path)
    np.testing.assert_array_equal(pixels, WORDS[:, 0])
    assert "50 bytes more" in notes


@pytest.mark.parametrize(("signed", "largest"), [(True, 100), (False, 249)])
def test_bytes_are_signed_unless_their_range_says_otherwise(signed: bool, largest: int, tmp_path: Path) -> None:
    pixels = make_pixels(1, 40, 50) % largest
    path = mrc(0.0)(tmp_path, pixels.astype(np.int8))
    patched(path, 76, struct.pack("<ff", 0, float(pixels.max())))
    found, notes = read_all(path)
    np.testing.assert_array_equal(found, pixels[0])
    assert ("for signed" in notes, "for unsigned" in notes) == (signed, not signed)


def test_imods_mark_decides_whether_bytes_are_signed(tmp_path: Path) -> None:
    path = mrc_of_mode(0)(tmp_path, GREY)
    with open_image(path) as source:
        assert (source.stored_dtype, source.notes) == (np.dtype("uint8"), ())
    with open_image(patched(path, 156, b"\1")) as source:
        assert source.stored_dtype == np.dtype("int8")


@pytest.mark.parametrize(
    ("axes", "select", "expected"),
    [
        ("cyx", {}, STACK[:, 0]),
        ("tyx", {"t": 3}, STACK[3]),
        (None, {"z": 2}, STACK[2]),
    ],
)
def test_sections_are_what_the_user_says(
    axes: str | None, select: dict[str, int], expected: np.ndarray, tmp_path: Path
) -> None:
    path = mrc(4.0)(tmp_path, STACK.astype(np.uint16))
    with open_image(path, axes=axes, select=select) as source:
        assert (source.depth, source.channels) == (None, len(expected))
        height, width = source.shape

        np.testing.assert_array_equal(source.read(Region(1, 2, height, width)), expected[:, 1:, 2:])


def test_other_axes_are_refused(tmp_path: Path) -> None:
    path = mrc(4.0)(tmp_path, STACK.astype(np.uint16))
    fails(path, "section by section", axes="yxz")
    fails(path, "do not fit", axes="zcyx")
    fails(path, "no series 1", series=1)


def test_a_stack_of_volumes_needs_a_choice(tmp_path: Path) -> None:
    volumes = make_pixels(3, 4, 20, 30, dtype="uint16")
    mrcfile.write(tmp_path / "a.mrc", volumes)
    fails(tmp_path / "a.mrc", "3 time points .*--select t=0")
    pixels, _ = read_all(tmp_path / "a.mrc", select={"t": 1})
    np.testing.assert_array_equal(pixels, volumes[1])


@pytest.mark.parametrize(("angstrom", "said"), [(1.0, True), (1.01, False)])
def test_a_pixel_size_that_may_be_none_is_said(angstrom: float, said: bool, tmp_path: Path) -> None:
    _, notes = read_all(mrc(angstrom)(tmp_path, WORDS))
    assert ("1 angstrom" in notes) == said


def test_the_axes_of_a_map_tell_which_side_is_which(tmp_path: Path) -> None:
    """A CCP4 map may hold z along its rows: mapc, mapr, maps are 3, 2, 1 then."""
    with mrcfile.new(tmp_path / "a.map", np.ones((10, 20, 30), np.float32)) as file:
        file.set_volume()
        header: Any = file.header
        header.mapc, header.mapr, header.maps = 3, 2, 1
        header.mx, header.my, header.mz = 10, 20, 30
        header.cella.x, header.cella.y, header.cella.z = 50, 80, 90
    with open_image(tmp_path / "a.map") as source:
        frame = source.frame
        assert [axis.scale for axis in (frame.z, frame.y, frame.x)] == pytest.approx([5e-4, 4e-4, 3e-4])
