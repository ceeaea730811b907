"""From an image file to a mask file: opens what is named, plans, streams, records. The top of the library."""

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.engine import Progress
from tilesegment.errors import MaskError, PlanError
from tilesegment.job import Job
from tilesegment.masks import create_mask, create_probabilities
from tilesegment.overview import overview
from tilesegment.plan import Settings, check_names
from tilesegment.preview import check_preview_path
from tilesegment.verification import mismatch


@dataclass(frozen=True)
class Prediction:
    """What a run did.

    Attributes:
        out: the mask.
        pixels, blocks: decided in this run; `blocks_resumed` were there already.
        seconds: from the first block to the finished mask.
        mpx_per_s: millions of pixels a second, this run.
        tile, step, batch, device, precision: as planned.
        halo: context of a tile, pixels.
        mismatch: of a halo that was chosen: share of the pixels near tile lines and image borders whose class a larger
            one changes; None where tiles are exact.
        peak_rss_bytes: largest resident memory of the process.
        model: its name.
    """

    out: str
    pixels: int
    blocks: int
    blocks_resumed: int
    seconds: float
    mpx_per_s: float
    tile: int
    step: int
    batch: int
    device: str
    precision: str
    halo: int
    mismatch: float | None
    peak_rss_bytes: int
    model: str


def predict(
    image: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    overwrite: bool = False,
    ngff: str = "0.5",
    probabilities: str | Path | None = None,
    preview: str | Path | None = None,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    report: Callable[[Progress, int], None] = lambda progress, total: None,
    **settings: Any,
) -> Prediction:
    """Segments an image of any size into a mask, seamlessly: equal to one pass over the whole mirror-padded image.

    Args:
        image: TIFF, OME-TIFF, Zarr, OME-Zarr, PNG or JPEG; uint8, uint16 or float32.
        out: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif`, `mask.png` or `mask.jpg`. An unfinished run with the
            same settings is continued.
        model: file, or name of a bundled model; None takes `em-membrane` for one-channel images.
        overwrite: replace an existing mask, once the new one is complete.
        ngff: OME-Zarr version of a mask on its own: 0.5, or 0.4 for QuPath and Fiji.
        probabilities: `p.zarr`, also writes the class probabilities (K, H, W) float32 there.
        preview: a PNG or JPEG, image and overlay side by side.
        axes, select: how the image's dimensions are to be read, see `open_image`.
        report: called after every block with how far it is, and the pixels that this run decides in all.
        settings: the fields of `Settings`: tile, halo, prune, batch, device, precision, roi, level, z, channels,
            threshold, tta, normalise.

    Raises:
        TilesegmentError: the image, the model, the settings or the output is not to be had; nothing that existed is
            lost.
    """
    with Job(image, model, make_settings(settings), axes=axes, select=select) as job:
        return run_job(
            job, out, overwrite=overwrite, ngff=ngff, probabilities=probabilities, preview=preview, report=report
        )


def run_job(
    job: Job,
    out: str | Path,
    *,
    overwrite: bool = False,
    ngff: str = "0.5",
    probabilities: str | Path | None = None,
    preview: str | Path | None = None,
    report: Callable[[Progress, int], None] = lambda progress, total: None,
) -> Prediction:
    """Runs a prepared job; arguments and errors as in `predict`."""
    check_outputs(job.source.path, out, probabilities, preview, overwrite)
    plan, spec, start = job.plan, job.spec(), time.monotonic()
    writer = create_mask(out, spec, ngff=ngff, overwrite=overwrite)
    likely = None if probabilities is None else create_probabilities(probabilities, spec, overwrite=overwrite)
    done = job.run(writer, likely, report)
    if preview is not None:
        # before the mask is finished: after that a TIFF or a PNG is all there is
        first, level, size = plan.planes.start, job.settings.level, spec.pixel_size
        overview(job.source, writer.base, plan.region, level, first, spec.classes, size, Path(preview))
    speed = done.pixels / 1e6 / max(done.seconds, 1e-9)
    known = {"seconds": round(done.seconds, 3), "mpx_per_s": round(speed, 4)}
    inexact = None if job.model.header.halo is None else mismatch(job)
    if inexact is not None:
        known |= {"halo": plan.network.view.before, "mismatch": inexact}
    for store in (likely, writer):
        if store is not None:
            store.finish(known)
    seconds = time.monotonic() - start
    return Prediction(
        out=str(out),
        pixels=done.pixels,
        blocks=done.blocks,
        blocks_resumed=plan.blocks - done.blocks,
        seconds=seconds,
        mpx_per_s=done.pixels / 1e6 / max(seconds, 1e-9),
        tile=plan.tile,
        step=plan.step,
        batch=plan.batch,
        device=plan.device,
        precision=plan.precision,
        halo=plan.network.view.before,
        mismatch=inexact,
        peak_rss_bytes=peak_memory(),
        model=job.model.header.name,
    )


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments.

    Raises:
        PlanError: there is no such setting, or its value cannot be.
    """
    check_names(given, Settings.__dataclass_fields__)
    settings = Settings(**given)
    settings.check()
    return settings


def check_outputs(
    image: str, out: str | Path, probabilities: str | Path | None, preview: str | Path | None, overwrite: bool
) -> None:
    """Whether what a run writes keeps clear of what it reads, and each output of the others. Nothing is written.

    Raises:
        PlanError: two of them are one, or an output lies in the image elsewhere than among its labels.
        MaskError: the preview cannot be written under its name.
    """
    source = Path(image).resolve()
    given = {"out": out, "probabilities": probabilities, "preview": preview}
    outputs = {name: Path(path).resolve() for name, path in given.items() if path is not None}
    for name, path in outputs.items():
        if path == source or path in source.parents:
            raise PlanError(f"{name} {given[name]} is the image that is read, or holds it; choose another name")
        if source in path.parents and (name != "out" or path.parent != source / "labels"):
            raise PlanError(f"{name} {given[name]} lies in the image; choose another place, or out {image}/labels/NAME")
    if len(set(outputs.values())) < len(outputs):
        raise PlanError(f"{', '.join(outputs)} name one file twice; give each a name of its own")
    if preview is not None:
        _check_preview(Path(preview), overwrite)


def _check_preview(path: Path, overwrite: bool) -> None:
    """Before hours of work, not after them."""
    check_preview_path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise MaskError(f"preview {path} exists; choose another name, or use --overwrite to replace it")


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 on Windows, which does not say."""
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    # Linux: getrusage's figure begins with that of the process that started this one
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found is not None:
        return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
