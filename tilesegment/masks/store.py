"""One level of a mask in a folder on a disk: a present file is a done block."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from tilesegment.errors import MaskError, one_line
from tilesegment.files import make_folder, write_files
from tilesegment.geometry import Region
from tilesegment.masks.blocks import DAMAGED, BlockArray, Survey, check_array, object_counts, reporting, survey_of
from tilesegment.masks.encoding import array_documents, is_chunk, is_index, metadata_name, tail_bytes
from tilesegment.masks.spec import Grid
from tilesegment.ome_zarr.arrays import open_for_reading
from tilesegment.stores import Place


def gone(folder: Place) -> MaskError:
    """Return the error for a mask in progress that is no longer in `folder`."""
    return MaskError(f"{folder} is gone: the mask was finished or removed by another run; run it again to see which")


@dataclass(frozen=True)
class FolderArray(BlockArray):
    """An array in folder `path`; `made` distinguishes it from a later one in its place."""

    path: Path
    array: zarr.Array
    made: tuple[int, int] | None

    def survey(self, *, deep: bool = False) -> Survey:
        return survey(self.path, self.grid)

    def _store(self, objects: Mapping[str, bytes]) -> None:
        # a late block, of a worker whose run has ended, must not revive a finished mask, nor get into another one
        if _made(self.path, self.grid) != self.made:
            raise gone(self.path)
        files = {self.path / key: content for key, content in objects.items()}
        try:
            write_files(files)
        except FileNotFoundError:
            for folder in {path.parent for path in files}:
                make_folder(folder, self.path)
            write_files(files)

    def _array_of(self, region: Region, z: int) -> zarr.Array:
        for file in (self.path / key for key in self.grid.keys(region, z)):
            if not file.is_file() or file.stat().st_size == 0:  # a loss of power leaves empty ones
                raise MaskError(f"{file} is missing or empty; {DAMAGED}")
        return self.array


def create_array(path: Path, grid: Grid) -> FolderArray:
    """Open the array in folder `path`, making it if it is not there yet."""
    if not _metadata(path, grid).exists():
        with reporting("create", path):
            make_folder(path, path.parent)
            write_files({path / name: content for name, content in array_documents(grid).items()})
    return open_array(path, grid)


def open_array(path: Path, grid: Grid) -> FolderArray:
    """Open the array in folder `path`, which must be cut as `grid` says."""
    try:
        array = open_for_reading(path, zarr_format=grid.format)
    except Exception as error:  # zarr has a dozen ways to refuse metadata
        raise MaskError(f"cannot open the array {path}: {one_line(error, 200)}; compute the mask again") from error
    check_array(array, path, grid)
    return FolderArray(path, grid, array, _made(path, grid))


def _metadata(path: Path, grid: Grid) -> Path:
    return path / metadata_name(grid)


def _made(path: Path, grid: Grid) -> tuple[int, int] | None:
    """Return what distinguishes the array from a later one in its place; None if there is none."""
    try:
        found = os.stat(_metadata(path, grid))
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def survey(path: Path, grid: Grid) -> Survey:
    """Survey the array in folder `path` without decoding it: 100,000 blocks take seconds."""
    counts = object_counts(path, grid)
    root, damaged = path / grid.root, []
    whole = np.zeros(counts, bool)
    with reporting("look through", path):
        for folder in (path, root):
            _refuse_link(folder, folder.is_symlink())
        for place, entry in _objects(root, counts):
            try:
                # anything but a file would fail or block when opened
                whole[place] = entry.is_file() and _is_whole(entry.path, grid)
            except FileNotFoundError:  # another process has just finished or removed the mask
                continue
            if not whole[place]:
                damaged.append((place, Path(entry.path)))
    return survey_of(grid, whole, damaged)


def _objects(folder: str | Path, counts: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], os.DirEntry[str]]]:
    """Yield place and entry of everything below `folder` that is named as a stored object."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            _refuse_link(entry.path, entry.is_symlink())
            if not (entry.name.isdecimal() and entry.name.isascii() and int(entry.name) < counts[0]):
                continue
            number = int(entry.name)
            if len(counts) == 1:
                yield (number,), entry
            else:
                for place, found in _objects(entry.path, counts[1:]):
                    yield (number, *place), found


def _refuse_link(path: str | Path, is_link: bool) -> None:
    if is_link:
        raise MaskError(f"{path} is a symbolic link, which is not followed; put what it points to in its place")


def _is_whole(path: str, grid: Grid) -> bool:
    """Return whether a stored object has the length that it states; its chunks are not read."""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if grid.format == 2:
            file.seek(0)
            return is_chunk(file.read(16), size, grid)
        tail = tail_bytes(grid)
        if size <= tail:
            return False
        file.seek(size - tail)
        return is_index(file.read(tail), size - tail)
