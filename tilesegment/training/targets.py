"""What a network learns from objects, and the objects in what it predicts.

A pixel-wise network cannot tell touching objects apart by a class "object" alone. It learns their cores, and a rim
around each that keeps the cores of two touching objects several pixels apart. In prediction, regions of the core are
the objects, and each pixel of the rim goes to the nearest one: a decision within a fixed radius, exact under tiling.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from skimage.measure import label

from tilesegment.labels.coding import IGNORE
from tilesegment.labels.numbering import dense
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.objects.growing import grow
from tilesegment.objects.settings import ObjectSettings, roles_of
from tilesegment.scoring.overlaps import Overlaps, overlaps
from tilesegment.training.data import Dataset, Section

RIM = "rim"
# a core is deeper in its object than this share of the object's largest depth, within these limits in pixels
_SHARE, _THINNEST, _THICKEST = 0.3, 1.5, 6.0
_BEYOND = 64  # pixels by which an object is taken to go on beyond the edge of the image


def learnable(data: Dataset) -> Dataset:
    """Return `data` with the classes that a network learns: of labels of instances, cores and their rim.

    The objects' classes keep their ids and get the role `object`; the last class is the rim, with the role `border`.
    Other data are returned unchanged.
    """
    if not data.instances:
        return data
    rim = len(data.classes)
    marked = (data.classes[0], *(replace(one, role="object") for one in data.classes[1:]))
    name = next(one for one in (RIM, "border of objects", "rim of objects") if one not in {c.name for c in marked})
    classes = (*marked, LabelClass(name, default_colours(rim + 1)[rim], None, "border"))
    sections = tuple(replace(section, label=cores_and_rims(section, rim)) for section in data.sections)
    return replace(data, sections=sections, classes=classes)


def cores_and_rims(section: Section, rim: int) -> np.ndarray:
    """Return the label (H, W) uint8 of a section: its classes in the cores of objects, `rim` around them."""
    assert section.objects is not None
    depth, largest = depths(section.objects)
    limit = np.minimum(np.clip(_SHARE * largest, _THINNEST, _THICKEST), 0.99 * largest)  # every object has a core
    outer = (section.objects > 0) & (depth <= limit[section.objects]) & (section.label != IGNORE)
    return np.where(outer, np.uint8(rim), section.label)


def depths(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how deep each pixel lies in its object, and the largest depth of each object, in pixels.

    The depth is the distance to the centre of the nearest pixel outside of the object. An object that the edge of the
    image cuts goes on beyond it.

    Args:
        ids: (H, W) int, objects numbered from 1; 0 is none.

    Returns:
        (H, W) float32, 0 outside of objects; and (n + 1,) float32.
    """
    found, largest = np.zeros(ids.shape, np.float32), np.zeros(int(ids.max(initial=0)) + 1, np.float32)
    for number, box in enumerate(ndimage.find_objects(ids), 1):
        if box is None:
            continue
        inside = ids[box] == number
        cut = [(side.start == 0, side.stop == size) for side, size in zip(box, ids.shape, strict=True)]
        beyond = [(_BEYOND * first, _BEYOND * last) for first, last in cut]
        around = np.pad(np.pad(inside, beyond, mode="edge"), 1)
        depth = ndimage.distance_transform_edt(around)
        own = tuple(slice(1 + b, 1 + b + size) for (b, _), size in zip(beyond, inside.shape, strict=True))
        depth = depth[own].astype(np.float32) * inside
        found[box] += depth
        largest[number] = depth.max()
    return found, largest


def objects_of(mask: np.ndarray, classes: Sequence[LabelClass]) -> np.ndarray:
    """Number the objects of a predicted mask (H, W) uint8, as `find_objects` does: (H, W) uint32."""
    roles = roles_of(ObjectSettings(), classes, "the mask")
    kept = np.where(np.isin(mask, roles.taken or ()), mask, 0)
    ids = label(kept, background=0, connectivity=1).astype(np.uint32)  # numbered by their first pixel
    return without_small(grow(np.pad(ids, int(roles.radius)), mask == roles.border, roles.radius), roles.min_area)


def without_small(ids: np.ndarray, min_area: int) -> np.ndarray:
    """Leave out objects (H, W) uint32 of fewer pixels, and number the others anew in their order."""
    kept = np.bincount(ids.ravel()) >= min_area
    return dense(np.where(kept[ids], ids, 0))[0].astype(np.uint32)


def overlaps_with_objects(section: Section, ids: np.ndarray) -> Overlaps:
    """Count how predicted objects (H, W) overlap the true ones where the section is labelled."""
    assert section.objects is not None
    truth = section.objects.astype(np.int64)
    truth[section.label == IGNORE] = -1
    return overlaps(truth, ids, -1)
