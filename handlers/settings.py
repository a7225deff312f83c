"""What a deployment decides: the section `handler` of the model's YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

# By name, and what PyTorch calls them.
PRECISIONS = {"float32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Settings:
    """fast_path: whether the wide part may answer alone. precision: of the PyTorch engine, one of PRECISIONS.
    token_budget: padded tokens of one transformer call."""

    fast_path: bool
    precision: str
    token_budget: int

    def __post_init__(self) -> None:
        # YAML's own words for the two are on and off, without quotation marks.
        if not isinstance(self.fast_path, bool):
            raise ValueError(f"handler.fast_path is {self.fast_path!r}: write on or off, unquoted")
        if not (isinstance(self.precision, str) and self.precision in PRECISIONS):
            raise ValueError(f"handler.precision is {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        if type(self.token_budget) is not int or self.token_budget < 1:
            raise ValueError(f"handler.token_budget is {self.token_budget!r}: write a number of tokens, 1 or more")

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """From the model's YAML. Raises ValueError for a missing section, a missing or unknown key, a wrong value."""
        section, known = config.get("handler"), [field.name for field in fields(cls)]
        if not isinstance(section, dict) or sorted(section) != sorted(known):
            raise ValueError(f"the section handler of the model's YAML must have the keys {', '.join(known)}")
        return cls(**section)
