"""What the allocator does with memory that an update gives back."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, memory that is freed stays with the process, for the next update to use.

    An update on a CPU allocates and frees all its activations. By default glibc gives such large pieces back to the
    system, which has to clear and map each page anew for the next update: a tenth of the time of an update. Afterwards
    all is given back. Without glibc (macOS, Windows, musl) nothing is changed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # where glibc's own adaptation of these limits ends; it does not adapt any more
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_TRIM_THRESHOLD, 64 * 2**20)
        libc.malloc_trim(0)
