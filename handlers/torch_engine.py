"""The PyTorch engine of a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from handlers.attention import PRODUCTS
from handlers.dense import can_pack, pack
from handlers.memory import give_back_freed_memory, keep_few_kernels, keep_freed_memory
from handlers.model import Classifier, avoid_planned_attention
from handlers.settings import PRECISIONS
from handlers.text import FEWEST_BATCHES, pad

# Seldom enough to cost nothing beside them, often enough that a server which runs for weeks does not grow.
BATCHES_UNTIL_GIVEN_BACK = 50
# What a call costs on a CPU besides its tokens, in tokens, by precision.
CALL_TOKENS = {"float32": 48, "bf16": 192}


class TorchEngine:
    """Runs the classifier of a bundle on `device`, in a process that keeps the memory it frees for a while."""

    def __init__(self, bundle: Path, device: str | torch.device = "cpu", precision: str = "float32") -> None:
        """precision: one of PRECISIONS, of the weights and all that is computed; the logits are float32 again."""
        keep_freed_memory()
        keep_few_kernels()
        avoid_planned_attention()
        dtype = getattr(torch, PRECISIONS[precision])
        self.model = Classifier.load(bundle).to(device, dtype)
        self.device = torch.device(device)
        if self.device.type == "cpu":
            if can_pack(dtype):
                pack(self.model)
            if precision == "bf16":
                self.model.encoder.set_attn_implementation(PRODUCTS)
        self.labels = self.model.config.labels
        self.max_tokens = self.model.config.max_tokens
        # On a GPU a call takes as long with few tokens as with many.
        self.call_tokens = CALL_TOKENS[precision] if self.device.type == "cpu" else FEWEST_BATCHES
        self.batches = 0

    def logits(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float32 [posts, classes] of one batch of token ids, padded here."""
        self.batches += 1
        if self.batches % BATCHES_UNTIL_GIVEN_BACK == 0:
            give_back_freed_memory()
        batch = (torch.from_numpy(array).to(self.device) for array in pad(ids, self.model.config.pad_id))
        with torch.inference_mode():
            return self.model(*batch).float().cpu().numpy()
