"""A prediction whose outputs are begun: which blocks are left, how one is decided and stored, how it ends."""

import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import MaskError, PlanError
from tilesegment.geometry import Block
from tilesegment.heatmap import Heatmap, check_heatmap, class_to_show
from tilesegment.masks import MaskWriter, create_mask, create_probabilities, is_complete, open_mask, read_record
from tilesegment.masks.spec import STORED
from tilesegment.overview import draw_preview, mask_digest, overview
from tilesegment.prediction.job import Job
from tilesegment.prediction.order import Order
from tilesegment.prediction.predictor import Pending
from tilesegment.prediction.seams import mismatch
from tilesegment.preview import check_preview_path, shows


@dataclass(frozen=True)
class Outputs:
    """Where a prediction goes.

    Attributes:
        mask: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif`, `mask.png` or `mask.jpg`.
        probabilities: `p.zarr` for the class probabilities (K, H, W).
        preview: a PNG or JPEG, image and overlay side by side.
        ngff: OME-Zarr version of a mask on its own.
        overwrite: replace what is there, once the new is complete.
        probabilities_dtype: of the probabilities, `float32`, or `uint8` for 0 to 255.
        heatmap: a PNG of how probable a class is, drawn from the probabilities.
        heatmap_class: name or number of that class; None is every class but 0.
    """

    mask: str | Path
    probabilities: str | Path | None = None
    preview: str | Path | None = None
    ngff: str = "0.5"
    overwrite: bool = False
    probabilities_dtype: str = "float32"
    heatmap: str | Path | None = None
    heatmap_class: str | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """An order and the stores that its blocks go to: plain data, so that any process can do any block of it.

    Attributes:
        order: what is predicted.
        mask: where the mask is or will be.
        stores: those of its outputs that are not complete yet, the mask last.
        preview: a picture to draw before the mask is finished.
        part: (k, n) of n parts of the blocks this run does the k-th, counted from 1; None for all of them.
        notes: what a user should know of an earlier run of which the outputs are.
        heatmap: a picture to draw of the finished probabilities.
    """

    order: Order
    mask: Path
    stores: tuple[MaskWriter, ...]
    preview: Path | None = None
    part: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    heatmap: Heatmap | None = None

    def stored(self) -> tuple[np.ndarray, int]:
        """Whether each block is stored, bool (planes, rows, columns), and how many objects are damaged."""
        plan, damaged = self.order.plan, 0
        done = np.ones((len(plan.planes), *plan.grid.shape), bool)
        for store in self.stores:
            survey = store.survey()
            done &= survey.done
            damaged += len(survey.damaged)
        return done, damaged

    def left(self, done: np.ndarray) -> Iterator[tuple[int, Block]]:
        """Plane and block of those that this run still has to do, where `done` says which are stored."""
        grid, first = self.order.plan.grid, self.order.plan.planes.start
        for index in np.flatnonzero(~self._mine(done)) + share(done.size, self.part).start:
            z, row, column = np.unravel_index(index, done.shape)
            yield first + int(z), grid.at(int(row), int(column))

    def resumed(self, done: np.ndarray) -> int:
        """How many of its blocks were done before."""
        return int(np.count_nonzero(self._mine(done)))

    def pixels_left(self, done: np.ndarray) -> int:
        """Pixels of the blocks that are left to predict; none of those that are known to be empty."""
        return int(self._mine(self.order.plan.areas)[~self._mine(done | self.order.skipping.empty)].sum())

    def begin(self, job: Job, pixels: np.ndarray, block: Block) -> Pending:
        """Begins to decide `block` from the pixels (C, H, W) of `block.read`; what is returned waits for the result."""
        return job.predictor.begin(pixels, block, probabilities=self._keeps_probabilities)

    def mark_unreadable(self) -> None:
        """Records that some of the image could not be read, for the run that goes on once it is repaired."""
        for store in self.stores:
            with suppress(MaskError):  # the error itself is reported; without the record the next run is refused
                store.mark_unreadable()

    def background(self, block: Block) -> tuple[np.ndarray, ...]:
        """The result for a block that is skipped: class 0, and no doubt of it."""
        ids = np.zeros(block.write.shape, np.uint8)
        if not self._keeps_probabilities:
            return (ids,)
        likely = np.zeros((self.order.plan.network.classes, *ids.shape), np.float32)
        likely[0] = 1
        return ids, likely

    def store(self, z: int, block: Block, ids: np.ndarray, likely: np.ndarray | None = None) -> None:
        """Stores a result, durably: class ids (h, w), and the probabilities (K, h, w), if they are kept.

        Raises:
            MaskError: the disk refuses; what is stored stays.
        """
        plan = self.order.plan
        region, plane = block.write.within(plan.region), z - plan.planes.start
        for store in self.stores:
            if _holds_probabilities(store):
                assert likely is not None
                store.write(region, _as_stored(likely, store.base.grid.dtype), plane)
            else:
                store.write(region, ids, plane)

    @property
    def _keeps_probabilities(self) -> bool:
        return any(_holds_probabilities(store) for store in self.stores)

    def _mine(self, values: np.ndarray) -> np.ndarray:
        """Of an array (planes, rows, columns), the values of the blocks of this part, in the order of the work."""
        mine = share(values.size, self.part)
        return values.ravel()[mine.start : mine.stop]


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        complete: whether the outputs have their final names; else other parts are still to be done.
        mismatch: of a halo that was chosen: share of the pixels near tile lines and image borders whose class a larger
            one changes; None where tiles are exact.
        disagreement: of int8: share of the pixels of some tiles that are of another class in fp32.
        read_amplification: bytes of the image that were decoded, for each byte of the blocks that were read, margins
            left out, by the process that ended the run; None if it read none.
        batch: tiles at a time in the end: fewer than planned where the device's memory did not allow it.
        unmeasured: whether a halo was chosen, and what it changes cannot be measured.
    """

    complete: bool
    mismatch: float | None
    disagreement: float | None
    read_amplification: float | None
    batch: int
    unmeasured: bool = False


def begin(job: Job, outputs: Outputs, part: tuple[int, int] | None = None) -> Run:
    """Makes what the outputs grow in, or finds it, with the blocks that an earlier run stored.

    Raises:
        PlanError, MaskError: they cannot be written there. Nothing has been changed then.
    """
    heatmap = _heatmap(job, outputs)
    spec, stores = job.spec(), []
    check_outputs(job.order.image, outputs, mask_digest(spec))
    anew = outputs.overwrite
    likely, values = outputs.probabilities, outputs.probabilities_dtype
    if likely is not None and (anew or not is_complete(likely, spec, probabilities=True, values=values)):
        stores.append(create_probabilities(likely, spec, overwrite=anew, values=values))
    if anew or not is_complete(outputs.mask, spec, ngff=outputs.ngff):
        stores.append(create_mask(outputs.mask, spec, ngff=outputs.ngff, overwrite=anew))
    elif outputs.preview is not None and not os.path.exists(outputs.preview):
        open_mask(outputs.mask)  # raises where a preview cannot be drawn of it
    preview = None if outputs.preview is None else Path(outputs.preview).absolute()
    mask = Path(outputs.mask).absolute()
    place = next((store.target.partial for store in stores if not _holds_probabilities(store)), mask)
    doubts = _doubts(job.order, read_record(place))
    return Run(job.order, mask, tuple(stores), preview, part, doubts, heatmap)


def _doubts(order: Order, record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Whether the image may have changed since the mask of this record was begun, as far as that is not known."""
    if record is None:
        return ()
    image, advice = order.image, "if pixels have changed since then, use --overwrite"
    if STORED not in record["fingerprint"]:
        former = f"the mask was begun by an earlier release, which did not look at the pixels of {image}: {advice}"
        return (former,) if os.path.isdir(image) else ()
    if record["fingerprint"][STORED] != order.decides[STORED]:
        return (f"some of {image} could not be read when the mask was begun, and it was changed: other {advice[3:]}",)
    provenance = record.get("provenance")
    written = provenance.get("image_written") if isinstance(provenance, dict) else None
    if order.content.exact or written in (None, order.content.written):
        return ()
    return (
        f"files of {image} were written after the mask was begun, as those of a copy are; their sizes and the samples "
        f"that are compared are the same: {advice}",
    )


