"""What the user chose about objects, and what of it is known from the classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from tilesegment.errors import PlanError
from tilesegment.metadata import LabelClass
from tilesegment.stores import Location

BORDER_REACH = 8.0  # pixels: how far from an object the border class is given back to it
_MOST_GROWN = 256.0  # pixels: a block is read with this margin
_CONNECTIVITY, _TOUCHING = (4, 8), ("keep", "drop")


@dataclass(frozen=True)
class ObjectSettings:
    """How objects are made of a mask.

    Attributes:
        classes: names or numbers of the classes whose regions are objects; by default those with the role `object`,
            else all but class 0. Of a label image: the values that are classes, where its values are no ids.
        border: name or number of the class that separates objects and is given back to them; by default the one with
            this role.
        grow: pixels by which objects grow over pixels that are in no object; with a border class only over that, and
            there 8 by default.
        fill_holes: give what a single object encloses to it.
        min_area: leave out objects of fewer pixels, as they are after growing and filling; None is what the model has
            learnt, see `LabelClass`, else 0.
        touching_border: `keep` or `drop` objects that touch an edge of the mask.
        connectivity: 4 or 8: whether pixels that meet at a corner are one object; in 3-D 6 or 26.
        volume: objects go through the planes of a stack; else each plane has its own.
        regions: objects are whole areas, such as tumour or tissue: annotations in QuPath, not detections.
        simplify: by about how many pixels outlines may deviate; 0 follows the pixels.
        image: path or location of an image whose grey values are measured.
        block: side in pixels of the blocks in which the mask is read.
    """

    classes: tuple[str, ...] | None = None
    border: str | None = None
    grow: float | None = None
    fill_holes: bool = False
    min_area: int | None = None
    touching_border: str = "keep"
    connectivity: int = 4
    volume: bool = False
    regions: bool = False
    simplify: float = 0.0
    image: str | Location | None = None
    block: int = 2048

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Build settings from keyword arguments.

        Raises:
            PlanError: a setting does not exist, or its value is not allowed.
        """
        known = [one.name for one in fields(cls)]
        for name in given:
            if name not in known:
                raise PlanError(f"there is no setting {name!r}; there are: {', '.join(known)}")
        chosen = dict(given)
        if isinstance(chosen.get("classes"), str):
            chosen["classes"] = (chosen["classes"],)
        if chosen.get("classes") is not None:
            chosen["classes"] = tuple(str(one) for one in chosen["classes"])
        if chosen.get("border") is not None:
            chosen["border"] = str(chosen["border"])
        if isinstance(chosen.get("image"), Path):
            chosen["image"] = str(chosen["image"])
        return cls(**chosen)

    def __post_init__(self) -> None:
        allowed = {
            "grow": (self.grow is None or 0 <= self.grow <= _MOST_GROWN, f"0 to {_MOST_GROWN:g} pixels"),
            "min_area": (self.min_area is None or self.min_area >= 0, "0 or more pixels"),
            "simplify": (math.isfinite(self.simplify) and self.simplify >= 0, "0 or more pixels"),
            "connectivity": (self.connectivity in _CONNECTIVITY, "4 or 8"),
            "touching_border": (self.touching_border in _TOUCHING, "keep or drop"),
            "block": (1 <= self.block <= 1 << 14, "1 to 16384 pixels"),
        }
        for name, (is_allowed, words) in allowed.items():
            if not is_allowed:
                raise PlanError(f"--{name.replace('_', '-')} is {getattr(self, name)}; allowed: {words}")


@dataclass(frozen=True)
class Roles:
    """What the values of a mask are in objects.

    Attributes:
        taken: values whose regions are objects; None if values are ids of objects.
        border: the value that is given back to the objects; None if there is none.
        radius: pixels by which objects grow.
        min_area: pixels of the smallest objects that are kept.
    """

    taken: tuple[int, ...] | None
    border: int | None
    radius: float
    min_area: int = 0

    @property
    def needs_finding(self) -> bool:
        """Whether objects are more than the connected regions of their classes."""
        return self.border is not None or self.radius > 0 or self.min_area > 0


def roles_of(settings: ObjectSettings, classes: Sequence[LabelClass] | None, path: str) -> Roles:
    """Decide what the values of the mask `path` are; `classes` is None for a label image of unknown meaning.

    Raises:
        PlanError: there is no such class, or a class is both an object and a border.
    """
    if classes is None:
        taken = None if settings.classes is None else tuple(_number(one, path) for one in settings.classes)
        border = None if settings.border is None else _number(settings.border, path)
    else:
        marked = tuple(n for n, one in enumerate(classes) if one.role == "object")
        taken = marked or tuple(range(1, len(classes)))
        if settings.classes is not None:
            taken = tuple(class_number(one, classes, path) for one in settings.classes)
        known = [n for n, one in enumerate(classes) if one.role == "border" and n not in taken]
        border = known[0] if known else None
        if settings.border is not None:
            border = class_number(settings.border, classes, path)
        if settings.classes is None:
            taken = tuple(n for n in taken if n != border)
    if border is not None and taken is not None and border in taken:
        raise PlanError(f"class {settings.border} is both an object and a border: leave it out of one of the two")
    if taken is not None and not taken:
        raise PlanError(f"{path} has no class that makes objects: name some with --classes")
    radius = settings.grow if settings.grow is not None else BORDER_REACH if border is not None else 0.0
    min_area = settings.min_area
    if min_area is None:
        min_area = min(classes[number].min_area for number in taken) if classes is not None and taken else 0
    return Roles(None if taken is None else tuple(sorted(set(taken))), border, float(radius), min_area)


def class_number(given: str, classes: Sequence[LabelClass], path: str) -> int:
    """Return the id of the class with this name or number.

    Raises:
        PlanError: the mask `path` has none; the message lists those that it has.
    """
    names = [one.name for one in classes]
    if given in names:
        return names.index(given)
    if given.isdecimal() and int(given) < len(names):
        return int(given)
    listed = ", ".join(f"{n} {name}" for n, name in enumerate(names))
    raise PlanError(f"{path} has no class {given!r}; it has: {listed}")


def _number(given: str, path: str) -> int:
    if not given.isdecimal():
        raise PlanError(f"{path} does not name its classes: {given!r} must be a value, such as 1 or 255")
    return int(given)
