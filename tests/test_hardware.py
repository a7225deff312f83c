"""The fastest of several calls."""

import pytest

from stages import hardware


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, 2), (14.0, 3), (100.0, 7)])
def test_the_shortest_of_the_calls_that_there_is_time_for(
    seconds: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, takes, made = 0.0, [9.0, 4.0, 2.0, 30.0, 8.0, 40.0, 50.0], 0

    def call() -> None:
        nonlocal now, made
        now += takes[made]
        made += 1

    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now)
    assert hardware.shortest(call, seconds) == min(takes[:calls])
    assert made == calls
