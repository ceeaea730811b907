"""The same command at once, in parts, after damage, with other settings, on another day: one and the same mask."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import tifffile
from conftest import noise, toy_model
from test_faults import BLOCKS, LINE, Fault, Runs, check, contents_of, killed, signalled
from test_faults_disk import is_one_line
from test_masks_survey import DAMAGE

from tilesegment.cluster import Cluster
from tilesegment.masks import status
from tilesegment.prediction.predict import predict
from tilesegment.prediction.result import Listener, Progress, Result

pytest_plugins = ["test_faults"]  # its fixtures
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the processes are POSIX")
MASK = LINE.format("mask.zarr")


def halt(ready: str) -> None:
    """The process stands still until it is told to go on; the file `ready` says which it is."""
    Path(ready).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("at", [22, 60])
def test_a_second_run_on_the_same_output_is_refused(runs: Runs, undisturbed: Path, at: int) -> None:
    """Among the blocks, and in the pyramid."""
    ready = runs.folder.with_name("ready")
    wait = runs.start(MASK, Fault(at, partial(halt, str(ready))))
    while not (ready.exists() and ready.read_text()):
        time.sleep(0.01)
    try:
        for second in (MASK, MASK + " --part 1/2"):
            assert is_one_line(runs(second), "another run is writing", "mask.zarr")
    finally:
        os.kill(int(ready.read_text()), signal.SIGCONT)
    assert wait().code == 0
    check(runs, undisturbed, "mask.zarr")


def test_of_two_runs_at_once_none_does_harm(runs: Runs, undisturbed: Path) -> None:
    found = [wait() for wait in [runs.start(MASK) for _ in range(2)]]
    assert 0 in [one.code for one in found]
    assert all(one.code == 0 or is_one_line(one, "another run", "mask.zarr") for one in found), found
    check(runs, undisturbed, "mask.zarr")


@pytest.mark.parametrize("name", ["mask.zarr", "mask.tif"])
def test_parts_at_once_of_which_one_is_killed_and_run_again(runs: Runs, undisturbed: Path, name: str) -> None:
    lines = [f"{LINE.format(name)} --part {k}/4" for k in range(1, 5)]
    waits = [runs.start(line, killed(4) if line == lines[2] else None) for line in lines]
    assert [wait().code for wait in waits] == [0, 0, -signal.SIGKILL, 0]
    assert not (runs.folder / name).exists()
    assert runs.finish(lines[2])["complete"]
    check(runs, undisturbed, name)


@pytest.mark.parametrize("kind", ["truncated by half", "zeroed", "deleted"])
def test_what_is_damaged_between_two_runs_is_computed_again(runs: Runs, undisturbed: Path, kind: str) -> None:
    assert runs(MASK, signalled(40, signal.SIGTERM)).code == 75
    partial_mask = runs.folder / "mask.zarr.partial"
    done = status(runs.folder / "mask.zarr").done
    stored = partial_mask / "0/c/0/0"
    if kind == "deleted":
        stored.unlink()
    else:
        stored.write_bytes(DAMAGE[kind](stored.read_bytes()))
    # and what killed runs may leave
    (partial_mask / f"0/c/0/.0.{'a' * 16}.partial").write_bytes(b"half a block")
    (runs.folder / f".mask.zarr.{'b' * 16}.partial").mkdir()
    said = runs.finish(MASK)
    assert (said["blocks_resumed"], said["blocks_repaired"]) == (done - 1, int(kind != "deleted"))
    check(runs, undisturbed, "mask.zarr")


def test_a_flipped_bit_is_noticed_before_the_mask_has_its_name(runs: Runs, undisturbed: Path) -> None:
    """Looking through the blocks decodes none of them: the pyramid does."""
    assert runs(MASK, signalled(40, signal.SIGTERM)).code == 75
    stored = runs.folder / "mask.zarr.partial/0/c/0/0"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    assert is_one_line(runs(MASK), "mask.zarr.partial/0/c/0/0", "delete this file")
    stored.unlink()
    assert runs.finish(MASK)["blocks"] == 1
    check(runs, undisturbed, "mask.zarr")


OTHERS = {
    "--tile 104": "tile: 88 there, 104 now",
    "--threshold 0.6": "threshold: 0.5 there, 0.6 now",
    "--precision bf16": "precision: 'fp32' there, 'bf16' now",
    "--model other.safetensors": "model: '",
    "--roi 0:300,0:200": "region: [0, 0, 530, 200] there, [0, 0, 300, 200] now",
    "--tta": "tta: False there, True now",
}


def test_other_settings_are_refused_by_name_and_begin_anew_if_asked_to(runs: Runs, undisturbed: Path) -> None:
    toy_model(seed=1).save(runs.folder / "other.safetensors")
    assert runs(MASK, signalled(40, signal.SIGTERM)).code == 75
    before = contents_of(runs.folder / "mask.zarr.partial")
    for more, difference in OTHERS.items():
        found = runs(f"{MASK} {more}")
        assert is_one_line(found, "begun with other settings", difference, "--overwrite"), found
    image = (runs.folder / "image.tif").read_bytes()
    tifffile.imwrite(runs.folder / "image.tif", noise((530, 200), seed=1), tile=(64, 64), compression="zlib")
    assert is_one_line(runs(MASK), "begun with other settings", "content: ")
    (runs.folder / "image.tif").write_bytes(image)
    (runs.folder / "other.safetensors").unlink()
    assert contents_of(runs.folder / "mask.zarr.partial") == before
    anew = runs(f"{MASK} --threshold 0.6 --overwrite")
    assert anew.code == 0 and "were done before" not in anew.err
    assert runs.finish(f"{MASK} --overwrite")["blocks_resumed"] == 0
    check(runs, undisturbed, "mask.zarr")


def turn_back_the_clock() -> None:
    """From now on, every look at the clock finds it a day earlier than the one before."""
    days = iter(range(10**9))
    now = time.time()
    time.time = lambda: now - 86_400 * next(days)


@pytest.mark.parametrize("days", [-4000, 4000])
def test_clocks_do_not_matter(runs: Runs, undisturbed: Path, days: int) -> None:
    assert runs(MASK, signalled(40, signal.SIGTERM)).code == 75
    done, moment = status(runs.folder / "mask.zarr").done, time.time() + 86_400 * days
    for path in runs.folder.rglob("*"):
        os.utime(path, (moment, moment))
    found = runs(MASK, Fault(1, turn_back_the_clock))
    assert found.code == 0, found
    assert f"{done} blocks were done before" in found.err
    check(runs, undisturbed, "mask.zarr")


def test_the_mask_does_not_depend_on_batch_threads_or_parts(runs: Runs) -> None:
    exact = "--precision fp64"
    runs.finish(f"{MASK} {exact}")
    whole = contents_of(runs.folder / "mask.zarr")
    # each part in its own way, the last one first
    (runs.folder / "parts").mkdir()
    for part, batch, threads in ((3, 1, 2), (1, 2, 1), (2, 8, 2)):
        line = f"{LINE.format('parts/mask.zarr')} {exact} --part {part}/3 --batch {batch}"
        assert runs(line, threads=threads).code == 0
    assert contents_of(runs.folder / "parts/mask.zarr") == whole


class HaltAWorker(Listener):
    """At the first block that is stored, halts a worker for a while."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.halted = cluster, 0

    def progressed(self, result: Result, progress: Progress) -> None:
        if not self.halted:
            self.halted = next(iter(self.cluster.client.run(os.getpid).values()))
            os.kill(self.halted, signal.SIGSTOP)
            threading.Timer(2, os.kill, (self.halted, signal.SIGCONT)).start()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster.start(2) as started:
        yield started


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_halts_for_a_while_is_waited_for(
    runs: Runs, undisturbed: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilesegment.prediction.tiling.BLOCK", 192)
    monkeypatch.chdir(runs.folder)
    halter = HaltAWorker(cluster)
    done = predict(
        "image.tif", "mask.zarr", "model.safetensors", tile=88, precision="fp32", workers=cluster, listeners=[halter]
    )
    assert halter.halted
    assert (done.complete, done.blocks) == (True, BLOCKS)
    check(runs, undisturbed, "mask.zarr")
