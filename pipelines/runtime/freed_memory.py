"""What a process does with memory that it has freed."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_MMAP_THRESHOLD, _MOST = 32 * 2**20, 2**31 - 1


def keep_freed_memory() -> bool:
    """Keeps what is freed for what is needed next, in place of giving it back to the kernel; True where that is done.

    A training step frees some MiB and asks for as many again: as glibc does it by default, the kernel clears thousands
    of pages for each step of 1,024 examples, a fifth of its time. The process stays as large as it was at its largest.
    Does nothing where the C library is another one.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _MOST) and mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD))
