"""The ONNX variant of the TorchServe handler: the same contract, another engine."""

from __future__ import annotations

from pathlib import Path

from handlers.newsgroups import NewsgroupsHandler
from handlers.onnx_engine import GRAPH_FILE, OnnxEngine


class NewsgroupsOnnxHandler(NewsgroupsHandler):
    """Runs `model.onnx` of the archive with ONNX Runtime."""

    def load_engine(self, folder: Path, threads: int, device: str) -> OnnxEngine:
        """See the base class."""
        return OnnxEngine(folder / GRAPH_FILE, threads, device)
