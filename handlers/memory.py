"""What a process keeps of the memory that it has used: enough to be fast, and no more with every batch."""

from __future__ import annotations

import ctypes
import os
import platform

# Of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
# Bytes above which a block is the system's own, given back at once. First what a tensor hardly reaches (the gradient of
# an embedding table is 47 MB, the inner layer of 8,192 tokens 50), then the most that glibc before 2.35 takes.
MMAP_THRESHOLDS = (1 << 30, 4 * 1024 * 1024 * ctypes.sizeof(ctypes.c_long))

# Kernels that oneDNN keeps: what one pass uses in all its layers, with room to spare.
KERNELS = 64


def keep_freed_memory() -> None:
    """Let the process keep what it frees, for its next tensors.

    By default glibc gives large blocks back to the system and asks for them again, page fault by page fault: 5 to 8% of
    the processor time of a training step, or of a batch of eight posts. Where the C library is another one, nothing
    happens. See mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(M_TRIM_THRESHOLD, NEVER)
        # It returns 1 for a value that it takes.
        any(library.mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS)


def keep_few_kernels() -> None:
    """Let oneDNN keep KERNELS compiled kernels, and PyTorch so many of its calls of them, where neither has been used
    yet and the environment asks for no number.

    A kernel is compiled for each shape, and each of the two keeps 1,024. The layers of a pass share theirs, but the
    next batch has other lengths: what is kept longer is hardly used again, and was 390 MiB after 80 steps in bf16 and
    growing, for no time saved. See https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html, and
    lru_cache.hpp of https://github.com/intel/ideep, which stands between the two.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS))


def give_back_freed_memory() -> None:
    """Return to the system what this process has freed and kept.

    Batches of many lengths leave gaps of many sizes, which the next ones fit less and less: now and then, so that they
    do not add up. Where the C library is not glibc, nothing happens. See malloc_trim(3),
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