def finish(run: Run, job: Job, known: Mapping[str, Any]) -> Ending:
    """Ends a run whose blocks are stored: preview, pyramid, final names; `known` is recorded.

    Of parts, the one that stored the last block does this; it must not hold its own claim any more.

    Raises:
        MaskError: blocks are missing or damaged, or the disk refuses; it can be called again.
    """
    complete, inexact, measured = True, None, False
    missing = run.preview is not None and not run.preview.exists()
    known = {**known, "read_amplification": job.read_amplification, "batch": job.batch}
    if job.disagreement is not None:
        known = {**known, "disagreement": job.disagreement}
    for store in run.stores:
        with nullcontext(True) if run.part is None else store.claimed_to_finish() as is_ours_to_do:
            if is_ours_to_do:
                if job.model.header.halo is not None and not measured:
                    inexact, measured = mismatch(job), True
                    known = {**known, "halo": run.order.plan.network.view.before, "mismatch": inexact}
                if run.preview is not None and not _holds_probabilities(store):
                    _draw(run, job, store, run.preview)
                store.finish(known)
                if run.heatmap is not None and _holds_probabilities(store):
                    run.heatmap.draw()
        complete &= is_ours_to_do or store.is_finished()
    if run.preview is not None and missing and all(map(_holds_probabilities, run.stores)):
        draw_preview(run.order.image, run.mask, run.preview)
    if run.heatmap is not None and not any(map(_holds_probabilities, run.stores)):
        run.heatmap.draw()
    unmeasured = measured and inexact is None
    return Ending(complete, inexact, job.disagreement, job.read_amplification, job.batch, unmeasured)


