"""Memory of this process: what it took at most, and keeping what was freed."""

import ctypes
import resource
import sys

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of glibc's <malloc.h>


def keep_freed() -> bool:
    """Lets the allocator keep what a frame frees for the next one; says whether it can.

    A frame takes hundreds of MB of temporaries. By default glibc gives such blocks back to the system, which fills them
    with zeros again page by page: a tenth of a full-size frame's time on a processor. Without glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another libc
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def peak() -> float:
    """The most memory that this process has held so far, GiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**30 if sys.platform == "darwin" else most / 2**20
