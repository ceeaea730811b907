"""Who may write a mask: one run, or the parts of one job; and how many processes begin and end one together."""

import errno
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_files import try_finish
from test_masks import fill, ids_of, names, spec_of
from test_masks_formats import attributes, make_image
from test_masks_survey import PROCESSES

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks import MaskWriter, create_mask, is_complete, open_mask, target
from tilesegment.ome_zarr import node

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks; runs go on without")
SPEC = spec_of((130, 200))  # 5 x 7 blocks


def hold(path: Path, shared: bool, pipe: Connection) -> None:
    """Claims a mask, says so, and holds it until it is told to leave or is killed."""
    with create_mask(path, SPEC).claimed(shared):
        pipe.send("held")
        pipe.recv()


def holding(path: Path, shared: bool) -> tuple[Any, Connection]:
    """A process that holds a mask, and the way to end that."""
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(path, shared, there))
    process.start()
    assert here.recv() == "held"
    return process, here


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(("theirs", "ours"), [(False, False), (False, True), (True, False), (True, True)])
def test_a_run_is_alone_and_parts_are_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bool, ours: bool, killed: bool
) -> None:
    monkeypatch.setattr("tilesegment.files._PATIENCE", 0.1)
    process, pipe = holding(tmp_path / "mask.zarr", theirs)
    writer = create_mask(tmp_path / "mask.zarr", SPEC)
    with ExitStack() as stack:
        if theirs and ours:
            stack.enter_context(writer.claimed(ours))
        else:
            with pytest.raises(MaskError, match=r"another run is writing .*mask\.zarr") as caught:
                stack.enter_context(writer.claimed(ours))
            assert "\n" not in str(caught.value)
    if killed:
        process.kill()
    else:
        pipe.send("leave")
    process.join()
    with writer.claimed(ours):
        pass


def test_what_another_run_writes_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.files._PATIENCE", 0.1)
    path = tmp_path / "mask.zarr"
    process, pipe = holding(path, False)
    other = spec_of((130, 200), fingerprint={"model": "b"})
    for overwrite in (False, True):
        with pytest.raises(MaskError, match="another run is writing"):
            create_mask(path, other, overwrite=overwrite)
    create_mask(path, SPEC).write(Region(0, 0, 32, 32), np.ones((32, 32), np.uint8))
    pipe.send("leave")
    process.join()
    with pytest.raises(MaskError, match="begun with other settings"):
        create_mask(path, other)
    assert not create_mask(path, other, overwrite=True).survey().done.any()


def test_a_folder_that_another_part_replaces_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mask.zarr"
    partial = create_mask(path, spec_of((130, 200), fingerprint={"model": "b"})).target.partial
    find, left = target.read_node, [partial]

    def found(folder: Path, error: Any = None) -> Any:
        file = find(folder, error)
        if folder in left:
            left.remove(folder)
            partial.rename(tmp_path / "aside")
        return file

    monkeypatch.setattr(target, "read_node", found)
    assert not create_mask(path, SPEC, overwrite=True).survey().done.any()
    assert not left


def test_a_mask_in_which_nothing_is_stored_is_begun_anew(tmp_path: Path) -> None:
    create_mask(tmp_path / "mask.zarr", SPEC, ngff="0.4")
    writer = create_mask(tmp_path / "mask.zarr", spec_of((40, 40), fingerprint={"model": "b"}))
    assert writer.survey().done.shape == (1, 2, 2)
    fill(writer, ids_of(writer.spec))
    writer.finish()
    assert names(tmp_path) == ["mask.zarr"]


def test_a_claim_on_what_was_finished_is_refused(tmp_path: Path) -> None:
    writer = create_mask(tmp_path / "mask.zarr", SPEC)
    fill(writer, ids_of(SPEC))
    writer.finish()
    with pytest.raises(MaskError, match="is gone: the mask was finished"), writer.claimed(shared=True):
        pass
    assert try_finish(writer)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_masks_of_an_image_that_end_at_the_same_moment_are_all_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    image = tmp_path / "image.zarr"
    make_image(image, version)
    write, spec = node.write_group, spec_of((64, 96))

    def slowly(path: Path, group: node.Node) -> None:
        time.sleep(0.02)
        write(path, group)

    monkeypatch.setattr("tilesegment.masks.writer.write_group", slowly)
    writers = [create_mask(image / f"labels/{name}", spec) for name in "abcdef"]
    for writer in writers:
        fill(writer, ids_of(spec))
    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(MaskWriter.finish, writers))
    assert sorted(attributes(image / "labels")["labels"]) == list("abcdef")


def test_without_locks_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = create_mask(tmp_path / "mask.zarr", SPEC)

    def refuse(handle: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with writer.claimed(shared=False), writer.claimed(shared=False):
        fill(writer, ids_of(SPEC))
    with writer.claimed(shared=False):
        assert writer.survey().done.all()
    assert try_finish(writer)
    assert names(tmp_path) == ["mask.zarr"]


def test_a_failing_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = create_mask(tmp_path / "mask.zarr", SPEC)

    def fail(handle: int, kind: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(MaskError, match="Input/output error"), writer.claimed(shared=False):
        pass


def run_part(path: Path, number: int, parts: int, barriers: tuple[Barrier, Barrier], results: Any) -> None:
    """One of the parts of a job: all begin at once, every other one ends at the same moment."""
    ends: list[int] = []
    finish = MaskWriter.finish

    def counted(self: MaskWriter, provenance: Any = None) -> None:
        ends.append(number)
        finish(self, provenance)

    MaskWriter.finish = counted  # type: ignore[method-assign]
    barriers[0].wait()
    writer, ids = create_mask(path, SPEC, overwrite=True), ids_of(SPEC)
    with writer.claimed(shared=True):
        barriers[0].wait()  # all have begun: the first must not be over before the last begins
        for region, z in list(writer.base.blocks())[number::parts]:
            writer.write(region, ids[z][region.slices], z)
    if number % 2:
        barriers[1].wait()
    results.put((try_finish(writer), len(ends)))


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("mask.zarr", "nothing"),
        ("mask.zarr", "the same mask"),
        ("mask.zarr", "another one in progress"),
        ("mask.tif", "another mask"),
    ],
)
def test_parts_begin_at_once_and_one_of_them_finishes(tmp_path: Path, name: str, before: str) -> None:
    path, parts = tmp_path / name, 8
    if before != "nothing":
        writer = create_mask(path, SPEC if before == "the same mask" else spec_of((130, 200), fingerprint={}))
        fill(writer, ids_of(SPEC, seed=1))
        if before != "another one in progress":
            writer.finish()
    results, barriers = PROCESSES.Queue(), (PROCESSES.Barrier(parts), PROCESSES.Barrier(parts // 2))
    processes = [
        PROCESSES.Process(target=run_part, args=(path, number, parts, barriers, results)) for number in range(parts)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    # those that ended while others were writing found blocks missing
    assert sum(ends for _, ends in found) == 1
    assert all(is_finished for is_finished, ends in found if ends)
    assert names(tmp_path) == [name]
    assert is_complete(path, SPEC)
    if name == "mask.zarr":
        assert np.array_equal(open_mask(path).read(Region.of_shape(SPEC.shape)), ids_of(SPEC)[0])
