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


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(("told", "threads"), [("3", 3), ("4,2", 4), (" 2 ", 2)])
def test_openmp_says_how_many_threads(monkeypatch: pytest.MonkeyPatch, told: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert thread_count() == threads


@pytest.mark.parametrize("told", ["", "0", "many", "-1"])
def test_without_it_there_are_as_many_as_cores(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert thread_count() == core_count() >= 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 16, id="no cgroups"),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "400000 100000\n"},
            4,
            id="v2, container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/job/step\n",
                "proc/self/mountinfo": V2,
                "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
                "sys/fs/cgroup/job/cpu.max": "250000 100000\n",
            },
            3,
            id="v2, limit of the one above, in parts of a core",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "20000 100000\n"},
            1,
            id="v2, less than a core",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/slurm/job7\n0::/\n",
                "proc/self/mountinfo": MEMORY + V1.format(top="/"),
                "sys/fs/cgroup/cpu,cpuacct/slurm/job7/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/slurm/job7/cpu.cfs_period_us": "100000\n",
            },
            2,
            id="v1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/ab\n",
                "proc/self/mountinfo": V1.format(top="/docker/ab"),
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            5,
            id="v1, container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "proc/self/mountinfo": V1.format(top="/"),
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            16,
            id="v1, no limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "\x00:::\n0::/\n",
                "proc/self/mountinfo": "- -\n\n" + V2,
                "sys/fs/cgroup/cpu.max": "0 0",
            },
            16,
            id="nonsense",
        ),
    ],
)
def test_limits_of_cgroups_are_kept(sixteen: None, tmp_path: Path, files: dict[str, str], cores: int) -> None:
    write(tmp_path, files)
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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system with affinities")
@pytest.mark.parametrize(("told", "threads"), [("", 1), ("3", 3)])
def test_the_network_has_the_threads_that_the_process_may(told: str, threads: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": told} if told else dict(os.environ)
    if not told:
        environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", COUNTS], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(threads)] * 2
