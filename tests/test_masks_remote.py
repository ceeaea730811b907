"""Masks in an object store: the life of a mask on a real S3 server, and what is like it in memory."""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from mask_files import FIRST, ONES, OTHER, PROCESSES, SPEC, Killed, dying, fill, finished, ids_of, spec_of, try_finish
from mask_files import contents as on_disk
from ome_zarr_models import open_ome_zarr
from s3_server import CREDENTIALS, S3Server
from zarr.core.buffer import cpu

from tilesegment.errors import FinishedError, MaskError
from tilesegment.geometry import Region
from tilesegment.masks import (
    MaskWriter,
    bucket,
    create_mask,
    create_probabilities,
    is_complete,
    leases,
    open_mask,
    open_partial,
    status,
)
from tilesegment.stores import Location, store_at
from tilesegment.stores.memory import MemoryStore
from tilesegment.stores.remote import RemoteStore

_NAMES = itertools.count()
Part = tuple[int, int] | None
WHOLE = Region.of_shape(SPEC.shape)


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Location:
    """An empty place of each kind."""
    if request.param == "memory":
        return Location("memory", f"masks {next(_NAMES)}", "some")
    bucket: Location = request.getfixturevalue("s3")
    return bucket / "some"


@pytest.fixture
def memory() -> Location:
    return Location("memory", f"masks {next(_NAMES)}", "some")


def keys(place: Location) -> list[str]:
    """All that is stored, sorted."""
    return sorted(entry.key for entry in store_at(place).list())


def contents(place: Location) -> dict[str, bytes]:
    store = store_at(place)
    return {key: store.get(key) for key in keys(place)}


def read(path: Location) -> np.ndarray:
    return open_mask(path).read(WHOLE)


def write_some(writer: MaskWriter, count: int, seed: int = 0) -> None:
    ids = ids_of(SPEC, seed)
    for region, z in list(writer.base.blocks())[:count]:
        writer.write(region, ids[z][region.slices], z)


def open_foreign(path: Location) -> Any:
    """What zarr finds under a name, from the objects alone."""
    files = {key: cpu.Buffer.from_bytes(content) for key, content in contents(path).items()}
    return zarr.open(zarr.storage.MemoryStore(files), mode="r")


def level_0(path: Location) -> np.ndarray:
    """Level 0 as OME-Zarr says where it is."""
    group = open_foreign(path)
    attributes = group.attrs.asdict()
    return np.asarray(group[attributes.get("ome", attributes)["multiscales"][0]["datasets"][0]["path"]])


