"""A changed image must not keep its old mask, and a copy of an image is no other image."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run, contents
from conftest import noise
from image_files import ome_zarr

from tilesegment import Region, open_mask
from tilesegment.images.identity import identity

TOY = "-m toy.safetensors --tile 88 --device cpu"


def overwrite(store: str) -> None:
    """Other pixels in a Zarr array, through the array itself."""
    array = zarr.open_array(store, mode="r+")
    array[:] = 255 - np.asarray(array[:])


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("options", [{"zarr_format": 2}, {}, {"shards": (128, 128)}], ids=["v2", "v3", "shards"])
def test_any_change_of_a_store_changes_its_identity(tmp_path: Path, options: dict, compressors: str | None) -> None:
    store = tmp_path / "i.zarr"
    zarr.create_array(store, data=noise((130, 150)), chunks=(64, 64), compressors=compressors, **options)
    before = identity(store)
    assert before.exact
    shutil.copytree(store, tmp_path / "copy", copy_function=shutil.copy)
    for file in (tmp_path / "copy").rglob("*"):
        os.utime(file, (1, 1))
    assert identity(tmp_path / "copy").digest == before.digest
    overwrite(str(store))
    assert identity(store).digest != before.digest


def test_of_a_large_image_samples_are_read(tmp_path: Path) -> None:
    content = bytearray(noise((100, 100)).tobytes())
    (tmp_path / "i").write_bytes(content)

    def digest() -> str:
        found = identity(tmp_path / "i", whole=1000, samples=2, sample=8)
        assert not found.exact
        return found.digest

    before = digest()
    for place, changes in ((5000, False), (3, True)):
        content[place] ^= 255
        (tmp_path / "i").write_bytes(content)
        assert (digest() != before) == changes


@pytest.mark.parametrize("size", [0, 5, 4096, 70_000])
def test_of_many_files(size: int, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for number in range(5):
        (tmp_path / "c" / str(number)).write_bytes(bytes(size))
    first = identity(tmp_path, opened=3)
    assert not first.exact
    (tmp_path / "c" / "5").write_bytes(b"")
    assert identity(tmp_path, opened=3).digest != first.digest
    (tmp_path / "c" / "5").unlink()
    assert identity(tmp_path, opened=3).digest == first.digest
    (tmp_path / "c" / "4").write_bytes(bytes(size) + b"1")
    assert identity(tmp_path, opened=3).digest != first.digest
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    assert identity(tmp_path, opened=3).digest


@pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
def test_a_mask_of_a_changed_image_is_refused(mask: str, folder: Path, run: Run) -> None:
    """One pixel of an uncompressed image is enough; a copy is no other image."""
    pixels = noise((130, 150))
    tifffile.imwrite("i.tif", pixels)
    assert run(f"predict i.tif {TOY} --out {mask}").code == 0
    before = contents(Path(mask))
    os.mkdir("elsewhere")
    shutil.copy("i.tif", "elsewhere")
    found = run(f"predict elsewhere/i.tif {TOY} --out {mask} --json")
    assert found.code == 0, found.err
    assert (json.loads(found.out)["blocks"], "Note" in found.err) == (0, False)
    pixels[70, 80] ^= 255
    tifffile.imwrite("i.tif", pixels)
    found = run(f"predict i.tif {TOY} --out {mask}")
    assert found.code == 1
    assert "--overwrite" in found.err and "content: " in found.err
    assert contents(Path(mask)) == before
    assert run(f"predict i.tif {TOY} --out {mask} --overwrite").code == 0
    assert run(f"predict i.tif {TOY} --out fresh.zarr").code == 0
    whole = Region(0, 0, 130, 150)
    np.testing.assert_array_equal(open_mask(mask).read(whole), open_mask("fresh.zarr").read(whole))


def test_a_change_between_the_samples_is_in_doubt(folder: Path, run: Run) -> None:
    """More files than are read: every second one or so is a sample."""
    zarr.create_array("i.zarr", data=noise((70, 70)), chunks=(2, 2), compressors=None)
    assert run(f"predict i.zarr {TOY} --out m.zarr").code == 0
    before = identity("i.zarr").digest
    assert "Note" not in run(f"predict i.zarr {TOY} --out m.zarr").err
    array = zarr.open_array("i.zarr", mode="r+")
    for x in range(2, 70, 2):
        array[34, x] = 255 - int(array[34, x])
        if identity("i.zarr").digest == before:
            break
        array[34, x] = 255 - int(array[34, x])
    found = run(f"predict i.zarr {TOY} --out m.zarr")
    assert found.code == 0
    assert "i.zarr" in found.err and "--overwrite" in found.err


def test_a_mask_in_progress_and_labels(folder: Path, run: Run, small_blocks: None) -> None:
    image = ome_zarr("0.5", "cyx", 0.5)(folder, noise((1, 130, 150)))
    before = identity(image).digest
    assert run(f"predict image.zarr {TOY} --out image.zarr/labels/a --part 1/2").code == 0
    assert run(f"predict image.zarr {TOY} --out image.zarr/labels/b").code == 0
    document = json.loads((image / "zarr.json").read_text())
    (image / "zarr.json").write_text(json.dumps(document | {"consolidated_metadata": {"metadata": {"a": 1}}}))
    assert identity(image).digest == before
    overwrite("image.zarr/0")
    for name in "ab":
        found = run(f"predict image.zarr {TOY} --out image.zarr/labels/{name}")
        assert found.code == 1 and "content: " in found.err
