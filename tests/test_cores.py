"""Cores are counted as the process may use them, and divided among workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handlers.cores import threads_each, usable_cores


@pytest.fixture(autouse=True)
def quota(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the quota of a container stands; here in none, unless a test writes one."""
    path = tmp_path / "cpu.max"
    monkeypatch.setattr("handlers.cores.QUOTA", path)
    return path


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8)]
)
def test_a_container_has_what_its_quota_allows(
    monkeypatch: pytest.MonkeyPatch, quota: Path, text: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    quota.write_text(f"{text}\n")
    assert usable_cores() == cores


def test_only_cores_that_the_process_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    assert [threads_each(workers) for workers in (1, 2, 3, 4)] == [3, 1, 1, 1]


def test_a_system_that_knows_no_affinity_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert usable_cores() == 8
    assert threads_each(2) == 4
