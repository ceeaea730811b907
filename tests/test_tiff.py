"""TIFF: damaged, hostile, unfinished, or of several images; nothing is dropped or made up without a word."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from image_files import GREY, PIXELS, RGB, fails, make_pixels, read_all, tiff, write_tiff

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import Level, open_image
from tilesegment.metadata import PixelSize

STACK = make_pixels(6, 60, 71)
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
STORED: dict[str, dict[str, Any]] = {
    "raw": {},
    "strips": {"compression": "zlib", "rowsperstrip": 10},
    "tiles": {"tile": (32, 32), "compression": "lzw"},
    "raw tiles": {"tile": (32, 32)},
    "jpeg tiles": {"tile": (32, 32), "compression": "jpeg"},
    "big": {"bigtiff": True, "tile": (32, 32), "compression": "zstd"},
}


def set_tag(path: Path, name: str, value: Any) -> Path:
    """Overwrite a tag of the first page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[name].overwrite(value)
    return path


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_a_tiff_truncated_anywhere_is_refused(tmp_path: Path, stored: dict[str, Any]) -> None:
    whole = write_tiff(tmp_path / "whole.tif", PIXELS, **stored)
    expected, content, cut = read_all(whole)[0], whole.read_bytes(), tmp_path / "cut.tif"
    for length in [1, 5, 9, 100, *np.linspace(200, len(content) - 20, 12).astype(int), len(content) - 1]:
        cut.write_bytes(content[:length])
        # the last bytes may be of a tag that does not matter, or padding: then every pixel is right
        try:
            pixels, _ = read_all(cut)
        except ImageError as error:
            message = str(error)
        else:
            message = str(cut)
            np.testing.assert_array_equal(pixels, expected)
            assert length > len(content) * 0.9
        assert str(cut) in message and "\n" not in message


STACKS = {
    "plain": {"metadata": None},
    "shaped": {},
    "shaped zlib": {"compression": "zlib"},
    "imagej": {"imagej": True},
    "ome": {"ome": True},
    "ome zlib": {"ome": True, "compression": "zlib"},
}


@pytest.mark.parametrize("kind", STACKS.values(), ids=STACKS)
def test_a_truncated_stack_never_loses_pages_silently(tmp_path: Path, kind: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([PIXELS] * 4), photometric="minisblack", **kind)
    whole = path.read_bytes()
    for length in np.linspace(100, len(whole) - 50, 15).astype(int):
        path.write_bytes(whole[:length])
        fails(path)


@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzw"])
def test_a_damaged_tile_is_named(tmp_path: Path, compression: str) -> None:
    path = write_tiff(tmp_path / "a.tif", PIXELS, tile=(32, 32), compression=compression)
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[6]
    data = bytearray(path.read_bytes())
    data[start : start + 60] = b"\xff" * 60
    path.write_bytes(data)
    assert "0:96,0:130" in fails(path, "tile 6: ")
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region(0, 0, 32, 130))[0], PIXELS[:32])


@pytest.mark.parametrize("stored", ["raw", "strips", "tiles"])
def test_headers_that_claim_too_much(tmp_path: Path, stored: str) -> None:
    for number, size in enumerate([(0, 0), (2 * 10**9, 2 * 10**9), (9600, 130)]):
        path = write_tiff(tmp_path / f"{number}.tif", PIXELS, **STORED[stored])
        fails(set_tag(set_tag(path, "ImageLength", size[0]), "ImageWidth", size[1]))
    path = write_tiff(tmp_path / "short.tif", PIXELS, tile=(32, 32))
    fails(set_tag(path, "TileByteCounts", [32 * 32 - 96, *[32 * 32] * 14]), "tile 0")


