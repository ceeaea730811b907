"""Disks that are full, fail or refuse, images that vanish: one line, nothing harmed, the same command goes on."""

import errno
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import tifffile
import zarr
from command_line import Outcome
from test_faults import BLOCKS, LINE, NAMES, Fault, Runs, check, contents_of

from tilesegment.masks import status

pytest_plugins = ["test_faults"]  # its fixtures
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the processes are POSIX")


def refuse(code: int) -> None:
    """As the operating system does."""
    raise OSError(code, os.strerror(code))


def refused(at: int, code: int, and_after: bool = True) -> Fault:
    return Fault(at, partial(refuse, code), and_after)


def is_one_line(found: Outcome, *parts: str) -> bool:
    """Whether it failed and said why in one line, with these `parts` in it."""
    err = found.err
    return found.code == 1 and err.startswith("Error: ") and err.count("\n") == 1 and all(one in err for one in parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_is_full_from_any_change_on(runs: Runs, undisturbed: Path, name: str) -> None:
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


@pytest.mark.parametrize("at", [3, 22, 40, 70])
def test_a_disk_that_fails_once(runs: Runs, undisturbed: Path, at: int) -> None:
    found = runs(LINE.format("mask.zarr"), refused(at, errno.EIO, and_after=False))
    assert is_one_line(found, "mask.zarr", "Input/output error"), found
    assert not (runs.folder / "mask.zarr").exists()
    assert runs.finish(LINE.format("mask.zarr"))["blocks_repaired"] == 0
    check(runs, undisturbed, "mask.zarr")


ON_TMPFS = """
import json, shutil, subprocess, sys
from pathlib import Path
from test_faults import LINE, Runs

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


def test_a_real_disk_that_is_full_and_one_that_is_read_only(runs: Runs, undisturbed: Path) -> None:
    """In a mount namespace of its own, which ends with it."""
    alone = ["unshare", "--map-root-user", "--mount"]
    probe = [*alone, "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace, which is not permitted here")
    command = [*alone, sys.executable, "-c", ON_TMPFS, str(runs.folder.parent)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    full, read_only, roomy = (Outcome(*found) for found in json.loads(done.stdout))
    assert is_one_line(full, "mask.zarr", "No space left on device"), full
    assert is_one_line(read_only, "mask.zarr", "Read-only file system"), read_only
    assert roomy.code == 0, roomy
    assert "blocks were done before" in roomy.err
    assert contents_of(runs.folder / "mask.zarr") == contents_of(undisturbed / "mask.zarr")


def fail_reads(part: str, times: int) -> None:
    """From now on, the first `times` times that a file with `part` in its path is opened, this fails."""
    before = count()

    def hear(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and part in str(given[0]) and next(before) < times:
            refuse(errno.EIO)

    sys.addaudithook(hear)


@pytest.fixture
def stored_as_zarr(runs: Runs) -> Runs:
    """The image is image.zarr, of chunks."""
    zarr.create_array(runs.folder / "image.zarr", data=tifffile.imread(runs.folder / "image.tif"), chunks=(64, 64))
    (runs.folder / "image.tif").unlink()
    return runs


ZARR = LINE.replace("image.tif", "image.zarr").format("mask.zarr")


@pytest.mark.parametrize(("times", "failed"), [(1, 1), (10**9, 2)])
def test_a_chunk_that_cannot_be_read_costs_the_blocks_that_see_it(
    stored_as_zarr: Runs, undisturbed: Path, times: int, failed: int
) -> None:
    runs = stored_as_zarr
    found = runs(ZARR, Fault(1, partial(fail_reads, "image.zarr/c/8/2", times)))
    assert found.code == 3, found
    last = found.err.splitlines()[-1]
    assert last.startswith("Error: ") and "Input/output error" in last
    assert f"({failed} blocks failed, the other {BLOCKS - failed} are stored)" in last
    assert runs.finish(ZARR)["blocks"] == failed
    assert same_pixels(runs, undisturbed)


def same_pixels(runs: Runs, undisturbed: Path) -> bool:
    """Whether the mask's levels are those of the same image in a TIFF; its record is another."""
    ours, theirs = contents_of(runs.folder / "mask.zarr"), contents_of(undisturbed / "mask.zarr")
    return all(ours[key] == theirs[key] for key in ours.keys() | theirs.keys() if key != "zarr.json")


def test_an_image_that_vanishes_is_missed_and_gone_on_with_when_it_is_back(
    stored_as_zarr: Runs, undisturbed: Path
) -> None:
    runs = stored_as_zarr
    found = runs(ZARR, Fault(22, partial(os.rename, "image.zarr", "away.zarr")))
    assert found.code in (1, 3), found
    assert "image.zarr is damaged: " in found.err.splitlines()[-1]
    assert not (runs.folder / "mask.zarr").exists()
    assert is_one_line(runs(ZARR), "image.zarr does not exist")
    (runs.folder / "away.zarr").rename(runs.folder / "image.zarr")
    runs.finish(ZARR)
    assert same_pixels(runs, undisturbed)


def test_a_tiff_that_is_cut_off_meanwhile(runs: Runs, undisturbed: Path) -> None:
    image = runs.folder / "image.tif"
    whole = image.read_bytes()
    found = runs(LINE.format("mask.zarr"), Fault(22, partial(os.truncate, "image.tif", len(whole) // 2)))
    assert found.code in (1, 3), found
    assert "image.tif is damaged: " in found.err.splitlines()[-1]
    stored = status(runs.folder / "mask.zarr").done
    image.write_bytes(whole)
    assert runs.finish(LINE.format("mask.zarr"))["blocks_resumed"] == stored
    check(runs, undisturbed, "mask.zarr")


def test_a_finished_run_writes_nothing(runs: Runs, undisturbed: Path) -> None:
    """Not even where nothing can be written."""
    for name in NAMES:
        runs.finish(LINE.format(name))
        before = {path: path.stat() for path in runs.folder.rglob("*")}
        found = runs(LINE.format(name) + " --json", refused(1, errno.EROFS))
        assert found.code == 0, found
        assert json.loads(found.out)["blocks"] == 0
        after = {path: path.stat() for path in runs.folder.rglob("*")}
        assert before.keys() == after.keys()
        assert all(before[path].st_mtime_ns == after[path].st_mtime_ns for path in before)
