"""What is compared: files paired by name; any mask or probability map as one kind of thing, read by region."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from tilesegment.comparison.matching import Counts, Kind
from tilesegment.description import describe
from tilesegment.errors import DataError, ImageError, one_line
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.source import ImageSource
from tilesegment.masks import open_mask
from tilesegment.masks.disk import MARK, is_ours, read_group
from tilesegment.masks.exported import exported_spec
from tilesegment.masks.spec import spec_from_record
from tilesegment.metadata import LabelClass

BLOCK = 2048  # side in pixels of what is read at once
_MARKERS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_SUFFIX = re.compile(r"(_(mask|label)s?)?(\.ome)?$")  # 01_mask.ome.tif goes with 01.png


@dataclass(frozen=True)
class Pair:
    """One image's prediction and truth.

    Attributes:
        name: stem of the truth's file, without `_mask` or `_label`.
        prediction, truth: a file or a Zarr folder each.
        image: what both are of, None if it is not given.
    """

    name: str
    prediction: Path
    truth: Path
    image: Path | None


@dataclass(frozen=True)
class Plane:
    """One plane of one pair, counted.

    Attributes:
        name: for people.
        pair: its files.
        z: its number in them.
        shape: (height, width).
        counts: pixels by stored values.
    """

    name: str
    pair: Pair
    z: int
    shape: tuple[int, int]
    counts: Counts


@dataclass(frozen=True)
class Layer(AbstractContextManager["Layer"]):
    """A mask, a label image or a probability map, a stack of them too.

    Attributes:
        path: what was opened.
        shape: (height, width).
        depth: planes, 1 for a single one.
        channels: 1, or one a class.
        kind: what a prediction's values are.
        read: the pixels of a region of plane z, (C, h, w).
    """

    path: str
    shape: tuple[int, int]
    depth: int
    channels: int
    kind: Kind
    read: Callable[[Region, int], np.ndarray]
    close: Callable[[], None] = field(default=lambda: None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_layer(path: Path) -> Layer:
    """Opens what a prediction or a truth is stored as; no pixel is read yet, but of a palette PNG.

    Raises:
        ImageError, MaskError: it cannot be read, or is not finished.
        DataError: it is a model.
    """
    kind = describe(path)["kind"]
    if kind == "model":
        raise DataError(f"{path} is a model; expected a mask, a label image or a probability map")
    if kind == "mask":
        # not as an image: there, what is missing of a damaged mask would be taken for background
        mask = open_mask(path)
        spec = mask.spec
        read = lambda region, z: mask.read(region, 0, z)[None]  # noqa: E731 - a class for one line is more to read
        return Layer(str(path), spec.shape, spec.depth or 1, 1, Kind(0, spec.classes, ids=True), read)
    source = open_image(path)
    if source.format == "PNG" and source.channels >= 3:
        with source:
            indexed = _open_palette(path)
        if indexed is not None:
            return indexed
        source = open_image(path)
    channels, classes = 0, None
    written = exported_spec(path) if source.format == "OME-TIFF" else None
    if written is not None:
        classes = written.classes
    else:
        kept = _channel_classes(path)
        if kept is not None or source.dtype.kind == "f":
            channels, classes = source.channels, kept
    return Layer(
        path=str(path),
        shape=source.shape,
        depth=source.depth or 1,
        channels=source.channels,
        kind=Kind(channels, classes, ids=written is not None),
        read=_reader(source, is_scaled=channels > 0 and source.dtype == np.uint8),
        close=source.close,
    )


def _reader(source: ImageSource, is_scaled: bool) -> Callable[[Region, int], np.ndarray]:
    """Reads a region of a plane, (C, h, w); probabilities that are kept as 0 to 255 as 0 to 1."""

    def read(region: Region, z: int) -> np.ndarray:
        pixels = source.read(region, 0, z)
        return pixels / np.float32(255) if is_scaled else pixels

    return read


@contextmanager
def open_pair(pair: Pair) -> Iterator[tuple[Layer, Layer]]:
    """Opens prediction and truth.

    Raises:
        DataError: they, or the image, are of different sizes, or have channels where there must be one.
    """
    with open_layer(pair.prediction) as prediction, open_layer(pair.truth) as truth:
        if truth.channels != 1:
            raise DataError(f"truth {truth.path} has {truth.channels} channels; expected one value a pixel, the class")
        if prediction.channels != 1 and not prediction.kind.channels:
            raise DataError(
                f"prediction {prediction.path} has {prediction.channels} channels of whole numbers; expected one value "
                "a pixel, the class, or probabilities as float32"
            )
        _check_size("prediction", prediction.path, prediction.shape, prediction.depth, truth)
        if pair.image is not None:
            with open_image(pair.image) as image:
                _check_size("image", image.path, image.shape, image.depth or 1, truth)
        yield prediction, truth


def _check_size(what: str, path: str, shape: tuple[int, int], depth: int, truth: Layer) -> None:
    if (shape, depth) != (truth.shape, truth.depth):
        sizes = [f"{d} x {h} x {w} (z, y, x)" for d, (h, w) in ((depth, shape), (truth.depth, truth.shape))]
        raise DataError(f"{what} {path} is {sizes[0]}, truth {truth.path} {sizes[1]}; they must be of one size")


def find_pairs(prediction: str | Path, truth: str | Path, image: str | Path | None) -> list[Pair]:
    """Files that belong together: two (or three) files, or folders whose files are paired by their stems.

    Raises:
        DataError: prediction and truth are one, or of two kinds; a folder is empty; a file has no counterpart.
    """
    prediction, truth, image = Path(prediction), Path(truth), None if image is None else Path(image)
    if prediction.resolve() == truth.resolve():
        raise DataError(f"{prediction} is given as prediction and as truth; name the two that are to be compared")
    folders = {path: _is_folder(path) for path in (prediction, truth, image) if path is not None}
    if not any(folders.values()):
        return [Pair(_stem(truth), prediction, truth, image)]
    if not all(folders.values()):
        file = next(path for path, folder in folders.items() if not folder)
        raise DataError(
            f"{file} is one image, {next(p for p in folders if folders[p])} a folder; give files or folders"
        )
    predictions, truths = _files(prediction), _files(truth)
    images = None if image is None else _files(image)
    for have, lack, where in ((truths, predictions, prediction), (predictions, truths, truth), (truths, images, image)):
        alone = [] if lack is None else sorted(have.keys() - lack.keys())
        if alone:
            wanted = f"expected {where}/{alone[0]}.*, or remove it ({len(alone)} such)"
            raise DataError(f"{have[alone[0]]} has no counterpart in {where}; {wanted}")
    return [Pair(s, predictions[s], truths[s], images[s] if images is not None else None) for s in sorted(truths)]


def _is_folder(path: Path) -> bool:
    """Whether `path` is a folder of files, and not a Zarr store."""
    return path.is_dir() and path.suffix != ".zarr" and not any((path / name).is_file() for name in _MARKERS)


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.stem) or path.stem


def _files(folder: Path) -> dict[str, Path]:
    """The files and Zarr stores in a folder by stem."""
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and not _is_folder(path)]
    if not files:
        raise DataError(f"{folder} holds no files; expected masks, one an image")
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(_stem(path), path)
        if other != path:
            raise DataError(f"{other} and {path} have one stem, {_stem(path)!r}; keep one of each")
    return by_stem


def _channel_classes(path: Path) -> tuple[LabelClass, ...] | None:
    """The classes of probabilities that we wrote."""
    group = read_group(path) if path.is_dir() and is_ours(path) else None
    return None if group is None else spec_from_record(group.attributes[MARK]).classes


def _open_palette(path: Path) -> Layer | None:
    """A PNG whose palette has colours: its indices are the class ids, as in the masks that we write. Else None.

    Raises:
        ImageError: it is damaged.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode != "P":
                return None
            ids, text = np.asarray(picture), getattr(picture, "text", {}).get(MARK)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} is damaged ({one_line(error, 200)}): copy or export it again") from error
    classes = None
    if text is not None:
        try:
            classes = spec_from_record(json.loads(text)).classes
        except ValueError as error:
            raise ImageError(f"{path} is damaged ({one_line(error, 200)}): export the mask again") from error
    shape = (ids.shape[0], ids.shape[1])
    return Layer(
        path=str(path),
        shape=shape,
        depth=1,
        channels=1,
        kind=Kind(0, classes, ids=classes is not None),
        read=lambda region, z: ids[None, *region.slices],
    )
