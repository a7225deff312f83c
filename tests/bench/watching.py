"""What goes on beside a load, in a thread whose failure is not lost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], Result]) -> Iterator[Future[Result]]:
    """Run `work` in a thread while the block runs; the event that it is given says when to end.

    Yields its result, which is there after the block. Raises at the end of the block what `work` raised: a part of what
    it saw is no result.
    """
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work, over)
        try:
            yield result
        finally:
            over.set()
    result.result()
