"""What tests of masks share: making them, and what is in them."""

import json
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from tilesegment.geometry import Region
from tilesegment.masks import JSON, MaskSpec, MaskWriter, create_mask
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.stores import Place

if TYPE_CHECKING:  # torch takes seconds to import in each process of a test
    from tilesegment.models.model import Model

CLASSES = tuple(LabelClass(f"class {i}", colour) for i, colour in enumerate(default_colours(4)))
FINGERPRINT = {"model": "a", "tile": (64, 64)}
# a server that has imported everything forks a process in milliseconds
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mask_files", "tilesegment.masks.completion"])


def saved(model: "Model", folder: Path) -> Path:
    model.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def mask_of(path: str | Path, level: int = 0) -> np.ndarray:
    return np.asarray(zarr.open_group(path, mode="r")[str(level)])


def contents(path: Path) -> dict[Path, bytes]:
    """Every file of an output."""
    return {file: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def spec_of(shape: tuple[int, int], block: int = 32, chunk: int = 16, **changes: Any) -> MaskSpec:
    given: dict[str, Any] = {"depth": None, "pixel_size": None, "fingerprint": FINGERPRINT}
    return MaskSpec(shape=shape, block=block, chunk=chunk, classes=CLASSES, **(given | changes))


def ids_of(spec: MaskSpec, seed: int = 0) -> np.ndarray:
    """Random class ids (D, H, W)."""
    shape = (spec.depth or 1, *spec.shape)
    return np.random.default_rng(seed).integers(0, len(spec.classes), shape, dtype=np.uint8)


def fill(writer: MaskWriter, ids: np.ndarray, seed: int = 0) -> None:
    """Write all blocks in a random order."""
    blocks = list(writer.base.blocks())
    random.Random(seed).shuffle(blocks)
    for region, z in blocks:
        writer.write(region, ids[(..., z, *region.slices)], z)


def finished(path: Path, spec: MaskSpec, seed: int = 0, **options: Any) -> np.ndarray:
    """Write a whole mask of random ids and return these, (D, H, W)."""
    ids, writer = ids_of(spec, seed), create_mask(path, spec, **options)
    fill(writer, ids, seed)
    writer.finish()
    return ids


def run_part(path: Place, number: int, parts: int, barriers: tuple[Barrier, Barrier], results: Any) -> None:
    """Be one of the parts of a job: all begin at once, every other one ends at the same moment."""
    barriers[0].wait()
    writer, ids = create_mask(path, SPEC, overwrite=True), ids_of(SPEC)
    with writer.claimed((number + 1, parts)):
        barriers[0].wait()  # all have begun: the first must not be over before the last begins
        for region, z in list(writer.base.blocks())[number::parts]:
            writer.write(region, ids[z][region.slices], z)
    if number % 2:
        barriers[1].wait()
    with writer.claimed_to_finish() as is_ours_to_do:
        if is_ours_to_do:
            writer.finish()
    results.put(is_ours_to_do)


def try_finish(writer: MaskWriter, provenance: dict[str, JSON] | None = None) -> bool:
    """Finish a mask as one of the parts of a job does; False while blocks are missing."""
    with writer.claimed_to_finish() as is_ours_to_do:
        if is_ours_to_do:
            writer.finish(provenance)
    return is_ours_to_do or writer.is_finished()


def attributes(path: Path) -> dict[str, Any]:
    """The OME metadata of a group, of either version."""
    found = dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)
    ome = found.get("ome", found)
    assert isinstance(ome, dict)
    return ome


def make_image(path: Path, version: str, factors: tuple[float, ...] = (1, 2, 4), **changes: Any) -> None:
    """Make an OME-Zarr image of 64 x 96 pixels of 500 x 250 nanometres, its corner at (1000, 2000) nanometres."""
    group = zarr.create_group(path, zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level, factor in enumerate(factors):
        scale = {"type": "scale", "scale": [1.0, 500 * factor, 250 * factor]}
        moved = {"type": "translation", "translation": [0.0, 1000.0, 2000.0]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, moved]})
        dimensions: dict[str, Any] = {} if version == "0.4" else {"dimension_names": ["c", "y", "x"]}
        shape = (1, max(1, int(64 / factor)), max(1, int(96 / factor)))
        group.create_array(str(level), shape=shape, dtype="uint8", chunks=shape, **dimensions)
    units = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "yx"]
    image = {"name": "image", "axes": [{"name": "c", "type": "channel"}, *units], "datasets": datasets} | changes
    if version == "0.4":
        group.attrs["multiscales"] = [image | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}


def rewrite(path: Path, *keys: str, value: Any) -> None:
    """Set one entry of a JSON document."""
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(document))


SPEC = spec_of((100, 600), 64, 32)  # two levels, 2 x 10 and 1 x 5 blocks
OTHER = replace(SPEC, fingerprint={"model": "b", "tile": (64, 64)})
FILES = ["mask.zarr", "mask.tif", "mask.png"]
HIDDEN = "image.zarr/labels/nuclei"
FIRST, ONES = Region(0, 0, 64, 64), np.ones((64, 64), np.uint8)


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(real: Callable[..., Any], calls: list[None], last: int) -> Callable[..., Any]:
    """Return `real`, whose `last` call, counted in `calls`, is the process's end."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) >= last:
            raise Killed
        return real(*arguments, **options)

    return call


def kill_at(patch: pytest.MonkeyPatch, step: int, *calls: str) -> None:
    made: list[None] = []
    for name in calls:
        patch.setattr(os, name, dying(getattr(os, name), made, step))


def prepare(folder: Path, name: str) -> Path:
    if name == HIDDEN:
        make_image(folder / "image.zarr", "0.5", (1, 2))
    return folder / name


def make(folder: Path, name: str, spec: MaskSpec = SPEC, **options: Any) -> Path:
    finished(prepare(folder, name), spec, **options)
    return folder / name


def remove(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path)
