"""What is compared: files paired by name; any mask or probability map as one kind of thing, read by region."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.source import ImageSource
from tilesegment.labels import (
    NOT_LABELLED,
    Label,
    core_of,
    is_folder_of_files,
    labels_among,
    list_images,
    match_stems,
    open_label,
    parted,
    stem_of,
)
from tilesegment.masks.record import recorded_classes
from tilesegment.prediction.info import kind_of
from tilesegment.scoring.matching import Counts, Kind


@dataclass(frozen=True)
class Pair:
    """One image's prediction and truth.

    Attributes:
        name: stem of the truth's file, without what tells that it is a label.
        prediction, truth: a file or a Zarr folder each.
        image: what both are of, None if it is not given.
    """

    name: str
    prediction: Path
    truth: Path
    image: Path | None


@dataclass(frozen=True)
class Pairs:
    """All that is compared; `notes` say what was left out of folders, a sentence each."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plane:
    """One plane of one pair, counted.

    Attributes:
        name: for people.
        pair: its files.
        z: its number in them.
        shape: (height, width).
        counts: pixels by what the truth stores and by the code of the prediction.
    """

    name: str
    pair: Pair
    z: int
    shape: tuple[int, int]
    counts: Counts


@dataclass(frozen=True)
class Layer:
    """A prediction: a label, or probabilities.

    Attributes:
        path: what was opened.
        shape: (height, width).
        depth: planes, 1 for a single one.
        kind: what its values are.
        label: where it holds classes.
        read: the pixels of a region of plane z, (C, h, w).
        notes: what the user should know of how the file is read, a sentence each.
    """

    path: str
    shape: tuple[int, int]
    depth: int
    kind: Kind
    label: Label | None
    read: Callable[[Region, int], np.ndarray]
    notes: tuple[str, ...]

    def codes(self, region: Region, z: int) -> np.ndarray:
        """What is counted of a region, (h, w)."""
        return self.kind.codes(self.read(region, z), self.path)


@dataclass(frozen=True)
class Opening:
    """How pairs are opened.

    Attributes:
        ignore: the value of the truth that means "not labelled", as given.
        instances: labels are ids of objects, which are compared as background and object.
        invert: of files that say that 0 is white, the values are turned round.
    """

    ignore: int | None = None
    instances: bool = False
    invert: bool = False

    @property
    def read_ignore(self) -> int | None:
        """`ignore` as the truth that is opened hands it out."""
        return NOT_LABELLED if self.instances and self.ignore is not None else self.ignore

    @contextmanager
    def open(self, pair: Pair) -> Iterator[tuple[Layer, Label]]:
        """Open prediction and truth; no pixel is read yet, but of a label with a palette.

        Raises:
            ImageError, MaskError: one of them, or the image, cannot be read, or is not finished.
            DataError: one is a model, or they are of different sizes, or have channels where there must be one.
        """
        with ExitStack() as files:
            prediction = self._prediction(pair.prediction, files)
            truth = self._label(pair.truth, "truth", files, self.ignore)
            _check_size("prediction", prediction.path, prediction.shape, prediction.depth, pair, truth)
            if pair.image is not None:
                with open_image(pair.image, invert=self.invert) as image:
                    _check_size("image", image.path, image.shape, image.depth or 1, pair, truth)
            yield prediction, truth

    def _prediction(self, path: Path, files: ExitStack) -> Layer:
        source = (
            None if kind_of(path) in ("mask", "model") else files.enter_context(open_image(path, invert=self.invert))
        )
        classes = None if source is None else recorded_classes(path, probabilities=True)
        if source is not None and (classes is not None or source.stored_dtype.kind == "f"):
            shares = Kind(source.channels, classes, ids=False)
            read = _reader(source, is_scaled=classes is not None and source.dtype == np.uint8)
            return Layer(str(path), source.shape, source.depth or 1, shares, None, read, source.notes)
        label = self._label(path, "prediction", files, None)
        kept = Kind(0, label.classes, ids=label.classes is not None)
        return Layer(
            str(path), label.shape, label.planes, kept, label, lambda r, z: label.read(r, z)[None], label.notes
        )

    def _label(self, path: Path, what: str, files: ExitStack, ignore: int | None) -> Label:
        if kind_of(path) == "model":
            raise DataError(f"{path} is a model; expected a mask, a label image or a probability map")
        label = files.enter_context(open_label(path, strict=True, invert=self.invert))
        return parted(label, f"{what} {path}", ignore) if self.instances and label.classes is None else label


