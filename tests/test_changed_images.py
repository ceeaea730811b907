"""A changed image must not keep its old mask, and a copy of an image is no other image."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run, contents
from conftest import noise
from image_files import ome_zarr
from mask_files import mask_of

from tilesegment.images.identity import identity

TOY = "-m toy.safetensors --tile 88 --device cpu"


def overwrite(store: Path) -> None:
    """Other pixels in a Zarr array, through the array itself."""
    array = zarr.open_array(store, mode="r+")
    array[:] = 255 - np.asarray(array[:])


def save_zarr(name: str, pixels: np.ndarray, **options: object) -> Path:
    zarr.create_array(name, data=pixels, chunks=(64, 64), **options)
    return Path(name)


class TestAChangedImage:
    @pytest.mark.parametrize("compressors", [None, "auto"])
    @pytest.mark.parametrize(("zarr_format", "sharded"), [(2, False), (3, False), (3, True)])
    def test_all_chunks_of_a_zarr(
        self, compressors: str | None, zarr_format: int, sharded: bool, folder: Path, run: Run
    ) -> None:
        more = {"shards": (128, 128)} if sharded else {}
        save_zarr("i.zarr", noise((130, 150)), zarr_format=zarr_format, compressors=compressors, **more)
        assert run(f"predict i.zarr {TOY} --out m.zarr").code == 0
        before = contents(Path("m.zarr"))
        overwrite(Path("i.zarr"))
        found = run(f"predict i.zarr {TOY} --out m.zarr")
        assert found.code == 1
        assert "content: " in found.err
        assert "--overwrite" in found.err
        assert contents(Path("m.zarr")) == before
        assert run(f"predict i.zarr {TOY} --out m.zarr --overwrite").code == 0
        run(f"predict i.zarr {TOY} --out fresh.zarr")
        np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("fresh.zarr"))

    @pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
    def test_one_pixel_of_an_uncompressed_image_of_one_size(self, mask: str, folder: Path, run: Run) -> None:
        pixels = noise((130, 150))
        save_zarr("i.zarr", pixels, compressors=None)
        tifffile.imwrite("i.tif", pixels)
        for image in ("i.zarr", "i.tif"):
            assert run(f"predict {image} {TOY} --out {image}.{mask}").code == 0
        pixels[70, 80] ^= 255
        zarr.open_array("i.zarr", mode="r+")[70, 80] = pixels[70, 80]
        tifffile.imwrite("i.tif", pixels)
        for image in ("i.zarr", "i.tif"):
            assert run(f"predict {image} {TOY} --out {image}.{mask}").code == 1

    def test_a_level_and_an_ome_zarr(self, folder: Path, run: Run) -> None:
        ome_zarr("0.4", "cyx", 0.5)(folder, noise((1, 130, 150)))
        assert run(f"predict image.zarr {TOY} --out m.zarr").code == 0
        overwrite(Path("image.zarr/0"))
        assert run(f"predict image.zarr {TOY} --out m.zarr").code == 1

    def test_a_mask_in_progress(self, folder: Path, run: Run, small_blocks: None) -> None:
        save_zarr("i.zarr", noise((130, 150)))
        assert run(f"predict i.zarr {TOY} --out m.zarr --part 1/2").code == 0
        overwrite(Path("i.zarr"))
        found = run(f"predict i.zarr {TOY} --out m.zarr")
        assert found.code == 1
        assert "begun with other settings (content: " in found.err

    @pytest.mark.parametrize("copy", [shutil.copytree, lambda a, b: shutil.copytree(a, b, copy_function=shutil.copy)])
    def test_a_copy_goes_on_whatever_its_times(self, copy: Callable[..., object], folder: Path, run: Run) -> None:
        save_zarr("i.zarr", noise((130, 150)))
        run(f"predict i.zarr {TOY} --out m.zarr")
        copy("i.zarr", "elsewhere/i.zarr")
        for file in Path("elsewhere").rglob("*"):
            os.utime(file, (1, 1))
        found = run(f"predict elsewhere/i.zarr {TOY} --out m.zarr --json")
        assert found.code == 0
        assert json.loads(found.out)["blocks"] == 0
        assert "Note" not in found.err, "all of it was read, so nothing is in doubt"

    def test_labels_and_consolidated_metadata_change_no_image(self, folder: Path, run: Run) -> None:
        image = ome_zarr("0.5", "cyx", 0.5)(folder, noise((1, 130, 150)))
        before = identity(image)
        assert run(f"predict image.zarr {TOY} --out image.zarr/labels/a").code == 0
        document = json.loads((image / "zarr.json").read_text())
        (image / "zarr.json").write_text(json.dumps(document | {"consolidated_metadata": {"metadata": {"a": 1}}}))
        assert identity(image).digest == before.digest
        found = run(f"predict image.zarr {TOY} --out image.zarr/labels/a --json")
        assert json.loads(found.out)["blocks"] == 0

    def test_of_a_large_image_what_is_not_read_is_said(
        self, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tilesegment.images.identity._WHOLE", 1000)
        monkeypatch.setattr("tilesegment.images.identity._SAMPLES", 2)
        monkeypatch.setattr("tilesegment.images.identity._SAMPLE", 8)
        save_zarr("i.zarr", noise((130, 150)), compressors=None)
        run(f"predict i.zarr {TOY} --out m.zarr")
        assert "Note" not in run(f"predict i.zarr {TOY} --out m.zarr").err
        array = zarr.open_array("i.zarr", mode="r+")
        array[70, 80] = 255 - int(array[70, 80])  # between the samples
        found = run(f"predict i.zarr {TOY} --out m.zarr")
        assert found.code == 0
        assert "Note: files of " in found.err
        assert "--overwrite" in found.err
        array[0, 0] = 255 - int(array[0, 0])
        assert run(f"predict i.zarr {TOY} --out m.zarr").code == 1


@pytest.mark.parametrize("size", [0, 5, 4096, 70_000])
def test_the_identity_of_many_files(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.images.identity._OPENED", 3)
    (tmp_path / "c").mkdir()
    for number in range(5):
        (tmp_path / "c" / str(number)).write_bytes(bytes(size))
    first = identity(tmp_path)
    assert not first.exact
    (tmp_path / "c" / "5").write_bytes(b"")
    assert identity(tmp_path).digest != first.digest
    (tmp_path / "c" / "5").unlink()
    assert identity(tmp_path).digest == first.digest
    (tmp_path / "c" / "4").write_bytes(bytes(size) + b"1")
    assert identity(tmp_path).digest != first.digest
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    assert identity(tmp_path).digest
