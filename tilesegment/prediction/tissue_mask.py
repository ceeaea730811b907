"""Write the tissue of an image to a file: what `--skip-empty tissue` takes, to look at, to correct and to give back.

The file is of the size of the image's overview, and says where its pixels lie. Given to `--skip-empty`, it leaves out
the same blocks.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tilesegment.errors import MaskError, PlanError
from tilesegment.files import write_atomically
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.images.artefacts import Shares
from tilesegment.images.identity import identity
from tilesegment.images.overview import Overview, grid_lines
from tilesegment.labels.geojson import IMAGE, is_geojson
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.masks.spec import RESAMPLED, STORED
from tilesegment.metadata import LabelClass, PixelSize, default_colours
from tilesegment.objects.geojson import feature_id
from tilesegment.objects.outlines import corners_of_block, trace
from tilesegment.objects.outputs import check_file
from tilesegment.objects.polygons import Polygons, polygons_of
from tilesegment.prediction.tissue import Tissue, colours_of, doubts_of, mean_shares, tissue_of
from tilesegment.stores import Place, is_in, place_of, resolved

NAME = "Tissue"  # of the class, also in QuPath
_CLASSES = tuple(map(LabelClass, ("glass", NAME), default_colours(2)))
_BLOCK, _CHUNK = 2048, 512  # pixels: an overview is one block


@dataclass(frozen=True)
class TissueFile:
    """The tissue of an image that was written.

    Attributes:
        image, out: paths.
        shape, scale: of the overview: (h, w), and (y, x) pixels of level 0 that one of its pixels spans.
        planes: of a stack; None without a z axis.
        shares: of glass, pen marks and blur, over all planes.
        thresholds: one per plane; None where tissue could not be told from glass, and all is kept.
        notes: for the user.
    """

    image: str
    out: str
    shape: tuple[int, int]
    scale: tuple[float, float]
    planes: int | None
    shares: Shares
    thresholds: tuple[float | None, ...]
    notes: tuple[str, ...]


def write_tissue(
    image: str | Place,
    out: str | Place,
    *,
    channels: Sequence[int] | None = None,
    ngff: str = "0.5",
    overwrite: bool = False,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    series: int | None = None,
    invert: bool = False,
) -> TissueFile:
    """Write what `skip_empty="tissue"` takes as the tissue of an image.

    Args:
        image: its path or location.
        out: a mask, `tissue.zarr`, also in a store, `image.zarr/labels/NAME`, `tissue.tif` or `tissue.png`; or
            `tissue.geojson[.gz]`, one annotation of class `Tissue` for each piece, in pixels of level 0, as QuPath
            reads them.
        channels: in which tissue is looked for, those that the model will see; by default all but alpha.
        ngff: OME-Zarr version of `tissue.zarr`.
        overwrite: replace what is there.
        axes, select, series, invert: how to read the image, see `open_image`.

    Raises:
        ImageError: the image cannot be read.
        PlanError: there is no such channel, or `out` is the image or lies in it.
        MaskError: `out` exists, has another suffix, or cannot be written.
    """
    path = place_of(out)
    areas = path if isinstance(path, Path) and is_geojson(path) else None
    with open_image(image, axes=axes, select=select, series=series, invert=invert) as source:
        _check(path, place_of(image))
        if areas is not None:
            check_file(areas, overwrite=overwrite)
        chosen = colours_of(source) if channels is None else tuple(channels)
        if not chosen or not all(0 <= one < source.channels for one in chosen):
            given = ", ".join(map(str, chosen)) or "empty"
            raise PlanError(f"--channels is {given}; {source.path} has channels 0 to {source.channels - 1}")
        planes = [tissue_of(source, chosen, z) for z in range(source.depth or 1)]
        spec = _spec(source, chosen, planes)
        if areas is not None:
            _write_areas(areas, source, planes, str(spec.fingerprint[STORED]))
        else:
            _write_mask(path, spec, planes, ngff, overwrite)
        shares = mean_shares(one.shares for one in planes)
        thresholds = tuple(one.threshold for one in planes)
        blind = thresholds.count(None)
        where = "" if len(planes) == 1 else f" in {blind} of {len(planes)} planes"
        notes = [f"{source.path}: tissue cannot be told from glass{where}, all is kept there"] if blind else []
        notes = [*source.notes, *notes, *doubts_of(source.path, shares)]
        return TissueFile(source.path, str(out), spec.shape, spec.scale, source.depth, shares, thresholds, tuple(notes))


def _check(path: Place, image: Place) -> None:
    """Refuse an output that is the image, holds it or lies in it; labels of the image may."""
    real, source = resolved(path), resolved(image)
    if real == source or is_in(source, real):
        raise PlanError(f"{path} is the image that is read, or holds it; choose another name")
    if is_in(real, source) and real.parent != source / "labels":
        raise PlanError(f"{path} lies in the image; choose another place, or {image}/labels/NAME")


def _spec(source: ImageSource, channels: Sequence[int], planes: Sequence[Tissue]) -> MaskSpec:
    """Describe the mask, and where it lies, as `predict` does of one of a level of the image, or of a resampled one."""
    grid, size = Overview.of(source), source.pixel_size
    (sy, sx), content = grid.scale, identity(source.place)
    of_level: dict[str, Any] = (
        {"level": grid.level} if grid.factor == 1 else {"level": len(source.levels), RESAMPLED: [sy, sx]}
    )
    fingerprint: dict[str, Any] = {
        "image": source.place.name,
        STORED: content.digest,
        "shape": list(grid.shape),
        "region": [0, 0, *grid.shape],
        "planes": [0, source.depth or 1],
        "channels": list(channels),
        **of_level,
        "tissue": [one.threshold for one in planes],
    }
    return MaskSpec(
        shape=grid.shape,
        depth=source.depth,
        block=_BLOCK,
        chunk=_CHUNK,
        classes=_CLASSES,
        pixel_size=None if size is None else PixelSize(size.y * sy, size.x * sx),
        offset=((sy - 1) / (2 * sy), (sx - 1) / (2 * sx)),
        scale=(sy, sx),
        frame=source.frame,
        fingerprint=fingerprint,
        provenance={
            "image": str(resolved(source.place)),
            "image_written": content.written,
            "shares": asdict(mean_shares(one.shares for one in planes)),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"tilesegment": version("tilesegment")},
        },
    )


def _write_mask(path: Place, spec: MaskSpec, planes: Sequence[Tissue], ngff: str, overwrite: bool) -> None:
    writer = create_mask(path, spec, ngff=ngff, overwrite=overwrite)
    with writer.claimed(None):
        for z, one in enumerate(planes):
            for region in Region.of_shape(spec.shape).squares(_BLOCK):
                writer.write(region, one.mask[region.slices].astype(np.uint8), z)
        writer.finish()


def _write_areas(path: Path, source: ImageSource, planes: Sequence[Tissue], fingerprint: str) -> None:
    """Write the outlines of the pieces of tissue, exactly along the pixels of the overview."""
    features = [
        feature
        for z, one in enumerate(planes)
        for feature in _features(one.mask, source, fingerprint, None if source.depth is None else z)
    ]
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in features)
    content = f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'.encode()
    try:
        write_atomically(path, gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)
    except OSError as error:
        raise MaskError(f"cannot write {path}: {error.strerror}; check space and permissions") from error


def _features(mask: np.ndarray, source: ImageSource, fingerprint: str, z: int | None) -> Iterator[dict[str, Any]]:
    """Yield a GeoJSON feature for each 4-connected piece of a mask (h, w)."""
    grid = Overview.of(source)
    pieces, count = ndimage.label(mask, output=np.uint32)
    corners = corners_of_block(np.pad(pieces, 1), Region.of_shape(grid.shape), grid.shape)
    polygons = polygons_of(trace(corners), np.arange(count + 1))
    for label, rings in enumerate(_rings(polygons, *grid_lines(grid.shape, grid.scale, source.shape)), 1):
        plane = {} if z is None else {"plane": {"c": -1, "z": z, "t": 0}}
        yield {
            "type": "Feature",
            "id": str(feature_id(fingerprint, label, z)),
            "geometry": {"type": "Polygon", "coordinates": rings, **plane},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": NAME, "color": list(_CLASSES[1].rgb)},
                "metadata": {IMAGE: source.place.name},
            },
        }


def _rings(polygons: Polygons, rows: np.ndarray, columns: np.ndarray) -> Iterator[list[list[list[float]]]]:
    """Yield the closed rings of each piece, [[x, y], ...] in level 0, where lines of the overview lie at `rows`, ..."""
    indices, offsets = polygons.closed()
    points = [[_number(columns[x]), _number(rows[y])] for y, x in polygons.vertices[indices]]
    for row in range(len(polygons)):
        first, last = polygons.polygons[polygons.objects[row]], polygons.polygons[polygons.objects[row + 1]]
        yield [points[offsets[ring] : offsets[ring + 1]] for ring in range(first, last)]


def _number(value: float) -> float:
    """Return a whole number as one, which is shorter in a file."""
    return int(value) if float(value).is_integer() else float(value)
