"""Find the images in a folder, and pair those of two folders by name; the same rules for training and scoring."""

import os
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilesegment.errors import DataError, one_line
from tilesegment.images import IMAGE_SUFFIXES, begins_as_image, is_image_folder, unread_among, unread_format
from tilesegment.labels.geojson import is_geojson
from tilesegment.stores import Place

# suffixes and prefixes of labels, predictions and images; nnU-Net's first channel is _0000
_LABEL_SUFFIXES = (
    *("_cp_masks", "_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt", "_truth", "_groundtruth"),
    *("-mask", "-masks", "-label", "-labels"),
)
_LABEL_PREFIXES = ("mask_", "masks_", "label_", "labels_", "seg_", "gt_", "mask-", "label-")
_PREDICTED_SUFFIXES = ("_pred", "_prediction", "_predicted", "_prob", "_probabilities")
_IMAGE_SUFFIXES = ("_0000", "_image", "_img", "-image", "-volume")
_IMAGE_PREFIXES = ("image_", "img_", "im_", "image-")
_IMAGES = {*IMAGE_SUFFIXES, ".gif"}
# suffixes of notes and system files, which are skipped silently
_SUNDRY = {
    *("", ".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".rst", ".html", ".log", ".db", ".ini", ".yaml", ".yml"),
    *(".toml", ".xlsx", ".pdf", ".py", ".ipynb", ".lnk", ".jsonl"),
}


def some_of(names: Sequence[str], most: int = 3) -> str:
    """List the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass(frozen=True)
class Listing:
    """What a folder holds."""

    folder: Path
    images: dict[str, Path]  # files and Zarr stores by stem, sorted
    folders: tuple[Path, ...]  # other folders in it that hold images
    skipped: tuple[str, ...]  # other files that may be intended as images

    def notes(self, paired: Collection[str]) -> tuple[str, ...]:
        """Return what is left out, a sentence per kind, except files that share a name with one of `paired`."""
        cores = {core_of(stem) for stem in paired}
        missed = [name for name in self.skipped if core_of(stem_of(Path(name))) not in cores]
        known = [f"left out of {self.folder}: {one_line(sentence)}" for sentence in unread_among(missed)]
        others = [name for name in missed if unread_format(name) is None]
        names = sorted([*(path.name + "/" for path in self.folders), *others])
        left = f"left out of {self.folder}, as no readable image: {one_line(some_of(names))}"
        return (*known, left) if names else tuple(known)


def is_folder_of_files(path: Path) -> bool:
    """Whether `path` is a folder, but not one that is an image."""
    # os.path.isdir, unlike Path.is_dir, is False where access is denied
    return os.path.isdir(path) and not is_image_folder(path)


def stem_of(path: Place) -> str:
    """Return the name of an image without its suffix, in Unicode form NFC, as macOS stores names in another."""
    name = path.name[:-3] if is_geojson(path) and path.suffix.lower() == ".gz" else path.name
    return unicodedata.normalize("NFC", Path(name).stem.removesuffix(".ome"))


def core_of(stem: str) -> str:
    """Return what names of an image and its label share: `cell_1` for `image_cell_1`, `cell_1_mask`, `cell_1_0000`."""
    return _without(_unlabelled(_without(stem, _PREDICTED_SUFFIXES)), _IMAGE_SUFFIXES, _IMAGE_PREFIXES)


def is_label_name(stem: str) -> bool:
    """Whether a name is that of a label."""
    return _unlabelled(stem) != stem


def _unlabelled(stem: str) -> str:
    return _without(stem, _LABEL_SUFFIXES, _LABEL_PREFIXES)


def _without(stem: str, suffixes: Sequence[str], prefixes: Sequence[str] = ()) -> str:
    """`stem` without its first matching suffix, or else prefix, in any case; `mask01` needs no separator."""
    lower = stem.lower()
    for suffix in suffixes:
        if lower.endswith(suffix) and len(stem) > len(suffix):
            return stem[: -len(suffix)]
    for prefix in prefixes:
        word = prefix[:-1]
        if lower.startswith(prefix) and len(stem) > len(prefix):
            return stem[len(prefix) :]
        if lower.startswith(word) and lower[len(word) :][:1].isdigit():
            return stem[len(word) :]
    return stem


def list_images(folder: Path, *, outlines: bool = False) -> Listing:
    """List the images in `folder`; where there are none, with `outlines`, its GeoJSON files.

    Raises:
        DataError: two of them have one stem.
    """
    images: dict[str, Path] = {}
    folders, skipped = [], []
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    wanted = is_geojson if outlines and not any(map(_is_image, paths)) else _is_image
    for path in paths:
        if is_folder_of_files(path):
            folders += [path] if any(map(_is_image, path.iterdir())) else []
        elif not wanted(path):
            skipped += [] if path.suffix.lower().strip() in _SUNDRY else [path.name]
        elif (other := images.setdefault(stem_of(path), path)) != path:
            both = f"{stem_of(path)}: {other.name} and {path.name}"
            raise DataError(f"{folder} holds several files of one stem, {both}; keep one of each")
    return Listing(folder, images, tuple(folders), tuple(skipped))


def _is_image(path: Path) -> bool:
    """Whether `path` is an image by its name or its first bytes."""
    if path.name.startswith(".") or is_folder_of_files(path):
        return False
    return path.is_dir() or path.suffix.lower() in _IMAGES or begins_as_image(path)


def labels_among(images: Mapping[str, Path]) -> dict[str, Path]:
    """Select the labels among files by stem: all files, unless the folder holds images and their labels."""
    labels = {stem: path for stem, path in images.items() if is_label_name(stem)}
    others = {core_of(stem) for stem in images if stem not in labels}
    return labels if any(core_of(stem) in others for stem in labels) else dict(images)


def match_stems(stems: Collection[str], others: Collection[str]) -> dict[str, str | None]:
    """Match each of `stems` to one of `others`, or None.

    That is the same stem; else the only one that is equal without the marks of labels; else the only one of its core.
    """
    found: dict[str, str | None] = {stem: stem if stem in others else None for stem in stems}
    keys: tuple[Callable[[str], str], ...] = (_unlabelled, core_of)
    for key in keys:
        by_key: dict[str, list[str]] = {}
        for other in others:
            by_key.setdefault(key(other), []).append(other)
        for stem in stems:
            same = by_key.get(key(stem), [])
            if found[stem] is None and len(same) == 1:
                found[stem] = same[0]
    return found


def first_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """Return the first three notes on files, and how many more there are."""
    more = (f"the same, or alike, of {len(notes) - 3} more files",) if len(notes) > 3 else ()
    return (*notes[:3], *more)
