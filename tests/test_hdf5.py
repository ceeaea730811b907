"""Datasets in HDF5 files: how they are named, what they tell of themselves, and what is refused."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from command_line import Run
from conftest import noise
from hdf5_files import arrays, hdf5
from image_files import GREY, RGB, STACK, VOLUME, fails, read_all

from tilesegment import Region, open_mask
from tilesegment.images import open_image
from tilesegment.images.datasets import split_dataset
from tilesegment.images.identity import identity

TOY = "-m toy.safetensors --tile 88 --device cpu"
_BLOSC = 32001


def test_a_dataset_is_named_behind_its_file(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.h5", volumes__raw=GREY[0], volumes__labels=GREY[0] % 3, table=np.arange(9))
    for name, expected in (("/volumes/raw", GREY[0]), ("/volumes/labels", GREY[0] % 3)):
        with open_image(f"{path}:{name}") as source:
            assert source.path == f"{path}:{name}"
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], expected)
    message = fails(path, "with 2 images: .*: name one")
    assert f"{path}:/volumes/raw (150 x 211 uint8)" in message and "labels" in message and "table" not in message
    fails(Path(f"{path}:/volumes"), "is a group, not a dataset: it holds")
    fails(Path(f"{path}:/nothing"), "does not exist: of .* it holds")
    fails(path / "volumes" / "raw", f"does not exist.* is {path}:/volumes/raw")
    fails(Path(f"{path}:volumes/raw"), f"does not exist.* is {path}:/volumes/raw")
    fails(Path(f"{path}:"), f"does not exist.* is {path}:/NAME")


def test_a_file_with_one_image_needs_no_name(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.h5", deep__exported_data=GREY[0], scale=np.ones(3), flag=np.ones((1, 1)))
    with open_image(path) as source:
        assert source.path == f"{path}:/deep/exported_data"
    fails(arrays(tmp_path / "b.h5", scale=np.ones(3)), "holds no array of two dimensions")


def test_colons_elsewhere_in_a_path_are_not_of_a_dataset(tmp_path: Path) -> None:
    odd = tmp_path / "a.h5:" / "b"
    odd.parent.mkdir()
    tifffile.imwrite(odd, GREY[0])
    with open_image(odd) as source:
        assert source.format == "TIFF"
    path = arrays(tmp_path / "c:d.h5", volume=GREY[0])
    assert split_dataset(f"{path}:/volume") == (str(path), "/volume")
    for other in ("C:/data/a.h5", "s3://bucket/a.h5", "a.h5:/volume", str(odd), str(path)):
        assert split_dataset(other) == (other, "")
    fails(Path(f"{odd}:/volume"), "is no HDF5 file, so leave out :/volume")


@pytest.mark.parametrize(
    ("axes", "pixels", "size"),
    [("zyxc", VOLUME, 0.25), ("cyx", RGB, None), ("xy", GREY, 0.5), ("tzcyx", VOLUME, None)],
)
def test_axis_tags_and_element_sizes(axes: str, pixels: np.ndarray, size: float | None, tmp_path: Path) -> None:
    sizes = {"element_size_um": [1.0, 0.25, 0.25] if "z" in axes else [0.5, 0.5]} if size else {}
    path = hdf5(axes, tagged=True, attributes=sizes)(tmp_path, pixels)
    with open_image(path) as source:
        planes = pixels if pixels.ndim == 4 else pixels[None]
        assert (source.shape, source.depth or 1, source.channels) == (planes.shape[2:], len(planes), planes.shape[1])
        assert source.pixel_size is None if size is None else source.pixel_size.x == pytest.approx(size)
        for z, plane in enumerate(planes):
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape), z=z), plane)


@pytest.mark.parametrize(
    ("attributes", "um", "said"),
    [
        ({"resolution": [40.0, 4.0, 8.0]}, (0.004, 0.008), True),
        ({"resolution": [40.0, 4.0, 8.0], "units": "micron"}, (4, 8), False),
        ({"resolution": "fine", "element_size_um": [0.0, 1.0, 1.0]}, None, False),
        ({"axistags": "{", "resolution": [1.0, 2.0]}, None, False),
        ({"axistags": json.dumps({"axes": [{"key": 3}]}), "resolution": np.nan}, None, False),
    ],
)
def test_what_a_file_tells_of_its_pixel_size(
    attributes: dict[str, Any], um: tuple[float, float] | None, said: bool, tmp_path: Path
) -> None:
    with open_image(hdf5("zyx", attributes=attributes)(tmp_path, STACK)) as source:
        assert (None if source.pixel_size is None else (source.pixel_size.y, source.pixel_size.x)) == (
            None if um is None else pytest.approx(um)
        )
        assert ("taken for nanometres" in " ".join(source.notes)) == said


def test_sizes_along_three_axes_tell_planes_from_channels(tmp_path: Path) -> None:
    """Three planes look like the channels of a picture; a distance between them is none of channels."""
    planes = noise((3, 1, 40, 50))
    with open_image(hdf5("zyx", attributes={"element_size_um": [0.05, 0.004, 0.004]})(tmp_path, planes)) as source:
        assert (source.depth, source.channels, source.frame.z.scale) == (3, 1, 0.05)
    with open_image(hdf5("zyx")(tmp_path, planes)) as source:
        assert (source.depth, source.channels) == (None, 3)


def test_labels_of_dimensions(tmp_path: Path) -> None:
    path = hdf5("zyx")(tmp_path, STACK)
    with h5py.File(path, "r+") as file:
        for dimension, label in zip(file["volume"].dims, "cyx", strict=True):
            dimension.label = label
    with open_image(path) as source:
        assert (source.depth, source.channels) == (None, 5)


def test_what_a_shape_does_not_tell_is_said_or_refused(tmp_path: Path) -> None:
    assert "taken for z, y, x" in read_all(hdf5("zyx")(tmp_path, STACK))[1]
    path = arrays(tmp_path / "a.h5", volume=np.zeros((2, 3, 4, 5, 6, 7), np.uint8))
    fails(path, "give its --axes")
    with open_image(path, axes="abzcyx", select={"a": 1, "b": 2}) as source:
        assert (source.depth, source.channels, source.shape) == (4, 5, (6, 7))


def test_a_missing_filter_is_named(tmp_path: Path) -> None:
    """A chunk may be stored under a filter that the library lacks."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((16, 16))
        plan.set_filter(_BLOSC, h5py.h5z.FLAG_OPTIONAL)
        space, kind = h5py.h5s.create_simple((32, 32)), h5py.h5t.NATIVE_UINT8
        h5py.Dataset(h5py.h5d.create(file.id, b"volume", kind, space, plan)).id.write_direct_chunk((0, 0), b"packed")
    fails(tmp_path / "a.h5", r"compressed with blosc \(HDF5 filter 32001\).*hdf5plugin, or .*h5repack")