@pytest.mark.parametrize("target", ["itself", "nowhere"])
def test_a_directory_that_loops_or_leads_nowhere(tmp_path: Path, target: str) -> None:
    path = write_tiff(tmp_path / "a.tif", PIXELS, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.offset
    data = bytearray(path.read_bytes())
    end = offset + 2 + 12 * int.from_bytes(data[offset : offset + 2], "little")
    data[end : end + 4] = (offset if target == "itself" else 10**9).to_bytes(4, "little")
    path.write_bytes(data)
    fails(path, "chain of pages")


def test_colours_that_are_not_supported(tmp_path: Path) -> None:
    colours, inks = np.zeros((3, 256), np.uint16), np.zeros((20, 30, 4), np.uint8)
    fails(write_tiff(tmp_path / "a.tif", PIXELS, photometric="palette", colormap=colours), "palette")
    fails(write_tiff(tmp_path / "b.tif", inks, photometric="separated"), "SEPARATED")
    fails(write_tiff(tmp_path / "c.tif", np.zeros((20, 30, 65), np.uint8), planarconfig="contig"), "65 channels")


# -- several images in a file, and descriptions that do not fit ------------------------------------------------------


def imagej(images: int, **more: int) -> str:
    lines = {"images": images, **(more or {"slices": images})}
    return "ImageJ=1.53t\n" + "".join(f"{name}={number}\n" for name, number in lines.items()) + "loop=false\n"


def ome(*depths: int, data: str = "<TiffData/>", size: tuple[int, int] = (60, 71), uuid: str = "") -> str:
    """OME-XML of images of so many planes."""
    images = "".join(
        f'<Image ID="Image:{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYZCT" Type="uint8" SizeX="{size[1]}" '
        f'SizeY="{size[0]}" SizeZ="{depth}" SizeC="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5">{data}'
        "</Pixels></Image>"
        for n, depth in enumerate(depths)
    )
    return f'<?xml version="1.0"?><OME xmlns="{OME}"{uuid}>{images}</OME>'


def test_images_of_any_kind_are_counted_and_chosen(tmp_path: Path) -> None:
    images = [STACK[0], STACK[1][:30, :40], STACK[3].astype(np.uint16), STACK[4]]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for image, compression in zip(images, [None, None, "lzw", None], strict=True):
            writer.write(image, metadata=None, compression=compression)
    pixels, notes = read_all(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels, STACK[[0, 4]])
    assert "2 other images" in notes and "30 x 40" in notes and "--series" in notes
    for number in (1, 2):
        pixels, notes = read_all(tmp_path / "a.tif", series=number)
        np.testing.assert_array_equal(pixels, images[number])
        assert not notes
    fails(tmp_path / "a.tif", "no series 3: choose one from 0 to 2", series=3)


def test_scenes_of_an_ome_tiff(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(STACK[0, :40, :50], metadata={"axes": "YX", "Name": "overview of all"})
        writer.write(STACK[:3], metadata={"axes": "ZYX", "Name": "stack", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
        writer.write(STACK[5], metadata={"axes": "YX", "Name": "second"})
    with open_image(tmp_path / "a.ome.tif") as source:
        assert (source.depth, source.pixel_size) == (3, PixelSize(0.5, 0.5))
        assert "second" in source.notes[0] and "number 1" in source.notes[0]
    with open_image(tmp_path / "a.ome.tif", series=2) as source:
        np.testing.assert_array_equal(source.read(Region(0, 0, 60, 71))[0], STACK[5])
        assert source.pixel_size is None


@pytest.mark.parametrize("held", [1, 5])
def test_an_imagej_stack_of_one_page_that_is_cut(tmp_path: Path, held: int) -> None:
    path = write_tiff(tmp_path / "a.tif", STACK[0], description=imagej(6), byteorder=">")
    data = path.read_bytes()[: -STACK[0].nbytes]
    path.write_bytes(data + STACK.tobytes())
    np.testing.assert_array_equal(read_all(path)[0], STACK)
    path.write_bytes(data + STACK[:held].tobytes())
    fails(path, "claims 6 planes")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    "described",
    [
        imagej(9),
        imagej(12, channels=4, slices=3),
        imagej(8, frames=8),
        ome(8),
        ome(8, data="".join(f'<TiffData IFD="{n}" FirstZ="{n}" PlaneCount="1"/>' for n in range(8))),
        ome(12, data='<TiffData FirstZ="6" IFD="0" PlaneCount="6"/>'),
    ],
)
def test_descriptions_that_claim_more_pages(tmp_path: Path, described: str, compression: str | None) -> None:
    path = write_tiff(tmp_path / "a.tif", *STACK, description=described, compression=compression)
    fails(path, r"claims \d+ planes|lacks")


@pytest.mark.parametrize("description", [imagej(3), ome(3)])
def test_pages_that_a_description_leaves_out_are_said(tmp_path: Path, description: str) -> None:
    pixels, notes = read_all(write_tiff(tmp_path / "a.tif", *STACK, description=description, compression="zlib"))
    np.testing.assert_array_equal(pixels, STACK[:3])
    assert "3 more pages" in notes


def test_an_ome_tiff_of_several_files(tmp_path: Path) -> None:
    """The other files are named, and none of them is opened."""
    data = "".join(
        f'<TiffData IFD="{n % 3}" FirstZ="{n}" PlaneCount="1"><UUID FileName="../{name}.ome.tif">urn:uuid:{name}</UUID>'
        "</TiffData>"
        for n, name in enumerate("aaabbb")
    )
    described = ome(6, data=data, uuid=' UUID="urn:uuid:a"')
    write_tiff(tmp_path / "b.ome.tif", *STACK[3:], description=described.replace("xmlns", 'x="" xmlns'))
    (tmp_path / "in").mkdir()
    pixels, notes = read_all(write_tiff(tmp_path / "in" / "a.ome.tif", *STACK[:3], description=described))
    np.testing.assert_array_equal(pixels, STACK[:3])
    assert "b.ome.tif" in notes and "6 planes" in notes
    companion = f'<?xml version="1.0"?><OME xmlns="{OME}"><BinaryOnly MetadataFile="all.companion.ome" UUID="u"/></OME>'
    assert "all.companion.ome" in read_all(write_tiff(tmp_path / "c.tif", *STACK, description=companion))[1]


def test_descriptions_that_do_not_fit_the_pages(tmp_path: Path) -> None:
    with open_image(write_tiff(tmp_path / "a.tif", STACK[0], description=ome(1, size=(120, 142)))) as source:
        assert source.pixel_size is None
        assert "120" in source.notes[0]
    _, notes = read_all(write_tiff(tmp_path / "b.tif", STACK[0], description="<OME><Image></OME>"))
    assert "OME-XML" in notes
    bomb = '<?xml version="1.0"?><!DOCTYPE o [<!ENTITY a "aaaa">]><OME>&a;</OME>'
    fails(write_tiff(tmp_path / "bomb.tif", PIXELS, description=bomb), "document type")


@pytest.mark.parametrize("description", [imagej(2), ome(2)])
def test_pages_of_one_stack_that_are_not_alike(tmp_path: Path, description: str) -> None:
    for other in (STACK[1][:30], STACK[1].astype(np.uint16), STACK[1][:, :40]):
        path = write_tiff(tmp_path / "a.tif", STACK[0], other, description=description, compression="zlib")
        fails(path, "differ|not alike")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(STACK[0], metadata=None, description=description, compression="zlib")
        writer.write(STACK[1], metadata=None, compression="lzw")
    fails(tmp_path / "b.tif", "compression")


def test_what_tifffile_warns_of_is_a_note(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", STACK[0], description="text", software="program")
    data = path.read_bytes()
    at = data.index((305).to_bytes(2, "little") + (2).to_bytes(2, "little"))
    path.write_bytes(data[: at + 8] + (len(data) + 99).to_bytes(4, "little") + data[at + 12 :])
    pixels, notes = read_all(path)
    np.testing.assert_array_equal(pixels, STACK[0])
    assert "tifffile warns" in notes and "305" in notes


# -- files that were not written to their end ------------------------------------------------------------------------


def empty(path: Path, which: slice = slice(None), page: int = 0, offsets: bool = True) -> Path:
    """Take strips or tiles out of a TIFF's directory, as where a program was killed before it wrote them."""
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[page].tags  # type: ignore[union-attr]
        kind = "Tile" if "TileOffsets" in tags else "Strip"
        for tag in [tags[f"{kind}Offsets"]] * offsets + [tags[f"{kind}ByteCounts"]]:
            values = list(tag.value)
            values[which] = [0] * len(values[which])
            tag.overwrite(values)
    return path


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("stored", ["raw", "strips", "raw tiles", "tiles"])
def test_a_tiff_that_was_not_written_to_its_end(tmp_path: Path, stored: str, offsets: bool) -> None:
    path = write_tiff(tmp_path / "a.tif", PIXELS, **STORED[stored])
    fails(empty(path, offsets=offsets), "not written to its end")
    path = write_tiff(tmp_path / "b.tif", *STACK[:5], rowsperstrip=20, compression="zlib", contiguous=False)
    for page in (3, 4):
        empty(path, page=page)
    fails(path, "2 of 5 planes")


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("uint8", "200", 200),
        ("uint8", "-9999", 0),
        ("int16", "-9999", -9999),
        ("float32", "-9999.5", -9999.5),
        ("uint8", "none", 0),
        ("uint8", None, 0),
    ],
)
def test_tiles_that_are_not_stored_hold_no_data(tmp_path: Path, dtype: str, text: str | None, value: float) -> None:
    extra = [] if text is None else [(42113, "s", 0, text, True)]
    pixels = PIXELS.astype(dtype)
    path = write_tiff(tmp_path / "a.tif", pixels, tile=(32, 32), compression="zlib", extratags=extra)
    pixels[:32, :64] = value
    found, notes = read_all(empty(path, slice(0, 2)))
    np.testing.assert_array_equal(found, pixels)
    assert "2 of 15 tiles" in notes


# -- pyramids and pixel sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("subifds", [True, False], ids=["subifds", "pages"])
def test_levels_of_a_pyramidal_tiff(tmp_path: Path, subifds: bool) -> None:
    path, options = tmp_path / "pyramid.tif", {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"}
    levels = [RGB.transpose(1, 2, 0)[:: 2**n, :: 2**n] for n in range(3)]
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], subifds=2 if subifds else 0, metadata=None, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **options)
    with open_image(path) as source:
        assert source.levels == tuple(Level(p.shape[:2], (2.0**n, 2.0**n)) for n, p in enumerate(levels))
        for n, level in enumerate(levels):
            region = Region(3, 5, 30, 41)
            np.testing.assert_array_equal(source.read(region, n), level[region.slices].transpose(2, 0, 1))
    if not subifds:
        with open_image(empty(path, page=1)) as source:
            assert len(source.levels) == 1
            assert "level 1" in source.notes[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),  # for printers
        ({"resolution": (50800, 50800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (1000, 1000), "resolutionunit": "CENTIMETER"}, 10.0),
        ({"resolution": (999, 999), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (50800, 50800), "resolutionunit": "NONE"}, None),
        ({"description": "Aperio Image Library v1\n150x211|MPP = 0.25|AppMag = 40", "tile": (32, 32)}, 0.25),
        ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 2.0, "PhysicalSizeXUnit": "pixel"}}, None),
    ],
)
def test_pixel_sizes_are_believed_if_plausible(tmp_path: Path, options: Any, expected: float | None) -> None:
    options = {"metadata": None} | options
    with open_image(tiff("yx", **options)(tmp_path, GREY)) as source:
        assert source.pixel_size == (None if expected is None else PixelSize(expected, expected))
