"""Summaries of masks: per class the area, the objects, their density in the tissue, and how large they are."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from tilesegment.errors import MaskError, PlanError
from tilesegment.files import write_atomically
from tilesegment.geometry import Region
from tilesegment.images import IMAGE_SUFFIXES, is_zarr
from tilesegment.masks import Mask, MaskSpec, find_mask
from tilesegment.masks.blocks import reporting
from tilesegment.masks.pyramid import Tally
from tilesegment.masks.reader import recorded_classes
from tilesegment.objects.find import find_objects
from tilesegment.objects.keywords import ObjectKeywords
from tilesegment.objects.run import ObjectWorkers, Report
from tilesegment.objects.settings import class_number
from tilesegment.objects.source import ObjectSource, open_source
from tilesegment.stores import Location, Place, place_of

_PER_MM2 = 1e6  # um2
_SIDE = 4096  # pixels of the squares in which classes are counted
_ALL, _NOT_SKIPPED = "whole mask", "without skipped blocks"
_UNKNOWN = "whole mask, as it is not recorded how much was skipped"


@dataclass(frozen=True)
class Sizes:
    """How large objects are: areas, or volumes, in one unit.

    Attributes:
        unit: px or um2; of objects that go through planes vx or um3.
        mean: of all objects.
        quartiles: the first, the median and the third, interpolated as `numpy.quantile` does.
    """

    unit: str
    mean: float
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class ClassSummary:
    """What a mask holds of one class.

    Attributes:
        name: of the class; `object` for a label image of ids.
        pixels: of the class in all planes, before its objects grow.
        area_mm2: the same; None if the pixel size is unknown.
        share: of the mask's pixels, 0 to 1.
        objects: how many there are; None if the regions of the class are no objects.
        per_mm2: objects per mm2 of tissue; None if unknown, or if they are volumes.
        sizes: of the objects, in pixels and, where the pixel size is known, in micrometres; empty without objects.
    """

    name: str
    pixels: int
    area_mm2: float | None
    share: float
    objects: int | None = None
    per_mm2: float | None = None
    sizes: tuple[Sizes, ...] = ()


@dataclass(frozen=True)
class Tissue:
    """The part of a mask that densities refer to.

    Attributes:
        said: which that is.
        pixels: in all planes.
        area_mm2: None if the pixel size is unknown.
    """

    said: str
    pixels: int
    area_mm2: float | None


@dataclass(frozen=True)
class MaskSummary:
    """What a mask holds."""

    mask: str
    pixels: int
    tissue: Tissue
    classes: tuple[ClassSummary, ...]


def summarise(
    masks: Sequence[str | Place],
    *,
    tissue: Sequence[str] | None = None,
    workers: ObjectWorkers | None = None,
    report: Report = lambda done, what: None,
    stop: Callable[[], bool] = lambda: False,
    **settings: Unpack[ObjectKeywords],
) -> tuple[MaskSummary, ...]:
    """Summarise masks, and the objects in them.

    Args:
        masks: masks that `predict` wrote, label images of any program, or folders of these; on a server a Zarr.
        tissue: names or numbers of the classes that are tissue; by default all of the mask but the blocks that
            the prediction skipped as empty, where their number is known.
        workers, report, stop: as for `find_objects`.
        settings: how objects are made, see `ObjectSettings`.

    Raises:
        TilesegmentError: one cannot be read, is no mask, or lacks a class; or a folder holds none.
    """
    paths = [path for given in masks for path in masks_in(given)]
    found = []
    for number, path in enumerate(paths):

        def part(done: float, what: str, before: int = number, path: Place = path) -> None:
            report((before + done) / len(paths), f"{path.name}: {what}")

        with open_source(path) as source:
            mask = find_mask(path)
            counts = None if mask is None else class_pixels(mask)
            under = tissue_of(source, None if mask is None else mask, tissue, counts)
        table = find_objects(path, workers=workers, report=part, stop=stop, **settings)
        assert table.table is not None
        classes = _of_classes(source.spec, counts, table.by_class, table.table, under)
        found.append(MaskSummary(str(path), table.pixels, under, classes))
    return tuple(found)


def masks_in(given: str | Place) -> Sequence[Place]:
    """Return the masks that are meant: `given`, or those in this folder, sorted; not those in folders below.

    Raises:
        MaskError: there are none in it.
    """
    path = place_of(given)
    if isinstance(path, Location) or not os.path.isdir(path) or path.suffix == ".zarr" or is_zarr(path):
        return [path]
    try:
        there = sorted(path / name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise MaskError(f"the folder {path} cannot be read ({error.strerror}): check its permissions") from error
    there = [one for one in there if one.suffix != ".partial"]
    ours = [one for one in there if recorded_classes(one, probabilities=False) is not None]
    found = ours or [one for one in there if one.suffix == ".zarr" or one.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise MaskError(f"{path} holds no mask: name masks, or their folder")
    return found


def class_pixels(mask: Mask) -> tuple[int, ...]:
    """Return the pixels of each class in all planes: as recorded, else counted.

    Raises:
        MaskError: the mask cannot be read.
    """
    if mask.class_pixels is not None:
        return mask.class_pixels
    tally = Tally(len(mask.spec.classes))
    for z in range(mask.spec.depth or 1):
        for region in Region.of_shape(mask.spec.shape).squares(_SIDE):
            tally.add(mask.read(region, 0, z))
    return tuple(map(int, tally.pixels))


def tissue_of(
    source: ObjectSource, mask: Mask | None, classes: Sequence[str] | None, counts: Sequence[int] | None
) -> Tissue:
    """Return the tissue of a mask.

    Args:
        source, mask: the mask; None if its values are not known to be classes.
        classes: names or numbers of those that are tissue, if the user named them.
        counts: pixels of each class.

    Raises:
        PlanError: there is no such class.
    """
    spec = source.spec
    if classes is not None:
        if mask is None or counts is None:
            raise PlanError(f"{source.path} does not name its classes: leave out --tissue")
        numbers = sorted({class_number(one, spec.classes, source.path) for one in classes})
        said = ", ".join(spec.classes[number].name for number in numbers)
        return _tissue(spec, said, sum(counts[number] for number in numbers))
    whole = source.depth * spec.shape[0] * spec.shape[1]
    skipped = 0.0 if mask is None else skipped_share(spec)
    if not skipped:
        return _tissue(spec, _UNKNOWN if skipped is None else _ALL, whole)
    return _tissue(spec, _NOT_SKIPPED, round(whole * (1 - skipped)))


def _tissue(spec: MaskSpec, said: str, pixels: int) -> Tissue:
    return Tissue(said, pixels, _mm2(spec, pixels))


def skipped_share(spec: MaskSpec) -> float | None:
    """Return the share of a mask's pixels that the prediction skipped as empty; None if it is not known."""
    skipped = spec.provenance.get("skipped")
    if not isinstance(skipped, Mapping):  # of a release that skipped nothing
        return 0.0
    share = skipped.get("share")
    if not isinstance(share, int | float):
        return None
    blocks = (spec.depth or 1) * -(-spec.shape[0] // spec.block) * -(-spec.shape[1] // spec.block)
    # blocks that are found empty as they are read are counted by the run that finished the mask, perhaps not of all
    if skipped.get("of_blocks", blocks) != blocks:
        return None
    return float(share)


def _mm2(spec: MaskSpec, pixels: float) -> float | None:
    size = spec.pixel_size
    return None if size is None else pixels * size.y * size.x / _PER_MM2


def densities(by_class: Mapping[str, int], tissue: Tissue) -> dict[str, float]:
    """Return objects per mm2 of tissue; nothing where its area is unknown, or 0."""
    return {name: count / tissue.area_mm2 for name, count in by_class.items()} if tissue.area_mm2 else {}


def _of_classes(
    spec: MaskSpec,
    counts: Sequence[int] | None,
    by_class: Mapping[str, int],
    table: Mapping[str, np.ndarray],
    tissue: Tissue,
) -> tuple[ClassSummary, ...]:
    """Return one row per class; for a label image, one for all objects, or one per class that was named."""
    units = [unit for unit in ("px", "um2", "vx", "um3") if f"area_{unit}" in table]
    areas = {unit: table[f"area_{unit}"] for unit in units}
    whole = (spec.depth or 1) * spec.shape[0] * spec.shape[1]
    if counts is None:
        of_all = {"object": len(table["label"])}
        named, numbers = by_class or of_all, dict(by_class or of_all)
        pixels = {name: int(areas[units[0]][_rows(table, name)].sum()) for name in named}
    else:
        pixels = {one.name: count for one, count in zip(spec.classes, counts, strict=True)}
        numbers = dict(by_class)
    is_flat = units[0] == "px"
    density = densities(numbers, tissue) if is_flat else {}
    found = []
    for name, count in pixels.items():
        rows = _rows(table, name)
        sizes = tuple(_sizes(unit, areas[unit][rows]) for unit in units if numbers.get(name))
        found.append(
            ClassSummary(name, count, _mm2(spec, count), count / whole, numbers.get(name), density.get(name), sizes)
        )
    return tuple(found)


def _rows(table: Mapping[str, np.ndarray], name: str) -> np.ndarray | slice:
    return table["class"] == name if "class" in table else slice(None)


def _sizes(unit: str, areas: np.ndarray) -> Sizes:
    first, median, third = map(float, np.quantile(areas, (0.25, 0.5, 0.75)))
    return Sizes(unit, float(areas.mean()), (first, median, third))


def rows(summaries: Sequence[MaskSummary]) -> list[dict[str, Any]]:
    """Return one row per mask and class, by column, all with the same columns; None where something is unknown."""
    found = []
    for one in summaries:
        for of_class in one.classes:
            row: dict[str, Any] = {"mask": one.mask, "class": of_class.name, "area_px": of_class.pixels}
            row |= {name: getattr(of_class, name) for name in ("area_mm2", "share", "objects", "per_mm2")}
            for sizes in of_class.sizes:
                what = "object_volume" if sizes.unit in ("vx", "um3") else "object_area"
                values = dict(zip(("q1", "median", "q3"), sizes.quartiles, strict=True))
                row |= {f"{what}_{kind}_{sizes.unit}": v for kind, v in {"mean": sizes.mean, **values}.items()}
            tissue = {"tissue": one.tissue.said, "tissue_px": one.tissue.pixels, "tissue_mm2": one.tissue.area_mm2}
            found.append(row | tissue)
    columns = dict.fromkeys(name for row in found for name in row)
    # what only some rows have stands before the tissue, as in those
    order = [name for name in columns if not name.startswith("tissue")] + ["tissue", "tissue_px", "tissue_mm2"]
    return [{name: row.get(name) for name in order} for row in found]


def check_summary(path: str | Path, *, overwrite: bool = False) -> None:
    """Check that a summary can be written to `path`, before the work.

    Raises:
        MaskError: the name ends in neither .csv nor .json, the folder is missing or read-only, or the file exists.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".json"):
        raise MaskError(f"cannot tell from the name {path} what to write; allowed are NAME.csv and NAME.json")
    if not path.absolute().parent.is_dir():
        raise MaskError(f"cannot write {path}: there is no folder {path.absolute().parent}; create it first")
    if path.is_dir() or path.is_symlink():
        raise MaskError(f"{path} is a folder or a link and is not replaced; name another file")
    if path.exists() and not overwrite:
        raise MaskError(f"{path} exists; name another file, or use --overwrite to replace it")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK, effective_ids=True):
        raise MaskError(f"cannot write {path}: its folder cannot be written to; name another")


def write_summary(path: str | Path, summaries: Sequence[MaskSummary], *, overwrite: bool = False) -> None:
    """Write summaries as a table, `.csv`, or as they are, `.json`.

    Raises:
        MaskError: as `check_summary`, or the file cannot be written.
    """
    check_summary(path, overwrite=overwrite)
    text = io.StringIO()
    if Path(path).suffix.lower() == ".csv":
        found = rows(summaries)
        writer = csv.DictWriter(text, list(found[0]) if found else ["mask", "class"])
        writer.writeheader()
        writer.writerows(found)
    else:
        json.dump([asdict(one) for one in summaries], text, indent=1)
    with reporting("write", Path(path)):
        write_atomically(Path(path).absolute(), text.getvalue().encode())
