"""Objects of a prediction: what can be refused is refused before it; they are found once the mask is finished."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from tilesegment.errors import MaskError, PlanError
from tilesegment.files import write_atomically
from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, find_mask, is_complete, read_record
from tilesegment.masks.store import reporting
from tilesegment.masks.target import check_free, find_host, objects_target
from tilesegment.masks.writer import remove_ours
from tilesegment.objects.find import ObjectWorkers, Report, Stop, find_objects
from tilesegment.objects.outputs import ObjectOutputs, check_file, labels_spec
from tilesegment.objects.plan import ObjectPlan, decide, make_plan
from tilesegment.objects.settings import ObjectSettings
from tilesegment.objects.source import ObjectSource, open_source
from tilesegment.objects.summary import densities, tissue_of
from tilesegment.objects.work import claimed, work_folder, written_before
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.result import FoundObjects
from tilesegment.prediction.settings import Outputs


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
        outputs: the files.
        settings: how they are made.
        keep_mask: False deletes the mask in the end.
        record: see `Outputs.object_record`.
        in_parts: this is a part of a job: another may find them, too.
        earlier: what an earlier run has found already; nothing else is left to do then.
    """

    mask: Path
    named: tuple[str, ...]
    outputs: ObjectOutputs
    settings: ObjectSettings
    keep_mask: bool
    record: Path | None
    in_parts: bool
    earlier: FoundObjects | None = None

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
            if any(plan.settings.reading.values()):
                raise PlanError(
                    "--measure-image reads the image as it is: leave out --axes, --select, --series and --invert, or "
                    "name an image for tileseg objects --image"
                )
            settings = replace(settings, image=plan.image)
        decide(ObjectSource(f"the mask of {plan.image}", spec, True, True, _unread), settings)
        mask, in_parts = Path(outputs.mask).absolute(), plan.settings.part is not None
        named = tuple(map(str, outputs.objects))
        wanted = cls(mask, named, files, settings, outputs.keep_mask, outputs.object_record, in_parts)
        if complete and not outputs.overwrite:
            wanted = wanted._without_earlier()
        if wanted.earlier is None:
            wanted._check(spec, complete)
        return wanted

    def find(self, workers: ObjectWorkers | None, report: Report, stop: Stop) -> FoundObjects:
        """Find the objects of the finished mask, and delete the mask if it is not to be kept.

        Raises:
            TilesegmentError: the mask cannot be read, or an output not be written. `StoppedError`: `stop` was true.
        """
        found = self.earlier or self._find(workers, report, stop)
        if not self.keep_mask and self.mask.exists():
            with reporting("delete", self.mask):
                remove_ours(self.mask, self.mask)
        return found

    def _find(self, workers: ObjectWorkers | None, report: Report, stop: Stop) -> FoundObjects:
        settings = {one.name: getattr(self.settings, one.name) for one in fields(self.settings)}
        how: dict[str, Any] = {"overwrite": self.outputs.overwrite, "ngff": self.outputs.ngff}
        try:
            found = find_objects(
                self.mask, *self.outputs.all, workers=workers, report=report, stop=stop, **how, **settings
            )
        except MaskError:
            if self.in_parts and self._are_made_by_another():
                return self._counted(None, {})
            raise
        if self.record is not None:
            self._write_record(self.record, found.count, found.by_class)
        return self._counted(found.count, found.by_class, found.seconds)

    def _counted(self, count: int | None, by_class: dict[str, int], seconds: float = 0.0) -> FoundObjects:
        density = {} if self.settings.volume else self._densities(by_class)
        return FoundObjects(self.named, count, by_class, density, seconds)

    def _densities(self, by_class: dict[str, int]) -> dict[str, float]:
        if not by_class:
            return {}
        with open_source(self.mask) as source:
            return densities(by_class, tissue_of(source, find_mask(self.mask), None, None))

    # what is there already

    def _without_earlier(self) -> Self:
        """Leave out what an earlier run has made of this mask, with these settings."""
        with open_source(self.mask) as source:
            plan = make_plan(source, self.settings)
            made = labels_spec(plan, source.spec)
        labels = [is_complete(path, made, ngff=self.outputs.ngff, objects=True) for path in self.outputs.labels]
        for path, is_there in zip(self.outputs.labels, labels, strict=True):
            if not is_there:
                check_free(objects_target(path, made, self.outputs.ngff), made, overwrite=False)
        known = self._read_record(plan)
        left = tuple(path for path in self.outputs.files if str(path) not in known.get("files", {}))
        if left and not work_folder(self.outputs.all[0]).exists() and (self.in_parts or not self.keep_mask):
            # all of it was made by another part, or just before the mask would have been deleted
            left = () if self._are_newer() else left
        if left or not all(labels):
            return replace(self, outputs=replace(self.outputs, files=left))
        if self.outputs.labels and not known:
            record = read_record(self.outputs.labels[0]) or {}
            provenance = record.get("provenance", {})
            known = {"count": provenance.get("objects"), "by_class": provenance.get("objects_by_class", {})}
        return replace(self, earlier=self._counted(known.get("count"), known.get("by_class", {})))

    def _are_newer(self) -> bool:
        """Whether all files are there, and were written after the mask."""
        try:
            mask = self.mask.stat().st_mtime_ns if self.mask.exists() else 0
            return all(path.stat().st_mtime_ns >= mask for path in self.outputs.files)
        except FileNotFoundError:
            return False

    def _are_made_by_another(self) -> bool:
        """Wait until another part, if any does, has found the objects; return whether they are there."""
        with claimed(work_folder(self.outputs.all[0]), shared=False, wait=True):
            return self._are_newer() and all(path.exists() for path in self.outputs.labels)

    def _settled(self, plan: ObjectPlan) -> dict[str, Any]:
        """Return what decides the files."""
        return {"objects": plan.fingerprint, "regions": self.settings.regions, "simplify": self.settings.simplify}

    def _write_record(self, record: Path, count: int, by_class: dict[str, int]) -> None:
        with open_source(self.mask) as source:
            plan = make_plan(source, self.settings)
        # those of an earlier run stay, if others were wanted now
        files = self._read_record(plan).get("files", {}) | {str(path): _state(path) for path in self.outputs.files}
        known = {"settled": self._settled(plan), "files": files, "count": count, "by_class": by_class}
        with reporting("write", record):
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(record, json.dumps(known).encode())

    def _read_record(self, plan: ObjectPlan) -> dict[str, Any]:
        """Return the record of an earlier run, with those files that are still as it left them; {} without one."""
        try:
            known = json.loads(b"{}" if self.record is None else self.record.read_bytes())
            if known.get("settled") != self._settled(plan):
                return {}
            there = {path: state for path, state in known["files"].items() if state == _state(Path(path))}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or a damaged one
            return {}
        return {**known, "files": there}

    def _check(self, spec: MaskSpec, complete: bool) -> None:
        """Check that all files can be written.

        Raises:
            MaskError: one cannot.
        """
        # a run that is killed at its very end has written them already, and says so
        before = written_before(work_folder(self.outputs.all[0]), self.outputs.files) if complete else set()
        for path in self.outputs.files:
            check_file(path, overwrite=self.outputs.overwrite or path in before)
        for path in self.outputs.labels:
            target = objects_target(path, spec, self.outputs.ngff)
            # of a finished mask they have been compared
            for name in () if self.outputs.overwrite or complete else (path, target.partial):
                if name.exists():
                    raise MaskError(f"{name} exists; name another output, or use --overwrite to replace it")
            check_free(target, spec, overwrite=True)
            folder = path.parent if path.parent.exists() else path.parent.parent
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                raise MaskError(f"cannot write {path}: its folder cannot be written to; name another")


def _state(path: Path) -> list[int]:
    """Return what changes when a file does: its size and the time when it was written."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _unread(region: Region, z: int) -> np.ndarray:
    raise AssertionError("a mask that is not begun has no pixels")
