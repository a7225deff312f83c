"""The shape of the deep part. Imports no torch, so that whoever only needs labels and limits starts fast."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
POOLINGS = ("cls", "mean", "attention")
ACTIVATIONS = ("gelu", "relu", "tanh")


@dataclass(frozen=True)
class ModelConfig:
    """The model's shape: everything needed to build it before its weights are read.

    encoder: the `transformers` configuration as a dictionary. labels: class names in the order of the logits.
    pooling: one of POOLINGS. head: widths of the hidden dense layers, empty for a linear head. max_tokens: tokens read
    of a post. pad_id: id of the padding token. head_norm: whether a layer norm follows each hidden dense layer.
    """

    encoder: dict[str, Any]
    labels: tuple[str, ...]
    pooling: str
    head: tuple[int, ...]
    activation: str
    dropout: float
    max_tokens: int
    pad_id: int
    head_norm: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling {self.pooling!r} is unknown: choose one of {', '.join(POOLINGS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is unknown: choose one of {', '.join(ACTIVATIONS)}")

    def save(self, folder: Path) -> None:
        """Write `config.json` into `folder`, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> ModelConfig:
        """Read `config.json`. Raises FileNotFoundError where it is missing."""
        fields = json.loads((folder / CONFIG_FILE).read_text())
        return cls(**fields | {"labels": tuple(fields["labels"]), "head": tuple(fields["head"])})