def kill_store_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let the `step`-th change from now on be the end of the process."""
    made: list[None] = []
    for name in ("put", "put_if_absent", "delete"):
        patch.setattr(MemoryStore, name, dying(getattr(MemoryStore, name), made, step))


def write_all(path: Location, at: int) -> None:
    """Write a mask and finish it, but end the process before its change number `at`, counted from 1."""
    made, spec = itertools.count(1), spec_of((100, 560), 64, 32)

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if next(made) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*given)

        return call

    if at:
        for name in ("put", "put_if_absent", "delete"):
            setattr(RemoteStore, name, counted(getattr(RemoteStore, name)))
    if is_complete(path, spec):
        return
    writer, ids = create_mask(path, spec), ids_of(spec)
    with writer.claimed():
        for (region, z), is_done in zip(writer.base.blocks(), writer.survey().done.flat, strict=True):
            if not is_done:
                writer.write(region, ids[z][region.slices], z)
        writer.finish()


def hold(path: Location, part: Part, pipe: Connection) -> None:
    """Claim a mask, say so, and hold it until told to leave or killed."""
    with create_mask(path, SPEC).claimed(part):
        pipe.send("held")
        pipe.recv()


def holding(path: Location, part: Part) -> tuple[Any, Connection]:
    return started(hold, path, part)


def started(target: Callable[..., None], path: Location, part: Part) -> tuple[Any, Connection]:
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=target, args=(path, part, there))
    process.start()
    assert here.recv() == "held"
    return process, here


def run_part(path: Location, number: int, parts: int, barriers: tuple[Barrier, Barrier], results: Any) -> None:
    """Be one of the parts of a job: all begin at once, every other one ends at the same moment."""
    barriers[0].wait()
    writer, ids = create_mask(path, SPEC, overwrite=True), ids_of(SPEC)
    with writer.claimed((number + 1, parts)):
        barriers[0].wait()  # all have begun: the first must not be over before the last begins
        for region, z in list(writer.base.blocks())[number::parts]:
            writer.write(region, ids[z][region.slices], z)
    if number % 2:
        barriers[1].wait()
    with writer.claimed_to_finish() as is_ours_to_do:
        if is_ours_to_do:
            writer.finish()
    results.put(is_ours_to_do)


def race(path: Location, part: tuple[int, int], barrier: Barrier, results: Any) -> None:
    """Try to get a part; the others have tried before it is given back."""
    writer = open_partial(path)
    barrier.wait()
    try:
        with writer.claimed(part):
            results.put((part[0], True))
            barrier.wait()
    except MaskError:
        results.put((part[0], False))
        barrier.wait()


def claim_of(host: str, pid: int) -> bytes:
    return json.dumps({"host": host, "pid": pid, "seen": time.time()}).encode()


class TestLife:
    @pytest.mark.parametrize("ngff", ["0.4", "0.5"])
    def test_a_mask_is_gone_on_with_by_its_settings_or_its_name(self, place: Location, ngff: str) -> None:
        path, ids = place / "mask.zarr", ids_of(SPEC)
        writer = create_mask(path, replace(SPEC, provenance={"started": 1}), ngff=ngff)
        blocks = list(writer.base.blocks())
        write_some(writer, 15)
        store_at(path / "0").put(writer.base.grid.keys(*blocks[0])[0], b"damaged")
        with pytest.raises(MaskError, match="6 blocks"):
            writer.finish()
        with pytest.raises(MaskError, match="not finished"):
            open_mask(path)
        found = status(path)
        assert (found.path, found.state, found.blocks, found.done, found.damaged) == (path, "partial", 20, 14, 1)
        assert create_mask(path, SPEC, ngff=ngff).survey().done.sum() == 14
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
        assert np.array_equal(read(path), ids[0])
        assert not [key for key in keys(place) if ".partial" in key]

    def test_an_unfinished_mask_is_nothing_to_a_reader(self, place: Location) -> None:
        writer = create_mask(place / "mask.zarr", SPEC)
        write_some(writer, 19)
        for level in ("", "0"):
            with pytest.raises(FileNotFoundError):
                open_foreign(place / "mask.zarr" / level)
        write_some(writer, 20)
        writer.finish()
        assert np.array_equal(open_foreign(place / "mask.zarr")["0"][:], ids_of(SPEC)[0])

    def test_it_is_the_mask_of_a_disk_object_by_object(self, memory: Location, tmp_path: Path) -> None:
        for ngff in ("0.4", "0.5"):
            finished(tmp_path / f"{ngff}.zarr", SPEC, ngff=ngff)
            finished(memory / f"{ngff}.zarr", SPEC, ngff=ngff)
            files = on_disk(tmp_path / f"{ngff}.zarr").items()
            assert contents(memory / f"{ngff}.zarr") == {
                str(key.relative_to(tmp_path / f"{ngff}.zarr")): data for key, data in files
            }
        assert all(key.startswith(("0.4.zarr/", "0.5.zarr/")) for key in keys(memory))

    def test_probabilities_are_written_too(self, memory: Location) -> None:
        writer = create_probabilities(memory / "p.zarr", SPEC)
        for region, z in writer.base.blocks():
            writer.write(region, np.full((4, *region.shape), 0.25, np.float32), z)
        writer.finish()
        assert is_complete(memory / "p.zarr", SPEC, probabilities=True)
        assert open_foreign(memory / "p.zarr")["1"][:, 7, 9].tolist() == [0.25] * 4

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("mask.tif", r"only NAME\.zarr"),
            ("mask.png", r"only NAME\.zarr"),
            ("mask.jpg", r"NAME\.zarr"),
            ("image.zarr/labels/cells", "not added to images in a store"),
            ("image.zarr", "not made by tilesegment"),
            ("array.zarr", "not made by tilesegment"),
            ("foreign.zarr", r"did not make, such as thesis\.txt"),
            ("free.zarr", r"free\.zarr\.partial is in the way"),
        ],
    )
    def test_what_cannot_be_an_output_is_refused_at_once(self, memory: Location, name: str, message: str) -> None:
        group = b'{"zarr_format": 3, "node_type": "group", "attributes": {"ome": {}}}'
        store_at(memory).put("image.zarr/zarr.json", group)
        store_at(memory).put("free.zarr.partial/zarr.json", group)
        store_at(memory).put("array.zarr/.zarray", b'{"zarr_format": 2}')
        store_at(memory).put("foreign.zarr/thesis.txt", b"years of work")
        before = contents(memory)
        with pytest.raises(MaskError, match=message) as caught:
            create_mask(memory / name, SPEC, overwrite=True)
        assert "\n" not in str(caught.value)
        assert contents(memory) == before

    def test_other_settings_are_refused_by_name(self, memory: Location) -> None:
        create_mask(memory / "mask.zarr", SPEC).write(FIRST, ONES)
        with pytest.raises(MaskError, match="model: 'a' there, 'b' now"):
            create_mask(memory / "mask.zarr", OTHER)
        anew = create_mask(memory / "mask.zarr", OTHER, overwrite=True)
        assert not anew.survey().done.any()

    def test_a_mask_in_which_nothing_is_stored_is_begun_anew(self, memory: Location) -> None:
        create_mask(memory / "mask.zarr", SPEC, ngff="0.4")
        finished(memory / "mask.zarr", OTHER)
        assert is_complete(memory / "mask.zarr", OTHER)
        assert {key.partition("/")[0] for key in keys(memory)} == {"mask.zarr"}

    def test_a_late_block_gets_into_no_other_mask(self, memory: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker may still be at it when its run was killed and another one begun."""
        path = memory / "mask.zarr"
        late = create_mask(path, SPEC)
        late.write(FIRST, ONES)
        create_mask(path, SPEC)
        late.write(FIRST, ONES)
        anew = create_mask(path, OTHER, overwrite=True)
        late.write(FIRST, ONES)  # it was looked up a moment ago that the mask is in progress
        assert not anew.survey().done.any()
        monkeypatch.setattr(bucket, "_LOOKED", 0.0)
        with pytest.raises(MaskError, match="is gone"):
            late.write(FIRST, ONES)
        fill(anew, ids_of(SPEC))
        anew.finish()
        with pytest.raises(MaskError, match="is gone"):
            anew.write(FIRST, ONES)
        assert np.array_equal(read(path), ids_of(SPEC)[0])
        assert {key.split("/")[1] for key in keys(memory)} == {"zarr.json", anew.target.prefix.rstrip("/")}


