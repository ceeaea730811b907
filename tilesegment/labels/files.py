"""Which files of a folder are images, and which of two folders belong together: one rule for training and scoring."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilesegment.errors import DataError, one_line
from tilesegment.images import IMAGE_SUFFIXES, begins_as_image
from tilesegment.ome_zarr.node import is_zarr

# what is added to the name of a label, and to that of an image; nnU-Net's first channel is _0000
_LABEL_SUFFIXES = (
    "_cp_masks",
    "_mask",
    "_masks",
    "_label",
    "_labels",
    "_seg",
    "_segmentation",
    "_gt",
    "_truth",
    "_groundtruth",
    "-mask",
    "-masks",
    "-label",
    "-labels",
)
_LABEL_PREFIXES = ("mask_", "masks_", "label_", "labels_", "seg_", "gt_", "mask-", "label-")
_PREDICTED_SUFFIXES = ("_pred", "_prediction", "_predicted", "_prob", "_probabilities")
_IMAGE_SUFFIXES = ("_0000", "_image", "_img", "-image", "-volume")
_IMAGE_PREFIXES = ("image_", "img_", "im_", "image-")
_IMAGES = {*IMAGE_SUFFIXES, ".gif", ".zarr"}
# notes and what systems leave behind; that they are skipped goes without saying
_SUNDRY = {
    *("", ".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".rst", ".html", ".log", ".db", ".ini", ".yaml", ".yml"),
    *(".toml", ".xlsx", ".pdf", ".py", ".ipynb", ".lnk", ".jsonl"),
}
_MOST_NAMES = 3


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: the folder.
        images: files and Zarr stores by stem, sorted.
        folders: other folders in it that hold images themselves.
        skipped: other files that may be meant as images, and are left out.
    """

    folder: Path
    images: dict[str, Path]
    folders: tuple[Path, ...]
    skipped: tuple[str, ...]

    def notes(self, paired: Collection[str]) -> tuple[str, ...]:
        """What the user should know of what is left out, at most one sentence.

        Args:
            paired: stems of the images that are used; another file of the same name is not missed.
        """
        cores = {core_of(stem) for stem in paired}
        missed = [name for name in self.skipped if core_of(stem_of(Path(name))) not in cores]
        names = sorted([*(path.name + "/" for path in self.folders), *missed])
        if not names:
            return ()
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        listed = one_line(", ".join(names[:_MOST_NAMES]))
        return (f"left out of {self.folder}, as no image that can be read: {listed}{more}",)


def stem_of(path: Path) -> str:
    """The name of an image without its suffix, in the Unicode form NFC: macOS stores names in another."""
    return unicodedata.normalize("NFC", path.stem.removesuffix(".ome"))


def core_of(stem: str) -> str:
    """What the names of an image and of its label share: `cell_1` of `image_cell_1`, `cell_1_mask`, `cell_1_0000`."""
    labels, predicted = (_LABEL_SUFFIXES, _LABEL_PREFIXES), (_PREDICTED_SUFFIXES, ())
    for suffixes, prefixes in (predicted, labels, (_IMAGE_SUFFIXES, _IMAGE_PREFIXES)):
        stem = _without(stem, suffixes, prefixes)
    return stem


def _without(stem: str, suffixes: Sequence[str], prefixes: Sequence[str]) -> str:
    """`stem` without the first of `suffixes`, or else of `prefixes`, that it has, in any case.

    A prefix may lack its separator where a number follows: `mask01`.
    """
    lower = stem.lower()
    for suffix in suffixes:
        if lower.endswith(suffix) and len(stem) > len(suffix):
            return stem[: -len(suffix)]
    for prefix in prefixes:
        if lower.startswith(prefix) and len(stem) > len(prefix):
            return stem[len(prefix) :]
        word = prefix.rstrip("_-")
        if lower.startswith(word) and lower[len(word) : len(word) + 1].isdigit():
            return stem[len(word) :]
    return stem


def list_images(folder: Path) -> Listing:
    """The images in `folder`.

    Raises:
        DataError: two of them have one stem.
    """
    images: dict[str, Path] = {}
    folders, skipped = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not _is_store(path):
            folders += [path] if any(_is_image(inner) for inner in path.iterdir()) else []
        elif not _is_image(path):
            skipped += [] if path.suffix.lower().strip() in _SUNDRY else [path.name]
        elif stem_of(path) in images:
            other = images[stem_of(path)].name
            raise DataError(
                f"{folder} holds several files of one stem, {stem_of(path)}: {other} and {path.name}; keep one of each"
            )
        else:
            images[stem_of(path)] = path
    return Listing(folder, images, tuple(folders), tuple(skipped))


def labels_among(images: Mapping[str, Path]) -> dict[str, Path]:
    """The labels among files by stem: all, but of a folder that holds images and their labels only the latter."""
    labels = {stem: path for stem, path in images.items() if is_label_name(stem)}
    others = {core_of(stem) for stem in images if stem not in labels}
    return labels if any(core_of(stem) in others for stem in labels) else dict(images)


def is_label_name(stem: str) -> bool:
    """Whether a name says that this is a label."""
    return _unlabelled(stem) != stem


def is_folder_of_files(path: Path) -> bool:
    """Whether `path` is a folder of files, and not a Zarr store."""
    return path.is_dir() and not _is_store(path)


def match_stems(stems: Collection[str], others: Collection[str]) -> dict[str, str | None]:
    """For each of `stems` that of `others` which goes with it, or None.

    That is the same one; else the only one that is the same without what tells a label; else the only one of the same
    core.
    """
    found: dict[str, str | None] = {stem: stem if stem in others else None for stem in stems}
    for key in (_unlabelled, core_of):
        by_key: dict[str, list[str]] = {}
        for other in others:
            by_key.setdefault(key(other), []).append(other)
        for stem in stems:
            same = by_key.get(key(stem), [])
            if found[stem] is None and len(same) == 1:
                found[stem] = same[0]
    return found


def _unlabelled(stem: str) -> str:
    return _without(stem, _LABEL_SUFFIXES, _LABEL_PREFIXES)


def _is_store(path: Path) -> bool:
    """Whether the folder `path` is a Zarr store."""
    return path.suffix == ".zarr" or is_zarr(path)


def _is_image(path: Path) -> bool:
    """Whether `path` is an image by its name or, whatever its name, by its first bytes."""
    if path.name.startswith(".") or path.is_dir():
        return not path.name.startswith(".") and _is_store(path)
    return path.suffix.lower() in _IMAGES or begins_as_image(path)
