"""What tests of masks share: models to make them with, and what is in them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from tilesegment.masks import JSON, MaskWriter

if TYPE_CHECKING:  # torch takes seconds to import in each process of a test
    from tilesegment.models.model import Model


def saved(model: "Model", folder: Path) -> Path:
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def mask_of(path: str | Path, level: int = 0) -> np.ndarray:
    return np.asarray(zarr.open_group(path, mode="r")[str(level)])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def try_finish(writer: MaskWriter, provenance: dict[str, JSON] | None = None) -> bool:
    """Finish a mask as one of the parts of a job does; False while blocks are missing."""
    with writer.claimed_to_finish() as is_ours_to_do:
        if is_ours_to_do:
            writer.finish(provenance)
    return is_ours_to_do or writer.is_finished()
