"""Write a mask: begin its folder in progress, store blocks in it, publish it under its final name."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.files import delete_folder, in_turn, locked, sweep, sweep_inside, sync, temporary_name
from tilesegment.geometry import Region
from tilesegment.masks.export import export
from tilesegment.masks.pyramid import Reduced, Tally, build_levels
from tilesegment.masks.reader import CLASS_PIXELS
from tilesegment.masks.spec import JSON, UNREADABLE, MaskSpec, differing
from tilesegment.masks.store import BlockArray, Survey, create_array, gone, reporting
from tilesegment.masks.target import (
    OBJECTS,
    Target,
    check_free,
    is_ours,
    mask_target,
    objects_target,
    probabilities_target,
    read_record,
)
from tilesegment.metadata import MARK, part_of_frame
from tilesegment.ome_zarr import labels as documents
from tilesegment.ome_zarr.node import Node, group_file, read_node, write_group


def create_mask(path: str | Path, spec: MaskSpec, *, ngff: str = "0.5", overwrite: bool = False) -> "MaskWriter":
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
    with reporting("create", Path(path)):
        return _create(mask_target(Path(path), spec, ngff), spec, overwrite)


def create_probabilities(
    path: str | Path, spec: MaskSpec, *, overwrite: bool = False, values: str = "float32"
) -> "MaskWriter":
    """Create class probabilities to be written block by block: an OME-Zarr 0.5 image (K, H, W) or (K, D, H, W).

    Chunks hold one class, shards all of them. Pixels of smaller levels are the means of the pixels they cover.

    Args:
        path, spec, overwrite: as for `create_mask`.
        values: their dtype, `float32`, or `uint8` for 0 to 255, which takes a quarter of the space or less.

    Raises:
        MaskError: `path` is not `NAME.zarr`, or it cannot be written there.
    """
    with reporting("create", Path(path)):
        return _create(probabilities_target(Path(path), spec, values), spec, overwrite)


def create_objects(path: str | Path, spec: MaskSpec, *, ngff: str = "0.5", overwrite: bool = False) -> "MaskWriter":
    """Create an OME-Zarr label image of ids of objects, uint32, to be written block by block.

    Pixels of smaller levels are the first of the pixels they cover.

    Args:
        path: `NAME.zarr` or `IMAGE.zarr/labels/NAME`.
        spec, ngff, overwrite: as for `create_mask`; the classes are those of the objects.

    Raises:
        MaskError: it cannot be written there; nothing has been changed.
    """
    with reporting("create", Path(path)):
        return _create(objects_target(Path(path), spec, ngff), spec, overwrite)


@dataclass(frozen=True)
class MaskWriter:
    """A mask, the probabilities of its classes, or ids of objects, in progress.

    Threads and processes may write different blocks at a time; a writer can be pickled. Until `finish`, the next run
    goes on with whatever is stored.
    """

    target: Target
    spec: MaskSpec
    overwrite: bool
    base: BlockArray

    @property
    def path(self) -> Path:
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
        if lock_file(self.target.partial) is None:
            raise gone(self.target.partial)
        return self.base.survey()

    def mark_unreadable(self) -> None:
        """Record that part of the image could not be read, so that the mask can go on once it is repaired."""
        with reporting("write to", self.target.partial):
            group = read_node(self.target.partial, MaskError)
            if group is not None:
                record = group.attributes[MARK] | {UNREADABLE: True}
                write_group(self.target.partial, Node(group.format, group.attributes | {MARK: record}))

    @contextmanager
    def claimed(self, shared: bool) -> Iterator[None]:
        """Keep other runs from writing the mask, until the context or the process ends.

        Others may claim it too if all share it: the parts of one job.
        """
        with claim(self.target.partial, shared=shared) as is_there:
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
        if lock_file(self.target.partial) is None or not self.base.survey().done.all():
            yield False
            return
        with claim(self.target.partial, wait=True) as is_there:
            yield is_there

    def is_finished(self) -> bool:
        """Return whether the mask has its final name: another process may have finished it."""
        # an older mask of the same settings may be there, about to be replaced
        there = None if lock_file(self.target.partial) is not None else read_record(self.path)
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
            sweep_inside(self.target.partial)
            if self.target.is_folder:
                self._publish_folder(spec, record)
            else:
                self._publish_file(levels, spec, record)
            sweep(self.path)

    def _levels(self, tally: Tally | None, reduced: Reduced | None) -> list[BlockArray]:
        levels, halvings = [self.base], self.target.halvings
        for number, count in enumerate(halvings[1:], 1):
            levels.append(create_array(self.target.partial / str(number), self.base.grid.halved(count)))
        build_levels(levels, halvings, tally, reduced)
        return levels

    def _publish_folder(self, spec: MaskSpec, record: Mapping[str, Any]) -> None:
        path, partial = self.target.path, self.target.partial
        write_group(partial, Node(documents.ZARR_FORMAT[self.target.version], self._attributes(spec, record)))
        if self.target.kind == "labels":
            labels = path.parent
            # listed first: if it ends here, a later run puts the mask under the name that is listed
            with in_turn(group_file(labels.parent)):  # another mask of this image may be finished at this moment
                listed = documents.with_label(read_node(labels, MaskError), path.name, self.target.version)
                write_group(labels, listed)
        aside = temporary_name(path)
        if self.overwrite and path.exists():
            os.replace(path, aside)
        try:
            os.replace(partial, path)
        except OSError:
            if aside.exists():
                os.replace(aside, path)
            raise
        sync(path.parent)
        if self.target.kind == "labels":
            documents.update_consolidated(path.parent)

    def _publish_file(self, levels: list[BlockArray], spec: MaskSpec, record: Mapping[str, Any]) -> None:
        path, partial = self.target.path, self.target.partial
        temporary = partial / f"export{path.suffix}"
        export(levels, spec, record, temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
        remove_ours(partial, path)

    def _attributes(self, spec: MaskSpec, record: Mapping[str, Any]) -> dict[str, Any]:
        target = self.target
        # a label lies over its image, whatever pixel size the user knows of
        image, size = (spec.frame, spec.pixel_size) if target.host is None else (target.host.frame, None)
        first = (spec.first_plane, *spec.offset)
        frame = part_of_frame(image, scale=spec.scale, first=first, size=size)
        multiscale = documents.multiscales(target.path.stem, self.base.grid.axes, frame, target.halvings)
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
    record = target.record(spec, "partial")
    if target.kind == "labels":
        target.partial.parent.mkdir(exist_ok=True)
    while True:
        if not is_ours(target.partial):
            _begin(target, spec, record)
        elif _is_other(target.partial, record, overwrite):
            _discard(target, record, overwrite)
        else:
            return open_writer(target, spec, overwrite)


def _begin(target: Target, spec: MaskSpec, record: Mapping[str, Any]) -> None:
    """Make the folder in progress under a temporary name and rename it: of several processes, one succeeds."""
    made = temporary_name(target.path)
    try:
        made.mkdir()
        write_group(made, Node(target.grid(spec).format, {MARK: record}))
        create_array(made / "0", target.grid(spec))
        os.rename(made, target.partial)
        sync(target.partial.parent)
    except OSError:
        if is_ours(target.partial):  # another process was faster
            return
        if target.partial.exists():
            raise MaskError(f"{target.partial} is in the way and was not made by tilesegment; move it away") from None
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _is_other(partial: Path, record: Mapping[str, Any], overwrite: bool) -> bool:
    """Return whether the folder in progress was begun for another mask; refuse one that may not be replaced."""
    there = read_record(partial)
    difference = "its record is damaged" if there is None else differing(there, record)
    if difference and not overwrite and _is_used(partial):
        advice = "run it with the same settings to go on, or use --overwrite to start anew"
        raise MaskError(f"{partial} was begun with other settings ({difference}); {advice}")
    return bool(difference)


def _is_used(partial: Path) -> bool:
    """Return whether anything is stored in the array of the folder in progress."""
    metadata = ("zarr.json", ".zarray", ".zattrs")
    found = (name for _, _, names in os.walk(partial / "0") for name in names)
    return any(name not in metadata and not name.endswith(".partial") for name in found)


def _discard(target: Target, record: Mapping[str, Any], overwrite: bool) -> None:
    """Delete the folder in progress of another mask, unless a process is writing it."""
    with claim(target.partial):
        # it may have been replaced since it was read
        if is_ours(target.partial) and _is_other(target.partial, record, overwrite):
            remove_ours(target.partial, target.path)


def open_writer(target: Target, spec: MaskSpec, overwrite: bool) -> MaskWriter:
    """Open the mask in progress in the folder of `target`, which was begun for `spec`."""
    try:
        return MaskWriter(target, spec, overwrite, create_array(target.partial / "0", target.grid(spec)))
    except MaskError as error:
        raise error if target.partial.exists() else gone(target.partial) from error


def lock_file(folder: Path) -> Path | None:
    """Return the file by which the mask in `folder` is locked, level 0's metadata, which is never replaced."""
    found = [folder / "0" / name for name in ("zarr.json", ".zarray") if (folder / "0" / name).is_file()]
    return found[0] if found else None


@contextmanager
def claim(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Lock the mask in `folder`; yield whether it is still there: another process may have just renamed it.

    Several processes may hold a `shared` lock; `wait` waits until the others release theirs. On file systems without
    locks masks are written unlocked, which is safe: every process writes the same bytes for a block.
    """
    file = lock_file(folder)
    with ExitStack() as stack:
        try:
            is_there = file is not None and stack.enter_context(locked(file, shared=shared, wait=wait))
        except BlockingIOError:
            raise MaskError(
                f"another run is writing {folder}; wait for it, or stop it; parts of one job need --part, all of them"
            ) from None
        except OSError as error:
            raise MaskError(f"cannot lock {folder}: {error.strerror}; check its permissions") from error
        yield is_there


def remove_ours(folder: Path, output: Path) -> None:
    """Delete a folder, which must be ours, for `output`; see `delete_folder`."""
    if not is_ours(folder):
        raise MaskError(f"{folder} was not made by tilesegment and is not deleted; move it away")
    delete_folder(folder, output)
