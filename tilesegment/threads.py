"""How many cores this process may use, and how many threads it computes with: counted here and nowhere else."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def thread_count() -> int:
    """What OMP_NUM_THREADS allows, as for the network; without it, the cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if told.isdecimal() and int(told):
        return int(told)
    return core_count()


def threads_each(processes: int) -> int:
    """Those of each of so many processes that share the cores, no more than OMP_NUM_THREADS allows a process."""
    return min(thread_count(), max(1, core_count() // processes))


def core_count(root: Path = Path("/")) -> int:
    """The cores that this process may use: of its affinity, and of the CPU limits of its cgroups.

    Args:
        root: of the file system whose /proc and /sys say what limits there are.
    """
    # from Python 3.13 on, which honours PYTHON_CPU_COUNT, too
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        cores = count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # a part of a core keeps one more thread busy for a part of the time
    return max(1, min([cores, *(math.ceil(limit) for limit in _cgroup_limits(root))]))


def _cgroup_limits(root: Path) -> Iterator[float]:
    """The cores that each cgroup of this process allows it, and each of those that it lies in."""
    mounts = list(_cgroup_mounts(root))
    for number, controllers, path in _fields(root / "proc/self/cgroup", ":", 3):
        for kind, kinds, inside, mounted in mounts:
            is_v2 = number == "0" and not controllers
            if is_v2 != (kind == "cgroup2") or (not is_v2 and not {"cpu"} & set(controllers.split(",")) & kinds):
                continue
            # in a container the mount shows its own cgroup as the root
            below = path.removeprefix(inside) if inside != "/" else path
            group = root / mounted.lstrip("/") / below.strip("/")
            for folder in (group, *group.parents):
                yield from _limit(folder)
                if folder == root / mounted.lstrip("/"):
                    break


def _cgroup_mounts(root: Path) -> Iterator[tuple[str, set[str], str, str]]:
    """Of each mounted cgroup hierarchy: its kind, its controllers, the cgroup that is its top, and where it is."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, *options) = before.split(), after.split() or [""]
        if len(fields) > 4 and kind in ("cgroup", "cgroup2"):
            yield kind, set(options[-1].split(",")) if options else set(), fields[3], fields[4]


def _limit(folder: Path) -> Iterator[float]:
    """The cores of one cgroup, where it limits them: version 2, then version 1."""
    for quota, period in _fields(folder / "cpu.max", None, 2):
        yield from _share(quota, period)
    quotas, periods = _lines(folder / "cpu.cfs_quota_us"), _lines(folder / "cpu.cfs_period_us")
    for quota, period in zip(quotas, periods, strict=False):
        yield from _share(quota.strip(), period.strip())


def _share(quota: str, period: str) -> Iterator[float]:
    """Microseconds of computing in each period of so many; `max` and -1 stand for no limit."""
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)


def _fields(path: Path, separator: str | None, count: int) -> Iterator[list[str]]:
    """The lines of a file that have `count` fields."""
    split = (line.strip().split(separator, count - 1) for line in _lines(path))
    return (fields for fields in split if len(fields) == count)


def _lines(path: Path) -> list[str]:
    """Those of a file; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
