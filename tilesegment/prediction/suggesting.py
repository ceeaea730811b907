"""Where to look next: the places of an image in which a model is least sure, spread over it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from math import floor, sqrt
from pathlib import Path
from typing import Unpack

from tilesegment.errors import DataError, MaskError, PlanError, StoppedError
from tilesegment.geometry import Region
from tilesegment.labels.annotations import is_annotation, read_drawing
from tilesegment.labels.areas import Areas, is_areas, read_areas
from tilesegment.labels.brush import BRUSH, painted
from tilesegment.labels.outlines import Outlines
from tilesegment.masks import Mask, MaskSpec, find_mask, open_mask
from tilesegment.masks.blocks import BlockArray
from tilesegment.masks.reader import open_probabilities, recorded_classes
from tilesegment.masks.spec import differing
from tilesegment.masks.target import absolute
from tilesegment.objects.plan import first_pixel
from tilesegment.prediction.keywords import WantedKeywords
from tilesegment.prediction.places import Place, check_places, write_places
from tilesegment.prediction.uncertainty import (
    MEASURES,
    Cells,
    Counts,
    Windows,
    confused_pair,
    score_windows,
    spread,
)
from tilesegment.stores import Location, place_of

Report = Callable[[float, str], None]
_READ_VALUES = 1 << 23  # probabilities that are read at once
_MOST_PLACES, _SMALLEST, _LARGEST = 10_000, 16, 1 << 14
_SAMPLED = 10  # times as many places are predicted as are wanted
# of the distance at which the places would cover the image evenly: at this, squares that are taken one after the other
# fill it with about as many as are wanted
_APART = 0.75


@dataclass(frozen=True)
class Wanted:
    """Which places are wanted.

    Attributes:
        count: how many; fewer are found where the model is sure, or where no more lie apart.
        size: side of a place, in pixels of level 0.
        measure: `entropy` or `margin`, see `uncertainty.uncertainty`.
        roi: only here, in pixels of level 0; or the path of a GeoJSON file of areas.
        labels: path of annotations, as GeoJSON or labelme; places that hold some of one with a class are left out.
        distance: between places, in pixels of level 0; None spreads them over the image, and where fewer are found
            brings them nearer.
        sample: without kept probabilities, how many places are predicted again; None is ten times `count`.
        seed: of the sample.
        device, precision: in which it is predicted.

    Raises:
        PlanError: a value is not allowed.
    """

    count: int = 20
    size: int = 256
    measure: str = "entropy"
    roi: Region | str | Path | None = None
    labels: str | Path | None = None
    distance: float | None = None
    sample: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        allowed = {
            "count": (1 <= self.count <= _MOST_PLACES, f"1 to {_MOST_PLACES}"),
            "size": (_SMALLEST <= self.size <= _LARGEST, f"{_SMALLEST} to {_LARGEST} pixels of level 0"),
            "measure": (self.measure in MEASURES, ", ".join(MEASURES)),
            "distance": (self.distance is None or self.distance >= self.size, f"at least --size, {self.size} pixels"),
            "sample": (self.sample is None or self.sample >= self.count, f"at least --count, {self.count}"),
            "seed": (self.seed >= 0, "0 and more"),
        }
        for name, (is_fine, words) in allowed.items():
            if not is_fine:
                raise PlanError(f"--{name} is {getattr(self, name)}; allowed: {words}")


@dataclass(frozen=True)
class Suggestion:
    """The places that were found, the most uncertain first.

    Attributes:
        mask: path of the mask.
        places: ranked.
        measure: of the uncertainty.
        pixels, seconds: that were looked at, and how long it took.
        sampled: how many places were predicted again; None where probabilities were kept.
        notes: for the user.
    """

    mask: str
    places: tuple[Place, ...]
    measure: str
    pixels: int
    seconds: float
    sampled: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Searched:
    """What is searched of a mask.

    Attributes:
        spec: of the mask.
        windows: within which pixels of the mask, and how large windows are there.
        counts: of a plane of the mask, the pixels in areas of interest; None is all.
        taken: those that are annotated; None is none.
        notes: on the areas.
    """

    spec: MaskSpec
    windows: Cells
    counts: Counts | None = None
    taken: Counts | None = None
    notes: tuple[str, ...] = ()

    @property
    def planes(self) -> int:
        """How many planes are searched."""
        return self.spec.depth or 1


def suggest(
    mask: str | Path | Location,
    *out: str | Path,
    probabilities: str | Path | Location | None = None,
    image: str | Path | Location | None = None,
    model: str | Path | None = None,
    overwrite: bool = False,
    report: Report = lambda done, what: None,
    stop: Callable[[], bool] = lambda: False,
    **wanted: Unpack[WantedKeywords],
) -> Suggestion:
    """Find the places of an image in which a model is least sure, spread over it, and write them.

    Args:
        mask: what `predict` wrote; or probabilities that it wrote.
        out: `places.geojson`, `places.csv`.
        probabilities: kept of this mask by `predict`. Without any, a sample of places is predicted again.
        image: that the mask was made of, for the sample; None is the one that the mask names.
        model: for the sample; None is the bundled model that made the mask.
        overwrite: replace files that exist.
        report: is told the share that is done, and what.
        stop: asked now and then; if true, the search ends there.
        wanted: the fields of `Wanted`.

    Raises:
        MaskError, ImageError, ModelError, DataError, PlanError: a file cannot be read or written, does not belong to
            the mask, or a value is not allowed.
        StoppedError: `stop` was true; nothing was written.
    """
    unknown = wanted.keys() - {one.name for one in fields(Wanted)}
    if unknown:
        raise TypeError(f"suggest has no argument {', '.join(sorted(unknown))}")
    asked, start = Wanted(**wanted), time.monotonic()
    check_places(out, overwrite=overwrite)
    if probabilities is not None and (image is not None or model is not None):
        raise PlanError("--probabilities are read, --image and --model predict a sample: give one of the two")
    kept = _kept(mask, probabilities)
    if kept is not None:
        searched = _searched(kept[0], asked)
        places, pixels = _of_kept(kept[1], searched, asked, report, stop)
        found = Suggestion(str(mask), places, asked.measure, pixels, 0.0, None, searched.notes)
    else:
        from tilesegment.prediction.sampling import score_sample  # imports torch

        opened = open_mask(mask)
        searched = _searched(opened.spec, asked)
        count = asked.sample or _SAMPLED * asked.count
        sample = score_sample(opened, searched, count, image, model, asked, report, stop)
        chosen = _spread(sample.windows, searched, asked)
        places = _placed(sample.windows, chosen, searched.spec, [sample.pairs[n] for n in chosen])
        notes = (*searched.notes, *sample.notes)
        found = Suggestion(str(mask), places, asked.measure, sample.pixels, 0.0, len(sample.windows), notes)
    if len(places) < asked.count:
        found = replace(found, notes=(*found.notes, _fewer(len(places), asked)))
    for path in out:
        write_places(path, places, asked.measure, overwrite=overwrite)
    return replace(found, seconds=time.monotonic() - start)


def _fewer(count: int, asked: Wanted) -> str:
    few = "no place was" if not count else "1 place was" if count == 1 else f"{count} places were"
    return (
        f"{few} found, {asked.count} wanted: elsewhere the model is sure, or places are annotated, outside --roi, or "
        "too near; a smaller --size or --distance finds more"
    )


def _kept(
    mask: str | Path | Location, probabilities: str | Path | Location | None
) -> tuple[MaskSpec, BlockArray] | None:
    """Open the probabilities that were kept of a mask, or that were named in its place; None without any.

    Raises:
        MaskError: they cannot be read, or are those of another mask.
    """
    opened = find_mask(mask)
    if probabilities is None:
        if opened is not None or recorded_classes(absolute(mask), probabilities=True) is None:
            return None
        probabilities = mask
    spec, levels = open_probabilities(probabilities)
    if opened is None and probabilities is not mask:
        opened = open_mask(mask)  # says what is wrong
    if opened is not None:
        _check_same(opened, spec, probabilities)
    return spec, levels[0]


def _check_same(mask: Mask, spec: MaskSpec, probabilities: str | Path | Location) -> None:
    there, now = ({"layout": {}, "fingerprint": dict(one.fingerprint)} for one in (spec, mask.spec))
    if differences := differing(there, now):
        raise MaskError(f"{probabilities} are not the probabilities of {mask.path}: {differences}")


def _searched(spec: MaskSpec, asked: Wanted) -> Searched:
    """Return what is searched of a mask.

    Raises:
        MaskError: it has a single class.
        PlanError, DataError: the region of interest lies outside it, or a file cannot be read.
    """
    if len(spec.classes) < 2:
        raise MaskError("the mask has one class, of which a model is always sure")
    within = Region.of_shape(spec.shape)
    (oy, ox), (sy, sx) = first_pixel(spec), spec.scale
    areas: Areas | None = None
    if isinstance(asked.roi, Region):
        given = asked.roi
        ys, xs = ((given.y0 - oy) / sy, (given.y1 - oy) / sy), ((given.x0 - ox) / sx, (given.x1 - ox) / sx)
        part = Region(floor(ys[0]), floor(xs[0]), -floor(-ys[1]), -floor(-xs[1]))
        within = part.intersect(within)
        if within.area == 0:
            covers = Region(round(oy), round(ox), round(oy + sy * spec.shape[0]), round(ox + sx * spec.shape[1]))
            raise PlanError(f"--roi {given} lies outside the mask, which covers {covers} of level 0")
    elif asked.roi is not None:
        areas = _areas_of_interest(asked.roi, spec)
    side = (min(max(round(asked.size / sy), 1), within.height), min(max(round(asked.size / sx), 1), within.width))
    taken = None if asked.labels is None else _annotated(Path(asked.labels), spec)
    cells = Cells.of(within, side)
    return Searched(spec, cells, _inside(areas), _inside(taken), () if areas is None else areas.notes)


def _areas_of_interest(path: str | Path, spec: MaskSpec) -> Areas:
    """Read areas in which places are wanted, in pixels and planes of the mask."""
    if not is_areas(path):
        raise PlanError(f"--roi is {str(path)!r}; allowed: y0:y1,x0:x1, or a GeoJSON file, such as rois.geojson")
    (oy, ox), (sy, sx) = first_pixel(spec), spec.scale
    height, width = round(oy + sy * spec.shape[0]), round(ox + sx * spec.shape[1])
    areas = read_areas(path, [(height, width)], spec.first_plane + (spec.depth or 1))
    return _in_mask(areas, spec)


def _annotated(path: Path, spec: MaskSpec) -> Areas:
    """Read annotations that have a class, in pixels and planes of the mask.

    Raises:
        DataError: the file holds no annotations by its name, or cannot be read.
    """
    place = place_of(path)
    if isinstance(place, Location) or not is_annotation(place):
        raise DataError(f"--labels is {path}; allowed: what was drawn, as GeoJSON or labelme, such as labels.geojson")
    drawn = [painted(one, BRUSH) for one in read_drawing(place).features if one.name]
    given = [replace(one, object_type="annotation") for one in drawn if one.polygons]
    areas = Areas(Outlines.of(given, path.name), Outlines.of([], path.name))
    return _in_mask(areas if spec.depth is not None else areas.in_all_planes(), spec)


def _in_mask(areas: Areas, spec: MaskSpec) -> Areas:
    first = spec.first_plane if areas.by_plane else 0
    corner = first_pixel(spec)
    drawn, left_out = (one.within(corner, spec.scale, first) for one in (areas.drawn, areas.left_out))
    return replace(areas, drawn=drawn, left_out=left_out)


def _inside(areas: Areas | None) -> Counts | None:
    if areas is None:
        return None
    return lambda region, plane: areas.inside(region, plane if areas.by_plane else 0)


def _of_kept(
    level: BlockArray, searched: Searched, asked: Wanted, report: Report, stop: Callable[[], bool]
) -> tuple[tuple[Place, ...], int]:
    """Find places from probabilities that were kept; also return how many pixels were read."""
    cells, count = searched.windows, len(searched.spec.classes)
    whole = cells.within.area * searched.planes
    done = 0

    def told(region: Region) -> None:
        nonlocal done
        done += region.area
        report(done / whole, "reading probabilities")
        if stop():
            raise StoppedError("asked to stop; nothing was written")

    side = floor(sqrt(_READ_VALUES / count))
    scored = [
        score_windows(
            level.read, cells, z, asked.measure, counts=searched.counts, taken=searched.taken, at_once=side, report=told
        )
        for z in range(searched.planes)
    ]
    windows = Windows.joined(scored, cells.side, cells.within)
    chosen = _spread(windows, searched, asked)
    pairs = [confused_pair(level.read(windows.region(n), int(windows.plane[n])), asked.measure) for n in chosen]
    return _placed(windows, chosen, searched.spec, pairs), whole


def _spread(windows: Windows, searched: Searched, asked: Wanted) -> list[int]:
    """Choose windows that lie apart, their numbers."""
    scale = sqrt(searched.spec.scale[0] * searched.spec.scale[1])
    if asked.distance is not None:
        return spread(windows, asked.count, asked.distance / scale, nearer=False)
    even = sqrt(searched.windows.within.area * searched.planes / asked.count)
    return spread(windows, asked.count, _APART * even, max(searched.planes // asked.count, 1))


def _placed(
    windows: Windows, chosen: Sequence[int], spec: MaskSpec, pairs: Sequence[tuple[int, int]]
) -> tuple[Place, ...]:
    """Return chosen windows as places in level 0, in their order."""
    (oy, ox), (sy, sx), places = first_pixel(spec), spec.scale, []
    names = [one.name for one in spec.classes]
    for rank, (number, pair) in enumerate(zip(chosen, pairs, strict=True), 1):
        own, plane = windows.region(number), spec.first_plane + int(windows.plane[number])
        region = Region(
            round(oy + sy * own.y0), round(ox + sx * own.x0), round(oy + sy * own.y1), round(ox + sx * own.x1)
        )
        where = None if spec.depth is None else plane
        places.append(Place(rank, float(windows.score[number]), region, where, (names[pair[0]], names[pair[1]])))
    return tuple(places)
