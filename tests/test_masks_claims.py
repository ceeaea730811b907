"""Masks whose runs are killed, and masks that several runs want: one writes, or the parts of one job do."""

import errno
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_files import (
    FIRST,
    HIDDEN,
    ONES,
    OTHER,
    PROCESSES,
    SPEC,
    Killed,
    fill,
    finished,
    ids_of,
    kill_at,
    make,
    make_image,
    names,
    prepare,
    remove,
    run_part,
    spec_of,
    try_finish,
)

from tilesegment.errors import MaskError
from tilesegment.files import temporary_name
from tilesegment.geometry import Region
from tilesegment.masks import (
    create_mask,
    is_complete,
    open_mask,
    status,
)


class TestKilled:
    @pytest.mark.parametrize("step", range(1, 6))
    def test_reopening_can_be_killed_at_any_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        path = make(tmp_path, "mask.zarr")
        remove(path / "0/c/1/2")
        with monkeypatch.context() as patch:
            kill_at(patch, step, "replace", "rename", "unlink", "rmdir")
            with pytest.raises(Killed):
                is_complete(path, SPEC)
        # whoever reads it meanwhile finds it unfinished or as it was, but never half of it
        if path.exists() and status(path).state == "complete":
            assert len(open_mask(path).levels) == 2
        else:
            with pytest.raises(MaskError):
                open_mask(path)
        assert status(path).done == 19
        assert not is_complete(path, SPEC)
        writer = create_mask(path, SPEC)
        assert writer.survey().done.sum() == 19
        fill(writer, ids_of(SPEC))
        writer.finish()
        assert is_complete(path, SPEC)
        assert names(tmp_path) == ["mask.zarr"]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["mask.zarr", "mask.tif", HIDDEN])
    @pytest.mark.parametrize("old", [False, True])
    def test_finishing_can_be_killed_at_any_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, old: bool
    ) -> None:
        spec, path, step = spec_of((600, 40), 600, 200), prepare(tmp_path, name), 0
        while True:
            step += 1
            if old:
                finished(path, replace(spec, fingerprint={}), overwrite=True)
            writer = create_mask(path, spec, overwrite=old)
            fill(writer, ids_of(spec))
            with monkeypatch.context() as patch:
                kill_at(patch, step, "replace", "rename", "fsync", "rmdir")
                try:
                    writer.finish()
                except Killed:
                    pass
                else:
                    break
            if not is_complete(path, spec):
                assert status(path).done == status(path).blocks
                assert try_finish(create_mask(path, spec, overwrite=old))
            assert is_complete(path, spec)
            # a new list of an image's labels, killed before it got its name, is hidden and small, and stays
            assert [one for one in names(path.parent) if "zarr.json" not in one] == [path.name]
            remove(path)
        assert step > 4

    def test_what_an_interrupted_replacement_leaves_is_mended(self, tmp_path: Path) -> None:
        """Between its two renames the old mask lies aside, and the new one is complete but not renamed."""
        path = make(tmp_path, "mask.zarr")
        path.rename(temporary_name(path))
        finished(path, SPEC, seed=2)
        assert names(tmp_path) == ["mask.zarr"]

    def test_what_is_being_replaced_is_not_reopened(self, tmp_path: Path) -> None:
        path = make(tmp_path, "mask.zarr")
        writer = create_mask(path, SPEC, overwrite=True)
        remove(path / "0/c/1/2")
        assert not is_complete(path, SPEC)
        with pytest.raises(MaskError, match="exists"):
            create_mask(path, SPEC)
        fill(writer, ids_of(SPEC))
        assert try_finish(writer)
        assert is_complete(path, SPEC)

    def test_a_folder_in_progress_survives_beside_a_complete_file(self, tmp_path: Path) -> None:
        path = make(tmp_path, "mask.tif")
        writer = create_mask(path, SPEC, overwrite=True)
        writer.write(FIRST, ONES)
        temporary_name(path).mkdir()
        assert is_complete(path, SPEC)
        assert names(tmp_path) == ["mask.tif", "mask.tif.partial"]
        assert writer.survey().done.sum() == 1
        fill(writer, ids_of(SPEC))
        assert is_complete(path, SPEC)
        assert names(tmp_path) == ["mask.tif"]


