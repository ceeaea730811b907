"""Memory that updates free."""

import ctypes
import subprocess
import sys

import pytest

IS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
# of all pages of four large tensors, one after another, those that the system had to map anew
PROGRAM = """
import resource, torch
from tilesegment.training.updates import kept_memory

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory():
    pages_mapped()  # the memory comes
    print(pages_mapped())
print(pages_mapped())
"""


@pytest.mark.skipif(not IS_GLIBC, reason="needs glibc's allocator")
def test_what_an_update_frees_is_there_for_the_next() -> None:
    """In a process of its own: what others did to this one's heap would count."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    inside, outside = map(int, done.stdout.split())
    assert inside < outside / 10
