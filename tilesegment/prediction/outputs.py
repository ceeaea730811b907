"""Outputs of a prediction: checked before hours of work, found again after an interruption."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.draw import HEATMAP, PREVIEW, check_picture
from tilesegment.errors import MaskError, PlanError
from tilesegment.masks import MaskSpec, MaskWriter, create_mask, create_probabilities, is_complete, read_record
from tilesegment.masks.spec import STORED
from tilesegment.masks.target import absolute
from tilesegment.prediction.objects import WantedObjects
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.settings import Outputs
from tilesegment.preview import Heatmap, class_to_show, draw_preview, mask_digest
from tilesegment.stores import Location, Place, is_in, resolved


@dataclass(frozen=True)
class Stores:
    """Open outputs of a prediction: plain data, so that any process can store any block.

    Attributes:
        mask, likely: writers of the mask and the probabilities; None if not wanted or already complete.
        path: of the mask.
        preview, heatmap: pictures to draw when the others are finished.
        notes: for the user, on the earlier run that began the outputs.
        objects: to find in the finished mask.
    """

    mask: MaskWriter | None = None
    likely: MaskWriter | None = None
    path: Place = Path()
    preview: Path | None = None
    heatmap: Heatmap | None = None
    notes: tuple[str, ...] = ()
    objects: WantedObjects | None = None

    @property
    def writers(self) -> list[MaskWriter]:
        return [writer for writer in (self.likely, self.mask) if writer is not None]

    def survey(self, plan: Plan) -> tuple[np.ndarray, int]:
        """Return whether each block is stored, bool (planes, rows, columns), and the number of damaged objects."""
        done, damaged = np.ones((len(plan.planes), *plan.grid.shape), bool), 0
        for writer in self.writers:
            found = writer.survey()
            done &= found.done
            damaged += len(found.damaged)
        return done, damaged

    def mark_unreadable(self) -> None:
        """Record that some of the image could not be read, for the run that goes on once it is repaired."""
        for writer in self.writers:
            with suppress(MaskError):  # the error itself is reported; without the record the next run is refused
                writer.mark_unreadable()

    @contextmanager
    def claimed(self, part: tuple[int, int] | None) -> Iterator[None]:
        """Keep other runs from writing the outputs; who claims a part lets others claim theirs."""
        with ExitStack() as stack:
            for writer in self.writers:
                stack.enter_context(writer.claimed(part))
            yield

    def draw(self, image: Place, finished: Sequence[MaskWriter]) -> None:
        """Draw the pictures of the outputs just `finished`, and missing ones."""
        missing = self.mask is None and self.preview is not None and not self.preview.exists()
        if self.preview is not None and (missing or self.mask in finished):
            draw_preview(image, self.path, self.preview)
        if self.heatmap is not None and (self.likely is None or self.likely in finished):
            self.heatmap.draw()


def begin_outputs(plan: Plan, spec: MaskSpec, outputs: Outputs) -> Stores:
    """Create the outputs, or reopen those that an earlier run began.

    Raises:
        PlanError, MaskError: they cannot be written; nothing has been changed.
    """
    heatmap, mask, likely = _heatmap(spec, outputs), None, None
    _check(plan.image, outputs, mask_digest(spec))
    anew, values, path = outputs.overwrite, outputs.probabilities_dtype, absolute(outputs.mask)
    # a mask that is not kept is no output that would be replaced
    complete = (not anew or not outputs.keep_mask) and is_complete(outputs.mask, spec, ngff=outputs.ngff)
    objects = WantedObjects.of(plan, spec, outputs, complete=complete)
    wanted = outputs.probabilities
    if wanted is not None and (anew or not is_complete(wanted, spec, probabilities=True, values=values)):
        likely = create_probabilities(wanted, spec, overwrite=anew, values=values)
    if not complete:
        mask = create_mask(outputs.mask, spec, ngff=outputs.ngff, overwrite=anew)
    preview = None if outputs.preview is None else Path(outputs.preview).absolute()
    notes = _doubts(plan, read_record(path if mask is None else mask.target.partial))
    more = [note for writer in (likely, mask) if writer is not None for note in writer.home.notes()]
    return Stores(mask, likely, path, preview, heatmap, (*notes, *dict.fromkeys(more)), objects)


def _doubts(plan: Plan, record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return a note if the image may have changed since the mask of this record was begun."""
    if record is None or "fingerprint" not in record:
        return ()
    advice = "if pixels have changed since then, use --overwrite"
    if record["fingerprint"].get(STORED) != plan.decides[STORED]:
        return (f"some of {plan.image} could not be read when the mask was begun, and it was changed: {advice}",)
    provenance = record.get("provenance")
    written = provenance.get("image_written") if isinstance(provenance, dict) else None
    if plan.content.exact or written in (None, plan.content.written):
        return ()
    return (
        f"files of {plan.image} were written after the mask was begun, as those of a copy are; their sizes and the "
        f"samples that are compared are the same: {advice}",
    )


def _heatmap(spec: MaskSpec, outputs: Outputs) -> Heatmap | None:
    """Return the heat map to draw; PlanError without probabilities or such a class."""
    if outputs.heatmap is None:
        return None
    if outputs.probabilities is None:
        raise PlanError("--heatmap is drawn from the probabilities: give --probabilities P.ZARR, too")
    shown = class_to_show(outputs.heatmap_class, spec.classes)
    return Heatmap(Path(outputs.heatmap).absolute(), absolute(outputs.probabilities), shown)


def _check(image: str, outputs: Outputs, made_of: str) -> None:
    """Check that no output overlaps the image or another output.

    Args:
        image, outputs: what is read, what is written.
        made_of: digest of the mask: an existing preview may show the same mask.

    Raises:
        PlanError: two of them are the same, or an output lies in the image but not among its labels.
        MaskError: the preview or the heat map cannot be written under its name.
    """
    source = resolved(image)
    named = [("out", outputs.mask), ("probabilities", outputs.probabilities), ("preview", outputs.preview)]
    named += [("heatmap", outputs.heatmap), *(("objects", path) for path in outputs.objects)]
    given = [(name, path, resolved(path)) for name, path in named if path is not None]
    mask = given[0][2]
    for name, path, real in given:
        if isinstance(real, Location) and name in ("preview", "heatmap", "objects"):
            raise PlanError(f"{name} {path} cannot be written to a store, only the mask can: name a file on a disk")
        if real == source or is_in(source, real):
            raise PlanError(f"{name} {path} is the image that is read, or holds it; choose another name")
        is_label = name in ("out", "objects") and real.parent == source / "labels"
        if is_in(real, source) and not is_label:
            raise PlanError(f"{name} {path} lies in the image; choose another place, or {image}/labels/NAME")
        if is_in(real, mask):
            raise PlanError(f"{name} {path} lies in the mask; choose another place")
    if len({real for _, _, real in given}) < len(given):
        raise PlanError(f"{', '.join(name for name, _, _ in given)} name one file twice; give each its own name")
    if outputs.preview is not None:
        check_picture(Path(outputs.preview), overwrite=outputs.overwrite, same=f"{PREVIEW}{made_of}")
    if outputs.heatmap is not None:
        check_picture(Path(outputs.heatmap), overwrite=outputs.overwrite, same=HEATMAP)
