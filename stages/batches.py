"""Which posts an update of the weights sees: batches of like length, cut so that they fit into memory."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handlers.text import FEWEST_BATCHES, pack_by_length, pad

# Batches whose posts are sorted together: enough that few tokens are padding, few enough that batches stay random.
BUCKET_BATCHES = 50


@dataclass(frozen=True)
class Split:
    """Token ids and class index of each post."""

    ids: Sequence[Sequence[int]]
    labels: Sequence[int]

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Tokens of each post."""
        return [len(item) for item in self.ids]


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, lists of indices; a function of its arguments alone, so that a run can resume.

    Posts of similar length share a batch, which leaves little padding; which posts, and the order of the batches, is
    random. A last bucket that is not full is divided evenly, and less than a batch joins the bucket before it, so that
    no update hangs on a handful of posts.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    batches: list[list[int]] = []
    size = BUCKET_BATCHES * batch_size
    starts = [start for start in range(0, len(order), size) if start == 0 or len(order) - start >= batch_size]
    for start, end in itertools.pairwise([*starts, len(order)]):
        bucket = order[start:end]
        bucket = bucket[np.argsort(np.asarray(lengths)[bucket], kind="stable")]
        batches += [part.tolist() for part in np.array_split(bucket, math.ceil(len(bucket) / batch_size))]
    random.shuffle(batches)
    return batches


def passes(batch: Sequence[int], lengths: Sequence[int], processes: int, token_budget: int) -> list[list[list[int]]]:
    """Deal a batch to the processes and cut each share into passes of at most `token_budget` padded tokens.

    Returns, for each process, the lists of indices that it computes one after another before the update.
    """
    shares = [batch[process::processes] for process in range(processes)]
    # Every pass adds a gradient of all weights to those of the passes before.
    packed = [pack_by_length([lengths[i] for i in share], token_budget, FEWEST_BATCHES) for share in shares]
    return [[[share[i] for i in group] for group in groups] for share, groups in zip(shares, packed, strict=True)]


def to_tensors(ids: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """One padded batch on the device: input ids and attention mask, [batch, longest]."""
    input_ids, mask = pad(ids, pad_id)
    return torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).to(device)
