"""Find the objects of a mask: number, measure and outline them, and write that down."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.images.arrays import ArrayLike, ImageArray, named, naming, write_array
from tilesegment.objects.keywords import ObjectKeywords
from tilesegment.objects.outputs import ObjectOutputs
from tilesegment.objects.plan import make_plan
from tilesegment.objects.run import ObjectWorkers, Report, Run, Stop, Threads
from tilesegment.objects.settings import ObjectSettings
from tilesegment.objects.source import open_source
from tilesegment.objects.stages import Stages
from tilesegment.objects.work import work_folder
from tilesegment.stores import Location, Place


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

    def to_pandas(self) -> Any:
        """Return the table as a pandas.DataFrame, one row per object.

        Raises:
            PlanError: the table was written to files, or pandas is not installed.
        """
        if self.table is None:
            raise PlanError(f"the objects of {self.mask} were written to files: read these, or name no output")
        if find_spec("pandas") is None:
            raise PlanError("pandas is not installed: pip install pandas, or use table, a dict of arrays")
        from pandas import DataFrame

        return DataFrame(self.table)


def find_objects(
    mask: str | Place | ArrayLike,
    *out: str | Path,
    workers: ObjectWorkers | None = None,
    part: tuple[int, int] | None = None,
    overwrite: bool = False,
    ngff: str = "0.5",
    axes: str | None = None,
    report: Report = lambda done, what: None,
    stop: Stop = lambda: False,
    **settings: Unpack[ObjectKeywords],
) -> Objects:
    """Find the objects of a mask of any size: ids, measurements and outlines equal those of the whole mask.

    Ids count the objects by their first pixel in raster order, as it is before they grow; those of a label image stay.
    A call that was interrupted goes on when it is repeated.

    Args:
        mask: a mask that `predict` wrote, a label image of any program, or an array (h, w) or (z, h, w): of ids of
            objects, or of class ids if `classes` names those that are objects.
        out: `NAME.zarr` or `IMAGE.zarr/labels/NAME` for ids (uint32), `.csv` or `.parquet` for measurements,
            `.geojson` or `.geojson.gz` for outlines and measurements, as QuPath reads them. Without any the
            measurements are returned.
        workers: what does the blocks, such as a `Cluster`; by default threads of this process.
        part: (k, n) labels only the k-th of n parts of the blocks; the part that ends last does the rest. Parts leave
            a small hidden file, by which one that is started again knows that nothing is left to do.
        overwrite: replace outputs that exist.
        ngff: OME-Zarr version of `NAME.zarr`.
        axes: of an array of three dimensions, "zyx".
        report: called with the share done, 0 to 1, and what is being done.
        stop: asked between blocks; if true, the run ends there.
        settings: see `ObjectSettings`.

    Raises:
        TilesegmentError: the mask, the image, the settings or an output cannot be used; existing files are kept.
            `StoppedError`: `stop` was true; the same call goes on from there.
    """
    start = time.monotonic()
    if not isinstance(mask, str | Path | Location):
        return _of_array(mask, out, part, axes, workers, report, stop, settings)
    if axes is not None:
        raise PlanError("--axes is for arrays, and a file says what its dimensions are: leave it out")
    chosen, outputs = ObjectSettings.of(settings), ObjectOutputs.of(out, overwrite=overwrite, ngff=ngff)
    found = _find(mask, chosen, outputs, part, workers or Threads(), report, stop)
    return replace(found, mask=str(mask), outputs=tuple(map(str, out)), seconds=time.monotonic() - start)


def _find(
    mask: str | Place,
    chosen: ObjectSettings,
    outputs: ObjectOutputs,
    part: tuple[int, int] | None,
    workers: ObjectWorkers,
    report: Report,
    stop: Stop,
) -> Objects:
    """Find the objects of a mask in a file."""
    with ExitStack() as stack:
        source = stack.enter_context(open_source(mask))
        plan = make_plan(source, chosen)
        if outputs.all:
            folder = work_folder(outputs.all[0])
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="objects-"))) / "work"
        outputs.check(plan.mask, None if plan.grey is None else plan.grey.path)
        stages = Stages(folder, plan)
        stack.callback(stages.close)
        run = Run(stages, source, chosen, outputs, workers, report, stop)
        while not run.is_over:  # again, if another run ends meanwhile
            run.carry_out(part)
    return Objects(
        str(mask),
        (),
        finished=run.found is not None,
        count=0 if run.found is None else run.found.objects,
        pixels=plan.depth * plan.shape[0] * plan.shape[1],
        seconds=0.0,
        table=run.table,
        notes=tuple(dict.fromkeys(run.notes)),
        by_class={} if run.found is None else run.found.by_class,
    )


def _of_array(
    mask: ArrayLike,
    out: Sequence[str | Path],
    part: tuple[int, int] | None,
    axes: str | None,
    workers: ObjectWorkers | None,
    report: Report,
    stop: Stop,
    settings: Mapping[str, Any],
) -> Objects:
    """Find the objects of an array, as of a file with the same values."""
    name = str(ImageArray.of(mask))
    if out or part is not None:
        raise PlanError(
            f"objects are written for a mask in a file, which they name, and this is an {name}: save it, or leave out "
            "the outputs for a table"
        )
    with TemporaryDirectory(prefix="objects-") as folder:
        path = write_array(Path(folder) / "mask.zarr", mask, axes)
        with naming({str(path): name}):
            found = find_objects(path, workers=workers, report=report, stop=stop, **settings)
    return replace(found, mask=name, notes=tuple(named(note, {str(path): name}) for note in found.notes))
