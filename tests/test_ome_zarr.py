"""The metadata of OME-Zarr images: scales and transformations, believed where the shapes of the levels agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import Run
from conftest import noise
from mask_files import mask_of
from ome_zarr_files import axes_of, means, placement, transformations, write_image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image

GREY = noise((1, 1, 1, 70, 90))
TWICE = [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
# version, axes, what is said of levels 0, 1, 2
WRONG: dict[str, tuple[str, Any, list[dict[str, Any]]]] = {
    "0.1": ("0.1", None, []),
    "0.2": ("0.2", None, []),
    "0.3": ("0.3", list("tczyx"), []),
    "0.4 without": ("0.4", axes_of("tczyx"), []),
    "0.5 without": ("0.5", axes_of("tczyx"), []),
    "the same on all": ("0.4", axes_of("tczyx"), [transformations([1, 1, 1, 0.5, 0.5])] * 3),
    "the same along x": ("0.5", axes_of("tczyx"), [transformations([1, 1, 1, 2**n, 1]) for n in range(3)]),
    "inverted": ("0.5", axes_of("tczyx"), [transformations([1, 1, 1, 0.5**n, 0.5**n]) for n in range(3)]),
    "only on level 0": ("0.5", axes_of("tczyx"), [transformations([1, 1, 1, 0.5, 0.5])]),
    "of space alone, and wrong": ("0.4", axes_of("tczyx"), [transformations([1, 3**n, 3**n]) for n in range(3)]),
    "in an array": ("0.4", axes_of("tczyx"), [{"coordinateTransformations": [{"type": "scale", "path": "s"}]}] * 3),
}


@pytest.mark.parametrize(("version", "axes", "described"), WRONG.values(), ids=WRONG.keys())
def test_levels_are_reduced_as_their_shapes_say(
    version: str, axes: Any, described: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = write_image(tmp_path / "a.zarr", means(GREY, 3), version, axes=axes, described=described)
    with open_image(path) as source:
        assert [level.scale for level in source.levels] == TWICE
        assert source.notes
        assert all(str(path) in note for note in source.notes)


@pytest.mark.parametrize(
    ("sides", "factor"),
    [((701, 351), 2), ((701, 350), 2), ((1000, 512), 2), ((90, 30), 3), ((4097, 5), 1024)],
)
def test_metadata_is_believed_where_it_agrees(sides: tuple[int, int], factor: float, tmp_path: Path) -> None:
    """Sides are rounded up or down, or padded to whole chunks; the ratio of the sides is as good."""
    levels = [np.ones((side, 40), np.uint8) for side in sides]
    for said in (factor, sides[0] / sides[1] if sides[1] > 5 else factor):
        described = [transformations([0.3, 0.3]), transformations([0.3 * said, 0.3])]
        path = write_image(tmp_path / "a.zarr", levels, axes=axes_of("yx"), described=described)
        with open_image(path) as source:
            assert source.levels[1].scale == (pytest.approx(said), 1.0)
            assert source.notes == ()


@pytest.mark.parametrize(
    ("axes", "scale", "translation", "z"),
    [
        ("tczyx", [40, 0.5, 0.001], [80, 3, 4], True),
        ("zyx", [1, 1, 40, 0.5, 0.001], [0, 0, 80, 3, 4], True),
        ("czyx", [0.5, 0.001], [3, 4], False),
        ("cyx", [7, 7, 7, 0.5, 0.001], [9, 9, 9, 3, 4], False),
    ],
)
def test_numbers_for_other_axes_than_there_are(
    axes: str, scale: list[float], translation: list[float], z: bool, tmp_path: Path
) -> None:
    """Those of space alone, of the plane alone, or of all five."""
    named = axes_of(axes, {"z": "nanometer", "y": "micrometer", "x": "millimeter"})
    described = [transformations(scale, translation)]
    pixels = GREY.reshape((1,) * (len(axes) - 2) + GREY.shape[-2:])
    path = write_image(tmp_path / "a.zarr", [pixels], axes=named, described=described)
    with open_image(path) as source:
        frame, notes = source.frame, source.notes
    assert [frame.y.scale, frame.x.scale, frame.y.origin, frame.x.origin] == pytest.approx([0.5, 1, 3, 4000])
    if z:
        assert (frame.z.scale, frame.z.origin) == pytest.approx((0.04, 0.08))
    assert len(notes) == 2
    assert f"{len(scale)} numbers" in notes[0]


@pytest.mark.parametrize(
    ("described", "named"),
    [
        (transformations([1, 2, 3, 4]), "4 numbers"),
        (transformations([1]), "1 numbers"),
        ({"coordinateTransformations": [{"type": "scale", "path": "some/where"}]}, "some/where"),
        ({"coordinateTransformations": [{"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]}]}, "affine"),
    ],
)
def test_what_is_not_read_is_named(described: dict[str, Any], named: str, tmp_path: Path, run: Run) -> None:
    path = write_image(tmp_path / "a.zarr", [GREY[0, 0, 0]], axes=axes_of("yx"), described=[described])
    with open_image(path) as source:
        assert source.pixel_size is None
        np.testing.assert_array_equal(source.read(Region(0, 0, 70, 90)), GREY[0, 0])
    assert named in run(f"info {path}").out


def test_transformations_follow_each_other(tmp_path: Path) -> None:
    """A level's, then the image's; sequences are taken apart, of several systems of coordinates the first counts."""
    units = axes_of("yx", {"y": "micrometer", "x": "micrometer"})
    level = transformations([2, 4], [10, 20])
    steps = [{"type": "identity"}, *transformations([0.5, 0.25], [1, 2])["coordinateTransformations"]]
    sequence = [{"type": "sequence", "transformations": steps}]
    systems = [one | {"output": {"name": name}} for one, name in zip([sequence[0], steps[1]], "ab", strict=True)]
    for whole in (steps, sequence, systems):
        path = write_image(
            tmp_path / "a.zarr",
            [GREY[0, 0, 0]],
            axes=units,
            described=[level],
            coordinateTransformations=whole,
        )
        with open_image(path) as source:
            assert (source.frame.y.scale, source.frame.x.scale) == (1, 1)
            assert (source.frame.y.origin, source.frame.x.origin) == (6, 7)


def test_levels_are_reduced_as_they_say_whatever_the_whole_image_goes_through(tmp_path: Path) -> None:
    """As in SpatialData stores, whose version has a suffix, too."""
    whole = [{"input": {}, "output": {"name": "global"}, "type": "affine", "affine": [[1, 2, 3], [4, 5, 6]]}]
    described = [transformations([n, n]) for n in (1, 2.02)]
    levels = [np.ones((101, 101), np.uint8), np.ones((50, 50), np.uint8)]
    path = write_image(
        tmp_path / "a.zarr",
        levels,
        "0.5-dev-spatialdata",
        axes=axes_of("yx", {"y": "micrometer", "x": "micrometer"}),
        described=described,
        coordinateTransformations=whole,
    )
    with open_image(path) as source:
        assert source.format == "OME-Zarr 0.5"
        assert source.levels[1].scale == (2.02, 2.02)
        assert source.pixel_size is None
        assert len(source.notes) == 1
        assert "affine" in source.notes[0]


@pytest.mark.parametrize("version", ["0.6", "0.6-dev1", "0.7", "1.0"])
def test_later_versions_are_refused_by_name(version: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [GREY], version, axes=axes_of("tczyx"))
    with pytest.raises(ImageError, match=rf"is OME-Zarr {version[:3]}, which is not read.*0\.5"):
        open_image(path)
    with open_image(path / "0") as source:
        assert source.shape == (70, 90)


def test_a_version_is_known_by_its_systems_of_coordinates(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [GREY], axes=axes_of("tczyx"), coordinateSystems=[{"name": "physical"}])
    with pytest.raises(ImageError, match=r"0\.6, which is not read"):
        open_image(path)


# what was silently wrong: regions of level 1 too large, labels that fit no level, tissue skipped


@pytest.mark.parametrize("name", ["0.1", "0.4 without", "inverted"])
def test_a_region_of_a_level_and_a_label_in_the_image(name: str, folder: Path, run: Run) -> None:
    version, axes, described = WRONG[name]
    write_image(folder / "a.zarr", means(GREY, 3), version, axes=axes, described=described)
    done = run("predict a.zarr -m toy.safetensors --tile 88 --level 1 --roi 0:40,20:80 -o m.zarr")
    assert done.code == 0, done.err
    assert mask_of("m.zarr").shape[-2:] == (20, 30)
    assert "Note: a.zarr: " in done.err
    assert "level 1 (2 x 2" in run("info a.zarr").out
    done = run("predict a.zarr -m toy.safetensors --tile 88 -o a.zarr/labels/x")
    assert done.code == 0, done.err
    image, label = (zarr.open_group(f"a.zarr{name}", mode="r") for name in ("", "/labels/x"))
    for level in "012":
        assert label[level].shape[-2:] == image[level].shape[-2:]
    first, second = (placement(folder / "a.zarr/labels/x", level)[0] for level in (0, 1))
    assert second[-2:] == [2 * side for side in first[-2:]]


@pytest.mark.slow
def test_tissue_is_predicted_and_glass_is_not(folder: Path, run: Run, small_blocks: None) -> None:
    """A textured disc on even glass, beyond the middle; the overview is made of a level without a scale."""
    slide = np.full((1, 1, 1, 1536, 1536), 235, np.uint8)
    y, x = np.ogrid[:1536, :1536]
    disc = np.hypot(y - 1160, x - 1160) < 60
    slide[0, 0, 0][disc] = noise((1536, 1536))[disc] // 2 + 40
    write_image(folder / "s.zarr", means(slide, 3), "0.3", axes=list("tczyx"))
    run("predict s.zarr -m toy.safetensors --tile 88 --roi 1050:1270,1050:1270 -o all.zarr -q")
    done = run("predict s.zarr -m toy.safetensors --tile 88 --skip-empty tissue -o m.zarr")
    assert done.code == 0, done.err
    every, some = mask_of("all.zarr").reshape(220, 220), mask_of("m.zarr").reshape(1536, 1536)
    part = disc[1050:1270, 1050:1270]
    np.testing.assert_array_equal(some[1050:1270, 1050:1270][part], every[part])
    assert "blocks were empty and skipped" in done.err
    assert not some[:96, :96].any()
