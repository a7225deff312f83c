"""The ONNX Runtime engine of a predictor. Imports no torch."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from handlers.cores import usable_cores
from handlers.text import FEWEST_BATCHES, pad

# Read when it is imported: otherwise it leaves a session file where temporary files go, and reports to its makers.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

GRAPH_FILE = "model.onnx"
# What a call costs on a CPU besides its tokens, in tokens, whatever the precision.
CALL_TOKENS = 24

log = logging.getLogger(__name__)


class OnnxEngine:
    """Runs `model.onnx` of a bundle. Labels and limits come from the graph's own metadata."""

    def __init__(self, graph: Path, threads: int = 0, device: str = "cpu") -> None:
        """graph: the ONNX file. threads: of one operator, 0 for one a core
        that this process may use. device: "cpu", "cuda" or "cuda:<number>";
        on the CPU with a warning where ONNX Runtime cannot use a GPU. Raises FileNotFoundError where the graph is
        missing."""
        if not graph.is_file():
            raise FileNotFoundError(f"{graph} is missing: run the export stage")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        # Spinning threads steal the cores from the server's front end between batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        kind, _, number = device.partition(":")
        cuda = kind == "cuda"
        # Its libraries come with PyTorch, which the server's workers and the stages have imported. TF32 would round
        # every product to ten bits: float32 is to mean float32, and where fewer do, the graph itself has fewer.
        providers = [("CUDAExecutionProvider", {"device_id": number or "0", "use_tf32": "0"})] if cuda else []
        # On a CPU the sum and the normalisation are faster one after the other than as one operator.
        disabled = [] if cuda else ["SkipLayerNormFusion"]
        self.session = onnxruntime.InferenceSession(
            str(graph), options, [*providers, "CPUExecutionProvider"], disabled_optimizers=disabled
        )
        # No error: the answers are the same, only slower, while a worker that fails to start would answer nothing.
        if cuda and "CUDAExecutionProvider" not in self.session.get_providers():
            log.warning(
                "%s runs on the CPU, not on the GPU: ONNX Runtime could not load CUDA, and says above what it lacks",
                graph,
            )
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.labels = tuple(json.loads(metadata["labels"]))
        self.max_tokens = int(metadata["max_tokens"])
        self.pad_id = int(metadata["pad_id"])
        # On a GPU a call takes as long with few tokens as with many.
        self.call_tokens = FEWEST_BATCHES if cuda else CALL_TOKENS

    def logits(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float32 [posts, classes] of one batch of token ids, padded here."""
        input_ids, mask = pad(ids, self.pad_id)
        return self.session.run(["logits"], {"input_ids": input_ids, "attention_mask": mask})[0]
