"""Datasets in HDF5 files, `file.h5:/volume`: of ilastik, CREMI, Fiji and others."""

import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import h5py
import numpy as np

from tilesegment.errors import ImageError, one_line
from tilesegment.images.axes import MAX_COLOURS, axes_of
from tilesegment.images.chunked import ChunkedSource, Index
from tilesegment.images.datasets import split_dataset
from tilesegment.images.layout import Choices, arrange, chosen_series, note_on_inversion
from tilesegment.images.source import Shown
from tilesegment.metadata import UNKNOWN_FRAME, Frame, Spacing

_MOST_CHUNK = 2 << 30  # bytes
_LISTED = 8  # datasets in a message
# filters by their registered numbers, as far as they are found in images
_FILTERS = {
    4: "szip",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32022: "jpeg",
    32026: "blosc2",
}


class Dataset:
    """A dataset of an open file; h5py reads in one thread at a time."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset, self.dtype = dataset, dataset.dtype
        self._sides = dataset.chunks or dataset.shape  # what is not chunked lies raw

    def side(self, dimension: int) -> int:
        """Return the length of a chunk."""
        return int(self._sides[dimension])

    def read(self, index: Index) -> np.ndarray:
        """Read what the dataset holds at `index`; where no chunk is stored, its fill value."""
        return np.asarray(self._dataset[index])

    def announce(self, index: Index) -> None:
        """Do nothing: it lies on a disk."""

    def decoded_bytes(self, index: Index) -> int:
        """Return the size of the chunks that `index` touches, once decoded; 0 for what lies raw."""
        if self._dataset.chunks is None:
            return 0
        spans = [slice(at, at + 1) if isinstance(at, int) else at for at in index]
        touched = [-(-s.stop // side) - s.start // side for s, side in zip(spans, self._sides, strict=True)]
        return math.prod(touched) * math.prod(self._sides) * int(self.dtype.itemsize)


class Hdf5Source(ChunkedSource):
    """A dataset and the file that it lies in."""

    file: h5py.File

    def close(self) -> None:
        """Close the file."""
        super().close()
        self.file.close()


def open_hdf5(path: str, choices: Choices) -> Hdf5Source:
    """Open a dataset of a file, or the only one that is like an image.

    Raises:
        ImageError: there is no such dataset, or several; it is compressed by a filter that is not installed, or lies
            in another file.
    """
    name, wanted = split_dataset(path)
    file = h5py.File(name, "r", locking="best-effort")
    try:
        dataset = _chosen(name, file, wanted)
        path = f"{name}:{wanted or dataset.name}"
        chosen_series(path, choices.series, ())
        _check(path, name, dataset)
        notes = note_on_inversion(path, choices.invert)
        if "DataSetInfo" in file and dataset.name.startswith("/DataSet/"):
            notes.append(
                f"{path} is an array of Imaris, which pads it with zeros to whole chunks: --roi leaves them out"
            )
        axes = axes_of(path, dataset.shape, _named_axes(dataset) or _spatial(dataset), choices.axes, notes)
        layout = arrange(path, tuple(axes), dataset.shape, choices.select)
        frame = _frame(path, dataset, axes, notes)
        source = Hdf5Source(path, "HDF5", [(Dataset(dataset), layout)], [(1.0, 1.0)], frame, Shown(notes=notes))
        source.file = file
        return source
    except BaseException:
        file.close()
        raise


def _chosen(name: str, file: h5py.File, wanted: str) -> h5py.Dataset:
    """Return the dataset `wanted`, or the only one like an image."""
    found = None
    with suppress(KeyError):
        found = file[wanted] if wanted else None
    if isinstance(found, h5py.Dataset):
        return found
    below = found if isinstance(found, h5py.Group) else file
    images = _images_in(below)
    if len(images) == 1 and not wanted:
        return images[0]
    listed = ", ".join(f"{name}:{one.name} ({' x '.join(map(str, one.shape))} {one.dtype})" for one in images[:_LISTED])
    more = f" and {len(images) - _LISTED} more" if len(images) > _LISTED else ""
    there = f"it holds {listed}{more}" if images else "it holds no array of two dimensions or more"
    if found is not None:
        raise ImageError(f"{name}:{wanted} is a group, not a dataset: {there}")
    if wanted:
        raise ImageError(f"{name}:{wanted} does not exist: of {name}, {there}")
    raise ImageError(f"{name} is an HDF5 file with {len(images)} images: {there}" + ": name one" * bool(images))


def _images_in(group: h5py.Group) -> list[h5py.Dataset]:
    """Return the datasets in a group that may be images; what links lead to is left out."""
    found: list[h5py.Dataset] = []

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "buif" and sum(n > 1 for n in item.shape or ()) > 1:
            found.append(item)

    group.visititems(visit)
    return found


def _check(path: str, name: str, dataset: h5py.Dataset) -> None:
    """Refuse what cannot be read, or not from this file alone, before any of it is read."""
    if dataset.shape is None or dataset.dtype.kind not in "buif":
        raise ImageError(f"{path} holds {one_line(dataset.dtype, 60)}, no grey values or colours: name another dataset")
    if dataset.is_virtual or dataset.external or not os.path.samefile(dataset.file.filename, name):
        raise ImageError(
            f"{path} has its pixels in other files: copy it into one with h5repack, or name the other file"
        )
    if dataset.chunks is not None and math.prod(dataset.chunks) * dataset.dtype.itemsize > _MOST_CHUNK:
        raise ImageError(f"{path} has chunks of more than 2 GiB: write it anew in smaller ones with h5repack -l CHUNK=")
    filters = dataset.id.get_create_plist()
    for number in range(filters.get_nfilters()):
        code, _, _, described = filters.get_filter(number)
        if not _is_installed(code):
            known = _FILTERS.get(code) or one_line(described.decode(errors="replace"), 60)
            raise ImageError(
                f"{path} is compressed with {known} (HDF5 filter {code}), which is not installed: "
                "pip install hdf5plugin, or write it anew with h5repack -f GZIP=4"
            )


def _is_installed(code: int) -> bool:
    if not h5py.h5z.filter_avail(code):
        with suppress(ImportError):  # which brings filters, if it is installed
            import_module("hdf5plugin")
    return bool(h5py.h5z.filter_avail(code))


def _named_axes(dataset: h5py.Dataset) -> tuple[str, ...] | None:
    """Return the axes as the axis tags of vigra and ilastik have them, or labels of dimensions; None without any."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        tags = json.loads(dataset.attrs["axistags"])["axes"]
        return tuple(str(tag["key"]).lower() for tag in tags)
    labels = tuple(str(one.label).lower() for one in dataset.dims)
    return labels if all(labels) else None


