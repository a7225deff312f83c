"""Freed memory stays with the process, measured by the page faults that this saves."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks large enough that glibc gives them back to the system, small enough that it may keep them. One round is the
# warm-up; what four blocks at once leave free is more than it keeps by itself.
FAULTS = """
import resource
import numpy as np
def work():
    blocks = [np.ones(24 * 1024 * 1024, np.uint8) for _ in range(4)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_used_again() -> None:
    keep = "from handlers.memory import keep_freed_memory; keep_freed_memory()"
    usual, kept = (
        int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for code in (FAULTS, keep + FAULTS)
    )
    assert kept < usual / 10, "page faults"
