"""Objects of a prediction: what can be refused is refused before it; they are found once the mask is finished."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tilesegment.errors import MaskError, PlanError
from tilesegment.files import sweep
from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, find_mask, read_record
from tilesegment.masks.blocks import reporting
from tilesegment.masks.folder import remove_ours
from tilesegment.masks.home import check_free
from tilesegment.masks.target import absolute, find_host, objects_target
from tilesegment.objects.find import Objects, find_objects
from tilesegment.objects.outputs import ObjectOutputs, check_file, settled_by
from tilesegment.objects.plan import decide, make_plan
from tilesegment.objects.run import ObjectWorkers, Report, Stop
from tilesegment.objects.settings import ObjectSettings
from tilesegment.objects.source import ObjectSource, open_source
from tilesegment.objects.summary import densities, tissue_of
from tilesegment.objects.work import ending_of, record_file, work_folder
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.result import FoundObjects
from tilesegment.prediction.settings import Outputs
from tilesegment.stores import Location, Place


def hidden_mask(objects: Sequence[str | Path]) -> Path:
    """Return where the mask is worked out if only its objects are wanted: beside the first file, hidden."""
    path = Path(os.path.abspath(objects[0]))
    if find_host(path) is None:
        return path.with_name(f".{path.name}.mask.zarr")
    # among the labels of the image it would be one of them: so beside the image
    image = path.parent.parent
    return image.with_name(f".{image.name}.{path.name}.mask.zarr")


@dataclass(frozen=True)
class WantedObjects:
    """Objects to find in a mask once it is finished: plain data.

    Attributes:
        mask: path of it.
        named: the files as they were given.
        outputs: the same, by their kinds.
        settings: how they are made.
        keep_mask: False deletes the mask in the end.
        keep_record: whether the record of their end stays beside the files, for the next run.
        in_parts: this is a part of a job.
    """

    mask: Place
    named: tuple[str, ...]
    outputs: ObjectOutputs
    settings: ObjectSettings
    keep_mask: bool
    keep_record: bool
    in_parts: bool

    @classmethod
    def of(cls, plan: Plan, spec: MaskSpec, outputs: Outputs, *, complete: bool) -> Self | None:
        """Decide about the objects before the mask is begun; None if none are wanted.

        Args:
            plan, spec: of the mask.
            outputs: all outputs of the prediction.
            complete: whether an earlier run has finished the mask.

        Raises:
            PlanError: there is no such class, or another setting does not fit the image or the model.
            MaskError: an output cannot be written, or exists and may not be replaced.
        """
        if not outputs.objects:
            return None
        files = ObjectOutputs.of(outputs.objects, overwrite=outputs.overwrite, ngff=outputs.ngff)
        settings = outputs.object_settings
        if outputs.measure_image:
            if any(value for name, value in plan.settings.reading.items() if name != "store_options"):
                raise PlanError(
                    "--measure-image reads the image as it is: leave out --axes, --select, --series and --invert, or "
                    "name an image for tileseg objects --image"
                )
            settings = replace(settings, image=plan.place if isinstance(plan.place, Location) else plan.image)
        decide(ObjectSource(f"the mask of {plan.image}", spec, True, True, _unread), settings)
        mask, in_parts = absolute(outputs.mask), plan.settings.part is not None
        keep_record = in_parts or outputs.keep_object_record
        named = tuple(map(str, outputs.objects))
        wanted = cls(mask, named, files, settings, outputs.keep_mask, keep_record, in_parts)
        if complete:
            wanted._check_finished()
        else:
            wanted._check(spec)
        return wanted

    def find(self, workers: ObjectWorkers | None, report: Report, stop: Stop) -> FoundObjects:
        """Find the objects of the finished mask, and delete the mask if it is not to be kept.

        If an earlier run has written all of them, that is all the same, and soon over.

        Raises:
            TilesegmentError: the mask cannot be read, or an output not be written. `StoppedError`: `stop` was true.
        """
        settings = {one.name: getattr(self.settings, one.name) for one in fields(self.settings)}
        how: dict[str, Any] = {"overwrite": self.outputs.overwrite, "ngff": self.outputs.ngff}
        if self.keep_record or not self.keep_mask:
            # as the only part of a job: it waits for others that do the same, and leaves the record of the end
            how["part"] = (1, 1)
        found = find_objects(self.mask, *self.outputs.all, workers=workers, report=report, stop=stop, **how, **settings)
        density = self._densities(found)
        if not self.keep_mask:
            self._end()
        return FoundObjects(self.named, found.count, found.by_class, density, found.seconds, found.notes)

    def _densities(self, found: Objects) -> dict[str, float]:
        if self.settings.volume or not found.by_class or read_record(self.mask) is None:
            return {}
        with open_source(self.mask) as source:
            return densities(found.by_class, tissue_of(source, find_mask(self.mask), None, None))

    @property
    def _hidden(self) -> Path:
        """The mask that is not kept: beside its objects, on a disk."""
        assert isinstance(self.mask, Path)
        return self.mask

    def _end(self) -> None:
        """Delete the mask, then the record: killed between the two, the record tells that all is there."""
        with reporting("delete", self.mask):
            if self._hidden.exists():
                remove_ours(self._hidden, self._hidden)
            if not self.keep_record:
                record_file(work_folder(self.outputs.all[0])).unlink(missing_ok=True)

    def _check_finished(self) -> None:
        """Check that all files can be written, or are those of this mask and these settings.

        Raises:
            MaskError: neither.
        """
        with open_source(self.mask) as source:
            plan = make_plan(source, self.settings)
            before = ending_of(work_folder(self.outputs.all[0]), settled_by(plan, self.settings))
            if self.outputs.overwrite or self.outputs.found(plan, source.spec, before) is None:
                self.outputs.check_free(plan, source.spec, before)

    def _check(self, spec: MaskSpec) -> None:
        """Check that all files can be written, and that none is there already.

        Raises:
            MaskError: one cannot, or exists and may not be replaced.
        """
        overwrite = self.outputs.overwrite
        if not self.keep_mask and not self.in_parts:  # what a run that was killed in its last moment has left
            sweep(self._hidden)
            record_file(work_folder(self.outputs.all[0])).unlink(missing_ok=True)
        for path in self.outputs.files:
            check_file(path, overwrite=overwrite)
        for path in self.outputs.labels:
            if path.exists() and not overwrite:
                raise MaskError(f"{path} exists; name another output, or use --overwrite to replace it")
            check_free(objects_target(path, spec, self.outputs.ngff), spec, overwrite=True)
            folder = path.parent if path.parent.exists() else path.parent.parent
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                raise MaskError(f"cannot write {path}: its folder cannot be written to; name another")


def _unread(region: Region, z: int) -> np.ndarray:
    raise AssertionError("a mask that is not begun has no pixels")
