"""What is decided about objects before a pixel moves: plain data, the same for every process."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.identity import identity
from tilesegment.images.resampled import at_scale
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec
from tilesegment.masks.spec import digest, resampled_of
from tilesegment.metadata import PixelSize, part_of_frame, size_difference
from tilesegment.objects.cut import Cut
from tilesegment.objects.settings import ObjectSettings, Roles, roles_of
from tilesegment.objects.source import ObjectSource
from tilesegment.stores import Location, Options, Place, place_of

_SAME_SIZE = 0.01  # relative difference of pixel sizes that are one
_SAME_PLACE = 0.1  # pixels


@dataclass(frozen=True)
class Grey:
    """The image whose grey values are measured, and where the mask lies in it.

    Attributes:
        path: of the image.
        level: whose pixels are those of the mask.
        shift: (y, x), pixel of this level under the first pixel of the mask.
        plane: under the mask's first plane.
        channels: how many it has.
        resampled: (y, x) pixels of level 0 per pixel, where the level is computed and not stored.
        options: how its server is reached.
    """

    path: str
    level: int
    shift: tuple[int, int]
    plane: int
    channels: int
    resampled: tuple[float, float] | None = None
    options: Options = ()

    @property
    def place(self) -> Place:
        """Where the image is."""
        return place_of(self.path, self.options)

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON; without step or options where there are none, as earlier releases know none."""
        return {key: value for key, value in asdict(self).items() if value or key not in ("resampled", "options")}