def _spatial(dataset: h5py.Dataset) -> tuple[str, ...] | None:
    """Return z, y, x for an array with a size of its elements along each of three axes, so that none are channels."""
    sized = any(len(_lengths(dataset.attrs.get(name))) == 3 for name in ("element_size_um", "resolution"))
    return tuple("zyx") if sized and len(dataset.shape) == 3 and dataset.shape[-1] > MAX_COLOURS else None


def _frame(path: str, dataset: h5py.Dataset, axes: Sequence[str], notes: list[str]) -> Frame:
    """Return the frame by `element_size_um` of Fiji and ilastik, or `resolution` of CREMI, in nanometres."""
    for name, unit in (("element_size_um", "um"), ("resolution", "nm")):
        sides = _lengths(dataset.attrs.get(name))
        spatial = [axis for axis in axes if axis in "zyx"]
        order = spatial if len(sides) == len(spatial) else list("zyx") if len(sides) == 3 else []
        if not order:
            continue
        if name == "resolution":
            stored = dataset.attrs.get("unit", dataset.attrs.get("units"))
            unit = stored.decode(errors="replace") if isinstance(stored, bytes) else str(stored or unit)
        if name == "resolution" and not stored:
            listed = ", ".join(f"{side:g}" for side in sides)
            notes.append(
                f"{path} has a resolution of {listed} ({', '.join(order)}) without a unit: taken for nanometres"
            )
        known = {axis: Spacing(side, unit=unit) for axis, side in zip(order, sides, strict=True)}
        return Frame(**{axis: known.get(axis, Spacing()) for axis in "zyx"})
    return UNKNOWN_FRAME


def _lengths(stored: Any) -> list[float]:
    """Return an attribute as positive numbers; none if it is something else."""
    try:
        sides = np.asarray(stored, np.float64).ravel().tolist()
    except (TypeError, ValueError):
        return []
    return sides if all(math.isfinite(side) and side > 0 for side in sides) else []
