"""What happens to memory that a process has freed."""

from __future__ import annotations

import ctypes
import platform

# Of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
LARGEST_MMAP_THRESHOLD = 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long)


def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next tensors.

    By default glibc gives large blocks back to the system and asks for them again, page fault by page fault: 5 to 8% of
    the processor time of a training step, or of a batch of eight posts. Where the C library is another one, nothing
    happens. See mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, NEVER)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