def _heatmap(job: Job, outputs: Outputs) -> Heatmap | None:
    """The heat map that is asked for.

    Raises:
        PlanError: there are no probabilities to draw it from, or no such class.
    """
    if outputs.heatmap is None:
        return None
    if outputs.probabilities is None:
        raise PlanError("--heatmap is drawn from the probabilities: give --probabilities P.ZARR, too")
    shown = class_to_show(outputs.heatmap_class, job.model.header.classes)
    return Heatmap(Path(outputs.heatmap).absolute(), Path(outputs.probabilities).absolute(), shown)


def _as_stored(likely: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Probabilities 0 to 1 in the type in which they are kept; as whole numbers, from 0 to the largest."""
    if dtype.kind == "f":
        return likely.astype(dtype, copy=False)
    return np.rint(likely * np.iinfo(dtype).max).astype(dtype)


def _draw(run: Run, job: Job, mask: MaskWriter, preview: Path) -> None:
    """Before the mask is finished: after that a TIFF or a PNG is all there is."""
    plan, size = run.order.plan, mask.spec.pixel_size
    level, first, classes = job.settings.level, plan.planes.start, mask.spec.classes
    made = mask_digest(mask.spec)
    overview(job.source, mask.base, plan.region, level, first, classes, size, preview, made_of=made)


def share(count: int, part: tuple[int, int] | None) -> range:
    """The numbers, of 0 to `count` - 1, that are part k of n: parts are disjoint, contiguous and equal but for one."""
    if part is None:
        return range(count)
    k, n = part
    return range(count * (k - 1) // n, count * k // n)


def check_outputs(image: str, outputs: Outputs, made_of: str) -> None:
    """Whether what a run writes keeps clear of what it reads, and each output of the others. Nothing is written.

    A preview that is there already may be one of the same mask, known by its digest `made_of`.

    Raises:
        PlanError: two of them are one, or an output lies in the image elsewhere than among its labels.
        MaskError: the preview or the heat map cannot be written under its name.
    """
    source = Path(image).resolve()
    given = {"out": outputs.mask, "probabilities": outputs.probabilities, "preview": outputs.preview}
    given["heatmap"] = outputs.heatmap
    paths = {name: Path(path).resolve() for name, path in given.items() if path is not None}
    for name, path in paths.items():
        if path == source or path in source.parents:
            raise PlanError(f"{name} {given[name]} is the image that is read, or holds it; choose another name")
        if source in path.parents and (name != "out" or path.parent != source / "labels"):
            raise PlanError(
                f"{name} {given[name]} lies in the image; choose another place, or --out {image}/labels/NAME"
            )
    if len(set(paths.values())) < len(paths):
        raise PlanError(f"{', '.join(paths)} name one file twice; give each a name of its own")
    if outputs.preview is not None:
        _check_preview(Path(outputs.preview), outputs.overwrite, made_of)
    if outputs.heatmap is not None:
        check_heatmap(Path(outputs.heatmap), outputs.overwrite)


def _check_preview(path: Path, overwrite: bool, made_of: str) -> None:
    """Before hours of work, not after them."""
    check_preview_path(path)
    if path.is_dir() or (path.exists() and not overwrite and shows(path) != made_of):
        raise MaskError(
            f"preview {path} exists; choose another name, or use --overwrite to replace it: it is not one of this mask"
        )


def _holds_probabilities(store: MaskWriter) -> bool:
    return store.target.kind == "probabilities"
