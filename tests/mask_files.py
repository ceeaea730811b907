"""What tests of masks share: models to make them with, and what is in them."""

from pathlib import Path

import numpy as np
import zarr

from tilesegment.models.model import Model


def saved(model: Model, folder: Path) -> Path:
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def mask_of(path: str | Path, level: int = 0) -> np.ndarray:
    return np.asarray(zarr.open_group(path, mode="r")[str(level)])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
