"""Files that hold several images, or not what they claim: said, chosen by number, or refused; nothing is dropped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from image_files import fails, make_pixels, multiscales, ome_zarr
from PIL import Image

from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image

STACK = make_pixels(6, 60, 71)
OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def pages(path: Path, *all_pages: np.ndarray, **options: Any) -> Path:
    """Each page written as it is, the first with a description."""
    description = options.pop("description", None)
    with tifffile.TiffWriter(path, byteorder=options.pop("byteorder", None)) as writer:
        for number, page in enumerate(all_pages):
            writer.write(page, metadata=None, description=None if number else description, **options)
    return path


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


def read(source: ImageSource) -> np.ndarray:
    """All pixels, (Z, H, W)."""
    return np.stack([source.read(Region.of_shape(source.shape), z=z)[0] for z in range(source.depth or 1)])


def notes_of(path: Path, **options: Any) -> str:
    with open_image(path, **options) as source:
        return "\n".join(source.notes)


def test_images_appended_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for number, page in enumerate(STACK[:5]):
        tifffile.imwrite(path, page, append=number > 0)
    with open_image(path) as source:
        np.testing.assert_array_equal(read(source), STACK[:1])
        assert len(source.contents) == 5
        (note,) = source.notes
        assert "4 other images" in note and "--series N" in note
    for number in range(5):
        with open_image(path, series=number) as source:
            np.testing.assert_array_equal(read(source), STACK[number : number + 1])
            assert not source.notes
    fails(path, "no series 5: choose one from 0 to 4", series=5)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_of_other_sizes_and_kinds(tmp_path: Path, compression: str | None) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page, how in (
            (STACK[0], compression),
            (STACK[1][:30, :40], compression),
            (STACK[2], "lzw"),
            (STACK[3].astype(np.uint16), compression),
            (STACK[4], compression),
        ):
            writer.write(page, metadata=None, compression=how)
    with open_image(tmp_path / "a.tif") as source:
        np.testing.assert_array_equal(read(source), STACK[[0, 4]])
        assert "3 other images" in source.notes[0] and "30 x 40" in source.notes[0]
    for number, expected in ((1, STACK[1][:30, :40]), (2, STACK[2]), (3, STACK[3])):
        with open_image(tmp_path / "a.tif", series=number) as source:
            np.testing.assert_array_equal(read(source)[0], expected)


def test_scenes_of_an_ome_tiff(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(STACK[0, :40, :50], metadata={"axes": "YX", "Name": "overview of all"})
        writer.write(STACK[:3], metadata={"axes": "ZYX", "Name": "stack", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
        writer.write(STACK[5], metadata={"axes": "YX", "Name": "second"})
    with open_image(tmp_path / "a.ome.tif") as source:
        np.testing.assert_array_equal(read(source), STACK[:3])
        assert source.pixel_size is not None
        assert "second" in source.notes[0] and "number 1" in source.notes[0]
    with open_image(tmp_path / "a.ome.tif", series=2) as source:
        np.testing.assert_array_equal(read(source), STACK[5:])
        assert source.pixel_size is None
    with open_image(tmp_path / "a.ome.tif", series=0) as source:
        np.testing.assert_array_equal(read(source)[0], STACK[0, :40, :50])


@pytest.mark.parametrize("held", [1, 4, 5])
def test_an_imagej_stack_of_one_page_that_is_cut(tmp_path: Path, held: int) -> None:
    path = pages(tmp_path / "a.tif", STACK[0], description=imagej(6), byteorder=">")
    data = path.read_bytes()[: -STACK[0].nbytes]
    path.write_bytes(data + STACK.tobytes())
    with open_image(path) as source:
        np.testing.assert_array_equal(read(source), STACK)
        assert not source.notes
    path.write_bytes(data + STACK[:held].tobytes())
    fails(path, "claims 6 planes")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    "described", [imagej(9), imagej(12, channels=4, slices=3), imagej(8, frames=8), imagej(9, slices=6)]
)
def test_an_imagej_stack_that_claims_more(tmp_path: Path, described: str, compression: str | None) -> None:
    fails(pages(tmp_path / "a.tif", *STACK, description=described, compression=compression), r"claims \d+ planes")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_that_a_description_leaves_out(tmp_path: Path, compression: str | None) -> None:
    for description in (imagej(3), ome(3)):
        path = pages(tmp_path / "a.tif", *STACK, description=description, compression=compression)
        with open_image(path) as source:
            np.testing.assert_array_equal(read(source), STACK[:3])
            assert any("1 other image " in note and "3 x 60 x 71" in note for note in source.notes)
        with open_image(path, series=1) as source:
            np.testing.assert_array_equal(read(source), STACK[3:])


@pytest.mark.parametrize(
    "described",
    [
        ome(8),
        ome(8, data="".join(f'<TiffData IFD="{n}" FirstZ="{n}" PlaneCount="1"/>' for n in range(8))),
        ome(12, data='<TiffData FirstZ="6" IFD="0" PlaneCount="6"/>'),
    ],
    ids=["planes", "listed", "half of them"],
)
def test_an_ome_tiff_that_claims_more(tmp_path: Path, described: str) -> None:
    fails(pages(tmp_path / "a.ome.tif", *STACK, description=described), "claims|lacks")


def test_an_ome_tiff_of_several_files(tmp_path: Path) -> None:
    data = "".join(
        f'<TiffData IFD="{n % 3}" FirstZ="{n}" PlaneCount="1"><UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID>'
        "</TiffData>"
        for n, name in enumerate("aaabbb")
    )
    described = ome(6, data=data, uuid=' UUID="urn:uuid:a"')
    path = pages(tmp_path / "a.ome.tif", *STACK[:3], description=described)
    pages(tmp_path / "b.ome.tif", *STACK[3:], description=described.replace("xmlns", 'x="" xmlns'))
    with open_image(path) as source:
        np.testing.assert_array_equal(read(source), STACK[:3])
        assert "b.ome.tif" in source.notes[0] and "6 planes" in source.notes[0]
    companion = f'<?xml version="1.0"?><OME xmlns="{OME}"><BinaryOnly MetadataFile="all.companion.ome" UUID="u"/></OME>'
    assert "all.companion.ome" in notes_of(pages(tmp_path / "c.tif", *STACK, description=companion))


def test_descriptions_that_do_not_fit_the_pages(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif", STACK[0], description=ome(1, size=(120, 142)))
    with open_image(path) as source:
        assert source.pixel_size is None
        assert "120 x 142" in source.notes[0]
    assert "cannot be read" in notes_of(pages(tmp_path / "b.tif", STACK[0], description="<OME><Image></OME>"))


def test_pages_of_one_stack_that_are_not_alike(tmp_path: Path) -> None:
    for other in (STACK[1][:30], STACK[1].astype(np.uint16), STACK[1][:, :40]):
        for description in (imagej(2), ome(2)):
            path = pages(tmp_path / "a.tif", STACK[0], other, description=description, compression="zlib")
            fails(path, "differ|not alike")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(STACK[0], metadata=None, description=imagej(2), compression="zlib")
        writer.write(STACK[1], metadata=None, compression="lzw")
    fails(tmp_path / "b.tif", "compression")


def test_what_tifffile_warns_of_is_a_note(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif", STACK[0], description="text", software="program")
    data = path.read_bytes()
    at = data.index((305).to_bytes(2, "little") + (2).to_bytes(2, "little"))
    path.write_bytes(data[: at + 8] + (len(data) + 99).to_bytes(4, "little") + data[at + 12 :])
    with open_image(path) as source:
        np.testing.assert_array_equal(read(source)[0], STACK[0])
        assert "tifffile warns" in source.notes[0] and "305" in source.notes[0]


def test_frames_of_pictures(tmp_path: Path) -> None:
    images = [Image.fromarray(page) for page in STACK[:3]]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=images[1:], quality=95)
    for name in ("a.png", "a.jpg"):
        with open_image(tmp_path / name) as source:
            assert source.format == {"png": "PNG", "jpg": "JPEG"}[name[2:]]
            assert "2 other images" in source.notes[0]
        for number in range(3):
            with open_image(tmp_path / name, series=number) as source:
                assert np.abs(read(source)[0].astype(int) - STACK[number]).mean() < (1 if name == "a.png" else 40)
        fails(tmp_path / name, "no series 3", series=3)
    images[0].save(tmp_path / "b.png")
    fails(tmp_path / "b.png", "no series 1: choose one from 0 to 0", series=1)


def test_images_of_one_ome_zarr_group(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    described = [multiscales("zyx", 1, 1.0) | {"name": name} for name in ("first", "second")]
    described[1]["datasets"][0]["path"] = "more"
    group.attrs["ome"] = {"version": "0.5", "multiscales": described}
    group.create_array("0", data=STACK[:2])
    group.create_array("more", data=STACK[2:])
    with open_image(tmp_path / "a.zarr") as source:
        np.testing.assert_array_equal(read(source), STACK[:2])
        assert "second" in source.notes[0] and "--series N" in source.notes[0]
    with open_image(tmp_path / "a.zarr", series=1) as source:
        np.testing.assert_array_equal(read(source), STACK[2:])
    fails(tmp_path / "a.zarr", "no series 2", series=2)


def test_series_of_bioformats2raw(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"ome": {"bioformats2raw.layout": 3}})
    assert root is not None
    for number in (0, 1):
        (tmp_path / "written").mkdir()
        path = ome_zarr("0.5", "zyx", 0.3)(tmp_path / "written", STACK[number : number + 3, None])
        path.rename(tmp_path / "a.zarr" / str(number))
        (tmp_path / "written").rmdir()
    fails(tmp_path / "a.zarr", "--series N")
    with open_image(tmp_path / "a.zarr", series=1) as source:
        np.testing.assert_array_equal(read(source), STACK[1:4])


@pytest.mark.parametrize("shape", [(60, 80, 7), (60, 7, 80), (80, 60, 30), (512, 512, 60), (4, 3, 60, 4), (3, 60, 4)])
def test_arrays_whose_axes_have_to_be_told(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=make_pixels(*shape))
    assert "--axes" in fails(tmp_path / "a.zarr", "axes")


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((60, 80), ""), ((60, 80, 3), ""), ((7, 60, 80), "z, y, x"), ((3, 60, 80), "c, y, x"), ((100, 64, 66), "z, y, x")],
)
def test_guessed_axes_are_said(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=make_pixels(*shape))
    notes = notes_of(tmp_path / "a.zarr")
    assert (f"taken for {axes}; --axes" in notes) if axes else not notes


def test_narrow_pages_of_a_tiff_are_said(tmp_path: Path) -> None:
    """What imwrite makes of an image with many channels."""
    tifffile.imwrite(tmp_path / "a.tif", make_pixels(60, 80, 7), photometric="minisblack")
    assert "60 planes of 80 x 7" in notes_of(tmp_path / "a.tif")
    assert not notes_of(tmp_path / "a.tif", axes="zyx")
    tifffile.imwrite(tmp_path / "b.tif", STACK, photometric="minisblack")
    assert not notes_of(tmp_path / "b.tif")