def _reader(source: ImageSource, is_scaled: bool) -> Callable[[Region, int], np.ndarray]:
    """Reads a region of a plane, (C, h, w); probabilities that are kept as 0 to 255 as 0 to 1."""

    def read(region: Region, z: int) -> np.ndarray:
        pixels = source.read(region, 0, z)
        return pixels / np.float32(255) if is_scaled else pixels

    return read


def _check_size(what: str, path: str, shape: tuple[int, int], depth: int, pair: Pair, truth: Label) -> None:
    if (shape, depth) != (truth.shape, truth.planes):
        sizes = [f"{d} x {h} x {w} (z, y, x)" for d, (h, w) in ((depth, shape), (truth.planes, truth.shape))]
        raise DataError(f"{what} {path} is {sizes[0]}, truth {pair.truth} {sizes[1]}; they must be of one size")


def find_pairs(prediction: str | Path, truth: str | Path, image: str | Path | None) -> Pairs:
    """Files that belong together: two (or three) files, or folders whose files are paired by their stems.

    Raises:
        DataError: prediction and truth are one, or of two kinds; a folder is empty; a file has no counterpart.
    """
    prediction, truth, image = Path(prediction), Path(truth), None if image is None else Path(image)
    if prediction.resolve() == truth.resolve():
        raise DataError(f"{prediction} is given as prediction and as truth; name the two that are to be compared")
    paths = [path for path in (prediction, truth, image) if path is not None]
    folders = [path for path in paths if is_folder_of_files(path)]
    if not folders:
        return Pairs((Pair(core_of(stem_of(truth)), prediction, truth, image),))
    if len(folders) < len(paths):
        file = next(path for path in paths if path not in folders)
        raise DataError(f"{file} is one image, {folders[0]} a folder; give files or folders")
    listings = [list_images(path) for path in paths]
    for listing in listings:
        if not listing.images:
            inner = f" (but the folder {listing.folders[0].name}/)" if listing.folders else ""
            raise DataError(f"{listing.folder} holds no files that are images{inner}; expected masks, one an image")
    truths = labels_among(listings[1].images)
    predictions = _by_truth(listings[0].images, truths, prediction, truth, all_of_them=True)
    images = _by_truth(listings[2].images, truths, listings[2].folder, truth) if image is not None else {}
    pairs = [Pair(core_of(s), predictions[s], path, images.get(s)) for s, path in sorted(truths.items())]
    if len({pair.name for pair in pairs}) < len(pairs):
        pairs = [Pair(stem_of(one.truth), one.prediction, one.truth, one.image) for one in pairs]
    used = [*truths, *predictions]
    return Pairs(tuple(pairs), tuple(note for listing in listings for note in listing.notes(used)))


def _by_truth(
    files: dict[str, Path], truths: dict[str, Path], folder: Path, truth: Path, all_of_them: bool = False
) -> dict[str, Path]:
    """The files that belong to the truths, by the truths' stems."""
    found: dict[str, Path] = {}
    matched = match_stems(files, truths)
    for stem, other in matched.items():
        if other is None and all_of_them:
            count = sum(one is None for one in matched.values())
            raise _alone(files[stem], core_of(stem), truth, count)
        if other in found:
            raise DataError(f"{found[other]} and {files[stem]} have one stem, {other!r}; keep one of each")
        if other is not None:
            found[other] = files[stem]
    alone = sorted(truths.keys() - found.keys())
    if alone:
        raise _alone(truths[alone[0]], core_of(alone[0]), folder, len(alone))
    return found


def _alone(path: Path, stem: str, where: Path, count: int) -> DataError:
    return DataError(f"{path} has no counterpart in {where}; expected {where}/{stem}.*, or remove it ({count} such)")
