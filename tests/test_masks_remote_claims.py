"""Masks in an object store that runs claim: killed, in parts, racing, on servers that ignore conditions."""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy as np
import pytest
from mask_files import OTHER, PROCESSES, SPEC, fill, finished, ids_of, run_part, spec_of, try_finish
from remote_masks import contents, in_memory, keys, process_of, read

from tilesegment.errors import MaskError
from tilesegment.masks import (
    create_mask,
    is_complete,
    leases,
    open_partial,
)
from tilesegment.stores import Location, store_at
from tilesegment.stores.memory import MemoryStore
from tilesegment.stores.remote import RemoteStore

Part = tuple[int, int] | None


@pytest.fixture
def memory() -> Location:
    return in_memory()


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
    process = process_of(target, path, part, there)
    process.start()
    there.close()  # a process that ends before it says so must not be waited for
    assert here.recv() == "held"
    return process, here


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


class TestKilled:
    """SIGKILL before a change in the store: the same run goes on, and ends in the mask of an undisturbed one."""

    @pytest.mark.parametrize("steps", [[2, 8, 14], pytest.param(range(1, 31), marks=pytest.mark.slow)])
    def test_a_process_that_is_killed_is_gone_on_with(self, s3: Location, steps: Iterable[int]) -> None:
        write_all(s3 / "undisturbed/mask.zarr", 0)
        expected, killed = contents(s3 / "undisturbed"), 0
        for step in steps:
            for at in (step, 0):
                process = process_of(write_all, s3 / f"{step}/mask.zarr", at)
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
        processes = [process_of(run_part, path, n, parts, barriers, results) for n in range(parts)]
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
        processes = [process_of(race, s3 / "mask.zarr", one, barrier, results) for one in parts]
        for process in processes:
            process.start()
        found = [results.get(timeout=100) for _ in processes]
        for process in processes:
            process.join()
        assert sorted(part for part, is_held in found if is_held) == [1, 2]
        assert keys(s3 / "mask.zarr.partial") == ["zarr.json"]
