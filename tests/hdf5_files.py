"""HDF5 files as ilastik, Fiji and others write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from image_files import Write, reorder


def hdf5(axes: str, *, tagged: bool = False, attributes: Mapping[str, Any] | None = None, **options: Any) -> Write:
    """Writes a dataset `volume`, its dimensions in the order of `axes`, a time point among them if it has a t."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        data = reorder(pixels, axes.replace("t", ""))
        data = data[None] if axes.startswith("t") else data
        with h5py.File(folder / "image.h5", "w") as file:
            dataset = file.create_dataset("volume", data=data, **options)
            dataset.attrs.update({"axistags": axis_tags(axes)} if tagged else {})
            dataset.attrs.update(attributes or {})
        return folder / "image.h5"

    return write


def axis_tags(axes: str) -> str:
    """The tags that vigra and ilastik write."""
    flags = {"c": 1, "t": 8}
    tags = [{"key": axis, "typeFlags": flags.get(axis, 2), "resolution": 0, "description": ""} for axis in axes]
    return json.dumps({"axes": tags})


def arrays(path: Path, **datasets: np.ndarray) -> Path:
    """Writes several datasets; __ in a name stands for /."""
    with h5py.File(path, "w") as file:
        for name, pixels in datasets.items():
            file[name.replace("__", "/")] = pixels
    return path
