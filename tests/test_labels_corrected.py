"""From training to training: what `predict` writes is corrected by hand in other programs, and trained on again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import runner
from data_sets import cells, write_files, write_pairs
from PIL import Image

from tilesegment.training.data import IGNORE, open_dataset

SIDE = 80
CORRECTED = (slice(3, 9), slice(4, 20))  # where class 1 is drawn


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data 0, 255, a model trained on them, and a mask of a new image as PNG, TIFF and Zarr."""
    folder = tmp_path_factory.mktemp("predicted")
    write_pairs(folder / "d", 2, SIDE)
    write_files(folder, {"new.png": cells(SIDE, SIDE, 7)[0]})
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(folder)
    try:
        run = runner(monkeypatch, _Nothing())  # type: ignore[arg-type]
        assert run("train d --steps 1 --base 2 --depth 1 --tile 44 --validation 0 --device cpu --out r -q").code == 0
        for suffix in ("png", "tif", "zarr"):
            assert run(f"predict new.png --model r/model.safetensors --out m.{suffix} -q").code == 0
    finally:
        monkeypatch.undo()
    return folder


class _Nothing:
    """In place of pytest's capture, which lasts no longer than a test."""

    def readouterr(self) -> tuple[str, str]:
        return "", ""


def drawn(ids: np.ndarray) -> np.ndarray:
    ids = np.array(ids)
    ids[CORRECTED] = 1
    return ids


def untouched(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def indexed(source: Path, target: Path) -> None:
    """As a painting program that keeps the palette."""
    with Image.open(source) as picture:
        changed = Image.fromarray(drawn(np.asarray(picture)))
        changed.putpalette(picture.getpalette("RGB"))
    changed.save(target)


def in_rgb(source: Path, target: Path) -> None:
    """As a painting program that knows no palettes."""
    with Image.open(source) as picture:
        colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        Image.fromarray(colours[drawn(np.asarray(picture))]).save(target)


def as_imagej(source: Path, target: Path) -> None:
    """A look-up table stays, the rest of the metadata goes."""
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages.first
        colormap, ids = page.colormap, page.asarray()
    tifffile.imwrite(target, drawn(ids), photometric="palette", colormap=colormap)


def with_its_metadata(source: Path, target: Path) -> None:
    """As a program that writes all tags back."""
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages.first
        options = {"photometric": "palette", "colormap": page.colormap, "description": page.description}
        tifffile.imwrite(target, drawn(page.asarray()), metadata=None, **options)


CHANGES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "PNG": ("png", untouched),
    "PNG with its palette": ("png", indexed),
    "PNG in colours": ("png", in_rgb),
    "TIFF": ("tif", untouched),
    "TIFF as of ImageJ": ("tif", as_imagej),
    "TIFF with its metadata": ("tif", with_its_metadata),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_corrected_masks_are_trained_on(kind: str, predicted: Path, tmp_path: Path) -> None:
    suffix, change = CHANGES[kind]
    folder = write_pairs(tmp_path / "d", 2, SIDE)
    (folder / "images" / "new.png").write_bytes((predicted / "new.png").read_bytes())
    change(predicted / f"m.{suffix}", folder / "labels" / f"new.{suffix}")
    ids = np.asarray(Image.open(predicted / "m.png"))
    data = open_dataset(folder)
    assert [one.value for one in data.classes] == [0, 255]
    np.testing.assert_array_equal(data.sections[2].label, ids if change is untouched else drawn(ids))
    for part in ("images", "labels"):  # and without the original labels
        for n in range(2):
            (folder / part / f"{n:02}.png").unlink()
    np.testing.assert_array_equal(open_dataset(folder).sections[0].label, data.sections[2].label)


@pytest.mark.parametrize("erased", [False, True])
def test_corrected_zarr_masks_are_trained_on(erased: bool, predicted: Path, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2, SIDE)
    (folder / "images" / "new.png").write_bytes((predicted / "new.png").read_bytes())
    target = folder / "labels" / "new.zarr"
    for path in (predicted / "m.zarr").rglob("*"):
        if path.is_file():
            (target / path.relative_to(predicted / "m.zarr")).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(predicted / "m.zarr")).write_bytes(path.read_bytes())
    array = zarr.open_array(target / "0")
    before = np.asarray(array[:])
    array[CORRECTED] = 1
    if erased:
        array[:] = 0  # zarr drops what is background alone
    label = open_dataset(folder).sections[2].label
    np.testing.assert_array_equal(label, np.zeros_like(before) if erased else drawn(before))
    assert not (label == IGNORE).any()
