"""One call of `find_objects`: stages in order, what is joined between them, outputs; alone, resumed, or as a part."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tilesegment.errors import MaskError, StoppedError, TilesegmentError
from tilesegment.files import delete_folder
from tilesegment.masks import MaskWriter
from tilesegment.metadata import micrometres
from tilesegment.objects.arrays import DamagedError, load_arrays, save_arrays
from tilesegment.objects.cut import Place
from tilesegment.objects.outputs import ObjectOutputs, placement_of, settled_by, writing
from tilesegment.objects.plan import ObjectPlan
from tilesegment.objects.rows import Described, Rows
from tilesegment.objects.settings import ObjectSettings
from tilesegment.objects.source import ObjectSource
from tilesegment.objects.stages import Stages
from tilesegment.objects.sums import Sums, merge
from tilesegment.objects.work import (
    Ending,
    begin_work,
    claimed,
    end_work,
    ending_of,
    has_results,
    record_ending,
    sweep_work,
)
from tilesegment.threads import thread_count

Stop = Callable[[], bool]
Report = Callable[[float, str], None]

# about how long a stage takes per pixel, for the progress
_COST = {
    "label": 3,
    "link": 2,
    "grow": 8,
    "part": 3,
    "touch": 3,
    "fill": 2,
    "measure": 6,
    "outline": 8,
    "paint": 3,
    "write": 8,
}
_LAST, _WRITE = "paint", "write"  # the stage that goes on while files are written
_MOST_LISTED = 8  # values in a message
_MOST_PIECES = 20  # of an object of a label image, on average: growing and tiles leave some
_TRIES = 3  # of a run that finds results of its own damaged


@runtime_checkable
class ObjectWorkers(Protocol):
    """What does the blocks of a stage: this process, or a cluster."""

    def each(self, stages: Stages, stage: str, places: Sequence[Place], stop: Stop) -> Iterator[Place]:
        """Do `places` of a stage and yield each once it is kept; if `stop` is true, end early."""


class Threads:
    """Does blocks in threads of this process."""

    def each(self, stages: Stages, stage: str, places: Sequence[Place], stop: Stop) -> Iterator[Place]:
        """See `ObjectWorkers`."""
        count = thread_count()
        left, running = iter(places), dict[Future[None], Place]()
        with ThreadPoolExecutor(count) as pool:
            while True:
                room = 0 if stop() else 2 * count - len(running)
                running |= {pool.submit(stages.do, stage, place): place for place in islice(left, room)}
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    place = running.pop(future)
                    try:
                        future.result()
                    except BaseException:
                        pool.shutdown(cancel_futures=True)
                        raise
                    yield place


class Run:
    """One call of `find_objects`.

    Attributes:
        is_over: whether this call has nothing left to do.
        found: how many objects there are, once all is written.
        table: of them, if no output was named.
        notes: for the user.
    """

    def __init__(
        self,
        stages: Stages,
        source: ObjectSource,
        settings: ObjectSettings,
        outputs: ObjectOutputs,
        workers: ObjectWorkers,
        report: Report,
        stop: Stop,
    ) -> None:
        self.stages, self.source, self.settings, self.outputs = stages, source, settings, outputs
        self.workers, self.report, self.stop = workers, report, stop
        self.is_over = False
        self.found: Ending | None = None
        self.table: dict[str, np.ndarray] | None = None
        self.notes: list[str] = []
        self.writers: list[MaskWriter] = []  # of the label images that are not complete yet
        self._order = stages_of(stages.plan, labels=bool(outputs.labels), outlines=outputs.outlined)
        self._shares = dict.fromkeys([*self._order, _WRITE], 0.0)  # done of each stage

    def carry_out(self, part: tuple[int, int] | None) -> None:
        """Do what is left to do, as far as it is this call's; another run may end it meanwhile: see `is_over`."""
        if self._is_done(part):
            return
        folder = self.stages.folder
        if begin_work(folder, self.stages.plan):
            self.notes.append("an interrupted run had other settings or another mask: this one started anew")
        if part is not None and self._missing("label"):
            with claimed(folder, shared=True) as is_there:
                if not is_there:
                    return
                self._stage("label", part)
                self.is_over = bool(self._missing("label"))
                if self.is_over:
                    return
        with claimed(folder, shared=False, wait=part is not None, stop=self.stop) as is_there:
            if is_there:
                try:
                    self._finish()
                except TilesegmentError:
                    if not has_results(folder):  # such as of what is no mask
                        end_work(folder, is_there=True, keep_record=False)
                    raise
                end_work(folder, is_there=True, keep_record=part is not None)
                self.is_over = True

    def _is_done(self, part: tuple[int, int] | None) -> bool:
        """Whether an earlier run has written all outputs; then tidy up behind it. If not, check that they may be."""
        stages, outputs, spec = self.stages, self.outputs, self.source.spec
        before = ending_of(stages.folder, settled_by(stages.plan, self.settings))
        # parts that replace older outputs replace them once
        found = outputs.found(stages.plan, spec, before) if part is not None or not outputs.overwrite else None
        if found is None:
            outputs.check_free(stages.plan, spec, before)
            return False
        with claimed(stages.folder, shared=False, wait=part is not None, stop=self.stop) as is_there:
            sweep_work(stages.folder, outputs.files)
            end_work(stages.folder, is_there=is_there, keep_record=part is not None)
        self.is_over, self.found = True, found
        self.notes.append("another run had already written all of it: nothing was left to do")
        return True

    def _finish(self) -> None:
        """Do all stages and write the outputs; results of earlier runs that are damaged are made again."""
        stages = self.stages
        sweep_work(stages.folder, self.outputs.files)
        with ExitStack() as stack:
            begun = False
            for left in reversed(range(_TRIES)):
                stages.refresh(self.writers)
                vars(self).pop("_sums", None)
                try:
                    for stage in self._order:
                        if stage != _LAST:
                            self._stage(stage)
                            self._conclude(stage)
                    if not begun:
                        self._begin_labels(stack)
                        begun = True
                    self._write()
                    return
                except DamagedError as error:
                    if not left:
                        raise MaskError(f"{error}, again and again: check the disk, then run it again") from error
                    self.notes.append(f"{error}: it was made again")
                    stages.discard_damaged()

    def _begin_labels(self, stack: ExitStack) -> None:
        """Begin the label images, once it is known what to write; claim them until `stack` is closed."""
        self.writers = self.outputs.begin(self.stages.plan, self.source.spec)
        for writer in self.writers:
            stack.enter_context(writer.claimed())
        self.stages.refresh(self.writers)

    def _missing(self, stage: str) -> list[Place]:
        stages = self.stages
        if stage != "paint":
            return [place for place in stages.cut if not stages.file(stage, place).is_file()]
        if not self.writers:
            return []
        done = np.logical_and.reduce([writer.survey().done for writer in self.writers])
        return [Place(*map(int, at)) for at in np.argwhere(~done)]

    def _stage(self, stage: str, part: tuple[int, int] | None = None) -> None:
        """Do the blocks of a stage that are not kept yet, or those of one part."""
        missing, cut = self._missing(stage), self.stages.cut
        share = len(missing)
        if part is not None:
            missing = [place for place in missing if cut.number(place) % part[1] == part[0] - 1]
        done = len(cut) - share
        for _ in self.workers.each(self.stages, stage, missing, self.stop):
            done += 1
            self._tell(stage, done / len(cut))
        if self.stop():
            raise StoppedError("stopped before all blocks were done; the same command goes on from here")

    def _conclude(self, stage: str) -> None:
        """Join what the blocks of a stage hold, unless an earlier run has."""
        stages, plan = self.stages, self.stages.plan
        corners = plan.connectivity == 8
        if stage == "label" and not stages.labelled.is_joined:
            stages.labelled.join(corners=corners, ids=plan.taken is None)
            if plan.taken is None:
                self._check_ids()
        elif stage == "link":
            is_of_ids = plan.taken is None
            pairs = [] if is_of_ids else [load_arrays(stages.file("link", place))["pairs"] for place in stages.cut]
            stages.labelled.link(None if is_of_ids else np.concatenate(pairs))
        elif stage == "part" and not stages.gaps.is_joined:
            stages.gaps.join(corners=not corners)
        elif stage in ("grow", "fill"):
            labelling = stages.grown if stage == "grow" else stages.filled
            if not labelling.is_joined:
                labelling.join(numbered=True)
        elif stage == "measure" and not stages.numbers.is_file():
            save_arrays(stages.numbers, {"number": self._numbers()})

    def _check_ids(self) -> None:
        """Refuse a mask of classes, and an image, that were taken for ids of objects.

        Raises:
            MaskError: its values lie scattered, as no ids do.
        """
        joined = self.stages.labelled.joined
        if joined.pieces > _MOST_PIECES * joined.objects:
            delete_folder(self.stages.labelled.folder, self.stages.folder)  # nothing of it is of use
            values = np.unique(joined.value[1:]).tolist()
            listed = ", ".join(map(str, values[:_MOST_LISTED])) + ", ..." * (len(values) > _MOST_LISTED)
            raise MaskError(
                f"{self.source.path} holds no ids of objects: its values ({listed}) lie in {joined.pieces:,} pieces; "
                "name a label image, or with --classes the values whose regions are objects"
            )

    def _doubt(self) -> None:
        """Note that there is nothing, or that a label image of one id may be a mask of one class."""
        value, taken = self.stages.labelled.joined.value, self.stages.plan.taken
        if taken is not None and len(value) == 1:
            self.notes.append(f"no pixel of {self.source.path} has the value {' or '.join(map(str, taken))}")
        if self.stages.plan.taken is None and len(value) == 2:
            self.notes.append(
                f"{self.source.path} holds the one id {value[1]}, which is read as one object; if it is a class whose "
                f"regions are objects, give --classes {value[1]}"
            )

    @cached_property
    def _sums(self) -> Sums:
        files = (load_arrays(self.stages.file("measure", place)) for place in self.stages.cut)
        return merge(Sums.from_arrays(one) for one in files)

    def _numbers(self) -> np.ndarray:
        """Return the id (objects + 1,) uint32 that each object gets, 0 for those that are left out."""
        sums, plan, (height, width) = self._sums, self.stages.plan, self.stages.plan.shape
        kept = sums.area >= plan.min_area
        if plan.touching_border == "drop":
            _, y0, x0, _, y1, x1 = sums.box.T
            kept &= (y0 > 0) & (x0 > 0) & (y1 < height) & (x1 < width)
        numbers = np.zeros(self.stages.final.joined.objects + 1, np.uint32)
        if plan.taken is None:
            numbers[sums.ids[kept]] = self.stages.class_of[sums.ids[kept]]
        else:
            numbers[sums.ids[kept]] = np.arange(1, np.count_nonzero(kept) + 1)
        return numbers

    def _write(self) -> None:
        """Finish the label images and write tables and outlines."""
        self._doubt()
        rows = Rows(self.stages, self._sums, self._described())
        found = Ending(len(rows), rows.by_class, {})
        if not self.outputs.all:
            batches = [batch.columns for batch in rows.tables()]
            self.table = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        with ThreadPoolExecutor(1) as pool:  # one core alone writes the files, meanwhile the others paint
            files = pool.submit(self._write_files, rows, found) if self.outputs.files else None
            if self.writers:
                self._stage(_LAST)
                self._finish_labels({"objects": len(rows), "objects_by_class": rows.by_class})
            if files is not None:
                files.result()
        self._tell(_WRITE, 1)
        self.found = found

    def _finish_labels(self, provenance: dict[str, Any]) -> None:
        while self.writers:
            self.writers[0].finish(provenance, reduced=self.stages.reduced)
            del self.writers[0]

    def _write_files(self, rows: Rows, found: Ending) -> None:
        plan, spec, settings = self.stages.plan, self.source.spec, self.settings

        def record(renamed: Mapping[Path, Path]) -> None:
            record_ending(self.stages.folder, settled_by(plan, settings), found, renamed)

        with writing(self.outputs, plan, spec, record, regions=settings.regions) as (plain, outlined):
            kinds = [
                (batches, writes) for batches, writes in ((rows.tables, plain), (rows.outlined, outlined)) if writes
            ]
            done = 0
            for batches, writes in kinds:
                for batch in batches():
                    for write in writes:
                        write(batch)
                    done += len(batch)
                    self._tell(_WRITE, min(done / max(len(rows) * len(kinds), 1), 1))
                    if self.stop():
                        raise StoppedError("stopped while the objects were written; the same command goes on")

    def _tell(self, stage: str, share: float) -> None:
        """Report that a share of a stage is done; two of them may go on at once."""
        self._shares[stage] = share
        total = sum(_COST[one] for one in self._shares)
        self.report(sum(_COST[one] * done for one, done in self._shares.items()) / total, stage)

    def _described(self) -> Described:
        spec = self.source.spec
        per = micrometres(spec.frame.z.unit)
        return Described(
            classes=spec.classes if self.source.has_classes else None,
            size=spec.pixel_size,
            plane_distance=None if per is None else spec.frame.z.scale * per,
            first_plane=spec.first_plane,
            placement=placement_of(spec),
            simplify=self.settings.simplify,
        )


def stages_of(plan: ObjectPlan, *, labels: bool, outlines: bool) -> list[str]:
    """Return the stages of a plan in order.

    Args:
        plan: what is decided.
        labels, outlines: whether label images, and outlines, are written.
    """
    growing = ["grow"] if plan.radius else []
    filling = ["part", "touch", "fill"] if plan.fill_holes else []
    order = ["label", *(["link"] if plan.volume else []), *growing, *filling, "measure"]
    return [*order, *(["outline"] if outlines else []), *(["paint"] if labels else [])]
