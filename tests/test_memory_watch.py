"""Peak memory of a process and of all that it starts."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from stages.memory_watch import MemoryWatch, resident_bytes

ROOT = Path(__file__).parent.parent
# Two processes of 60 MiB, started as a server is: in a session of its own, one of them by a launcher.
HOLDS = """
import subprocess, sys, time
from stages.memory_watch import PAUSE_S, MemoryWatch
code = "block = b'x' * (60 << 20); print(len(block), flush=True); input()"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
with MemoryWatch() as memory:
    children = [
        subprocess.Popen(command, **pipes, start_new_session=True)
        for command in ([sys.executable, "-c", code], ["sh", "-c", f'{sys.executable} -c "{code}"; true'])
    ]
    for child in children:
        child.stdout.readline()
    time.sleep(3 * PAUSE_S)
    for child in children:
        child.communicate(b"\\n")
print(memory.peak_bytes() / 2**20)
"""
# What a process that nobody sampled has held.
PEAKS = """
import psutil
from stages import memory_watch
memory_watch.resident_bytes = lambda _: 0
with memory_watch.MemoryWatch() as memory:
    pass
print(memory.peak_bytes(), psutil.Process().memory_info().rss)
"""


def test_memory_is_that_of_all_processes_together() -> None:
    # In an interpreter of its own: this one holds more, and may have held much more before.
    done = subprocess.run([sys.executable, "-c", HOLDS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 2 * 60 < float(done.stdout) < 4 * 60


def test_a_process_that_ends_meanwhile_holds_nothing() -> None:
    short = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended, alive = psutil.Process(short.pid), psutil.Process()
    short.communicate(b"\n")
    assert resident_bytes([ended, alive]) == pytest.approx(alive.memory_info().rss, rel=0.1)


def test_a_peak_that_no_sample_met_is_that_of_one_process_at_least() -> None:
    # In an interpreter of its own, which has had no children: theirs counts as well.
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=ROOT, capture_output=True, text=True, check=True)
    peak, resident = map(int, done.stdout.split())
    # The kernel counts its pages a little differently for either.
    assert peak > 0.9 * resident


def test_the_watch_ends_with_its_block() -> None:
    def watching() -> bool:
        return "memory-watch" in {thread.name for thread in threading.enumerate()}

    with pytest.raises(ZeroDivisionError), MemoryWatch():
        assert watching()
        _ = 1 / 0
    assert not watching()
