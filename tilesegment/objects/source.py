"""The mask that objects are made of: classes that we or others wrote, or ids of objects."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import DataError, ImageError, MaskError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels.label import Label, LabelOptions, open_label
from tilesegment.masks import MaskSpec, find_mask, open_mask, read_record
from tilesegment.masks.spec import spec_from_record
from tilesegment.masks.target import absolute
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.objects.labelling import MOST
from tilesegment.ome_zarr.node import read_node
from tilesegment.stores import Location, Options, Place, place_of

_CHUNK = 512  # side in pixels of the chunks of a label image


@dataclass(frozen=True)
class ObjectSource:
    """An open mask or label image.

    Attributes:
        path: of it.
        spec: size, classes, pixel size and place in the image. A label image has no classes that we know: one
            called `object` stands for all.
        has_classes: whether its values are known to be class ids.
        is_ours: whether `spec` was stored in it, so that it says which image it belongs to.
        read: stored values of a region of a plane, (h, w) of an integer type.
        options: how its server is reached.
    """

    path: str
    spec: MaskSpec
    has_classes: bool
    is_ours: bool
    read: Callable[[Region, int], np.ndarray]
    options: Options = ()

    @property
    def place(self) -> Place:
        """Where it is."""
        return place_of(self.path, self.options)

    @property
    def depth(self) -> int:
        """Number of planes, 1 for a single one."""
        return self.spec.depth or 1

    def values(self, region: Region, z: int) -> np.ndarray:
        """Return the values (h, w) of `region` in plane `z`, of an unsigned type of at most 32 bits.

        Raises:
            ImageError, MaskError: they cannot be read, or are no ids.
        """
        found = self.read(region, z)
        if found.dtype.kind == "u" and found.dtype.itemsize <= 4:
            return found
        if found.dtype.kind == "f" and np.array_equal(found, np.rint(found)):  # as ImageJ keeps ids
            found = found.astype(np.int64)
        if found.dtype.kind not in "iub":
            raise MaskError(
                f"{self.path} holds {found.dtype} that are not whole: classes and ids of objects are whole numbers; "
                "name a mask, or a label image"
            )
        if found.size and not 0 <= int(found.min()) <= int(found.max()) <= MOST:
            low, high = int(found.min()), int(found.max())
            raise MaskError(f"{self.path} holds values from {low} to {high}; allowed: ids from 0 to {MOST}")
        return found.astype(np.uint32)


@contextmanager
def open_source(path: str | Place) -> Iterator[ObjectSource]:
    """Open a mask that `predict` wrote, or a label image of any program: TIFF, PNG, Zarr, OME-Zarr; on a server Zarr.

    Raises:
        ImageError, MaskError: there is none, it is not finished, or it is no mask.
    """
    mask, place = find_mask(path), absolute(path)
    options = place.options if isinstance(place, Location) else ()
    if mask is not None:
        yield ObjectSource(str(place), mask.spec, True, True, lambda region, z: mask.read(region, 0, z), options)
        return
    record = read_record(place)
    exists = read_node(place, MaskError) is not None if isinstance(place, Location) else os.path.exists(place)
    if (record is not None and record.get("state") == "partial") or not exists:
        open_mask(place)  # says what is wrong
    try:
        with open_label(place, LabelOptions(strict=True)) as label:
            if label.kind == "colour":
                raise MaskError(f"{path} is an image in colours, no mask: name a mask of classes, or ids of objects")
            is_ours = record is not None and "layout" in record
            spec = spec_from_record(record) if record is not None and is_ours else _described(place, label)
            yield ObjectSource(str(place), spec, False, is_ours, label.read, options)
    except DataError as error:
        raise MaskError(f"{path} is no mask: {error}") from error


def _described(path: Place, label: Label) -> MaskSpec:
    """Return what a label image of another program says of itself."""
    classes = (LabelClass("background", default_colours(2)[0]), LabelClass("object", default_colours(2)[1]))
    depth = label.planes if label.planes > 1 else None
    plain = MaskSpec(label.shape, depth, _CHUNK, _CHUNK, classes, None)
    try:
        with open_image(path) as image:
            if image.shape != label.shape:
                return plain
            return MaskSpec(label.shape, depth, _CHUNK, _CHUNK, classes, image.pixel_size, frame=image.frame)
    except ImageError:
        return plain
