"""Find the objects of a mask: number, measure and outline them, and write that down."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from tilesegment.errors import StoppedError
from tilesegment.masks import MaskWriter
from tilesegment.metadata import micrometres
from tilesegment.objects.block_pieces import load_arrays, save_arrays
from tilesegment.objects.cut import Place
from tilesegment.objects.outputs import ObjectOutputs, placement_of, writing
from tilesegment.objects.plan import ObjectPlan, make_plan
from tilesegment.objects.rows import Described, Rows
from tilesegment.objects.settings import ObjectSettings
from tilesegment.objects.source import ObjectSource, open_source
from tilesegment.objects.stages import Stages
from tilesegment.objects.sums import Sums, merge
from tilesegment.objects.work import begin_work, claimed, end_work, work_folder
from tilesegment.threads import thread_count

Stop = Callable[[], bool]
Report = Callable[[float, str], None]

# about how long a stage takes per pixel, for the progress
_COST = {"label": 3, "link": 2, "grow": 8, "part": 3, "touch": 3, "fill": 2, "measure": 6, "outline": 8, "paint": 3}
_WRITING = 8


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


@dataclass(frozen=True)
class Objects:
    """What was found.

    Attributes:
        mask: path of it.
        outputs: what was written.
        finished: False if other parts still have blocks to do; then there is no count.
        count: number of objects.
        by_class: number of each class whose regions are objects; empty for a label image of ids.
        pixels: of the mask, in all planes.
        seconds: that it took.
        table: columns by name, if no output was named.
        notes: for the user, one sentence each.
    """

    mask: str
    outputs: tuple[str, ...]
    finished: bool
    count: int
    pixels: int
    seconds: float
    table: dict[str, np.ndarray] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    by_class: dict[str, int] = field(default_factory=dict)


def find_objects(
    mask: str | Path,
    *out: str | Path,
    workers: ObjectWorkers | None = None,
    part: tuple[int, int] | None = None,
    overwrite: bool = False,
    ngff: str = "0.5",
    report: Report = lambda done, what: None,
    stop: Stop = lambda: False,
    **settings: Any,
) -> Objects:
    """Find the objects of a mask of any size: ids, measurements and outlines equal those of the whole mask.

    Ids count the objects by their first pixel in raster order, as it is before they grow; those of a label image stay.
    A call that was interrupted goes on when it is repeated.

    Args:
        mask: a mask that `predict` wrote, or a label image of any program.
        out: `NAME.zarr` or `IMAGE.zarr/labels/NAME` for ids (uint32), `.csv` or `.parquet` for measurements,
            `.geojson` or `.geojson.gz` for outlines and measurements, as QuPath reads them. Without any the
            measurements are returned.
        workers: what does the blocks, such as a `Cluster`; by default threads of this process.
        part: (k, n) labels only the k-th of n parts of the blocks; the part that ends last does the rest.
        overwrite: replace outputs that exist.
        ngff: OME-Zarr version of `NAME.zarr`.
        report: called with the share done, 0 to 1, and what is being done.
        stop: asked between blocks; if true, the run ends there.
        settings: see `ObjectSettings`.

    Raises:
        TilesegmentError: the mask, the image, the settings or an output cannot be used; existing files are kept.
            `StoppedError`: `stop` was true; the same call goes on from there.
    """
    start = time.monotonic()
    chosen, outputs = ObjectSettings.of(settings), ObjectOutputs.of(out, overwrite=overwrite, ngff=ngff)
    with ExitStack() as stack:
        source = stack.enter_context(open_source(mask))
        plan = make_plan(source, chosen)
        if outputs.all:
            folder = work_folder(outputs.all[0])
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="objects-"))) / "work"
        outputs.check([plan.mask, *([] if plan.grey is None else [plan.grey.path])], folder)
        writers = outputs.begin(plan, source.spec)
        begin_work(folder, plan)
        stages = Stages(folder, plan, [writer.path for writer in writers])
        stack.callback(stages.close)
        run = _Run(stages, source, chosen, outputs, writers, workers or Threads(), report, stop)
        found = run.carry_out(part)
    rows, table = (None, None) if found is None else found
    count, by_class = (0, {}) if rows is None else (len(rows), rows.by_class)
    pixels = plan.depth * plan.shape[0] * plan.shape[1]
    seconds, written = time.monotonic() - start, tuple(map(str, out))
    return Objects(str(mask), written, rows is not None, count, pixels, seconds, table, run.notes, by_class)


class _Run:
    """One call of `find_objects`."""

    def __init__(
        self,
        stages: Stages,
        source: ObjectSource,
        settings: ObjectSettings,
        outputs: ObjectOutputs,
        writers: Sequence[MaskWriter],
        workers: ObjectWorkers,
        report: Report,
        stop: Stop,
    ) -> None:
        self.stages, self.source, self.settings, self.outputs = stages, source, settings, outputs
        self.writers, self.workers, self.report, self.stop = writers, workers, report, stop
        self.notes: tuple[str, ...] = ()
        self._order = stages_of(stages.plan, labels=bool(writers), outlines=outputs.outlined)
        self._total = sum(_COST[stage] for stage in self._order) + _WRITING

    def carry_out(self, part: tuple[int, int] | None) -> tuple[Rows, dict[str, np.ndarray] | None] | None:
        """Do all stages and write the outputs; return the objects, and, without outputs, their table.

        None if other parts still have blocks to label.
        """
        folder = self.stages.folder
        if part is not None:
            with claimed(folder, shared=True):
                self._stage("label", part)
                if self._missing("label"):
                    return None
        with claimed(folder, shared=False, wait=part is not None) as is_there:
            if not is_there:  # another part has done the rest
                return None
            for stage in self._order:
                self._stage(stage)
                self._conclude(stage)
            found = self._write()
            end_work(folder)
            return found

    def _missing(self, stage: str) -> list[Place]:
        stages = self.stages
        if stage != "paint":
            return [place for place in stages.cut if not stages.file(stage, place).is_file()]
        done = np.logical_and.reduce([writer.survey().done for writer in self.writers])
        return [Place(*map(int, at)) for at in np.argwhere(~done)]

    def _stage(self, stage: str, part: tuple[int, int] | None = None) -> None:
        """Do the blocks of a stage that are not kept yet, or those of one part."""
        missing, cut = self._missing(stage), self.stages.cut
        share = len(missing)
        if part is not None:
            missing = [place for place in missing if cut.number(place) % part[1] == part[0] - 1]
        before = sum(_COST[one] for one in self._order[: self._order.index(stage)])
        done = len(cut) - share
        for _ in self.workers.each(self.stages, stage, missing, self.stop):
            done += 1
            self.report((before + _COST[stage] * done / len(cut)) / self._total, stage)
        if self.stop():
            raise StoppedError("stopped before all blocks were done; the same command goes on from here")

    def _conclude(self, stage: str) -> None:
        """Join what the blocks of a stage hold, unless an earlier run has."""
        stages, plan = self.stages, self.stages.plan
        corners = plan.connectivity == 8
        if stage == "label" and not stages.labelled.is_joined:
            stages.labelled.join(corners=corners, ids=plan.taken is None)
            self._doubt()
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

    def _doubt(self) -> None:
        """Note that a label image of one id may be a mask of one class."""
        value = self.stages.labelled.joined.value
        if self.stages.plan.taken is None and len(value) == 2:
            self.notes += (
                f"{self.source.path} holds the one id {value[1]}, which is read as one object; if it is a class whose "
                f"regions are objects, give --classes {value[1]}",
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

    def _write(self) -> tuple[Rows, dict[str, np.ndarray] | None]:
        """Write tables and outlines and finish the label images."""
        rows = Rows(self.stages, self._sums, self._described())
        for writer in self.writers:
            with writer.claimed(shared=False):
                writer.finish({"objects": len(rows), "objects_by_class": rows.by_class})
        table = None
        if not self.outputs.all:
            batches = [batch.columns for batch in rows.tables()]
            table = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        if self.outputs.files:
            self._write_files(rows)
        return rows, table

    def _write_files(self, rows: Rows) -> None:
        stages = self.stages
        with writing(self.outputs, stages.folder, stages.plan, self.source.spec, regions=self.settings.regions) as (
            plain,
            outlined,
        ):
            for batches, writes in ((rows.tables, plain), (rows.outlined, outlined)):
                done = 0
                for batch in batches() if writes else ():
                    for write in writes:
                        write(batch)
                    done += len(batch)
                    share = min(done / max(len(rows), 1), 1)
                    self.report(1 - _WRITING / self._total * (1 - share), "write")
                    if self.stop():
                        raise StoppedError("stopped while the objects were written; the same command goes on")

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
