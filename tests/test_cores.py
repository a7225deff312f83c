"""Cores are counted as the process may use them, and divided among workers."""

from __future__ import annotations

import os

import pytest

from handlers.cores import threads_each, usable_cores


def test_only_cores_that_the_process_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    assert [threads_each(workers) for workers in (1, 2, 3, 4)] == [3, 1, 1, 1]


def test_a_system_that_knows_no_affinity_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores() == 8
    assert threads_each(2) == 4
