"""Commands that read masks on a server say what they say of the same masks on a disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run, fill, runner
from conftest import noise
from s3_server import upload

from tilesegment.geometry import Region
from tilesegment.masks import open_mask
from tilesegment.stores import Location, place_of, store_at

LINE = "predict slide.tif -m toy.safetensors --tile 64 --precision fp32 --quiet"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def options(s3: Location) -> str:
    """What reaches the server of `s3`."""
    return " ".join(f"--store-option {name}={value}" for name, value in s3.options)


@pytest.fixture
def mask(run: Run, s3: Location, tmp_path: Path) -> Location:
    """The mask mask.zarr, with its image slide.tif, on a disk and on a server."""
    assert run(f"{LINE} --out mask.zarr").code == 0
    upload(tmp_path / "slide.tif", s3)
    return upload(tmp_path / "mask.zarr", s3)


def without(document: dict[str, object], *names: str) -> dict[str, object]:
    return {key: value for key, value in document.items() if key not in names}


def test_a_summary(run: Run, mask: Location, options: str) -> None:
    found = run(f"summary {mask} mask.zarr {options} --quiet --json")
    assert found.code == 0, found
    there, here = json.loads(found.out)
    assert there["mask"] == str(mask)
    assert without(there, "mask") == without(here, "mask")


def test_objects_with_the_grey_values_of_an_image(run: Run, mask: Location, s3: Location, options: str) -> None:
    assert run("objects mask.zarr --image slide.tif --out here.csv --out here.zarr").code == 0
    line = f"objects {mask} --image {s3}/slide.tif --out there.csv --out there.zarr {options}"
    found = run(f"{line} --workers 1")
    assert found.code == 0, found
    assert Path("there.csv").read_text() == Path("here.csv").read_text()


def test_objects_of_ids(run: Run, mask: Location, s3: Location, options: str) -> None:
    assert run("objects mask.zarr --out ids.zarr --out here.csv").code == 0
    there = upload(Path("ids.zarr").absolute(), s3)
    found = run(f"summary {there} ids.zarr {options} --quiet --json")
    assert found.code == 0, found
    first, second = json.loads(found.out)
    assert without(first, "mask") == without(second, "mask")


@pytest.mark.parametrize("more", ["", "--objects"])
def test_an_evaluation(run: Run, mask: Location, options: str, more: str) -> None:
    assert run(f"{LINE} --tta --out truth.zarr").code == 0
    truth = upload(Path("truth.zarr").absolute(), mask.parent)
    image = "--image {}/slide.tif --figure {}"
    here = run(f"evaluate mask.zarr truth.zarr --quiet --json {image.format('.', 'here.png')} {more}")
    there = run(f"evaluate {mask} {truth} --quiet --json {image.format(mask.parent, 'there.png')} {more} {options}")
    mixed = run(f"evaluate mask.zarr {truth} --quiet --json {more} {options}")
    assert (here.code, there.code, mixed.code) == (0, 0, 0), (here.err, there.err, mixed.err)
    paths = ("prediction", "truth", "figure", "notes")
    documents = [without(json.loads(one.out), *paths) for one in (here, there, mixed)]
    assert documents[0] == documents[1] == documents[2]
    assert Path("there.png").stat().st_size > 0


def test_what_is_no_zarr_on_a_server_is_refused(run: Run, mask: Location, options: str) -> None:
    place, image = mask.parent, f"{mask.parent}/slide.tif"
    store_at(place).put("cells.geojson", b'{"type":"FeatureCollection","features":[]}')
    for line, said in (
        (f"summary {image}", "download it"),
        (f"objects {image} --out c.csv", "download it"),
        (f"evaluate {image} mask.zarr", "download it"),
        (f"evaluate mask.zarr {place}/cells.geojson", "download it"),
        (f"evaluate {mask} {mask}", "given as prediction and as truth"),
    ):
        found = run(f"{line} {options}")
        assert found.code == 1 and found.err.count("\n") == 1 and said in found.err, (line, found)


def test_the_tissue_of_an_image(run: Run, s3: Location, options: str, tmp_path: Path) -> None:
    picture = np.full((300, 400, 3), 240, np.uint8)
    picture[60:200, 80:300] = noise((140, 220, 3), 1) // 2 + 40
    tifffile.imwrite(tmp_path / "pink.tif", picture, photometric="rgb")
    image = upload(tmp_path / "pink.tif", s3)
    for name in ("tissue.zarr", "tissue.geojson"):
        assert run(f"tissue pink.tif --out {name}").code == 0
        found = run(f"tissue {image} --out there-{name} {options}")
        assert found.code == 0, found
    found = run(f"tissue {image} --out {s3}/tissue.zarr {options} --json")
    assert found.code == 0 and json.loads(found.out)["out"] == f"{s3}/tissue.zarr", found
    masks = [open_mask(one) for one in ("tissue.zarr", "there-tissue.zarr", place_of(f"{s3}/tissue.zarr", s3.options))]
    here, *there = (one.read(Region.of_shape(one.spec.shape)) for one in masks)
    assert here.any() and all(np.array_equal(one, here) for one in there)
    for name in ("tissue.geojson", "tissue.png", "pink.tif"):
        found = run(f"tissue {image} --out {s3}/{name} {options}")
        assert found.code in (1, 2) and found.err.count("\n") == 1 and name in found.err, found


def test_a_proof_on_an_image(run: Run, mask: Location, options: str) -> None:
    line = "verify {}/slide.tif -m toy.safetensors --tile 88 --quiet --json {}"
    here, there = run(line.format(".", "")), run(line.format(mask.parent, options))
    assert (there.code, there.out) == (0, here.out), there
