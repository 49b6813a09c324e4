"""What a process says of its memory, and what it asks of the allocator."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from r3p import memory


def test_peak_is_at_least_what_is_held():
    held = np.ones(2**25)  # a quarter of a GiB
    assert memory.peak() >= held.nbytes / 2**30


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="only glibc has these settings")
def test_freed_memory_is_kept():
    code = """
import numpy as np
from r3p import memory
assert memory.keep_freed()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
np.ones(2**25)
assert resident() > 2**28
"""
    subprocess.run([sys.executable, "-c", code], check=True)
