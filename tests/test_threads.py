"""How many cores a process may use, and how many threads it computes with, its network and its readers alike."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilesegment.threads import core_count, thread_count, threads_each

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 31 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "34 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, all of which this process may use."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)


@pytest.mark.parametrize(
    ("told", "threads"), [("3", 3), ("4,2", 4), (" 2 ", 2), ("", 16), ("0", 16), ("many", 16), ("-1", 16)]
)
def test_openmp_says_how_many_threads_and_else_the_cores_do(
    sixteen: None, monkeypatch: pytest.MonkeyPatch, told: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert thread_count() == (threads if threads < 16 else core_count())


def v1(group: str, top: str, folder: str, quota: int) -> dict[str, str]:
    """Files of a cgroup of version 1, limited in `folder`."""
    place = f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs"
    return {
        "proc/self/cgroup": f"5:memory:/\n4:cpu,cpuacct:{group}\n0::/\n",
        "proc/self/mountinfo": MEMORY + V1.format(top=top),
        f"{place}_quota_us": f"{quota}\n",
        f"{place}_period_us": "100000\n",
    }


def v2(group: str, **limits: str) -> dict[str, str]:
    """Files of a cgroup of version 2 and those above it, of which some are limited; `_` stands for a slash."""
    files = {f"sys/fs/cgroup{name.replace('_', '/')}/cpu.max": f"{limit}\n" for name, limit in limits.items()}
    return {"proc/self/cgroup": f"0::{group}\n", "proc/self/mountinfo": V2, **files}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 16, id="no cgroups"),
        pytest.param(v2("/", **{"": "400000 100000"}), 4, id="v2, container"),
        pytest.param(v2("/job/step", _job_step="max 100000", _job="250000 100000"), 3, id="v2, limit above, in parts"),
        pytest.param(v2("/", **{"": "20000 100000"}), 1, id="v2, less than a core"),
        pytest.param(v2("/", **{"": "0 0"}), 16, id="v2, nonsense"),
        pytest.param(v1("/slurm/job7", "/", "/slurm/job7", 200_000), 2, id="v1"),
        pytest.param(v1("/docker/ab", "/docker/ab", "", 500_000), 5, id="v1, container"),
        pytest.param(v1("/", "/", "", -1), 16, id="v1, no limit"),
        pytest.param({"proc/self/cgroup": "\x00:::\n", "proc/self/mountinfo": "- -\n\n"}, 16, id="nonsense"),
    ],
)
def test_limits_of_cgroups_are_kept(sixteen: None, tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert core_count(tmp_path) == cores


@pytest.mark.parametrize(
    ("told", "processes", "threads"), [("", 4, 4), ("", 32, 1), ("1", 1, 1), ("2", 4, 2), ("8", 4, 4)]
)
def test_processes_share_the_cores(
    sixteen: None, monkeypatch: pytest.MonkeyPatch, told: str, processes: int, threads: int
) -> None:
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads_each(processes) == threads


COUNTS = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
torch.set_num_threads(4)
from tilesegment.prediction.devices import choose_device
from tilesegment.threads import thread_count
choose_device("cpu")
print(thread_count(), torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system with affinities")
@pytest.mark.parametrize(("told", "threads"), [("", 1), ("3", 3)])
def test_the_network_has_the_threads_that_the_process_may(told: str, threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": told} if told else dict(os.environ)
    if not told:
        environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", COUNTS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads)] * 2
