"""Zarr groups that are no image: opened where they hold one, else the message says what to name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import Run
from conftest import noise
from mask_files import mask_of
from ome_zarr_files import axes_of, transformations, write_image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image


def root(path: Path, version: str, attributes: dict[str, Any]) -> None:
    """A group with `attributes`, which 0.5 keeps under `ome`."""
    is_v3 = version == "0.5"
    given = {"ome": {"version": version} | attributes} if is_v3 else attributes
    zarr.open_group(path, mode="w", zarr_format=3 if is_v3 else 2, attributes=given)


def converted(path: Path, version: str, count: int) -> list[np.ndarray]:
    """What bioformats2raw writes of a file of `count` series."""
    root(path, version, {"bioformats2raw.layout": 3})
    names = [str(number) for number in range(count)]
    root(path / "OME", version, {"series": names})
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    images = [noise((40 + n, 50)) for n in range(count)]
    for name, pixels in zip(names, images, strict=True):
        write_image(path / name, [pixels], version, axes=axes_of("yx"), described=[transformations([1, 1])])
    return images


@pytest.mark.parametrize("version", ["0.4", "0.5"])
class TestConverted:
    def test_the_only_series_is_opened(self, version: str, folder: Path, run: Run) -> None:
        (pixels,) = converted(folder / "a.zarr", version, 1)
        with open_image("a.zarr") as source:
            assert source.format == f"OME-Zarr {version}"
            np.testing.assert_array_equal(source.read(Region(0, 0, 40, 50))[0], pixels)
        assert '"shape_yx": [40, 50]' in run("info a.zarr --json").out
        for image in ("a.zarr", "a.zarr/0"):
            assert run(f"predict {image} -m toy.safetensors --tile 88 -o m.zarr --overwrite").code == 0
            assert mask_of("m.zarr").shape == (40, 50)
        assert run("predict a.zarr -m toy.safetensors --tile 88 -o a.zarr/0/labels/x").code == 0

    def test_of_several_one_is_to_be_named(self, version: str, folder: Path, run: Run) -> None:
        converted(folder / "a.zarr", version, 11)
        done = run("predict a.zarr -m toy.safetensors --tile 88 -o m.zarr")
        assert done.code == 1
        assert "11 images" in done.err
        assert "0, 1, 2, 3" in done.err
        assert "a.zarr/0" in done.err
        assert run("predict a.zarr/10 -m toy.safetensors --tile 88 -o m.zarr").code == 0

    def test_a_mask_is_not_for_the_root(self, version: str, folder: Path, run: Run) -> None:
        converted(folder / "a.zarr", version, 1)
        done = run("predict a.zarr -m toy.safetensors --tile 88 -o a.zarr/labels/x")
        assert done.code == 1
        assert "a.zarr/0/labels/" in done.err


def plate(path: Path, version: str) -> None:
    wells = [{"path": f"{row}/{column}", "rowIndex": 0, "columnIndex": 0} for row in "AB" for column in "12"]
    root(path, version, {"plate": {"wells": wells, "rows": [], "columns": []}})
    for well in wells:
        root(path / str(well["path"]), version, {"well": {"images": [{"path": "0"}, {"path": "1"}]}})
        for field in "01":
            write_image(path / str(well["path"]) / field, [noise((40, 50))], version, axes=axes_of("yx"))


def spatial_data(path: Path, version: str) -> None:
    zarr.open_group(path, mode="w", attributes={"spatialdata_attrs": {"version": "0.2"}})
    zarr.open_group(path / "images", mode="w")
    write_image(path / "images" / "slide", [noise((40, 50))], axes=axes_of("yx"))


CASES: dict[str, tuple[Callable[[Path, str], None], str, list[str], str]] = {
    "plate": (plate, "", ["plate of 4 wells", "a.zarr/A/1/0"], "A/1/0"),
    "well": (plate, "/B/2", ["2 fields", "a.zarr/B/2/0"], "B/2/1"),
    "spatialdata": (spatial_data, "", ["SpatialData", "images/slide"], "images/slide"),
    "images of spatialdata": (spatial_data, "/images", ["name one of slide"], "images/slide"),
}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("write", "below", "named", "image"), CASES.values(), ids=CASES.keys())
def test_what_to_name(
    write: Callable[[Path, str], None], below: str, named: list[str], image: str, version: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.zarr", version)
    with pytest.raises(ImageError) as caught:
        open_image(f"{tmp_path}/a.zarr{below}")
    assert all(words in str(caught.value) for words in named), caught.value
    with open_image(tmp_path / "a.zarr" / image) as source:
        assert source.shape == (40, 50)


@pytest.mark.parametrize("attributes", [{"plate": {}}, {"well": {}}, {"plate": {"wells": [7, {"path": "\n"}]}}])
def test_damaged_descriptions(attributes: dict[str, Any], tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"ome": attributes})
    with pytest.raises(ImageError, match="name one") as caught:
        open_image(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)
