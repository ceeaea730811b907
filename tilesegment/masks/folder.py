"""A mask that grows in a folder on a disk, which gets its name in the end, or from which one file is exported."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.files import delete_folder, in_turn, locked, sweep, sweep_inside, sync, temporary_name
from tilesegment.masks.blocks import BlockArray, Survey
from tilesegment.masks.export import export
from tilesegment.masks.spec import Grid, MaskSpec, differing, spec_from_record
from tilesegment.masks.store import create_array, gone, open_array, survey
from tilesegment.masks.target import Target, existing, is_ours, read_record
from tilesegment.metadata import MARK
from tilesegment.ome_zarr import labels as documents
from tilesegment.ome_zarr.node import Node, group_file, read_node, write_group


@dataclass(frozen=True)
class Folder:
    """The home of a mask on a disk: `target.partial` while it grows, `target.path` in the end; see `home.Home`."""

    target: Target

    @property
    def _path(self) -> Path:
        assert isinstance(self.target.path, Path)
        return self.target.path

    @property
    def _partial(self) -> Path:
        assert isinstance(self.target.partial, Path)
        return self.target.partial

    def opened(self) -> "Folder":
        return self

    def notes(self) -> tuple[str, ...]:
        return ()

    def check_free(self, record: Mapping[str, Any], overwrite: bool) -> None:
        target, path = self.target, self._path
        folder = path.parent.parent if target.kind == "labels" else path.parent
        if not folder.is_dir():
            raise MaskError(f"cannot write {path}: there is no folder {folder}; create it first")
        for name in (path, self._partial):
            if name.is_symlink():
                raise MaskError(
                    f"{name} is a symbolic link and is not written through; name the file that it points to"
                )
        if not path.exists():
            return
        if not overwrite:
            raise existing(path, record)
        if target.is_folder and not is_ours(path):
            raise MaskError(f"{path} was not made by tilesegment and is not replaced; name another output")
        if not target.is_folder and not path.is_file():
            raise MaskError(f"{path} is not a file and is not replaced; name another output")

    def is_begun(self) -> bool:
        return is_ours(self._partial)

    def record(self) -> dict[str, Any] | None:
        return read_record(self._partial)

    def is_used(self) -> bool:
        metadata = ("zarr.json", ".zarray", ".zattrs")
        found = (name for _, _, names in os.walk(self._partial / "0") for name in names)
        return any(name not in metadata and not name.endswith(".partial") for name in found)

    def begin(self, record: Mapping[str, Any], grid: Grid, *, anew: bool) -> None:
        """Make the folder in progress under a temporary name and rename it: of several processes, one succeeds."""
        partial, made = self._partial, temporary_name(self._path)
        if self.target.kind == "labels":
            partial.parent.mkdir(exist_ok=True)
        try:
            made.mkdir()
            write_group(made, Node(grid.format, {MARK: record}))
            create_array(made / "0", grid)
            os.rename(made, partial)
            sync(partial.parent)
        except OSError:
            if is_ours(partial):  # another process was faster
                return
            if partial.exists():
                raise MaskError(f"{partial} is in the way and was not made by tilesegment; move it away") from None
            raise
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def discard(self) -> None:
        remove_ours(self._partial, self._path)

    def is_open(self) -> bool:
        return _lock_file(self._partial) is not None

    def base(self, grid: Grid) -> BlockArray:
        try:
            return self.level(0, grid)
        except MaskError as error:
            raise error if self._partial.exists() else gone(self._partial) from error

    def level(self, number: int, grid: Grid) -> BlockArray:
        return create_array(self._partial / str(number), grid)

    def finished_level(self, number: int, grid: Grid) -> BlockArray:
        return open_array(self._path / str(number), grid)

    def survey(self, number: int, grid: Grid, *, finished: bool) -> Survey:
        return survey((self._path if finished else self._partial) / str(number), grid)

    def amend(self, changes: Mapping[str, Any]) -> None:
        group = read_node(self._partial, MaskError)
        if group is not None:
            record = group.attributes[MARK] | changes
            write_group(self._partial, Node(group.format, group.attributes | {MARK: record}))

    @contextmanager
    def claim(self, *, part: tuple[int, int] | None = None, to_finish: bool = False) -> Iterator[bool]:
        with _claim(self._partial, shared=part is not None, wait=to_finish) as is_there:
            yield is_there

    def publish(
        self,
        levels: Sequence[BlockArray],
        spec: MaskSpec,
        record: Mapping[str, Any],
        attributes: Mapping[str, Any],
        overwrite: bool,
    ) -> None:
        sweep_inside(self._partial)
        if self.target.is_folder:
            self._publish_folder(attributes, overwrite)
        else:
            self._publish_file(levels, spec, record)
        sweep(self._path)

    def _publish_folder(self, attributes: Mapping[str, Any], overwrite: bool) -> None:
        path, partial = self._path, self._partial
        write_group(partial, Node(documents.ZARR_FORMAT[self.target.version], dict(attributes)))
        if self.target.kind == "labels":
            labels = path.parent
            # listed first: if it ends here, a later run puts the mask under the name that is listed
            with in_turn(group_file(labels.parent)):  # another mask of this image may be finished at this moment
                listed = documents.with_label(read_node(labels, MaskError), path.name, self.target.version)
                write_group(labels, listed)
        aside = temporary_name(path)
        if overwrite and path.exists():
            os.replace(path, aside)
        try:
            os.replace(partial, path)
        except OSError:
            if aside.exists():
                os.replace(aside, path)
            raise
        sync(path.parent)
        self._consolidate()

    def _publish_file(self, levels: Sequence[BlockArray], spec: MaskSpec, record: Mapping[str, Any]) -> None:
        path, partial = self._path, self._partial
        temporary = partial / f"export{path.suffix}"
        export(levels, spec, record, temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
        remove_ours(partial, path)

    def reopen(self, record: Mapping[str, Any], grid: Grid) -> None:
        path = self._path
        if _lock_file(path) is None:
            create_array(path / "0", grid)
        with _claim(path, wait=True) as is_there:
            # another process may have done it; and one in progress only goes on under --overwrite
            if not is_there or self._partial.exists():
                return
            write_group(path, Node(grid.format, {MARK: {**record, "state": "partial"}}))
            for level in [folder for folder in path.iterdir() if folder.name.isdecimal() and folder.name != "0"]:
                shutil.rmtree(level)
            os.rename(path, self._partial)
            sync(path.parent)
        self._consolidate()

    def tidy(self, record: Mapping[str, Any]) -> None:
        partial = self._partial
        if not self.target.is_folder and not differing(read_record(partial) or {}, record):
            with suppress(MaskError), self.claim():  # another run is replacing the output: it is its folder
                if survey(partial / "0", self.target.grid(spec_from_record(record))).done.all():
                    remove_ours(partial, self._path)
        self._consolidate()
        sweep(self._path)

    def _consolidate(self) -> None:
        if self.target.kind == "labels":
            documents.update_consolidated(self._path.parent)


def _lock_file(folder: Path) -> Path | None:
    """Return the file by which the mask in `folder` is locked, level 0's metadata, which is never replaced."""
    found = [folder / "0" / name for name in ("zarr.json", ".zarray") if (folder / "0" / name).is_file()]
    return found[0] if found else None


@contextmanager
def _claim(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Lock the mask in `folder`; yield whether it is still there: another process may have just renamed it.

    Several processes may hold a `shared` lock; `wait` waits until the others release theirs. On file systems without
    locks masks are written unlocked, which is safe: every process writes the same bytes for a block.
    """
    file = _lock_file(folder)
    with ExitStack() as stack:
        try:
            is_there = file is not None and stack.enter_context(locked(file, shared=shared, wait=wait))
        except BlockingIOError:
            raise MaskError(
                f"another run is writing {folder}; wait for it, or stop it; parts of one job need --part, all of them"
            ) from None
        except OSError as error:
            raise MaskError(f"cannot lock {folder}: {error.strerror}; check its permissions") from error
        yield is_there


def remove_ours(folder: Path, output: Path) -> None:
    """Delete a folder, which must be ours, for `output`; see `delete_folder`."""
    if not is_ours(folder):
        raise MaskError(f"{folder} was not made by tilesegment and is not deleted; move it away")
    delete_folder(folder, output)
