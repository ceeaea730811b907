"""The life of a mask: begun, gone on with, finished, replaced, damaged, mended; by one run or by the parts of a job."""

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mask_files import PROCESSES, contents, fill, finished, ids_of, make_image, names, spec_of, try_finish
from PIL import Image

from tilesegment.errors import FinishedError, MaskError
from tilesegment.files import temporary_name
from tilesegment.geometry import Region
from tilesegment.masks import (
    MaskSpec,
    create_mask,
    create_probabilities,
    is_complete,
    open_mask,
    open_partial,
    status,
)

SPEC = spec_of((100, 600), 64, 32)  # two levels, 2 x 10 and 1 x 5 blocks
OTHER = replace(SPEC, fingerprint={"model": "b", "tile": (64, 64)})
FILES = ["mask.zarr", "mask.tif", "mask.png"]
HIDDEN = "image.zarr/labels/nuclei"
FIRST, ONES = Region(0, 0, 64, 64), np.ones((64, 64), np.uint8)


class Killed(BaseException):
    """Stands for the end of the process."""


def dying(real: Callable[..., Any], calls: list[None], last: int) -> Callable[..., Any]:
    """Return `real`, whose `last` call, counted in `calls`, is the process's end."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) >= last:
            raise Killed
        return real(*arguments, **options)

    return call


def kill_at(patch: pytest.MonkeyPatch, step: int, *calls: str) -> None:
    made: list[None] = []
    for name in calls:
        patch.setattr(os, name, dying(getattr(os, name), made, step))


def prepare(folder: Path, name: str) -> Path:
    if name == HIDDEN:
        make_image(folder / "image.zarr", "0.5", (1, 2))
    return folder / name


def make(folder: Path, name: str, spec: MaskSpec = SPEC, **options: Any) -> Path:
    finished(prepare(folder, name), spec, **options)
    return folder / name


def remove(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path)


class TestGoingOn:
    @pytest.mark.parametrize("ngff", ["0.4", "0.5"])
    @pytest.mark.parametrize("name", [*FILES, HIDDEN])
    def test_a_mask_is_gone_on_with_by_its_settings_or_its_name(self, tmp_path: Path, name: str, ngff: str) -> None:
        path, ids = prepare(tmp_path, name), ids_of(SPEC)
        writer = create_mask(path, replace(SPEC, provenance={"started": 1}), ngff=ngff)
        blocks = list(writer.base.blocks())
        for region, z in blocks[:15]:
            writer.write(region, ids[z][region.slices], z)
        writer.base.objects(*blocks[0])[0].write_bytes(b"damaged")
        with pytest.raises(MaskError, match="6 blocks"):
            writer.finish()
        with pytest.raises(MaskError, match="not finished"):
            open_mask(path)
        found = status(str(path))
        assert (found.path, found.state, found.blocks, found.done, found.damaged) == (path, "partial", 20, 14, 1)
        assert (found.spec.shape, dict(found.spec.fingerprint)) == (SPEC.shape, {"model": "a", "tile": [64, 64]})
        again = create_mask(path, replace(SPEC, provenance={"started": 2}), ngff=ngff)
        assert again.survey().done.sum() == 14
        again = open_partial(path)
        assert not try_finish(again)
        for region, z in blocks[15:] + blocks[:1]:
            again.write(region, ids[z][region.slices], z)
        assert try_finish(again, {"finished": "by hand"})
        assert is_complete(path, SPEC, ngff=ngff)
        found = status(path)
        assert (found.state, found.blocks, found.done, found.damaged) == ("complete", 20, 20, 0)
        assert found.spec.provenance["finished"] == "by hand"
        with pytest.raises(FinishedError):
            open_partial(path)
        assert np.array_equal(open_mask(path).read(Region.of_shape(SPEC.shape)), ids[0])

    def test_other_settings_are_refused_by_name(self, tmp_path: Path) -> None:
        create_mask(tmp_path / "mask.zarr", SPEC).write(FIRST, ONES)
        other = replace(SPEC, shape=(100, 601), fingerprint={"model": "b", "tile": (64, 64), "overlap": True})
        with pytest.raises(MaskError) as caught:
            create_mask(tmp_path / "mask.zarr", other)
        message = str(caught.value)
        for part in ("model: 'a' there, 'b' now", "[100, 600] there, [100, 601] now", "overlap: none there, True now"):
            assert part in message
        assert "tile:" not in message and "\n" not in message
        assert not create_mask(tmp_path / "mask.zarr", other, overwrite=True).survey().done.any()

    def test_a_mask_in_which_nothing_is_stored_is_begun_anew(self, tmp_path: Path) -> None:
        create_mask(tmp_path / "mask.zarr", SPEC, ngff="0.4")
        assert make(tmp_path, "mask.zarr", OTHER).exists()
        assert names(tmp_path) == ["mask.zarr"]

    def test_an_interrupted_beginning_or_deletion_is_no_obstacle(self, tmp_path: Path) -> None:
        (tmp_path / "empty.zarr.partial").mkdir()
        create_mask(tmp_path / "empty.zarr", SPEC)
        create_mask(tmp_path / "mask.zarr", SPEC)
        remove(tmp_path / "mask.zarr.partial/0")
        assert not create_mask(tmp_path / "mask.zarr", SPEC).survey().done.any()

    def test_a_late_block_gets_into_no_other_mask(self, tmp_path: Path) -> None:
        """A worker may still be at it when its run was killed and another one begun."""
        path = tmp_path / "mask.zarr"
        late = create_mask(path, SPEC)
        late.write(FIRST, ONES)
        create_mask(path, SPEC)
        late.write(FIRST, ONES)
        anew = create_mask(path, OTHER, overwrite=True)
        with pytest.raises(MaskError, match="is gone"):
            late.write(FIRST, ONES)
        assert not anew.survey().done.any()
        fill(anew, ids_of(SPEC))
        anew.finish()
        with pytest.raises(MaskError, match="is gone"):
            anew.write(FIRST, ONES)
        assert names(tmp_path) == ["mask.zarr"]


class TestOutputs:
    @pytest.mark.parametrize("name", [*FILES, HIDDEN])
    def test_an_output_is_replaced_only_when_asked_and_complete(self, tmp_path: Path, name: str) -> None:
        path = make(tmp_path, name)
        before = contents(path)
        for spec, named in ((SPEC, "--overwrite"), (OTHER, "model: 'a' there, 'b' now")):
            with pytest.raises(MaskError) as caught:
                create_mask(path, spec)
            assert named in str(caught.value)
        writer = create_mask(path, SPEC, overwrite=True)
        writer.write(FIRST, ONES)
        with pytest.raises(MaskError, match="19 blocks"):
            writer.finish()
        assert contents(path) == before
        fill(writer, ids_of(SPEC, seed=2))
        writer.finish()
        assert contents(path) != before
        assert [one for one in names(path.parent) if "zarr.json" not in one] == [path.name]

    def test_a_mask_that_appeared_meanwhile_is_kept(self, tmp_path: Path) -> None:
        writer = create_mask(tmp_path / "mask.tif", SPEC)
        fill(writer, ids_of(SPEC))
        (tmp_path / "mask.tif").write_bytes(b"another run's")
        with pytest.raises(MaskError, match="exists"):
            writer.finish()
        assert (tmp_path / "mask.tif").read_bytes() == b"another run's"

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("place", ["{}", "{}.partial"])
    def test_foreign_folders_are_never_deleted(self, tmp_path: Path, name: str, place: str) -> None:
        foreign = tmp_path / place.format(name)
        foreign.mkdir()
        (foreign / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}')
        (foreign / "thesis.txt").write_text("years of work")
        with pytest.raises(MaskError, match=foreign.name):
            create_mask(tmp_path / name, SPEC, overwrite=True)
        assert names(foreign) == ["thesis.txt", "zarr.json"]

    @pytest.mark.parametrize(
        ("name", "changes", "options", "message"),
        [
            ("mask.bmp", {}, {}, r"NAME\.zarr.*NAME\.tif.*NAME\.png"),
            ("mask.jpg", {}, {}, r"NAME\.zarr.*NAME\.tif.*NAME\.png"),
            ("labels/cells", {}, {}, r"IMAGE\.zarr/labels/NAME"),
            ("nowhere/mask.zarr", {}, {}, "nowhere; create it"),
            ("file/mask.zarr", {}, {}, "no folder"),
            ("link.tif", {}, {}, "symbolic link"),
            ("held.zarr", {}, {}, "not made by tilesegment"),
            (f"{'n' * 250}.zarr", {}, {}, "File name too long"),
            ("mask.zarr", {}, {"ngff": "0.6"}, r"'0\.6'.*0\.4 and 0\.5"),
            ("mask.png", {"shape": (8001, 8000)}, {}, "64 megapixels"),
            ("mask.png", {"depth": 3}, {}, "one plane"),
        ],
    )
    def test_what_cannot_be_an_output_is_refused_at_once(
        self, tmp_path: Path, name: str, changes: dict[str, Any], options: dict[str, Any], message: str
    ) -> None:
        for there in ("file", "real.tif", "held.zarr"):
            (tmp_path / there).write_text("")
        (tmp_path / "link.tif").symlink_to(tmp_path / "real.tif")
        with pytest.raises(MaskError, match=message) as caught:
            create_mask(tmp_path / name, replace(SPEC, **changes), overwrite=True, **options)
        assert "\n" not in str(caught.value)
        assert names(tmp_path) == ["file", "held.zarr", "link.tif", "real.tif"]

    def test_probabilities_go_only_to_a_zarr(self, tmp_path: Path) -> None:
        for name, values, message in (("p.tif", "float32", r"NAME\.zarr"), ("p.zarr", "int8", "float32 or uint8")):
            with pytest.raises(MaskError, match=message):
                create_probabilities(tmp_path / name, SPEC, values=values)

    @pytest.mark.parametrize(("name", "limit"), [("mask.zarr", 1000), ("mask.tif", 30_000), ("mask.png", 30_000)])
    def test_a_full_disk_is_named_and_damages_nothing(self, tmp_path: Path, name: str, limit: int) -> None:
        spec = spec_of((600, 600), 256, 64)
        path = make(tmp_path, name, spec, seed=1)
        before = contents(path)
        process = PROCESSES.Process(target=write_on_a_full_disk, args=(path, spec, limit))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert contents(path) == before
        ids = finished(path, spec, seed=2, overwrite=True)
        assert np.array_equal(open_mask(path).read(Region.of_shape(spec.shape)), ids[0])
        assert names(tmp_path) == [name]


def write_on_a_full_disk(path: Path, spec: MaskSpec, limit: int) -> None:
    """Of a Zarr no block fits; of the others the exported file does not."""
    writer, ids = create_mask(path, spec, overwrite=True), ids_of(spec, seed=2)
    if limit == 30_000:
        fill(writer, ids)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def write() -> None:
        fill(writer, ids)
        writer.finish()

    with pytest.raises(MaskError) as caught:
        write()
    assert "File too large" in str(caught.value) and str(path.parent) in str(caught.value)


class TestComplete:
    @pytest.mark.parametrize("ngff", ["0.4", "0.5"])
    @pytest.mark.parametrize("name", [*FILES, HIDDEN])
    def test_what_is_finished_with_the_same_settings_is_complete(self, tmp_path: Path, name: str, ngff: str) -> None:
        assert not is_complete(prepare(tmp_path, name), SPEC, ngff=ngff)
        finished(path := tmp_path / name, SPEC, ngff=ngff)
        before = contents(tmp_path)
        assert is_complete(path, replace(SPEC, provenance={"started": "another day"}), ngff=ngff)
        for other in (OTHER, replace(SPEC, classes=SPEC.classes[:3]), replace(SPEC, shape=(101, 600))):
            assert not is_complete(path, other, ngff=ngff)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("name", ["mask.tif", "mask.png"])
    def test_what_is_no_file_of_ours_is_not_complete(self, tmp_path: Path, name: str) -> None:
        path = make(tmp_path, name)
        content = path.read_bytes()
        for damaged in (b"", content[:10], content[: len(content) // 2], content[:-1], bytes(len(content))):
            path.write_bytes(damaged)
            assert not is_complete(path, SPEC)
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
        assert not is_complete(path, SPEC)
        path.unlink()
        Image.fromarray(np.zeros((100, 600), np.uint8)).save(path)
        assert not is_complete(path, SPEC)
        with pytest.raises(MaskError, match="exists"):
            create_mask(path, SPEC)

    def test_a_record_with_entities_is_not_read(self, tmp_path: Path) -> None:
        path = make(tmp_path, "mask.tif")
        content, declared = path.read_bytes(), b'<?xml version="1.0" encoding="UTF-8"?>'
        assert declared in content
        path.write_bytes(content.replace(declared, b'<!DOCTYPE a [<!ENTITY b "c">]>'.ljust(len(declared))))
        assert not is_complete(path, SPEC)

    @pytest.mark.parametrize(
        ("pattern", "lacking"),
        [("0/**/1/2", 1), ("1/**/0/1", 0), ("1", 0), ("1/*zarr*", 0), ("0/*zarr*", 0)],
    )
    @pytest.mark.parametrize(("name", "ngff"), [("mask.zarr", "0.4"), ("mask.zarr", "0.5"), (HIDDEN, "0.5")])
    def test_a_damaged_mask_is_gone_on_with(
        self, tmp_path: Path, name: str, ngff: str, pattern: str, lacking: int
    ) -> None:
        path = make(tmp_path, name, ngff=ngff)
        before, ids = contents(path), ids_of(SPEC)
        remove(next(path.glob(pattern)))
        assert not is_complete(path, SPEC, ngff=ngff)
        assert not path.exists()
        writer = create_mask(path, SPEC, ngff=ngff)
        done = writer.survey().done
        assert (~done).sum() == lacking
        for (region, z), is_done in zip(writer.base.blocks(), done.flat, strict=True):
            if not is_done:
                writer.write(region, ids[z][region.slices], z)
        writer.finish()
        assert is_complete(path, SPEC, ngff=ngff)
        assert contents(path) == before

    def test_status_tells_the_damage_of_a_complete_mask(self, tmp_path: Path) -> None:
        path = make(tmp_path, "mask.zarr")
        remove(path / "1/c/0/3")
        (path / "0/c/1/2").write_bytes(b"damaged")
        found = status(path)
        assert (found.state, found.blocks, found.done, found.damaged) == ("complete", 20, 19, 2)

    def test_what_is_no_mask_has_no_status(self, tmp_path: Path) -> None:
        (tmp_path / "image.tif").write_bytes(b"II*\0")
        (tmp_path / "folder.zarr").mkdir()
        for name in ("nothing.zarr", "image.tif", "folder.zarr"):
            for ask in (status, open_partial):
                with pytest.raises(MaskError, match=name):
                    ask(tmp_path / name)


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
    with create_mask(path, SPEC).claimed(shared):
        pipe.send("held")
        pipe.recv()


def holding(path: Path, shared: bool) -> tuple[Any, Connection]:
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(path, shared, there))
    process.start()
    assert here.recv() == "held"
    return process, here


def run_part(path: Path, number: int, parts: int, barriers: tuple[Barrier, Barrier], results: Any) -> None:
    """Be one of the parts of a job: all begin at once, every other one ends at the same moment."""
    barriers[0].wait()
    writer, ids = create_mask(path, SPEC, overwrite=True), ids_of(SPEC)
    with writer.claimed(shared=True):
        barriers[0].wait()  # all have begun: the first must not be over before the last begins
        for region, z in list(writer.base.blocks())[number::parts]:
            writer.write(region, ids[z][region.slices], z)
    if number % 2:
        barriers[1].wait()
    with writer.claimed_to_finish() as is_ours_to_do:
        if is_ours_to_do:
            writer.finish()
    results.put(is_ours_to_do)


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
                stack.enter_context(writer.claimed(ours))
            else:
                with pytest.raises(MaskError, match=r"another run .*mask\.zarr") as caught:
                    stack.enter_context(writer.claimed(ours))
                assert "\n" not in str(caught.value)
        process.kill() if killed else pipe.send("leave")
        process.join()
        with writer.claimed(ours):
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
        with pytest.raises(MaskError, match="is gone"), writer.claimed(shared=True):
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
            with pytest.raises(MaskError, match="Input/output error"), writer.claimed(shared=False):
                pass
            return
        with writer.claimed(shared=False), writer.claimed(shared=False):
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
