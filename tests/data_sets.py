"""Small labelled data sets, written as people keep them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image
from scipy import ndimage


def cells(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An easy image (H, W) uint8 of bright blobs, and where they are, (H, W) bool."""
    rng = np.random.default_rng(seed)
    inside = ndimage.gaussian_filter(rng.standard_normal((height, width)), 5, mode="wrap") > 0
    image = np.where(inside, 170, 80) + rng.normal(0, 20, (height, width))
    return np.clip(image, 0, 255).astype(np.uint8), inside


def write_pairs(folder: Path, count: int = 4, side: int = 80, values: tuple[int, int] = (0, 255)) -> Path:
    """`count` images and labels as PNG, `values` for outside and inside."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for n in range(count):
        image, inside = cells(side, side, n)
        Image.fromarray(image).save(folder / "images" / f"{n:02}.png")
        Image.fromarray(np.where(inside, *values[::-1]).astype(np.uint8)).save(folder / "labels" / f"{n:02}.png")
    return folder


def write_stack(folder: Path, planes: int = 4, side: int = 60) -> Path:
    """One pair of stacks."""
    pairs = [cells(side, side, n) for n in range(planes)]
    for part, index in (("images", 0), ("labels", 1)):
        (folder / part).mkdir(parents=True)
        pixels = np.stack([pair[index] for pair in pairs]).astype(np.uint8)
        tifffile.imwrite(folder / part / "volume.tif", pixels, photometric="minisblack")
    return folder


def write_files(folder: Path, files: Mapping[str, np.ndarray]) -> Path:
    """Writes arrays under their names in `folder`, as TIFF or what Pillow takes the suffix for."""
    for name, pixels in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            tifffile.imwrite(path, pixels, photometric="rgb" if pixels.shape[-1] == 3 else "minisblack")
        else:
            Image.fromarray(pixels).save(path)
    return folder


def write_palette(path: Path, indices: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> None:
    """An image with a palette, in the format of its suffix: `indices` (H, W) uint8, entries (red, green, blue)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices)
    image.putpalette([level for entry in palette for level in entry])
    image.save(path)


def write_ome_zarr(
    path: Path, image: np.ndarray, labels: Mapping[str, np.ndarray], image_label: Mapping[str, object] | None = None
) -> Path:
    """An OME-Zarr 0.5 image (H, W) with `labels` (H, W) in it, each with the `image-label` object, if any."""
    extra: dict[str, object] = {} if image_label is None else {"image-label": image_label}
    _multiscale(path, image, {})
    if labels:
        zarr.create_group(path / "labels", attributes={"ome": {"version": "0.5", "labels": list(labels)}})
    for name, pixels in labels.items():
        _multiscale(path / "labels" / name, pixels, extra)
    return path


def _multiscale(path: Path, pixels: np.ndarray, extra: Mapping[str, object]) -> None:
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    ome = {"version": "0.5", "multiscales": multiscales, **extra}
    group = zarr.create_group(path, attributes={"ome": ome})
    group.create_array("0", data=pixels, chunks=(64, 64))
