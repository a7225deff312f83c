"""Which posts share a batch, a process and a pass."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from stages.batches import epoch_batches, passes

LENGTHS = st.lists(st.integers(2, 128), min_size=1, max_size=300)


@example(lengths=[5] * 201, batch_size=4, seed=0, epoch=0)
@given(lengths=LENGTHS, batch_size=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50))
def test_epoch_batches_hold_every_post_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(lengths, batch_size, seed, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert max(map(len, batches)) <= batch_size
    assert min(map(len, batches)) >= min(len(lengths), max(batch_size // 2, 1))
    assert batches == epoch_batches(lengths, batch_size, seed, epoch)


def test_epochs_and_seeds_differ() -> None:
    lengths = [5] * 100
    assert epoch_batches(lengths, 4, 0, 0) != epoch_batches(lengths, 4, 0, 1)
    assert epoch_batches(lengths, 4, 0, 0) != epoch_batches(lengths, 4, 1, 0)


def test_batches_of_like_length_waste_little() -> None:
    lengths = np.random.default_rng(0).integers(8, 128, 3200).tolist()
    batches = epoch_batches(lengths, 32, 0, 0)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert sum(lengths) / padded > 0.95


@given(lengths=LENGTHS, processes=st.integers(1, 4), budget=st.integers(1, 2000))
def test_passes_hold_every_post_once_within_the_budget(lengths: list[int], processes: int, budget: int) -> None:
    shares = passes(range(len(lengths)), lengths, processes, budget)
    assert len(shares) == processes
    assert sorted(index for share in shares for chosen in share for index in chosen) == list(range(len(lengths)))
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for chosen in (chosen for share in shares for chosen in share):
        assert len(chosen) == 1 or len(chosen) * max(lengths[i] for i in chosen) <= budget
