"""Predictions of images on a server: the same masks as from a disk, with the choices of the command line."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run
from conftest import noise
from cut_proxy import proxied
from image_files import ome_zarr
from s3_server import CREDENTIALS, S3Server, upload

import tilesegment
from tilesegment.cluster import Cluster
from tilesegment.masks import Mask, find_mask
from tilesegment.prediction.job import Job
from tilesegment.prediction.settings import Settings
from tilesegment.stores import Location

LINE = "--model toy.safetensors --precision fp32 --device cpu -q"


@pytest.fixture
def options(s3: Location) -> str:
    """How the server is reached, on the command line."""
    return " ".join(f"--store-option {key}={value}" for key, value in s3.options)


@pytest.fixture
def slide(folder: Path, s3: Location) -> Location:
    """slide.tif of the working folder of the command line."""
    return upload(folder / "slide.tif", s3 / "a folder")


def ids_of(path: Path) -> np.ndarray:
    """The class ids of a mask."""
    return np.asarray(zarr.open_array(path / "0", mode="r")[:])


@pytest.mark.usefixtures("small_blocks")
class TestPredict:
    def test_a_mask_on_the_disk(self, folder: Path, s3: Location, slide: Location, options: str, run: Run) -> None:
        image = upload(ome_zarr("0.5", "yx", 0.3)(folder, tifffile.imread(folder / "slide.tif")[None]), s3)
        assert run(f"predict slide.tif --out local.zarr {LINE}").code == 0
        for place, out in ((slide, "tiff.zarr"), (image, "zarr.zarr")):
            done = run(f"predict --out {out} --preview {out}.png {LINE} {options}", str(place))
            assert (done.code, done.err) == (0, "")
            np.testing.assert_array_equal(ids_of(folder / out), ids_of(folder / "local.zarr"))
            mask = find_mask(folder / out)
            assert isinstance(mask, Mask) and mask.spec.provenance["image"] == str(place)
            assert (folder / f"{out}.png").stat().st_size > 1000
            for written in [one for one in (folder / out).rglob("*") if one.is_file()]:
                content = written.read_bytes()
                assert not any(secret.encode() in content for secret in CREDENTIALS.values())
            again = run(f"predict --out {out} --json {LINE} {options}", str(place))
            assert again.code == 0

    def test_it_goes_on_after_the_connection_was_cut(
        self,
        folder: Path,
        s3: Location,
        s3_server: S3Server,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("tilesegment.stores.remote.PAUSES", (0.01,))
        tifffile.imwrite(folder / "slide.tif", noise((400, 380)), tile=(64, 64))
        slide = upload(folder / "slide.tif", s3)
        with proxied(s3_server.address) as proxy:
            line = f"predict --out m.zarr --tile 92 {LINE} --store-option region=us-east-1 --store-option endpoint="
            stored, load = [], Job.load

            def cutting(job: Job, z: int, block: object) -> object:
                stored.append(block)
                if len(stored) == 2:
                    proxy.cut()
                return load(job, z, block)  # type: ignore[arg-type]

            monkeypatch.setattr(Job, "load", cutting)
            failed = run(line + proxy.address, str(slide))
            assert failed.code == 1 and "cannot be reached" in failed.err and failed.err.count("\n") == 1
            assert not any(secret in failed.err for secret in CREDENTIALS.values())
            proxy.state = "open"
            done = run(line + proxy.address, "--json", str(slide))
            assert done.code == 0, done.err
            assert json.loads(done.out)["blocks_resumed"] > 0
        run(f"predict slide.tif --out local.zarr --tile 92 {LINE}")
        np.testing.assert_array_equal(ids_of(folder / "m.zarr"), ids_of(folder / "local.zarr"))

    def test_lists_and_folders_of_masks(self, folder: Path, s3: Location, options: str, run: Run) -> None:
        places = [upload(folder / name, s3) for name in ("slide.tif", "stack.tif")]
        (folder / "list.txt").write_text("".join(f"{place}\n" for place in places))
        done = run(f"predict --list list.txt --out-dir masks {LINE} {options}")
        assert done.code == 0, done.err
        assert {path.name for path in (folder / "masks").glob("*.zarr")} == {"slide.zarr", "stack.zarr"}

    def test_a_changed_image_is_not_mixed_with_the_old(
        self, folder: Path, s3: Location, slide: Location, options: str, run: Run
    ) -> None:
        assert run(f"predict --out m.zarr {LINE} {options}", str(slide)).code == 0
        tifffile.imwrite(folder / "slide.tif", tifffile.imread(folder / "slide.tif")[::-1], tile=(64, 64))
        upload(folder / "slide.tif", s3 / "a folder")
        refused = run(f"predict --out m.zarr {LINE} {options}", str(slide))
        assert refused.code == 1 and "--overwrite" in refused.err

    def test_the_amplification_of_reads_counts_bytes_from_the_server(
        self, folder: Path, slide: Location, options: str, run: Run
    ) -> None:
        """Two reads of an image of noise, which does not shrink."""
        done = run(f"predict --out m.zarr --json {LINE} {options}", str(slide))
        found = json.loads(done.out)["read_amplification"]
        size = (folder / "slide.tif").stat().st_size
        assert size / (130 * 150) <= found <= 3 * size / (130 * 150)


def test_workers_read_from_the_server(cluster: Cluster, folder: Path, s3_server: S3Server, slide: Location) -> None:
    """They get the address and its options; credentials they would take from their own environment."""
    s3_server.set_policy(slide, "Allow")
    settings = {"block": 64, "precision": "fp32", "device": "cpu"}
    reached = {"store_options": (*slide.options, ("anonymous", "true"))}
    model = folder / "toy.safetensors"
    plan = Job.prepare(str(slide), Settings.of({"model": model, **settings, **reached})).plan
    assert pickle.loads(pickle.dumps(plan)).place == plan.place
    assert not any(secret.encode() in pickle.dumps(plan) for secret in CREDENTIALS.values())
    tilesegment.predict(str(slide), folder / "m.zarr", model, workers=cluster, **settings, **reached)
    tilesegment.predict(folder / "slide.tif", folder / "local.zarr", model, **settings)
    np.testing.assert_array_equal(ids_of(folder / "m.zarr"), ids_of(folder / "local.zarr"))


def test_info_and_bench(folder: Path, slide: Location, options: str, run: Run) -> None:
    found = run(f"info --json {options}", str(slide))
    assert found.code == 0 and json.loads(found.out)["shape_yx"] == [130, 150]
    assert run(f"bench --seconds 1 --json {LINE} {options}", str(slide)).code == 0


@pytest.mark.parametrize("given", ["colour=red", "secret_access_key=hidden"])
def test_options_that_are_refused(given: str, run: Run) -> None:
    refused = run(f"info s3://bucket/image.tif --store-option {given}")
    assert refused.code != 0 and "--store-option" in refused.err and "hidden" not in refused.err


def test_grey_values_are_measured_in_an_image_on_a_server(slide: Location, options: str, run: Run) -> None:
    line = f"--measure-image {LINE}"
    assert run(f"predict --objects there.csv {line} {options}", str(slide)).code == 0
    assert run(f"predict --objects here.csv {line}", "slide.tif").code == 0
    assert Path("there.csv").read_text() == Path("here.csv").read_text()