def test_pixels_in_other_files_are_refused(tmp_path: Path) -> None:
    """A file could name any other one on this machine, which would not count in the identity of the image either."""
    source = arrays(tmp_path / "source.h5", volume=GREY[0])
    (tmp_path / "raw").write_bytes(GREY.tobytes())
    layout = h5py.VirtualLayout(GREY[0].shape, np.uint8)
    layout[:] = h5py.VirtualSource(source, "volume", GREY[0].shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", GREY[0].shape, np.uint8, external=[(str(tmp_path / "raw"), 0, GREY.size)])
        file["linked"] = h5py.ExternalLink(str(source), "/volume")
        file["soft"] = h5py.SoftLink("/inside")
        file["inside"] = GREY[0]
        file["broken"] = h5py.SoftLink("/nothing")
    for name in ("virtual", "raw", "linked"):
        fails(Path(f"{tmp_path}/a.h5:/{name}"), "pixels in other files")
    assert read_all(Path(f"{tmp_path}/a.h5:/soft"))[0].shape == GREY[0].shape
    fails(Path(f"{tmp_path}/a.h5:/broken"), "does not exist")


def test_what_is_damaged_or_no_image(tmp_path: Path) -> None:
    path = hdf5("yx", chunks=(50, 50), compression="gzip")(tmp_path, GREY)
    whole = path.read_bytes()
    for length in (8, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        fails(path, "cannot be opened")
    path.write_bytes(whole.replace(b"x^", b"xx") if b"x^" in whole else whole[:-5000] + bytes(5000))
    fails(path, "damaged|cannot be opened")
    with h5py.File(path, "w") as file:
        file["words"] = np.array([b"a", b"b"])
        file["complex"] = np.ones((5, 5), np.complex64)
        file["huge"] = h5py.Empty("u1")
    for name in ("words", "complex", "huge"):
        fails(Path(f"{path}:/{name}"), "no grey values")
    fails(Path(f"{path}:/complex"), "no grey values", series=0)


def test_two_datasets_of_a_file_are_two_images(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.h5", one=GREY[0], two=GREY[0])
    digests = {identity(f"{path}:/{name}").digest for name in ("one", "two")}
    assert len(digests) == 2
    with h5py.File(path, "r+") as file:
        file["one"][5, 5] += 1
    assert identity(f"{path}:/one").digest not in digests


def test_every_command_takes_a_dataset(folder: Path, run: Run) -> None:
    pixels = noise((130, 150))
    tifffile.imwrite("same.tif", pixels)
    labels = (pixels > 127).astype(np.uint8)
    arrays(folder / "a.h5", volume=pixels, labels=labels, copy=labels)
    facts = json.loads(run("info a.h5:/volume --json").out)
    assert (facts["format"], facts["shape_yx"]) == ("HDF5", [130, 150])
    assert run(f"predict a.h5:/volume {TOY} --out m.zarr").code == 0
    again = run(f"predict a.h5:/volume {TOY} --out m.zarr --json")
    assert json.loads(again.out)["blocks"] == 0
    assert run(f"predict same.tif {TOY} --out t.zarr").code == 0
    whole = Region(0, 0, 130, 150)
    np.testing.assert_array_equal(open_mask("m.zarr").read(whole), open_mask("t.zarr").read(whole))
    other = run(f"predict a.h5:/labels {TOY} --out m.zarr")
    assert other.code == 1 and "--overwrite" in other.err
    assert run("preview a.h5:/volume m.zarr --out look.png").code == 0
    assert json.loads(run("evaluate a.h5:/copy a.h5:/labels --json").out)["accuracy"] == 1
    (folder / "list.txt").write_text("a.h5:/volume\na.h5:/labels\n")
    assert run(f"predict --list list.txt {TOY} --out-dir masks").code == 0
    assert sorted(path.name for path in (folder / "masks").glob("*.zarr")) == ["a_labels.zarr", "a_volume.zarr"]
    refused = run(f"predict a.h5 {TOY} --out n.zarr")
    assert refused.code == 1 and "a.h5:/volume (130 x 150 uint8)" in refused.err
