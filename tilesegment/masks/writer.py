"""Creates masks: blocks go into a folder in progress beside the output, which appears when it is complete."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.files import in_turn, sweep, sweep_inside, sync, temporary_name
from tilesegment.geometry import Region
from tilesegment.masks.beginning import begin
from tilesegment.masks.blocks import BlockArray, create_array
from tilesegment.masks.counting import KEY as COUNTS
from tilesegment.masks.counting import Tally
from tilesegment.masks.disk import MARK, Group, group_file, read_group, remove_ours, reporting, write_group
from tilesegment.masks.export import export
from tilesegment.masks.locks import gone, held, lock_file
from tilesegment.masks.pyramid import build_levels
from tilesegment.masks.record import UNREADABLE, differing, read_record
from tilesegment.masks.spec import JSON, MaskSpec
from tilesegment.masks.survey import Survey
from tilesegment.masks.target import Target, check_free, mask_target, probabilities_target
from tilesegment.ome_zarr import labels as documents
from tilesegment.ome_zarr.labels import update_consolidated


@dataclass(frozen=True)
class MaskWriter(AbstractContextManager["MaskWriter"]):
    """A mask, or the probabilities of its classes, in progress.

    Threads and processes may write different blocks at a time; a writer can be pickled. Leaving it as a context does
    not end the mask: only `finish` does, and until then whatever is stored is there for the next run to go on with.
    """

    target: Target
    spec: MaskSpec
    overwrite: bool
    base: BlockArray

    @property
    def path(self) -> Path:
        """Where the mask will be."""
        return self.target.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def write(self, region: Region, pixels: np.ndarray, z: int = 0) -> None:
        """Stores one block, durably when it returns.

        Args:
            region: the block in pixels of the mask, clipped at the mask's edge.
            pixels: its class ids, (h, w) uint8; probabilities are (K, h, w) of the type that was chosen.
            z: its plane.

        Raises:
            MaskError: the disk refuses.
        """
        self.base.write(region, pixels, z)

    def survey(self) -> Survey:
        """Which blocks are done, and which stored objects are damaged; writing a damaged block again replaces it.

        Raises:
            MaskError: the mask was finished or removed by another run, or cannot be looked through.
        """
        if lock_file(self.target.partial) is None:
            raise gone(self.target.partial)
        return self.base.survey()

    def mark_unreadable(self) -> None:
        """Records that some of the image could not be read, so that the mask is gone on with once it is repaired.

        Raises:
            MaskError: the disk refuses.
        """
        with reporting("write to", self.target.partial):
            group = read_group(self.target.partial)
            if group is not None:
                record = group.attributes[MARK] | {UNREADABLE: True}
                write_group(self.target.partial, Group(group.format, group.attributes | {MARK: record}))

    @contextmanager
    def claimed(self, shared: bool) -> Iterator[None]:
        """Keeps other runs from writing the mask, until it is left or the process ends, however it ends.

        Args:
            shared: whether others may claim it too, who share it: the parts of one job.

        Raises:
            MaskError: another run has claimed it, or has finished or removed it.
        """
        with held(self.target.partial, shared=shared) as is_there:
            if not is_there:
                raise gone(self.target.partial)
            yield

    @contextmanager
    def claimed_to_finish(self) -> Iterator[bool]:
        """Claims the mask for its end, and yields whether it is for this process to finish it.

        For the parts of one job, after each has stored its blocks and let go of its own claim. Whoever stores the last
        block finds all of them done. All who find that wait for each other here, so the first of them finishes it and
        the others find it finished. Where blocks are missing nobody waits: who stores them will come here too.
        """
        if not self._all_done():
            yield False
            return
        with held(self.target.partial, wait=True) as is_there:
            yield is_there

    def try_finish(self, provenance: Mapping[str, JSON] | None = None) -> bool:
        """Finishes the mask if all blocks are done, as one of the parts of a job. False while blocks are missing.

        It must not be called under a claim of this process's own, which it would wait for.

        Raises:
            MaskError: as `finish`.
        """
        with self.claimed_to_finish() as is_ours_to_do:
            if is_ours_to_do:
                try:
                    self.finish(provenance)
                except MaskError:
                    # where there are no locks, another process may have been faster
                    if not self.is_finished():
                        raise
        return is_ours_to_do or self.is_finished()

    def is_finished(self) -> bool:
        """Whether the mask has its final name: another process may have finished it."""
        # one of the same settings may have stood there before, and be about to be replaced
        in_progress = lock_file(self.target.partial) is not None
        return not in_progress and differing(read_record(self.path), self.target.record(self.spec, "complete")) == ""

    def _all_done(self) -> bool:
        return lock_file(self.target.partial) is not None and bool(self.base.survey().done.all())

    def finish(self, provenance: Mapping[str, JSON] | None = None) -> None:
        """Adds smaller levels and metadata and gives the mask its final name. `provenance` is recorded too.

        What is replaced stays whole until the new mask is complete. If it fails, it can be called again, by a later
        run too. Nobody else may write or finish the mask meanwhile: call it under a claim that is not shared.

        Raises:
            MaskError: blocks are missing or damaged, or the disk refuses.
        """
        done = self.survey().done
        missing = [region for (region, _), is_done in zip(self.base.blocks(), done.flat, strict=True) if not is_done]
        if missing:
            raise MaskError(
                f"{self.path} lacks {len(missing)} blocks, the first is {missing[0]}; run it again to go on"
            )
        check_free(self.target, self.spec, self.overwrite)
        spec = replace(self.spec, provenance={**self.spec.provenance, **(provenance or {})})
        with reporting("finish", self.path):
            tally = Tally(len(spec.classes)) if self.target.kind != "probabilities" else None
            levels = self._levels(tally)
            sweep_inside(self.target.partial)
            record = self.target.record(spec, "complete")
            if tally is not None:
                record[COUNTS] = tally.pixels.tolist()
            if self.target.is_folder:
                self._publish_folder(spec, record)
            else:
                self._publish_file(levels, spec, record)
            sweep(self.path)

    def _levels(self, tally: Tally | None) -> list[BlockArray]:
        levels, halvings = [self.base], self.target.halvings
        for level in range(1, len(halvings)):
            levels.append(create_array(self.target.partial / str(level), self.base.grid.halved(halvings[level])))
        build_levels(levels, halvings, tally)
        return levels

    def _publish_folder(self, spec: MaskSpec, record: Mapping[str, Any]) -> None:
        path, partial = self.target.path, self.target.partial
        write_group(partial, Group(documents.ZARR_FORMAT[self.target.version], self._attributes(spec, record)))
        if self.target.kind == "labels":
            labels = path.parent
            # listed first: if it ends here, a later run puts the mask under the name that is listed
            with in_turn(group_file(labels.parent)):  # another mask of this image may be finished at this moment
                write_group(labels, documents.with_label(read_group(labels), path.name, self.target.version))
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
            update_consolidated(path.parent)

    def _publish_file(self, levels: list[BlockArray], spec: MaskSpec, record: Mapping[str, Any]) -> None:
        path, partial = self.target.path, self.target.partial
        temporary = partial / f"export{path.suffix}"
        export(self.target.kind, levels, spec, record, temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
        remove_ours(partial, path)

    def _attributes(self, spec: MaskSpec, record: Mapping[str, Any]) -> dict[str, Any]:
        target, axes = self.target, self.base.grid.axes
        frame = spec.placed(None if target.host is None else target.host.frame)
        multiscale = documents.multiscales(target.path.stem, axes, frame, target.halvings)
        if target.kind == "probabilities":
            extra = {"omero": documents.channels_document(spec.classes, 255.0 if target.values == "uint8" else 1.0)}
        else:
            image = "../../" if target.kind == "labels" else None
            extra = {"image-label": documents.label_document(spec.classes, target.version, image)}
        return documents.attributes(target.version, multiscale, extra) | {MARK: record}


def create_mask(path: str | Path, spec: MaskSpec, *, ngff: str = "0.5", overwrite: bool = False) -> MaskWriter:
    """A mask to be written block by block, or gone on with if it was begun with the same settings.

    Args:
        path: its form says what is written:
            `NAME.zarr`, an OME-Zarr label image on its own;
            `IMAGE.zarr/labels/NAME`, the same added to an OME-Zarr image, in the image's version and number of levels;
            `NAME.tif`, `NAME.tiff`, a tiled, pyramidal OME-TIFF;
            `NAME.png`, a palette picture whose indices are the class ids, up to 64 megapixels;
            `NAME.jpg`, a picture in the classes' colours, up to 64 megapixels. JPEG cannot hold the ids.
        spec: what the mask is.
        ngff: version of OME-Zarr that `NAME.zarr` gets, `0.5`, or `0.4` for QuPath and Fiji.
        overwrite: replace an older mask, once this one is complete, and one in progress with other settings at once.

    Raises:
        MaskError: it cannot be written there. Nothing has been computed or changed then.
    """
    with reporting("create", Path(path)):
        return _create(mask_target(Path(path), spec, ngff), spec, overwrite)


def create_probabilities(
    path: str | Path, spec: MaskSpec, *, overwrite: bool = False, values: str = "float32"
) -> MaskWriter:
    """Class probabilities to be written block by block: an OME-Zarr 0.5 image (K, H, W) or (K, D, H, W).

    Chunks hold one class, shards all of them. Pixels of smaller levels are means of those that they cover.

    Args:
        path, spec, overwrite: as for `create_mask`.
        values: their type, `float32`, or `uint8` for 0 to 255, which takes a quarter of the space or less.

    Raises:
        MaskError: `path` is not `NAME.zarr`, or it cannot be written there.
    """
    with reporting("create", Path(path)):
        return _create(probabilities_target(Path(path), spec, values), spec, overwrite)


def _create(target: Target, spec: MaskSpec, overwrite: bool) -> MaskWriter:
    check_free(target, spec, overwrite)
    begin(target, spec, overwrite)
    return open_writer(target, spec, overwrite)


def open_writer(target: Target, spec: MaskSpec, overwrite: bool) -> MaskWriter:
    """The mask in progress in the folder of `target`, which was begun for `spec`.

    Raises:
        MaskError: its array is another one, or damaged; or another process has just finished the mask.
    """
    try:
        return MaskWriter(target, spec, overwrite, create_array(target.partial / "0", target.grid(spec)))
    except MaskError as error:
        raise error if target.partial.exists() else gone(target.partial) from error