def hold(path: Path, shared: bool, pipe: Connection) -> None:
    """Claim a mask, say so, and hold it until told to leave or killed."""
    with create_mask(path, SPEC).claimed((2, 2) if shared else None):
        pipe.send("held")
        pipe.recv()


def holding(path: Path, shared: bool) -> tuple[Any, Connection]:
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(path, shared, there))
    process.start()
    assert here.recv() == "held"
    return process, here


class TestClaims:
    @pytest.mark.parametrize("killed", [False, True])
    @pytest.mark.parametrize(("theirs", "ours"), [(False, False), (False, True), (True, False), (True, True)])
    def test_a_run_is_alone_and_parts_are_together(
        self, tmp_path: Path, theirs: bool, ours: bool, killed: bool
    ) -> None:
        process, pipe = holding(tmp_path / "mask.zarr", theirs)
        writer = create_mask(tmp_path / "mask.zarr", SPEC)
        with ExitStack() as stack:
            if theirs and ours:
                stack.enter_context(writer.claimed((1, 2) if ours else None))
            else:
                with pytest.raises(MaskError, match=r"another run .*mask\.zarr") as caught:
                    stack.enter_context(writer.claimed((1, 2) if ours else None))
                assert "\n" not in str(caught.value)
        process.kill() if killed else pipe.send("leave")
        process.join()
        with writer.claimed((1, 2) if ours else None):
            pass

    def test_what_another_run_writes_is_not_deleted(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.zarr"
        process, pipe = holding(path, False)
        with pytest.raises(MaskError, match="another run"):
            create_mask(path, OTHER, overwrite=True)
        pipe.send("leave")
        process.join()
        assert not create_mask(path, OTHER, overwrite=True).survey().done.any()

    def test_a_claim_on_what_was_finished_is_refused(self, tmp_path: Path) -> None:
        writer = create_mask(tmp_path / "mask.zarr", SPEC)
        fill(writer, ids_of(SPEC))
        writer.finish()
        with pytest.raises(MaskError, match="is gone"), writer.claimed(part=(1, 2)):
            pass
        assert try_finish(writer)

    @pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO])
    def test_without_locks_masks_are_written_but_a_failing_lock_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        def refuse(handle: int, kind: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("fcntl.flock", refuse)
        writer = create_mask(tmp_path / "mask.zarr", SPEC)
        if code == errno.EIO:
            with pytest.raises(MaskError, match="Input/output error"), writer.claimed():
                pass
            return
        with writer.claimed(), writer.claimed():
            fill(writer, ids_of(SPEC))
        assert try_finish(writer)
        assert names(tmp_path) == ["mask.zarr"]

    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_masks_of_an_image_that_end_at_the_same_moment_are_all_listed(self, tmp_path: Path, version: str) -> None:
        image, spec = tmp_path / "image.zarr", spec_of((64, 96))
        make_image(image, version)
        processes = [PROCESSES.Process(target=partial(finished, image / f"labels/{name}", spec)) for name in "abcdef"]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        document = (image / "labels" / ("zarr.json" if version == "0.5" else ".zattrs")).read_text()
        assert all(f'"{name}"' in document for name in "abcdef")

    @pytest.mark.parametrize(
        ("name", "before"),
        [
            ("mask.zarr", "nothing"),
            ("mask.zarr", "the same mask"),
            ("mask.zarr", "another one in progress"),
            ("mask.tif", "another mask"),
        ],
    )
    def test_parts_begin_at_once_and_one_of_them_finishes(self, tmp_path: Path, name: str, before: str) -> None:
        path, parts = tmp_path / name, 8
        if before != "nothing":
            writer = create_mask(path, SPEC if before == "the same mask" else OTHER)
            fill(writer, ids_of(SPEC, seed=1))
            if before != "another one in progress":
                writer.finish()
        results, barriers = PROCESSES.Queue(), (PROCESSES.Barrier(parts), PROCESSES.Barrier(parts // 2))
        processes = [PROCESSES.Process(target=run_part, args=(path, n, parts, barriers, results)) for n in range(parts)]
        for process in processes:
            process.start()
        assert sum(results.get(timeout=60) for _ in processes) == 1
        for process in processes:
            process.join()
        assert names(tmp_path) == [name]
        assert is_complete(path, SPEC)
        assert np.array_equal(open_mask(path).read(Region.of_shape(SPEC.shape)), ids_of(SPEC)[0])
