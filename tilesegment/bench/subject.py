"""What is measured: an image, drawn or the user's, of it as large a part as there is time for, and a model."""

import os
import shutil
import time
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

from tilesegment.errors import ModelError
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.images import open_image
from tilesegment.images.drawing import draw_zarr
from tilesegment.models import DEFAULT, find_model
from tilesegment.models.header import ModelHeader
from tilesegment.models.model import Model
from tilesegment.models.package import is_package
from tilesegment.prediction.devices import this_machine
from tilesegment.prediction.job import Job
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.speed import time_predictor
from tilesegment.prediction.tiling import choose_runtime, default_tile, forward_bytes

PATIENCE = 5.0  # seconds: what takes longer at first is not done again
ROUNDS = 3  # everything is measured so many times, in turns
_LARGE = 1 << 16  # pixels: side of an image that is large, so that any runtime's start pays
_PROBE = 2048  # side of a drawn image before it is known how large it should be, pixels
_LARGEST = 1 << 30  # bytes of pixels that are drawn, at most
# shares of the time that is granted; the rest is for starting, warming up and matrix products
_PREDICTING, _STORING = 0.5, 0.15
_ALONE = 1.3  # tiles predicted for each tile of the part: end to end, and by the predictor alone
_PASSES = 5  # read and stored so often in a round: alone, by a copy, end to end with a predictor that does nothing
_STORED = 5e-9  # seconds to store a pixel, taken for granted beforehand: that of a laptop's disk


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        image: path.
        model: path or bundled name; None as for `predict`.
        settings: of the part that is predicted.
        stored: of the part that is read and stored without predicting it, mostly a larger one.
        folder: where masks are written, for as long as is measured.
        drawn: whether the image is ours.
        runtime: as it was asked for; that of `settings` is what becomes of it on a large image.
    """

    image: str
    model: str | None
    settings: Settings
    stored: Settings
    folder: Path
    drawn: bool
    runtime: str

    def prepare(self, settings: Settings | None = None) -> Job:
        """The job, with its own settings or others.

        Raises:
            TilesegmentError: as `Job.prepare`.
        """
        chosen = self.settings if settings is None else settings
        return Job.prepare(self.image, replace(chosen, model=self.model))


def given_subject(
    image: str,
    model: str | Path | None,
    settings: Settings,
    seconds: float,
    folder: Path,
) -> Subject:
    """The middle of an image, of a stack that of its middle plane, as large as `seconds` allow.

    Raises:
        TilesegmentError: as `Job.prepare`.
    """
    with open_image(image, **settings.reading) as source:
        z = None if source.depth is None else (source.depth // 2, source.depth // 2 + 1)
        grey = (source.channels if settings.channels is None else len(settings.channels)) == 1
    if model is None and grey:
        model = DEFAULT  # where it is not, `Job.prepare` has words for it
    kept, settings = None if model is None else own_copy(model, folder), replace(settings, z=z)
    subject = Subject(image, kept, settings, settings, folder, False, settings.runtime)
    subject = _settled(subject)
    with subject.prepare() as job:
        return _with_parts(subject, job.plan.region, job.plan, affordable(job, seconds))


def drawn_subject(
    model: str | Path | None, settings: Settings, size: int | None, seconds: float, folder: Path
) -> Subject:
    """An image drawn for the model, as large as `seconds` allow; or `size` pixels a side, of which the middle then.

    Raises:
        TilesegmentError: as `Job.prepare`; ImageError also if the disk is full.
    """
    kept = own_copy(DEFAULT if model is None else model, folder)
    header = Model.load(kept).header
    channels = header.channels if settings.channels is None else max(settings.channels, default=0) + 1
    side = _PROBE if size is None else size
    image = _draw(folder / "drawn.zarr", (side, side), header, channels)
    subject = Subject(image, kept, settings, settings, folder, True, settings.runtime)
    subject = _settled(subject)
    with subject.prepare() as job:
        plan, pixels, itemsize = job.plan, affordable(job, seconds), job.source.dtype.itemsize
    if size is not None:
        return _with_parts(subject, plan.region, plan, pixels)
    room = isqrt(min(_LARGEST, shutil.disk_usage(folder).free // 4) // (channels * itemsize))
    parts = [centred_part(Region(0, 0, room, room), plan, each) for each in pixels]
    shape = max(part.height for part in parts), max(part.width for part in parts)
    shutil.rmtree(image)
    subject = replace(subject, image=_draw(folder / "image.zarr", shape, header, channels))
    return _with_parts(subject, Region.of_shape(shape), plan, pixels)


def _settled(subject: Subject) -> Subject:
    """With the runtime of a large image, and the tile of the image, or, if that is drawn, of a large one."""
    with subject.prepare() as job:
        tile = _large_tile(job.plan, subject.settings) if subject.drawn else job.plan.tile
        return replace(subject, settings=replace(as_if_large(job.plan, subject.settings), tile=tile))


def _with_parts(subject: Subject, region: Region, plan: Plan, pixels: tuple[int, int]) -> Subject:
    predicted, stored = (centred_part(region, plan, each) for each in pixels)
    settings = subject.settings
    return replace(subject, settings=replace(settings, roi=predicted), stored=replace(settings, roi=stored))


def as_if_large(plan: Plan, settings: Settings) -> Settings:
    """Settings with the runtime that a large image of the kind of `plan` gets; for a small one it may not pay.

    Raises:
        PlanError, DeviceError: there is no such plan.
    """
    if plan.runtime == "onnxruntime":
        return settings
    machine = this_machine(settings.device, settings.precision)
    return replace(settings, runtime=choose_runtime(settings.runtime, machine, _LARGE**2))


def _large_tile(plan: Plan, settings: Settings) -> int:
    """The tile that a large image of the kind of `plan` gets."""
    if settings.tile is not None:
        return settings.tile
    each = forward_bytes(plan.pixel_bytes, plan.classes, plan.precision)
    free = this_machine(settings.device, settings.precision).free_bytes
    return default_tile(plan.view, (_LARGE, _LARGE), each, free)


def own_copy(model: str | Path, folder: Path) -> str:
    """A copy of a model file in `folder`: what is made of it for int8 is kept beside it, and is not to stay.

    ONNX files and packages are not to be had in int8; they are left where they are.

    Raises:
        ModelError: there is no such model, or no room for it.
    """
    if os.path.isdir(model) or Path(model).suffix.lower() == ".onnx" or is_package(Path(model)):
        return str(model)
    path = find_model(model)
    try:
        return str(shutil.copy(path, folder / path.name))
    except OSError as error:
        raise ModelError(f"{path} cannot be copied to {folder} ({error.strerror}); choose another folder") from error


def affordable(job: Job, seconds: float) -> tuple[int, int]:
    """How many pixels there is time to predict, and how many to read and store only.

    As found from what a tile takes here, and the reading of a block in the middle.
    """
    block = middle_block(job.plan)
    start = time.perf_counter()
    job.read(job.plan.planes.start, block)
    moving = (time.perf_counter() - start) / block.write.area + _STORED
    predicting = seconds_per_tile(job, some_tiles(job.plan, job.plan.batch), 0)[0] / job.plan.step**2
    a_round = seconds / ROUNDS
    return int(a_round * _PREDICTING / (_ALONE * predicting + moving)), int(a_round * _STORING / (_PASSES * moving))


def centred_part(region: Region, plan: Plan, pixels: int) -> Region:
    """The middle of `region`, of at most `pixels`: in whole blocks, else in whole tiles, but never less than one.

    It starts on the grid of the blocks, or tiles, of `plan`, so that none is cut that is not cut by the image.
    """
    if region.area <= pixels:
        return region
    unit = plan.block if plan.block**2 <= pixels else plan.step
    units = max(pixels // unit**2, 1)
    most_rows, most_columns = max(region.height // unit, 1), max(region.width // unit, 1)
    rows = min(max(isqrt(units), units // most_columns), most_rows)
    columns = min(units // rows, most_columns)
    height, width = min(rows * unit, region.height), min(columns * unit, region.width)
    y = region.y0 + (region.height - height) // 2 // unit * unit
    x = region.x0 + (region.width - width) // 2 // unit * unit
    return Region(y, x, y + height, x + width)


def middle_block(plan: Plan) -> Block:
    """A block in the middle of what is predicted; whole, where there are whole ones."""
    rows, columns = plan.grid.shape
    return plan.grid.at((rows - 1) // 2, (columns - 1) // 2)


def some_tiles(plan: Plan, count: int) -> Block:
    """About `count` tiles in the middle as a block: whole rows of the block there, or a part of one; all, if fewer."""
    whole = middle_block(plan)
    across = min(-(-whole.write.width // plan.step), count)
    down = max(min(count // across, -(-whole.write.height // plan.step)), 1)
    y, x = whole.write.y0, whole.write.x0
    part = Region(y, x, y + down * plan.step, x + across * plan.step).intersect(whole.write)
    return TileGrid(part, plan.step, max(down, across) * plan.step, plan.view).at(0, 0)


def seconds_per_tile(job: Job, block: Block, seconds: float) -> list[float]:
    """Seconds that the predictor takes for a tile of `block`, its pixels in memory; see `time_predictor`."""
    pixels, predictor = job.read(job.plan.planes.start, block), job.predictor
    tiles = tiles_computed(len(block.tiles), predictor.batch)
    return [each / tiles for each in time_predictor(predictor, pixels, block, seconds, PATIENCE)]


def tiles_computed(tiles: int, batch: int) -> int:
    """How many tiles the network sees for a block of so many, in batches that are always full."""
    return -(-tiles // batch) * batch


def _draw(path: Path, shape: tuple[int, int], header: ModelHeader, channels: int) -> str:
    """An image in grey values that the model knows, or, where it was told none, of middle grey."""
    scale = header.normalisation
    mean, std = [scale.mean[0]] * channels, [scale.std[0]] * channels
    if scale.dtype != "float32" and std[0] < 2:
        most = 255 if scale.dtype == "uint8" else 65535
        mean, std = [most / 2] * channels, [most / 6] * channels
    return draw_zarr(path, shape, mean, std, scale.dtype)
