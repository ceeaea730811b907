"""The metadata of OME-Zarr images, 0.1 to 0.5, read for images and for the labels that are added to them.

Many programs write it, and not all write it right. The shapes of the arrays are what they are: how much a level is
reduced is believed only where its shape agrees.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tilesegment.errors import ImageError
from tilesegment.metadata import Frame, Spacing, reduction

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")  # "0.5-dev-spatialdata" is 0.5, too
_NEWEST = (0, 5)
_TOLERANCE = 0.03  # levels may be padded or cut to whole chunks
_MAX_NAME = 255  # characters of the name of an axis or level


@dataclass(frozen=True)
class Multiscale:
    """An image of several resolutions, as its group describes it.

    Attributes:
        path: of the group, for messages.
        version: of OME-Zarr.
        axes: names of the dimensions of all its arrays.
        units: of the axes, as written; None where there is none.
        paths: of the arrays, relative to the group, the finest first.
        scales: of each level, a number for each axis, before the transformations of the whole image; None where the
            metadata has none that can be used.
        first: scale and origin of level 0 along each axis, in its unit; None where they are not known.
        notes: what is not read of the metadata.
    """

    path: str
    version: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...] | None, ...]
    first: tuple[tuple[float, float], ...] | None
    notes: tuple[str, ...]

    def frame(self, axes: Sequence[str] | None = None) -> Frame:
        """Where the pixels of level 0 lie, in the units as written; `axes` are other names for its dimensions."""
        names = self.axes if axes is None or len(axes) != len(self.axes) else tuple(axes)
        found = {
            axis: Spacing(scale, origin, unit)
            for axis, (scale, origin), unit in zip(names, self.first or (), self.units, strict=self.first is not None)
            if axis in ("z", "y", "x") and scale > 0 and math.isfinite(scale) and math.isfinite(origin)
        }
        return Frame(**found)

    def reductions(self, shapes: Sequence[tuple[int, int]]) -> tuple[tuple[tuple[float, float], ...], tuple[str, ...]]:
        """How many pixels of level 0 (y, x) a pixel of each level spans, and notes on what was decided.

        Args:
            shapes: (height, width) of the levels, or of the first of them.
        """
        factors, unsaid, wrong = [(1.0, 1.0)], [], []
        for number, shape in enumerate(shapes[1:], 1):
            shaped = (reduction(shapes[0][0], shape[0]), reduction(shapes[0][1], shape[1]))
            said = self._said(number)
            if said is not None and _agree(said, shapes[0], shape):
                factors.append(said)
                continue
            factors.append(shaped)
            if said is None:
                unsaid.append(f"{self.paths[number]} ({_by(shaped)})")
            else:
                wrong.append(f"{self.paths[number]} ({_by(shaped)}, not {_by(said)})")
        taken = "how many pixels of level 0 one of its pixels spans is taken from its shape"
        notes = [
            f"{self.path}: {what} level {_list(levels)}: {taken}"
            for what, levels in (("no scale is given for", unsaid), ("the shape contradicts the scale of", wrong))
            if levels
        ]
        return tuple(factors), tuple(notes)

    def _said(self, number: int) -> tuple[float, float] | None:
        """(y, x) pixels of level 0 that one of a level spans, as the metadata has it."""
        first, here = self.scales[0], self.scales[number]
        if first is None or here is None:
            return None
        y, x = (here[i] / first[i] for i in (self.axes.index("y"), self.axes.index("x")))
        return (_rounded(y), _rounded(x)) if min(y, x) > 0 and max(y, x) < math.inf else None


def _by(factors: tuple[float, float]) -> str:
    return f"{factors[0]:.4g} x {factors[1]:.4g}"


def _rounded(factor: float) -> float:
    """A whole number where `factor` is one but for the rounding of its fractions."""
    return float(round(factor)) if math.isclose(factor, round(factor), rel_tol=1e-6) else factor


def _agree(factors: tuple[float, float], full: tuple[int, int], reduced: tuple[int, int]) -> bool:
    """Whether the sides of a level are those of level 0 divided by `factors`, as far as sides are rounded."""
    sides = zip(factors, full, reduced, strict=True)
    return all(abs(whole / factor - part) < max(1, _TOLERANCE * part) for factor, whole, part in sides)


def multiscale_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the images that the `attributes` of a group describe, mostly one; numbers where there are no names."""
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, Mapping) else None
    images = images if isinstance(images, list) else []
    names = [image.get("name") if isinstance(image, Mapping) else None for image in images]
    return tuple(
        name if isinstance(name, str) and name and is_printable(name) else f"multiscale {number}"
        for number, name in enumerate(names)
    )


