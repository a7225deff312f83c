"""Ctrl-C in one line, and one that waits for a good moment."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from stages.stage import StageError

log = logging.getLogger(__name__)


class InterruptionError(StageError):
    """Ctrl-C; the message says what becomes of the run."""


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed; the second one ends the program as usual.

    A checkpoint is consistent between two steps only, so the first one must not fall into the middle of a step. Where
    it is ignored, as by what a shell runs in the background, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield lambda: False
        return
    pressed = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, usual)
        log.info("stopping after this step; Ctrl-C again stops at once and loses what is in no checkpoint")

    usual = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, usual)
