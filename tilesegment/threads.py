"""The number of cores that this process may use, and of threads that it computes with."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def thread_count() -> int:
    """Return OMP_NUM_THREADS, which PyTorch follows too; if unset, the number of cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) else core_count()


def threads_each(processes: int) -> int:
    """Return the threads per process when `processes` share the cores, at most OMP_NUM_THREADS."""
    return min(thread_count(), max(1, core_count() // processes))


def core_count(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, by its affinity and the CPU limits of its cgroups.

    Args:
        root: folder with the /proc and /sys to read.
    """
    # Python 3.13 and later; honours PYTHON_CPU_COUNT
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        cores = count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # round up: a fraction of a core keeps one more thread busy part of the time
    return max(1, min([cores, *(math.ceil(limit) for limit in _cgroup_limits(root))]))


def _cgroup_limits(root: Path) -> Iterator[float]:
    """CPU limits of the cgroups of this process and their parents, versions 1 and 2, in cores."""
    groups = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup") if line.count(":") >= 2]
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, *options) = before.split(), after.split() or [""]
        if len(fields) < 5 or kind not in ("cgroup", "cgroup2"):
            continue
        inside, top = fields[3], root / fields[4].lstrip("/")  # the cgroup that is mounted, and where
        for number, controllers, path in groups:
            is_v2 = number == "0" and not controllers
            cpu = "cpu" in controllers.split(",") and "cpu" in (options or [""])[-1].split(",")
            if (kind == "cgroup2") == is_v2 and (is_v2 or cpu):
                # in a container the mount shows its own cgroup as the root
                folder = top / (path.removeprefix(inside) if inside != "/" else path).strip("/")
                yield from (limit for one in (folder, *folder.parents) if one.is_relative_to(top) for limit in _of(one))


def _of(folder: Path) -> Iterator[float]:
    """The limit of one cgroup, if any: microseconds of CPU time per period, divided by the period."""
    v1 = [" ".join(_lines(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    for line in (*_lines(folder / "cpu.max"), " ".join(v1)):
        numbers = [int(word) for word in line.split() if word.isdecimal()]  # `max` and -1 stand for no limit
        if len(numbers) == 2 and all(numbers):
            yield numbers[0] / numbers[1]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
