"""Runs that find the objects of a small mask of many blocks: in this process, and as commands in others."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fault_runs
import numpy as np
import tifffile
from mask_files import PROCESSES

from tilesegment.objects import find
from tilesegment.objects.cut import Place
from tilesegment.objects.find import Objects, find_objects
from tilesegment.objects.stages import Stages

NAMES = ("cells.csv", "cells.geojson", "cells.zarr")
WORK = ".cells.zarr.objects"  # work folder of these
SETTINGS: dict[str, Any] = {"classes": "1", "block": 64, "grow": 2, "fill_holes": True}
LINE = "objects {} --classes 1 --grow 2 --fill-holes --out cells.csv --out cells.geojson --out cells.zarr"
PROCESSES.set_forkserver_preload(
    ["mask_files", "object_runs", "tilesegment.masks.completion", "tilesegment.objects.run", *fault_runs.PRELOADED]
)


def mask_pixels(shape: tuple[int, ...] = (180, 190), seed: int = 0) -> np.ndarray:
    """Worms, rings and dots of the classes 0, 1 and 2, through many blocks; uint8."""
    rng = np.random.default_rng(seed)
    waves = sum(np.sin(np.indices(shape) * f).sum(0) for f in (0.11, 0.29, 0.53)) + rng.normal(0, 0.4, shape)
    return np.digitize(waves, [0.3, 1.6]).astype(np.uint8)


def write_mask(path: Path, shape: tuple[int, ...] = (180, 190), seed: int = 0) -> Path:
    """Write such a mask as a TIFF."""
    tifffile.imwrite(path, mask_pixels(shape, seed), photometric="minisblack", tile=(64, 64))
    return path


def find_in(folder: Path, mask: Path, **more: Any) -> Objects:
    """Find the objects of a mask and write all of `NAMES` into a folder."""
    folder.mkdir(exist_ok=True)
    return find_objects(mask, *(folder / name for name in NAMES), **SETTINGS | more)


class OneByOne:
    """Does one block at a time, so that a run stops after the first."""

    def each(self, stages: Stages, stage: str, places: Sequence[Place], stop: Callable[[], bool]) -> Iterator[Place]:
        for place in places:
            if stop():
                return
            stages.do(stage, place)
            yield place


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, the hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*given: Any) -> None:
    """Be a process that runs `tileseg`, as `fault_runs.command`, with small blocks."""
    find.find_objects = partial(find_objects, block=SETTINGS["block"])
    fault_runs.command(*given)