@dataclass(frozen=True)
class ObjectPlan:
    """Every choice about the objects of a mask.

    Attributes:
        mask: path of it.
        depth, shape: its planes, height and width.
        block: side of a block in pixels.
        taken: the values whose regions are objects; None if values are ids of objects.
        border, radius: the value that is given back, and by how many pixels objects grow.
        fill_holes, connectivity, volume, min_area, touching_border: as in `ObjectSettings`.
        grey: the image whose grey values are measured.
        fingerprint: what decides the objects, as a SHA-256: the settings, and what mask and image store.
        run: the same, but for a mask of ours what it was made of: it stays when the same mask is predicted again.
        options: how the server of the mask is reached.
    """

    mask: str
    depth: int
    shape: tuple[int, int]
    block: int
    taken: tuple[int, ...] | None
    border: int | None
    radius: float
    fill_holes: bool
    connectivity: int
    volume: bool
    min_area: int
    touching_border: str
    grey: Grey | None
    fingerprint: str = ""
    run: str = ""
    options: Options = ()

    @property
    def place(self) -> Place:
        """Where the mask is."""
        return place_of(self.mask, self.options)

    @property
    def cut(self) -> Cut:
        """How the mask is cut into blocks."""
        return Cut(self.depth, self.shape, self.block)

    def to_json(self) -> str:
        """Return the plan as one JSON object."""
        known = asdict(self) | {"grey": None if self.grey is None else self.grey.as_json()}
        if not self.options:  # as in earlier releases
            del known["options"]
        return json.dumps(known, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan that `to_json` wrote."""
        known = json.loads(text)
        known["shape"] = tuple(known["shape"])
        known["taken"] = None if known["taken"] is None else tuple(known["taken"])
        known["options"] = tuple(map(tuple, known.get("options", ())))
        if known["grey"] is not None:
            pairs = {name: tuple(known["grey"][name]) for name in ("shift", "resampled") if known["grey"].get(name)}
            reached = {"options": tuple(map(tuple, known["grey"].get("options", ())))}
            known["grey"] = Grey(**known["grey"] | pairs | reached)
        return cls(**known)


def decide(source: ObjectSource, settings: ObjectSettings) -> tuple[Roles, Grey | None]:
    """Decide what can be decided of a mask before it exists: from its spec, not from its pixels.

    Raises:
        PlanError: the settings do not fit the mask, or the image does not lie under it.
        ImageError: the image cannot be read.
    """
    if settings.volume and source.depth == 1:
        raise PlanError(f"{source.path} has one plane: leave out --3d")
    roles = roles_of(settings, source.spec.classes if source.has_classes else None, source.path)
    if roles.taken is None and roles.border is not None:
        raise PlanError(f"{source.path} holds ids of objects, no classes: leave out --border, or name --classes, too")
    return roles, None if settings.image is None else find_grey(source, settings.image)


def make_plan(source: ObjectSource, settings: ObjectSettings) -> ObjectPlan:
    """Decide how the objects of a mask are made; errors as in `decide`."""
    roles, grey = decide(source, settings)
    plan = ObjectPlan(
        mask=source.path,
        depth=source.depth,
        shape=source.spec.shape,
        block=settings.block,
        taken=roles.taken,
        border=roles.border,
        radius=roles.radius,
        fill_holes=settings.fill_holes,
        connectivity=settings.connectivity,
        volume=settings.volume,
        min_area=roles.min_area,
        touching_border=settings.touching_border,
        grey=grey,
        options=source.options,
    )
    # the same mask elsewhere, and in other blocks, has the same objects
    decides: dict[str, Any] = asdict(plan)
    for name in ("mask", "block", "fingerprint", "run", "options"):
        del decides[name]
    if grey is not None:
        decides["grey"] = {**replace(grey, path="", options=()).as_json(), "stored": identity(grey.place).digest}
    stored = identity(source.place).digest
    made_of = digest({"layout": source.spec.layout(), "fingerprint": source.spec.fingerprint})
    run = _digest(decides | {"mask": made_of if source.is_ours else stored})
    return replace(plan, fingerprint=_digest(decides | {"mask": stored}), run=run)


def _digest(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def first_pixel(spec: MaskSpec) -> tuple[float, float]:
    """Return the corner (y, x) of the mask's first pixel, in pixels of the image's level 0."""
    (oy, ox), (sy, sx) = spec.offset, spec.scale
    # the offset is that of the pixel's centre
    return oy * sy - (sy - 1) / 2, ox * sx - (sx - 1) / 2


def find_grey(source: ObjectSource, path: str | Location) -> Grey:
    """Find where the mask lies in an image: by what it says of itself, by equal size, or by pixel size and position.

    Raises:
        PlanError: it lies nowhere in it.
        ImageError: the image cannot be read.
    """
    spec, step, place = source.spec, resampled_of(source.spec.fingerprint), place_of(path)
    with at_scale(open_image(path), step) as image:
        for found in (_recorded(source, image), _aligned(spec, image)):
            if found is not None and _covers(spec, image, *found):
                level, shift = found
                computed = step if level == len(image.stored_levels) else None
                where = str(place.resolve() if isinstance(place, Path) else place)
                return Grey(where, level, shift, spec.first_plane, image.channels, computed, image.store_options)
        sizes = ", ".join(f"{h} x {w}" for h, w in (level.shape for level in image.levels[:8]))
        raise PlanError(
            f"{source.path} does not lie in {path}: the mask is {spec.shape[0]} x {spec.shape[1]} (y, x), "
            f"{source.depth} planes, {_in_words(spec.pixel_size)}; the levels of the image are {sizes}, "
            f"{image.depth or 1} planes, {_in_words(image.pixel_size)}: name the image that the mask was made of"
        )


def _recorded(source: ObjectSource, image: ImageSource) -> tuple[int, tuple[int, int]] | None:
    """Return level and place by the mask's record, or by an equal size."""
    spec = source.spec
    if source.is_ours:
        y, x = first_pixel(spec)
        for number, level in enumerate(image.levels):
            if all(math.isclose(one, other, rel_tol=1e-3) for one, other in zip(level.scale, spec.scale, strict=True)):
                whole = spec.fingerprint.get("shape")
                if whole is None or tuple(whole) == level.shape:  # type: ignore[arg-type]
                    return number, (round(y / spec.scale[0]), round(x / spec.scale[1]))
        return None
    return (0, (0, 0)) if image.shape == spec.shape else None


def _aligned(spec: MaskSpec, image: ImageSource) -> tuple[int, tuple[int, int]] | None:
    """Return level and place by pixel size and position."""
    if spec.pixel_size is None or image.pixel_size is None:
        return None
    first = (spec.first_plane, *spec.offset)
    mask = part_of_frame(spec.frame, scale=spec.scale, first=first, size=spec.pixel_size)
    for number, level in enumerate(image.levels):
        size = PixelSize(image.pixel_size.y * level.scale[0], image.pixel_size.x * level.scale[1])
        if size_difference(spec.pixel_size, size) > _SAME_SIZE:
            continue
        centre = [(factor - 1) / (2 * factor) for factor in level.scale]
        here = part_of_frame(image.frame, scale=level.scale, first=(0, centre[0], centre[1]), size=size)
        start = [(a.origin - b.origin) / b.scale for a, b in ((mask.y, here.y), (mask.x, here.x))]
        place = (round(start[0]), round(start[1]))
        if max(abs(place[0] - start[0]), abs(place[1] - start[1])) <= _SAME_PLACE:
            return number, place
    return None


def _covers(spec: MaskSpec, image: ImageSource, level: int, shift: tuple[int, int]) -> bool:
    there = Region.of_shape(spec.shape).shift(*shift) if min(shift) >= 0 else None
    planes = spec.first_plane + (spec.depth or 1)
    return (
        there is not None
        and Region.of_shape(image.levels[level].shape).contains(there)
        and planes <= (image.depth or 1)
    )


def _in_words(size: PixelSize | None) -> str:
    return "of unknown pixel size" if size is None else f"of {size.y:g} x {size.x:g} um per pixel"
