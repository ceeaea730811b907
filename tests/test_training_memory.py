"""Memory that updates free."""

import ctypes
import sys

import pytest
import torch

from tilesegment.training.memory import kept_memory

if sys.platform != "win32":
    import resource

IS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def pages_mapped() -> int:
    """Of all pages of four large tensors, one after another, those that the system had to map anew."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not IS_GLIBC, reason="needs glibc's allocator")
def test_what_an_update_frees_is_there_for_the_next() -> None:
    with kept_memory():
        pages_mapped()  # the memory comes
        inside = pages_mapped()
    assert inside < pages_mapped() / 10
    assert pages_mapped() > 100, "afterwards memory is given back as ever"
