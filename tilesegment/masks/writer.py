"""Write a mask: begin it, store its blocks, publish it under its final name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray, Survey, reporting
from tilesegment.masks.home import Home, check_free, home_of
from tilesegment.masks.pyramid import Reduced, Tally, build_levels
from tilesegment.masks.reader import CLASS_PIXELS
from tilesegment.masks.spec import JSON, UNREADABLE, MaskSpec, differing
from tilesegment.masks.store import gone
from tilesegment.masks.target import OBJECTS, Target, mask_target, objects_target, probabilities_target, read_record
from tilesegment.metadata import MARK, part_of_frame
from tilesegment.ome_zarr import labels as documents
from tilesegment.stores import Place, place_of


def create_mask(path: str | Place, spec: MaskSpec, *, ngff: str = "0.5", overwrite: bool = False) -> "MaskWriter":
    """Create a mask to be written block by block, or go on with one that was begun with the same settings.

    Args:
        path: its form decides what is written:
            `NAME.zarr`, an OME-Zarr label image on its own;
            `IMAGE.zarr/labels/NAME`, the same added to an OME-Zarr image, in the image's version and number of levels;
            `NAME.tif`, `NAME.tiff`, a tiled, pyramidal OME-TIFF;
            `NAME.png`, a palette picture whose indices are the class ids, up to 64 megapixels.
        spec: what the mask is.
        ngff: version of OME-Zarr for `NAME.zarr`, `0.5`, or `0.4` for QuPath and Fiji.
        overwrite: replace an older mask, once this one is complete, and one in progress with other settings at once.

    Raises:
        MaskError: it cannot be written there; nothing has been changed.
    """
    with reporting("create", place := place_of(path)):
        return _create(mask_target(place, spec, ngff), spec, overwrite)


def create_probabilities(
    path: str | Place, spec: MaskSpec, *, overwrite: bool = False, values: str = "float32"
) -> "MaskWriter":
    """Create class probabilities to be written block by block: an OME-Zarr 0.5 image (K, H, W) or (K, D, H, W).

    Chunks hold one class, shards all of them. Pixels of smaller levels are the means of the pixels they cover.

    Args:
        path, spec, overwrite: as for `create_mask`.
        values: their dtype, `float32`, or `uint8` for 0 to 255, which takes a quarter of the space or less.

    Raises:
        MaskError: `path` is not `NAME.zarr`, or it cannot be written there.
    """
    with reporting("create", place := place_of(path)):
        return _create(probabilities_target(place, spec, values), spec, overwrite)


def create_objects(path: str | Place, spec: MaskSpec, *, ngff: str = "0.5", overwrite: bool = False) -> "MaskWriter":
    """Create an OME-Zarr label image of ids of objects, uint32, to be written block by block.

    Pixels of smaller levels are the first of the pixels they cover.

    Args:
        path: `NAME.zarr` or `IMAGE.zarr/labels/NAME`.
        spec, ngff, overwrite: as for `create_mask`; the classes are those of the objects.

    Raises:
        MaskError: it cannot be written there; nothing has been changed.
    """
    with reporting("create", place := place_of(path)):
        return _create(objects_target(place, spec, ngff), spec, overwrite)


@dataclass(frozen=True)
class MaskWriter:
    """A mask, the probabilities of its classes, or ids of objects, in progress.

    Threads and processes may write different blocks at a time; a writer can be pickled. Until `finish`, the next run
    goes on with whatever is stored.
    """

    home: Home
    spec: MaskSpec
    overwrite: bool
    base: BlockArray

    @property
    def target(self) -> Target:
        """The output."""
        return self.home.target

    @property
    def path(self) -> Place:
        """Where the mask will be."""
        return self.target.path

    def write(self, region: Region, pixels: np.ndarray, z: int = 0) -> None:
        """Store one block durably.

        Args:
            region: the block in pixels of the mask, clipped at the mask's edge.
            pixels: its class ids, (h, w) uint8, or ids of objects, uint32; probabilities are (K, h, w) of the chosen
                dtype.
            z: its plane.
        """
        self.base.write(region, pixels, z)

    def survey(self) -> Survey:
        """Find the blocks that are done and the damaged stored objects; rewriting a block replaces its objects."""
        if not self.home.is_open():
            raise gone(self.target.partial)
        return self.base.survey()

    def mark_unreadable(self) -> None:
        """Record that part of the image could not be read, so that the mask can go on once it is repaired."""
        with reporting("write to", self.target.partial):
            self.home.amend({UNREADABLE: True})

    @contextmanager
    def claimed(self, part: tuple[int, int] | None = None) -> Iterator[None]:
        """Keep other runs from writing the mask, until the context or the process ends.

        Those that claim a `part`, (k, n), let others claim theirs.
        """
        with self.home.claim(part=part) as is_there:
            if not is_there:
                raise gone(self.target.partial)
            yield

    @contextmanager
    def claimed_to_finish(self) -> Iterator[bool]:
        """Claim the mask and yield whether this process has to finish it.

        For the parts of one job, once they have stored their blocks and released their own claims. The part that stores
        the last block finds all of them done. Parts that do so wait for each other here: the first finishes the mask,
        the others find it finished. If blocks are missing, no part waits: the one that stores them comes here too.
        """
        if not self.home.is_open() or not self.base.survey().done.all():
            yield False
            return
        with self.home.claim(to_finish=True) as is_there:
            yield is_there

    def is_finished(self) -> bool:
        """Return whether the mask has its final name: another process may have finished it."""
        # an older mask of the same settings may be there, about to be replaced
        there = None if self.home.is_open() else read_record(self.path)
        return there is not None and not differing(there, self.target.record(self.spec, "complete"))

    def finish(self, provenance: Mapping[str, JSON] | None = None, *, reduced: Reduced | None = None) -> None:
        """Add smaller levels and metadata and give the mask its final name; `provenance` is recorded too.

        The first smaller level is made of the stored blocks, or of what `reduced` gives.

        What is replaced stays whole until the new mask is complete. After an error it can be called again, by a later
        run too. No other process may write or finish the mask meanwhile: call it under a claim that is not shared.

        Raises:
            MaskError: blocks are missing or damaged, or writing fails.
        """
        done = self.survey().done
        missing = [region for (region, _), is_done in zip(self.base.blocks(), done.flat, strict=True) if not is_done]
        if missing:
            raise MaskError(
                f"{self.path} lacks {len(missing)} blocks, the first is {missing[0]}; run it again to go on"
            )
        check_free(self.target, self.spec, self.overwrite)
        spec = replace(self.spec, provenance={**self.spec.provenance, **(provenance or {})})
        record = self.target.record(spec, "complete")
        with reporting("finish", self.path):
            has_classes = self.target.kind != "probabilities" and self.target.values != OBJECTS
            tally = Tally(len(spec.classes)) if has_classes else None
            levels = self._levels(tally, reduced)
            if tally is not None:
                record[CLASS_PIXELS] = tally.pixels.tolist()
            self.home.publish(levels, spec, record, self._attributes(spec, record), self.overwrite)

    def _levels(self, tally: Tally | None, reduced: Reduced | None) -> list[BlockArray]:
        levels, halvings = [self.base], self.target.halvings
        for number, count in enumerate(halvings[1:], 1):
            levels.append(self.home.level(number, self.base.grid.halved(count)))
        build_levels(levels, halvings, tally, reduced)
        return levels

    def _attributes(self, spec: MaskSpec, record: Mapping[str, Any]) -> dict[str, Any]:
        target = self.target
        # a label lies over its image, whatever pixel size the user knows of
        image, size = (spec.frame, spec.pixel_size) if target.host is None else (target.host.frame, None)
        first = (spec.first_plane, *spec.offset)
        frame = part_of_frame(image, scale=spec.scale, first=first, size=size)
        levels = (target.halvings, target.prefix)
        multiscale = documents.multiscales(target.path.stem, self.base.grid.axes, frame, *levels)
        if target.kind == "probabilities":
            most = 255.0 if target.values == "uint8" else 1.0
            extra = {"omero": documents.channels_document(spec.classes, most)}
        else:
            source = "../../" if target.kind == "labels" else None
            classes = () if target.values == OBJECTS else spec.classes
            extra = {"image-label": documents.label_document(classes, target.version, source)}
        return documents.attributes(target.version, multiscale, extra) | {MARK: record}


def _create(target: Target, spec: MaskSpec, overwrite: bool) -> MaskWriter:
    check_free(target, spec, overwrite)
    home, record, anew = home_of(target), target.record(spec, "partial"), False
    while True:
        if not home.is_begun():
            home.begin(record, target.grid(spec), anew=anew)
        elif _is_other(home, target, record, overwrite):
            with home.claim():
                # it may have been replaced since it was read
                if home.is_begun() and _is_other(home, target, record, overwrite):
                    home.discard()
                    anew = True
        else:
            return open_writer(target, spec, overwrite)


def _is_other(home: Home, target: Target, record: Mapping[str, Any], overwrite: bool) -> bool:
    """Return whether the mask in progress was begun for another one; refuse one that may not be replaced."""
    there = home.record()
    difference = "its record is damaged" if there is None else differing(there, record)
    if difference and not overwrite and home.is_used():
        advice = "run it with the same settings to go on, or use --overwrite to start anew"
        raise MaskError(f"{target.partial} was begun with other settings ({difference}); {advice}")
    return bool(difference)


def open_writer(target: Target, spec: MaskSpec, overwrite: bool) -> MaskWriter:
    """Open the mask in progress of `target`, which was begun for `spec`."""
    home = home_of(target).opened()
    return MaskWriter(home, spec, overwrite, home.base(target.grid(spec)))
