"""What the modes of files forbid, forbidden to the tests too, even where root runs them."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

# of <linux/capability.h>: what lets root open what its mode forbids
_OVERRIDE, _READ_SEARCH, _VERSION_3 = 1 << 1, 1 << 2, 0x20080522


@contextmanager
def refused() -> Iterator[None]:
    """Without the right of root to open whatever it likes; skips the test where that cannot be given up."""
    if os.geteuid() != 0:
        yield
        return
    if not hasattr(ctypes.CDLL(None), "capset"):
        pytest.skip("needs a system on which root can give up a right, or another user")
    before = _change_rights(lambda rights: rights & ~(_OVERRIDE | _READ_SEARCH))
    try:
        yield
    finally:
        _change_rights(lambda rights: before)


def _change_rights(change: Callable[[int], int]) -> int:
    """Changes which of its rights this thread of root makes use of; returns which they were."""
    libc = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = int(data[0])
    data[0] = change(before)
    assert libc.capset(header, data) == 0
    return before
