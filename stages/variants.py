"""The archives that are built, and what makes each of them another: the one list that all stages go by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One archive: its entry module among the handlers, and the file in it that holds its weights."""

    entry: str
    weights: str


TORCH, FLOAT32, FLOAT16 = "newsgroups", "newsgroups-onnx", "newsgroups-onnx-fp16"
INT8 = "newsgroups-onnx-int8"

_GRAPH = Variant("newsgroups_onnx.py", "model.onnx")
VARIANTS = {
    TORCH: Variant("newsgroups.py", "model.safetensors"),
    FLOAT32: _GRAPH,
    # Where there is a GPU.
    FLOAT16: _GRAPH,
    INT8: _GRAPH,
}
