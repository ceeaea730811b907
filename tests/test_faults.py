"""Runs that are killed, stopped, doubled, damaged or refused: the same command goes on to the undisturbed mask.

Each run is the real command in a process of its own. Some changes on the disk stand for all: examples/kill_runs.py does
every one of them.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import tifffile
import zarr
from command_line import Outcome
from conftest import noise, toy_model
from fault_runs import (
    BLOCKS,
    LINE,
    NAMES,
    Fault,
    Runs,
    check,
    contents_of,
    is_one_line,
    killed,
    refuse,
    refused,
    signalled,
)

from tilesegment.cluster import Cluster
from tilesegment.masks import status
from tilesegment.prediction.predict import predict
from tilesegment.prediction.result import Listener, Progress, Result

pytestmark = pytest.mark.slow
MASK = LINE.format("mask.zarr")
ZARR = MASK.replace("image.tif", "image.zarr")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image of 6 blocks, whose mask has two levels, and a model."""
    folder = tmp_path_factory.mktemp("inputs")
    tifffile.imwrite(folder / "image.tif", noise((530, 200)), tile=(64, 64), compression="zlib")
    toy_model().save(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the masks of undisturbed runs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in NAMES:
        Runs(inputs, tmp_path_factory.mktemp("said")).finish(LINE.format(folder / name))
    return folder


@pytest.fixture
def runs(inputs: Path, tmp_path: Path) -> Runs:
    """In a folder of its own, with image and model."""
    shutil.copytree(inputs, tmp_path / "here")
    (tmp_path / "said").mkdir()
    return Runs(tmp_path / "here", tmp_path / "said")


@pytest.fixture
def stored_as_zarr(runs: Runs) -> Runs:
    """The image is image.zarr, of chunks."""
    zarr.create_array(runs.folder / "image.zarr", data=tifffile.imread(runs.folder / "image.tif"), chunks=(64, 64))
    (runs.folder / "image.tif").unlink()
    return runs


def how_far(path: Path) -> str:
    """The phase that a run was in which is no more."""
    if not path.with_name(f"{path.name}.partial").exists():
        return "ended" if path.exists() else "not begun"
    found = status(path)
    assert found.damaged == 0
    return "blocks" if found.done < found.blocks else "pyramid"


def stopped(runs: Runs) -> int:
    """Stop a run after some blocks; return how many."""
    assert runs(MASK, signalled(27)).code == 75
    return status(runs.folder / "mask.zarr").done


class TestEnded:
    @pytest.mark.parametrize("name", NAMES)
    def test_killed_at_any_change_the_same_command_goes_on(self, runs: Runs, undisturbed: Path, name: str) -> None:
        seen = set()
        for at in count(1, 20):
            found = runs(LINE.format(name), killed(at))
            if found.code == 0:
                break
            assert found.code == -signal.SIGKILL
            seen.add(how_far(runs.folder / name))
            runs.finish(LINE.format(name))
            check(runs, undisturbed, name)
            (runs.folder / name).rename(runs.folder.with_name(f"{at} {name}"))
        assert seen >= {"not begun", "blocks", "pyramid"}

    def test_killed_again_and_again_it_never_loses_a_block(self, runs: Runs, undisturbed: Path) -> None:
        done = [0]
        while runs(MASK, killed(30)).code != 0:
            done.append(status(runs.folder / "mask.zarr").done)
            assert len(done) < 9
        assert 0 < done[1] < done[2] <= BLOCKS
        assert done == sorted(done)
        check(runs, undisturbed)

    @pytest.mark.parametrize(
        ("number", "again", "code"), [("TERM", False, 75), ("TERM", True, 75), ("INT", False, 130)]
    )
    def test_asked_to_stop_it_keeps_what_is_done_and_says_how_to_go_on(
        self, runs: Runs, undisturbed: Path, number: str, again: bool, code: int
    ) -> None:
        """After the first block; `again` at each change from then on, as whoever asks twice does not want to wait."""
        found = runs(MASK, signalled(24, signal.Signals[f"SIG{number}"], again))
        assert (found.code, found.out) == (code, ""), found
        assert "the same command goes on from " in found.err
        stored = status(runs.folder / "mask.zarr")
        assert (stored.state, stored.damaged) == ("partial", 0)
        assert 0 < stored.done < BLOCKS
        said = runs.finish(MASK)
        assert (said["blocks_resumed"], said["blocks"]) == (stored.done, BLOCKS - stored.done)
        check(runs, undisturbed)


def halt(ready: str) -> None:
    """Stand still until told to go on; the file `ready` says which process does."""
    Path(ready).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


class TestAtOnce:
    @pytest.mark.parametrize("at", [22, 60])
    def test_a_second_run_on_the_same_output_is_refused(self, runs: Runs, undisturbed: Path, at: int) -> None:
        """Among the blocks, and in the pyramid."""
        ready = runs.folder.with_name("ready")
        wait = runs.start(MASK, Fault(at, partial(halt, str(ready))))
        while not (ready.exists() and ready.read_text()):
            time.sleep(0.01)
        try:
            for second in (MASK, MASK + " --part 1/2"):
                assert is_one_line(runs(second), "another run", "mask.zarr")
        finally:
            os.kill(int(ready.read_text()), signal.SIGCONT)
        assert wait().code == 0
        check(runs, undisturbed)

    def test_of_two_runs_at_once_none_does_harm(self, runs: Runs, undisturbed: Path) -> None:
        found = [wait() for wait in [runs.start(MASK) for _ in range(2)]]
        assert 0 in [one.code for one in found]
        assert all(one.code == 0 or is_one_line(one, "another run", "mask.zarr") for one in found), found
        check(runs, undisturbed)

    @pytest.mark.parametrize("name", NAMES)
    def test_parts_at_once_of_which_one_is_killed_and_run_again(self, runs: Runs, undisturbed: Path, name: str) -> None:
        lines = [f"{LINE.format(name)} --part {k}/4" for k in range(1, 5)]
        waits = [runs.start(line, killed(4) if line == lines[2] else None) for line in lines]
        assert [wait().code for wait in waits] == [0, 0, -signal.SIGKILL, 0]
        assert not (runs.folder / name).exists()
        assert runs.finish(lines[2])["complete"]
        check(runs, undisturbed, name)

    def test_the_mask_does_not_depend_on_batch_threads_or_parts(self, runs: Runs) -> None:
        runs.finish(f"{MASK} --precision fp64")
        # each part in its own way, the last one first
        (runs.folder / "parts").mkdir()
        for part, batch, threads in ((3, 1, 2), (1, 2, 1), (2, 8, 2)):
            line = f"{LINE.format('parts/mask.zarr')} --precision fp64 --part {part}/3 --batch {batch}"
            assert runs(line, threads=threads).code == 0
        assert contents_of(runs.folder / "parts/mask.zarr") == contents_of(runs.folder / "mask.zarr")


OTHERS = {
    "--tile 104": "tile: 88 there, 104 now",
    "--threshold 0.6": "threshold: 0.5 there, 0.6 now",
    "--precision bf16": "precision: 'fp32' there, 'bf16' now",
    "--model other.safetensors": "model: '",
    "--roi 0:300,0:200": "region: [0, 0, 530, 200] there, [0, 0, 300, 200] now",
    "--tta": "tta: False there, True now",
}


class TestBetweenTwoRuns:
    @pytest.mark.parametrize("kind", ["zeroed", "deleted"])
    def test_what_is_damaged_is_computed_again(self, runs: Runs, undisturbed: Path, kind: str) -> None:
        done, partial_mask = stopped(runs), runs.folder / "mask.zarr.partial"
        stored = partial_mask / "0/c/0/0"
        stored.write_bytes(bytes(stored.stat().st_size)) if kind == "zeroed" else stored.unlink()
        # and what killed runs may leave
        (partial_mask / f"0/c/0/.0.{'a' * 16}.partial").write_bytes(b"half a block")
        (runs.folder / f".mask.zarr.{'b' * 16}.partial").mkdir()
        said = runs.finish(MASK)
        assert (said["blocks_resumed"], said["blocks_repaired"]) == (done - 1, int(kind == "zeroed"))
        check(runs, undisturbed)

    def test_other_settings_are_refused_by_name_and_begin_anew_if_asked_to(self, runs: Runs, undisturbed: Path) -> None:
        toy_model(seed=1).save(runs.folder / "other.safetensors")
        stopped(runs)
        before = contents_of(runs.folder / "mask.zarr.partial")
        for more, difference in OTHERS.items():
            found = runs(f"{MASK} {more}")
            assert is_one_line(found, difference, "--overwrite"), found
        image = (runs.folder / "image.tif").read_bytes()
        tifffile.imwrite(runs.folder / "image.tif", noise((530, 200), seed=1), tile=(64, 64), compression="zlib")
        assert is_one_line(runs(MASK), "content: ")
        (runs.folder / "image.tif").write_bytes(image)
        (runs.folder / "other.safetensors").unlink()
        assert contents_of(runs.folder / "mask.zarr.partial") == before
        anew = runs(f"{MASK} --threshold 0.6 --overwrite")
        assert anew.code == 0 and "were done before" not in anew.err
        assert runs.finish(f"{MASK} --overwrite")["blocks_resumed"] == 0
        check(runs, undisturbed)

    def test_a_finished_run_writes_nothing(self, runs: Runs) -> None:
        """Not even where nothing can be written."""
        for name in NAMES:
            runs.finish(LINE.format(name))
            before = {path: path.stat().st_mtime_ns for path in runs.folder.rglob("*")}
            found = runs(LINE.format(name) + " --json", refused(1, errno.EROFS))
            assert found.code == 0, found
            assert json.loads(found.out)["blocks"] == 0
            assert before == {path: path.stat().st_mtime_ns for path in runs.folder.rglob("*")}


ON_TMPFS = """
import json, shutil, subprocess, sys
from pathlib import Path
from fault_runs import LINE, Runs

folder = Path(sys.argv[1])
runs, small = Runs(folder / "here", folder / "said"), folder / "here/small"
small.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", small], check=True)
found = []
for options in ("size=32k", "ro", "rw,size=4m"):
    subprocess.run(["mount", "-o", f"remount,{options}", small], check=True)
    done = runs(LINE.format("small/mask.zarr"))
    found.append((done.code, done.out, done.err))
print(json.dumps(found))
shutil.copytree(small / "mask.zarr", folder / "here/mask.zarr")
"""


def fail_reads(part: str, times: int) -> None:
    """From now on, the first `times` times that a file with `part` in its path is opened, this fails."""
    before = count()

    def hear(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and part in str(given[0]) and next(before) < times:
            refuse(errno.EIO)

    sys.addaudithook(hear)


def same_pixels(runs: Runs, undisturbed: Path) -> bool:
    """Whether the mask's levels are those of the same image in a TIFF; its record is another."""
    ours, theirs = contents_of(runs.folder / "mask.zarr"), contents_of(undisturbed / "mask.zarr")
    return all(ours[key] == theirs[key] for key in ours.keys() | theirs.keys() if key != "zarr.json")


class TestDisks:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_disk_that_is_full_from_any_change_on(self, runs: Runs, undisturbed: Path, name: str) -> None:
        """An older mask is to be replaced: it stays whole until the new one is."""
        line, mask = LINE.format(name) + " --overwrite", runs.folder / name
        runs.finish(LINE.format(name) + " --threshold 0.6")
        old = contents_of(mask)
        for at in (1, 9, 25, 25):
            found = runs(line, refused(at, errno.ENOSPC))
            assert is_one_line(found, name, "No space left on device"), found
            assert contents_of(mask) == old
        runs.finish(line)
        check(runs, undisturbed, name)

    @pytest.mark.parametrize("at", [3, 22, 70])
    def test_a_disk_that_fails_once(self, runs: Runs, undisturbed: Path, at: int) -> None:
        found = runs(MASK, refused(at, errno.EIO, and_after=False))
        assert is_one_line(found, "mask.zarr", "Input/output error"), found
        assert not (runs.folder / "mask.zarr").exists()
        assert runs.finish(MASK)["blocks_repaired"] == 0
        check(runs, undisturbed)

    def test_a_real_disk_that_is_full_and_one_that_is_read_only(self, runs: Runs, undisturbed: Path) -> None:
        """In a mount namespace of its own, which ends with it."""
        alone = ["unshare", "--map-root-user", "--mount"]
        probe = [*alone, "mount", "-t", "tmpfs", "none", "/mnt"]
        if shutil.which("unshare") is None or subprocess.run(probe, check=False, capture_output=True).returncode:
            pytest.skip("needs a mount namespace, which is not permitted here")
        line = [*alone, sys.executable, "-c", ON_TMPFS, str(runs.folder.parent)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(line, env=environment, check=True, capture_output=True, text=True, timeout=120)
        full, read_only, roomy = (Outcome(*found) for found in json.loads(done.stdout))
        assert is_one_line(full, "mask.zarr", "No space left on device"), full
        assert is_one_line(read_only, "mask.zarr", "Read-only file system"), read_only
        assert roomy.code == 0, roomy
        assert "blocks were done before" in roomy.err
        assert contents_of(runs.folder / "mask.zarr") == contents_of(undisturbed / "mask.zarr")

    @pytest.mark.parametrize(("times", "failed"), [(1, 1), (10**9, 2)])
    def test_a_chunk_that_cannot_be_read_costs_the_blocks_that_see_it(
        self, stored_as_zarr: Runs, undisturbed: Path, times: int, failed: int
    ) -> None:
        runs = stored_as_zarr
        found = runs(ZARR, Fault(1, partial(fail_reads, "image.zarr/c/8/2", times)))
        assert found.code == 3, found
        last = found.err.splitlines()[-1]
        assert last.startswith("Error: ") and "Input/output error" in last
        assert f"({failed} blocks failed, the other {BLOCKS - failed} are stored)" in last
        assert runs.finish(ZARR)["blocks"] == failed
        assert same_pixels(runs, undisturbed)

    def test_an_image_that_vanishes_is_missed_and_gone_on_with_when_it_is_back(
        self, stored_as_zarr: Runs, undisturbed: Path
    ) -> None:
        runs = stored_as_zarr
        found = runs(ZARR, Fault(22, partial(os.rename, "image.zarr", "away.zarr")))
        assert found.code in (1, 3), found
        assert "image.zarr" in found.err.splitlines()[-1]
        assert not (runs.folder / "mask.zarr").exists()
        assert is_one_line(runs(ZARR), "image.zarr")
        (runs.folder / "away.zarr").rename(runs.folder / "image.zarr")
        runs.finish(ZARR)
        assert same_pixels(runs, undisturbed)

    def test_a_tiff_that_is_cut_off_meanwhile(self, runs: Runs, undisturbed: Path) -> None:
        image = runs.folder / "image.tif"
        whole = image.read_bytes()
        found = runs(MASK, Fault(22, partial(os.truncate, "image.tif", len(whole) // 2)))
        assert found.code in (1, 3), found
        assert "image.tif" in found.err.splitlines()[-1]
        stored = status(runs.folder / "mask.zarr").done
        image.write_bytes(whole)
        assert runs.finish(MASK)["blocks_resumed"] == stored
        check(runs, undisturbed)


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
    check(runs, undisturbed)
