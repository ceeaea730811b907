"""How many threads decode pixels."""

import os


def decoding_threads() -> int:
    """What OMP_NUM_THREADS allows, as for the network; without it, the cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if told.isdecimal() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
