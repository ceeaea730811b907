"""Creates masks: blocks go into a folder in progress beside the output, which appears when it is complete."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks import ngff as documents
from tilesegment.masks.blocks import BlockArray, Grid, create_array
from tilesegment.masks.disk import MARK, Group, is_ours, read_group, remove_ours, reporting, sync, write_group
from tilesegment.masks.export import export
from tilesegment.masks.pyramid import build_level, level_shape
from tilesegment.masks.spec import JSON, MaskSpec
from tilesegment.masks.target import Target, begin, check_free, make_record, mask_target, probabilities_target


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
            pixels: its class ids, (h, w) uint8; probabilities are (K, h, w) float32.
            z: its plane.

        Raises:
            MaskError: the disk refuses.
        """
        self.base.write(region, pixels, z)

    def is_done(self, region: Region, z: int = 0) -> bool:
        """Whether the block `region` of plane `z` is stored."""
        return self.base.is_done(region, z)

    def finish(self, provenance: Mapping[str, JSON] | None = None) -> None:
        """Adds smaller levels and metadata and gives the mask its final name. `provenance` is recorded too.

        What is replaced stays whole until the new mask is complete. If it fails, it can be called again, by a later
        run too.

        Raises:
            MaskError: blocks are missing or damaged, or the disk refuses.
        """
        missing = [region for region, z in self.base.blocks() if not self.is_done(region, z)]
        if missing:
            raise MaskError(
                f"{self.path} lacks {len(missing)} blocks, the first is {missing[0]}; run it again to go on"
            )
        check_free(self.target, self.overwrite)
        spec = replace(self.spec, provenance={**self.spec.provenance, **(provenance or {})})
        with reporting("finish", self.path):
            levels = self._levels()
            if self.target.is_folder:
                self._publish_folder(spec)
            else:
                self._publish_file(levels, spec)

    def _levels(self) -> list[BlockArray]:
        levels, halvings = [self.base], self.target.halvings
        for level in range(1, len(halvings)):
            grid = replace(self.base.grid, shape=level_shape(self.spec.shape, halvings[level]))
            levels.append(create_array(self.target.partial / str(level), grid))
            build_level(levels[-2], levels[-1], halvings[level] - halvings[level - 1])
        return levels

    def _publish_folder(self, spec: MaskSpec) -> None:
        path, partial = self.target.path, self.target.partial
        write_group(partial, Group(documents.ZARR_FORMAT[self.target.version], self._attributes(spec)))
        if self.target.kind == "labels":
            labels = path.parent
            # listed first: if it ends here, a later run puts the mask under the name that is listed
            write_group(labels, documents.with_label(read_group(labels), path.name, self.target.version))
        aside = path.with_name(f".{path.name}.replaced")
        if path.exists():
            if is_ours(aside):
                remove_ours(aside)
            os.replace(path, aside)
        os.replace(partial, path)
        sync(path.parent)
        if is_ours(aside):
            remove_ours(aside)

    def _publish_file(self, levels: list[BlockArray], spec: MaskSpec) -> None:
        path, partial = self.target.path, self.target.partial
        temporary = partial / f"export{path.suffix}"
        export(self.target.kind, levels, spec, temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
        remove_ours(partial)

    def _attributes(self, spec: MaskSpec) -> dict[str, Any]:
        target, axes = self.target, self.base.grid.axes
        frame = documents.frame_of(spec, target.host)
        multiscale = documents.multiscales(target.path.stem, axes, frame, target.halvings)
        if target.kind == "probabilities":
            extra = {"omero": documents.channels_document(spec)}
        else:
            image = "../../" if target.kind == "labels" else None
            extra = {"image-label": documents.label_document(spec, target.version, image)}
        marked = {MARK: make_record(target, spec, "complete")}
        return documents.attributes(target.version, multiscale, extra) | marked


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
        return _create(mask_target(Path(path), spec, ngff), spec, overwrite, None)


def create_probabilities(path: str | Path, spec: MaskSpec, *, overwrite: bool = False) -> MaskWriter:
    """Class probabilities to be written block by block: an OME-Zarr 0.5 image (K, H, W) or (K, D, H, W), float32.

    Chunks hold one class, shards all of them. There are no smaller levels.

    Raises:
        MaskError: `path` is not `NAME.zarr`, or it cannot be written there.
    """
    with reporting("create", Path(path)):
        return _create(probabilities_target(Path(path)), spec, overwrite, len(spec.classes))


def _create(target: Target, spec: MaskSpec, overwrite: bool, channels: int | None) -> MaskWriter:
    check_free(target, overwrite)
    begin(target, spec, overwrite)
    version = documents.ZARR_FORMAT[target.version]
    grid = Grid(spec.shape, spec.depth, channels, spec.block, spec.chunk, version)
    return MaskWriter(target, spec, overwrite, create_array(target.partial / "0", grid))