def read_multiscale(path: str, attributes: Mapping[str, Any], number: int = 0) -> Multiscale | None:
    """The OME-Zarr image that the `attributes` of the group `path` describe; None if they describe none.

    Of several that share a group, the one with this `number`.

    The transformations of a level, and then those of the whole image, are applied in their order.

    Raises:
        ImageError: the description contradicts itself, or is of a later version.
    """
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, Mapping):
        return None
    shared = ome.get("version") if "ome" in attributes else None
    _check_version(path, shared)
    if not ome.get("multiscales"):
        return None
    try:
        image = ome["multiscales"][number]
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
    paths = tuple(str(dataset["path"]) for dataset in image["datasets"])
    if not paths or any(PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts for p in paths):
        raise ValueError("levels are missing or outside the store")
    units = tuple(str(axis["unit"]) if axis.get("unit") else None for axis in axes)
    if not all(is_printable(name) for name in (version, *names, *paths, *filter(None, units))):
        raise ValueError("a name is too long, or cannot be printed")
    y, x = names.index("y"), names.index("x")
    whole = _Placement.of(_whole(image), names)
    placed = [_Placement.of(dataset.get("coordinateTransformations"), names) for dataset in image["datasets"]]
    first = placed[0].then(whole)
    for one in (*placed, first):
        if not all(one.scale[i] > 0 and math.isfinite(one.scale[i]) for i in (y, x)):
            raise ValueError("a scale is not positive")
    doubts = dict.fromkeys(doubt for one in (*placed, whole) for doubt in one.doubts)
    return Multiscale(
        path,
        version,
        names,
        units,
        paths,
        tuple(tuple(p.scale) if p.is_scaled and p.is_read else None for p in placed),
        tuple(zip(first.scale, first.origin, strict=True)) if first.is_scaled and first.is_read else None,
        tuple(f"{path}: {doubt}" for doubt in doubts),
    )


@dataclass(frozen=True)
class _Placement:
    """What transformations make of index 0, and of a step, along each axis.

    Attributes:
        scale, origin: a number for each axis.
        is_scaled: whether there is a scale.
        is_read: whether all of them could be read.
        doubts: which could not, or are not what they should be.
    """

    scale: list[float]
    origin: list[float]
    is_scaled: bool
    is_read: bool
    doubts: tuple[str, ...]

    @classmethod
    def of(cls, transformations: Any, axes: tuple[str, ...]) -> "_Placement":
        """Of `transformations`, one after the other."""
        scale, origin, is_scaled, is_read, doubts = [1.0] * len(axes), [0.0] * len(axes), False, True, []
        for one in _flat(transformations or []):
            numbers, doubt = _numbers(one, axes)
            if doubt:
                doubts.append(doubt)
            if numbers is None:
                is_read = False
            elif one["type"] == "scale":
                scale = [a * b for a, b in zip(scale, numbers, strict=True)]
                origin = [a * b for a, b in zip(origin, numbers, strict=True)]
                is_scaled = True
            else:
                origin = [a + b for a, b in zip(origin, numbers, strict=True)]
        return cls(scale, origin, is_scaled, is_read, tuple(doubts))

    def then(self, whole: "_Placement") -> "_Placement":
        """Followed by the transformations of the whole image."""
        return _Placement(
            [a * b for a, b in zip(self.scale, whole.scale, strict=True)],
            [a * b + c for a, b, c in zip(self.origin, whole.scale, whole.origin, strict=True)],
            self.is_scaled or whole.is_scaled,
            self.is_read and whole.is_read,
            self.doubts + whole.doubts,
        )


def _whole(image: Mapping[str, Any]) -> Any:
    """The transformations of the whole image; of several that lead to systems of their own the first."""
    transformations = image.get("coordinateTransformations") or []
    return transformations[:1] if any("output" in one for one in transformations) else transformations


def _flat(transformations: Any, depth: int = 0) -> list[Mapping[str, Any]]:
    """`transformations` with those that say nothing left out, and sequences taken apart."""
    found: list[Mapping[str, Any]] = []
    for one in transformations:
        if one["type"] == "sequence" and depth < 4:
            found += _flat(one["transformations"], depth + 1)
        elif one["type"] != "identity":
            found.append(one)
    return found


def _numbers(transformation: Mapping[str, Any], axes: tuple[str, ...]) -> tuple[list[float] | None, str]:
    """The numbers of a scale or translation, one for each axis, or None if they are not read; and what to say of it.

    There should be one for each axis. Else they are those of the axes that there are as many of: of space, of the
    plane, or of all five that images have in OME-Zarr 0.1.
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
    for letters in ([axis for axis in axes if axis in ("z", "y", "x")], "yx", "tczyx"):
        if len(letters) == len(numbers) and (len(letters) < len(axes) or set(axes) <= set(letters)):
            named = dict(zip(letters, numbers, strict=True))
            rest = 1.0 if kind == "scale" else 0.0
            doubt = (
                f"a {kind} of {len(numbers)} numbers for the axes {_list(axes)} is taken for that of {_list(letters)}"
            )
            return [named.get(axis, rest) for axis in axes], doubt
    return None, f"a {kind} of {len(numbers)} numbers does not fit the axes {_list(axes)} and is not used"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def is_printable(text: str) -> bool:
    """Whether a name from a file can stand in a message."""
    return text.isprintable() and len(text) <= _MAX_NAME


def axis_name(axis: Mapping[str, Any]) -> str:
    """Our name of an axis: channels are c and time is t whatever they are called."""
    name = str(axis["name"]).lower()
    return {"channel": "c", "channels": "c", "time": "t"}.get(str(axis.get("type") or name), name)
