"""Disks that are full, fail or refuse, and images that vanish: one line, nothing harmed, and the same command goes on."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import zarr
from conftest import noise
from test_faults import BLOCKS, LINE, NAMES, Fault, Runs, check, contents_of

from tilesegment.masks import status

pytest_plugins = ["test_faults"]  # its fixtures
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the processes are POSIX")


def refuse(code: int) -> None:
    """As the operating system does."""
    raise OSError(code, os.strerror(code))


def refused(at: int, code: int, and_after: bool = True) -> Fault:
    return Fault(at, partial(refuse, code), and_after)


def is_one_line(err: str, *parts: str) -> bool:
    """Whether an error is one line, with these `parts` in it."""
    return err.startswith("Error: ") and err.count("\n") == 1 and all(part in err for part in parts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_is_full_or_fails_from_any_change_on(
    runs: Runs, undisturbed: Path, name: str, code: int
) -> None:
    """An older mask is to be replaced: it stays whole until the new one is."""
    line, mask = LINE.format(name) + " --overwrite", runs.folder / name
    runs.finish(LINE.format(name) + " --threshold 0.6")
    old, new = contents_of(mask), contents_of(undisturbed / name)
    codes = []
    for at in (1, 4, 9, 25, 45, 66) if code == errno.ENOSPC else (2, 30, 55):
        found = runs(line, refused(at, code))
        codes.append(found.code)
        assert found.code == 0 or is_one_line(found.err, str(mask), os.strerror(code)), found
        assert contents_of(mask) == (old if found.code else new)
    assert set(codes) == {1}
    runs.finish(line)
    check(runs, undisturbed, name)
