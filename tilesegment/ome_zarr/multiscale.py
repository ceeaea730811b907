"""OME-Zarr images, 0.1 to 0.5, as their groups describe them.

Many programs write this metadata, not all correctly. The shapes of the arrays are certain: how much a level is reduced
is believed only where its shape agrees.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from tilesegment.errors import ImageError
from tilesegment.metadata import Frame, Spacing, reduction
from tilesegment.ome_zarr.node import Node, axis_name, is_printable

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")  # "0.5-dev-spatialdata" is 0.5, too
_NEWEST = (0, 5)
_TOLERANCE = 0.03  # levels may be padded or cut to whole chunks

Factors: TypeAlias = tuple[float, float]
_Numbers: TypeAlias = list[float]


@dataclass(frozen=True)
class Multiscale:
    """An image at several resolutions.

    Attributes:
        path: of its group, for messages.
        version: of OME-Zarr.
        axes: names of the dimensions of all its arrays.
        units: of the axes, as written; None where there is none.
        paths: of the arrays, relative to the group, the finest first.
        scales: of each level, one number per axis, before the transformations of the whole image; None if unknown.
        first: scale and origin of level 0 along each axis, in its unit; None if unknown.
        notes: on metadata that is not read, or is doubtful.
    """

    path: str
    version: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    paths: tuple[str, ...]
    scales: tuple[_Numbers | None, ...]
    first: tuple[_Numbers, _Numbers] | None
    notes: tuple[str, ...]

    def frame(self, axes: Sequence[str] | None = None) -> Frame:
        """Return where the pixels of level 0 lie, in the units as written; `axes` are other names of the dimensions."""
        names = self.axes if axes is None or len(axes) != len(self.axes) else tuple(axes)
        found = {
            axis: Spacing(scale, origin, unit)
            for axis, scale, origin, unit in zip(names, *(self.first or ([], [])), self.units, strict=False)
            if axis in ("z", "y", "x") and scale > 0 and math.isfinite(scale) and math.isfinite(origin)
        }
        return Frame(**found)

    def reductions(self, shapes: Sequence[tuple[int, int]]) -> tuple[tuple[Factors, ...], tuple[str, ...]]:
        """Return how many pixels of level 0 (y, x) a pixel of each level spans, and notes on doubtful levels."""
        factors, missing, wrong = [(1.0, 1.0)], [], []
        for number, shape in enumerate(shapes[1:], 1):
            shaped = (reduction(shapes[0][0], shape[0]), reduction(shapes[0][1], shape[1]))
            told = self._told(number)
            if told is None:
                missing.append(f"{self.paths[number]} ({_by(shaped)})")
            elif not _agree(told, shapes[0], shape):
                wrong.append(f"{self.paths[number]} ({_by(shaped)}, not {_by(told)})")
            factors.append(told if told is not None and _agree(told, shapes[0], shape) else shaped)
        taken = "how many pixels of level 0 one of its pixels spans is taken from its shape"
        notes = [
            f"{self.path}: {what} level {', '.join(levels)}: {taken}"
            for what, levels in (("no scale is given for", missing), ("the shape contradicts the scale of", wrong))
            if levels
        ]
        return tuple(factors), tuple(notes)

    def _told(self, number: int) -> Factors | None:
        """Return the (y, x) pixels of level 0 per pixel of a level according to the metadata."""
        first, here = self.scales[0], self.scales[number]
        if first is None or here is None:
            return None
        y, x = (here[i] / first[i] for i in (self.axes.index("y"), self.axes.index("x")))
        return (_rounded(y), _rounded(x)) if min(y, x) > 0 and max(y, x) < math.inf else None


def _by(factors: Factors) -> str:
    return f"{factors[0]:.4g} x {factors[1]:.4g}"


def _rounded(factor: float) -> float:
    return float(round(factor)) if math.isclose(factor, round(factor), rel_tol=1e-6) else factor


def _agree(factors: Factors, full: tuple[int, int], reduced: tuple[int, int]) -> bool:
    """Return whether the sides of a level are those of level 0 divided by `factors`, allowing for rounding."""
    sides = zip(factors, full, reduced, strict=True)
    return all(abs(whole / factor - part) < max(1, _TOLERANCE * part) for factor, whole, part in sides)


def multiscale_names(node: Node) -> tuple[str, ...]:
    """Return the names of the images in a group, mostly one; numbers where there are no names."""
    images = node.ome.get("multiscales")
    names = [i.get("name") if isinstance(i, Mapping) else None for i in (images if isinstance(images, list) else [])]
    return tuple(
        name if isinstance(name, str) and name and is_printable(name) else f"multiscale {number}"
        for number, name in enumerate(names)
    )


def read_multiscale(path: str, node: Node, number: int = 0) -> Multiscale | None:
    """Read the OME-Zarr image that the group `path` describes; None if it describes none.

    Of several images that share a group, the one with this `number`.

    Raises:
        ImageError: the description contradicts itself, or is of a later version.
    """
    shared = node.ome.get("version") if "ome" in node.attributes else None
    _check_version(path, shared)
    if not node.ome.get("multiscales"):
        return None
    try:
        image = node.ome["multiscales"][number]
        version = str(shared or image.get("version") or "0.4")
        _check_version(path, "0.6" if "coordinateSystems" in image else version)
        found = _VERSION.match(version)
        return _read(path, found[0] if found else version[:10], image)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ImageError(f"{path} has damaged OME-Zarr metadata ({error!r:.200})") from error


def _check_version(path: str, version: Any) -> None:
    found = _VERSION.match(str(version))
    if found and (int(found[1]), int(found[2])) > _NEWEST:
        raise ImageError(
            f"{path} is OME-Zarr {found[0]}, which is not read; 0.1 to 0.5 are: write it as 0.5, or name one of its "
            f"arrays, such as {path.rstrip('/')}/0"
        )


def _read(path: str, version: str, image: Mapping[str, Any]) -> Multiscale:
    axes = [{"name": a} if isinstance(a, str) else a for a in image.get("axes") or "tczyx"]
    names = tuple(axis_name(axis) for axis in axes)
    datasets = image["datasets"]
    paths = tuple(str(dataset["path"]) for dataset in datasets)
    if not paths or any(PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts for p in paths):
        raise ValueError("levels are missing or outside the store")
    units = tuple(str(axis["unit"]) if axis.get("unit") else None for axis in axes)
    if not all(is_printable(name) for name in (version, *names, *paths, *filter(None, units))):
        raise ValueError("a name is too long, or cannot be printed")
    plane, whole = (names.index("y"), names.index("x")), image.get("coordinateTransformations") or []
    if any("output" in one for one in whole):  # each leads to another system of coordinates
        whole = whole[:1]
    doubts: dict[str, None] = {}
    levels = [dataset.get("coordinateTransformations") or [] for dataset in datasets]
    placed = [_compose(level, names, doubts) for level in levels]
    first = _compose([*levels[0], *whole], names, doubts)
    for scale, _ in filter(None, [*placed, first]):
        if not all(scale[i] > 0 and math.isfinite(scale[i]) for i in plane):
            raise ValueError("a scale is not positive")
    scales = tuple(None if one is None else one[0] for one in placed)
    return Multiscale(path, version, names, units, paths, scales, first, tuple(f"{path}: {doubt}" for doubt in doubts))


def _compose(
    transformations: Sequence[Any], axes: tuple[str, ...], doubts: dict[str, None]
) -> tuple[_Numbers, _Numbers] | None:
    """Return the scale and origin along each axis; None if they are missing or cannot be read.

    Transformations are applied in their order; what is not read is added to `doubts`.
    """
    scale, origin, scales, unread = [1.0] * len(axes), [0.0] * len(axes), 0, 0
    for one in _flat(transformations):
        numbers, doubt = _numbers(one, axes)
        if doubt:
            doubts[doubt] = None
        if numbers is None:
            unread += 1
        elif one["type"] == "scale":
            scale = [a * b for a, b in zip(scale, numbers, strict=True)]
            origin = [a * b for a, b in zip(origin, numbers, strict=True)]
            scales += 1
        else:
            origin = [a + b for a, b in zip(origin, numbers, strict=True)]
    return (scale, origin) if scales and not unread else None


def _flat(transformations: Sequence[Any], depth: int = 0) -> list[Mapping[str, Any]]:
    """Return `transformations` without identities, and with sequences taken apart."""
    found: list[Mapping[str, Any]] = []
    for one in transformations:
        if one["type"] == "sequence" and depth < 4:
            found += _flat(one["transformations"], depth + 1)
        elif one["type"] != "identity":
            found.append(one)
    return found


def _numbers(transformation: Mapping[str, Any], axes: tuple[str, ...]) -> tuple[_Numbers | None, str]:
    """Return the numbers of a scale or translation, one per axis, or None if they are not read; and a doubt, or "".

    Where there are fewer or more numbers than axes, they belong to as many axes: those of space, of the plane, or all
    five of OME-Zarr 0.1.
    """
    kind = str(transformation["type"])[:40]
    if kind not in ("scale", "translation"):
        return None, f"a transformation of type {kind!r} is not read: pixel size and position are taken for unknown"
    if kind not in transformation and "path" in transformation:
        where = str(transformation["path"])[:100]
        return None, f"its {kind} is stored in the array {where!r}, which is not read: write the numbers themselves"
    numbers = [float(number) for number in transformation[kind]]
    if len(numbers) == len(axes):
        return numbers, ""
    what, names = f"a {kind} of {len(numbers)} numbers", ", ".join(axes)
    for letters in ([axis for axis in axes if axis in ("z", "y", "x")], "yx", "tczyx"):
        if len(letters) == len(numbers) and (len(letters) < len(axes) or set(axes) <= set(letters)):
            named, rest = dict(zip(letters, numbers, strict=True)), 1.0 if kind == "scale" else 0.0
            doubt = f"{what} for the axes {names} is taken for that of {', '.join(letters)}"
            return [named.get(axis, rest) for axis in axes], doubt
    return None, f"{what} does not fit the axes {names} and is not used"