class TestReplacing:
    @pytest.mark.parametrize("ngff", [("0.5", "0.5"), ("0.4", "0.5"), ("0.5", "0.4")])
    def test_an_output_is_replaced_only_when_asked_and_complete(self, memory: Location, ngff: tuple[str, str]) -> None:
        path = memory / "mask.zarr"
        before = finished(path, SPEC, ngff=ngff[0])
        for spec, named in ((SPEC, "--overwrite"), (OTHER, "model: 'a' there, 'b' now")):
            with pytest.raises(MaskError, match=named):
                create_mask(path, spec, ngff=ngff[0])
        for spec, seed in ((SPEC, 2), (OTHER, 3), (OTHER, 4)):
            writer = create_mask(path, spec, ngff=ngff[1], overwrite=True)
            write_some(writer, 19, seed)
            with pytest.raises(MaskError, match="1 blocks"):
                writer.finish()
            assert np.array_equal(read(path), before[0])
            assert np.array_equal(level_0(path), before[0])
            write_some(writer, 20, seed)
            writer.finish()
            before = ids_of(spec, seed)
            assert np.array_equal(read(path), before[0])
            prefix = writer.target.prefix
            assert all(key in ("zarr.json", ".zattrs", ".zgroup") or key.startswith(prefix) for key in keys(path))
            assert is_complete(path, spec, ngff=ngff[1]) and status(path).done == 20
        assert keys(memory / "mask.zarr.partial") == []

    @pytest.mark.filterwarnings("ignore:Both zarr.json")
    @pytest.mark.parametrize("ngff", [pytest.param("0.4", marks=pytest.mark.slow), "0.5"])
    @pytest.mark.parametrize("old", [None, pytest.param("0.4", marks=pytest.mark.slow), "0.5"])
    def test_finishing_can_be_killed_at_any_step(
        self, memory: Location, monkeypatch: pytest.MonkeyPatch, old: str | None, ngff: str
    ) -> None:
        spec = spec_of((600, 40), 600, 200)
        other = replace(spec, fingerprint={})
        for step in itertools.count(1):
            path = memory / f"{step}.zarr"
            if old is not None:
                finished(path, other, seed=1, ngff=old)
            writer = create_mask(path, spec, ngff=ngff, overwrite=old is not None)
            fill(writer, ids_of(spec))
            with monkeypatch.context() as patch:
                kill_store_at(patch, step)
                try:
                    writer.finish()
                except Killed:
                    pass
                else:
                    break
            if not is_complete(path, spec, ngff=ngff):
                assert old is None or np.array_equal(level_0(path), ids_of(spec, 1)[0])
                assert status(path).state == ("partial" if old is None else "complete")
                assert try_finish(create_mask(path, spec, ngff=ngff, overwrite=old is not None))
            assert np.array_equal(level_0(path), ids_of(spec)[0])
            assert is_complete(path, spec, ngff=ngff)
            assert keys(memory / f"{step}.zarr.partial") == []
            assert len(keys(path)) == (5 if ngff == "0.5" else 11), keys(path)
        assert step > 5

    @pytest.mark.parametrize("lost", ["0/c/1/2", "1/c/0/1", "1/zarr.json", "0/zarr.json"])
    def test_a_damaged_mask_is_gone_on_with(self, memory: Location, lost: str) -> None:
        path, ids = memory / "mask.zarr", ids_of(SPEC)
        finished(path, SPEC)
        before = contents(path)
        store_at(path).delete([lost])
        assert status(path).damaged == ("json" not in lost)
        assert not is_complete(path, SPEC)
        with pytest.raises(FileNotFoundError):
            open_foreign(path)
        writer = create_mask(path, SPEC)
        assert (~writer.survey().done).sum() == (lost == "0/c/1/2")
        for region, z in writer.base.blocks():
            writer.write(region, ids[z][region.slices], z)
        writer.finish()
        assert contents(path) == before
        assert is_complete(path, SPEC)

    def test_reopening_can_be_killed_at_any_step(self, memory: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        for step in range(1, 5):
            path = memory / f"{step}.zarr"
            finished(path, SPEC)
            store_at(path).delete(["0/c/1/2"])
            with monkeypatch.context() as patch:
                kill_store_at(patch, step)
                with suppress(Killed):
                    is_complete(path, SPEC)
            assert status(path).done == 19
            assert not is_complete(path, SPEC)
            writer = create_mask(path, SPEC)
            fill(writer, ids_of(SPEC))
            writer.finish()
            assert is_complete(path, SPEC)
            assert keys(memory / f"{step}.zarr.partial") == []


class TestKilled:
    """SIGKILL before a change in the store: the same run goes on, and ends in the mask of an undisturbed one."""

    @pytest.mark.parametrize("steps", [[2, 8, 14], pytest.param(range(1, 31), marks=pytest.mark.slow)])
    def test_a_process_that_is_killed_is_gone_on_with(self, s3: Location, steps: Iterable[int]) -> None:
        write_all(s3 / "undisturbed/mask.zarr", 0)
        expected, killed = contents(s3 / "undisturbed"), 0
        for step in steps:
            for at in (step, 0):
                process = PROCESSES.Process(target=write_all, args=(s3 / f"{step}/mask.zarr", at))
                process.start()
                process.join(60)
                killed += process.exitcode == -signal.SIGKILL
                assert process.exitcode in (0, -signal.SIGKILL if at else 0)
            assert contents(s3 / str(step)) == expected  # and nothing beside it
        assert killed >= 3


class TestClaims:
    @pytest.mark.parametrize(
        ("theirs", "ours", "killed"),
        [
            (None, None, True),
            (None, (1, 2), False),
            ((2, 2), None, False),
            ((2, 2), (1, 2), True),
            ((1, 2), (1, 2), True),
        ],
    )
    def test_a_run_is_alone_and_parts_are_together(self, s3: Location, theirs: Part, ours: Part, killed: bool) -> None:
        process, pipe = holding(s3 / "mask.zarr", theirs)
        writer = create_mask(s3 / "mask.zarr", SPEC)
        with ExitStack() as stack:
            if theirs and ours and theirs != ours:
                stack.enter_context(writer.claimed(ours))
            else:
                with pytest.raises(MaskError, match=rf"another run \(process {process.pid} on .*mask\.zarr") as caught:
                    stack.enter_context(writer.claimed(ours))
                assert "\n" not in str(caught.value)
        process.kill() if killed else pipe.send("leave")
        process.join()
        with writer.claimed(ours):
            fill(writer, ids_of(SPEC))
        assert try_finish(writer)
        assert keys(s3 / "mask.zarr.partial") == []  # the claim of a process that was killed, too

    def test_a_claim_of_another_machine_is_void_once_it_is_not_renewed(
        self, memory: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(leases, "LEASE", 1.5)
        writer = create_mask(memory / "mask.zarr", SPEC)
        claims = store_at(memory / "mask.zarr.partial" / "claims")
        claims.put("alone.3.json", claim_of("elsewhere", 1))
        begun = time.monotonic()
        with writer.claimed():
            assert 1 < time.monotonic() - begun < 10
            assert keys(claims.place) == ["alone.4.json"]

    def test_a_claim_of_another_machine_that_is_renewed_is_kept(
        self, memory: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = create_mask(memory / "mask.zarr", SPEC)
        claims = store_at(memory / "mask.zarr.partial" / "claims")
        monkeypatch.setattr(leases, "_BEAT", 0.1)
        with monkeypatch.context() as patch:
            patch.setattr(leases, "_host", lambda: "elsewhere")
            other = leases.leased(claims, "alone", lambda name: True)
            other.__enter__()
            begun, (first,) = time.monotonic(), claims.list()
            while next(iter(claims.list())).tag == first.tag:
                time.sleep(0.02)
                assert time.monotonic() - begun < 10
            patch.setattr(leases, "_host", lambda: "here")
            patch.setattr(
                leases, "_sign", lambda: json.dumps({"host": "elsewhere", "pid": 7, "seen": time.time()}).encode()
            )
            with pytest.raises(MaskError, match="process 7 on elsewhere"), writer.claimed():
                pass
        other.__exit__(None, None, None)
        assert keys(claims.place) == []

    def test_a_claim_on_what_was_finished_is_refused(self, memory: Location) -> None:
        writer = create_mask(memory / "mask.zarr", SPEC)
        fill(writer, ids_of(SPEC))
        writer.finish()
        with pytest.raises(MaskError, match="is gone"), writer.claimed((1, 2)):
            pass
        assert try_finish(writer)
        assert keys(memory / "mask.zarr.partial") == []

    def test_a_server_that_ignores_conditions_takes_no_parts(
        self, memory: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ignore(self: MemoryStore, key: str, data: bytes) -> bool:
            self.put(key, data)
            return True

        writer = create_mask(memory / "mask.zarr", SPEC)
        assert writer.home.notes() == ()
        monkeypatch.setattr(MemoryStore, "put_if_absent", ignore)
        writer = create_mask(memory / "other.zarr", SPEC)
        (note,) = writer.home.notes()
        assert "ignores conditions" in note
        with pytest.raises(MaskError, match="leave --part out"), writer.claimed((1, 2)):
            pass
        fill(writer, ids_of(SPEC))
        writer.finish()
        assert is_complete(memory / "other.zarr", SPEC)
        assert not [key for key in keys(memory) if "other.zarr." in key]

    @pytest.mark.parametrize("before", ["nothing", pytest.param("another mask", marks=pytest.mark.slow)])
    def test_parts_begin_at_once_and_one_of_them_finishes(self, s3: Location, before: str) -> None:
        path, parts = s3 / "mask.zarr", 6
        if before == "another mask":
            finished(path, OTHER, seed=1)
        results, barriers = PROCESSES.Queue(), (PROCESSES.Barrier(parts), PROCESSES.Barrier(parts // 2))
        processes = [PROCESSES.Process(target=run_part, args=(path, n, parts, barriers, results)) for n in range(parts)]
        for process in processes:
            process.start()
        assert sum(results.get(timeout=100) for _ in processes) == 1
        for process in processes:
            process.join()
        assert keys(s3 / "mask.zarr.partial") == []
        assert is_complete(path, SPEC)
        assert np.array_equal(read(path), ids_of(SPEC)[0])

    def test_of_processes_that_race_for_the_same_parts_one_gets_each(self, s3: Location) -> None:
        create_mask(s3 / "mask.zarr", SPEC)
        results, barrier = PROCESSES.Queue(), PROCESSES.Barrier(8)
        parts = [(n % 2 + 1, 2) for n in range(8)]
        processes = [PROCESSES.Process(target=race, args=(s3 / "mask.zarr", one, barrier, results)) for one in parts]
        for process in processes:
            process.start()
        found = [results.get(timeout=100) for _ in processes]
        for process in processes:
            process.join()
        assert sorted(part for part, is_held in found if is_held) == [1, 2]
        assert keys(s3 / "mask.zarr.partial") == ["zarr.json"]


def test_a_denied_write_is_one_line_and_the_mask_goes_on(s3_server: S3Server, s3: Location) -> None:
    path = s3 / "mask.zarr"
    writer = create_mask(path, SPEC)
    write_some(writer, 10)
    s3_server.set_policy(s3, "Deny", "s3:PutObject")
    with pytest.raises(MaskError, match=r"access to .*mask\.zarr/0/c/.* is denied") as caught:
        write_some(writer, 12)
    assert "\n" not in str(caught.value)
    s3_server.set_policy(s3, "Allow")
    again = create_mask(path, SPEC)
    assert again.survey().done.sum() == 10
    fill(again, ids_of(SPEC))
    again.finish()
    assert np.array_equal(read(path), ids_of(SPEC)[0])


def test_a_finished_mask_is_valid_and_holds_no_secret(s3: Location, tmp_path: Path) -> None:
    path = s3 / "mask.zarr"
    finished(path, SPEC)
    finished(path, OTHER, overwrite=True)
    assert not any(secret.encode() in content for content in contents(s3).values() for secret in CREDENTIALS.values())
    for key, content in contents(path).items():
        (tmp_path / "mask.zarr" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mask.zarr" / key).write_bytes(content)
    yaozarrs.validate_zarr_store(str(tmp_path / "mask.zarr"))
    assert open_ome_zarr(zarr.open_group(tmp_path / "mask.zarr", mode="r")).attributes.ome.version == "0.5"
