"""Stage `export`: the transformer as ONNX, in float32 and int8, each held against PyTorch before it may ship."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from handlers.fusion import Fusion
from handlers.model import Classifier
from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from stages.corpus import load_split
from stages.files import remove, replacing, write_json
from stages.params import load
from stages.paths import METRICS, ONNX, PREPARED, SELECTED
from stages.scoring import load_predictor, raw_scores
from stages.stage import StageError, stage

log = logging.getLogger(__name__)

FLOAT32, INT8 = "newsgroups-onnx", "newsgroups-onnx-int8"


def export_onnx(bundle: Path, target: Path, opset: int) -> None:
    """Write the bundle's transformer, pooling and head as one checked ONNX graph of dynamic batch and length.

    Labels and limits travel in its metadata, so that the graph alone tells what its logits mean.
    """
    model = Classifier.load(bundle)
    # Two posts of unlike length, so that neither dimension is taken for a constant.
    ids = torch.ones(2, 7, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=model.config.max_tokens)
    program = torch.onnx.export(
        model,
        (ids, mask),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}),
        opset_version=opset,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    proto = program.model_proto
    # The exporter's shape notes contradict what quantisation infers anew.
    del proto.graph.value_info[:]
    # Its notes on where in the source a node came from name folders of this machine: elsewhere, other bytes.
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
    metadata = {
        "labels": json.dumps(model.config.labels),
        "max_tokens": str(model.config.max_tokens),
        "pad_id": str(model.config.pad_id),
    }
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(target) as temporary:
        onnx.save(proto, temporary)


def quantize(graph: Path, target: Path) -> None:
    """Write `graph` with int8 weights, a scale a channel, and activations quantised as they come.

    Seven bits of range: without VNNI the sum of two u8 x s8 products saturates sixteen bits
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), and answers must not depend on
    the processor.
    """
    with replacing(target) as temporary:
        prepared = temporary.with_suffix(".prepared")
        try:
            quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
            quantize_dynamic(prepared, temporary, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        finally:
            remove(prepared)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spread: the corpus is sorted by class."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most))})


def compare(ours: np.ndarray, theirs: np.ndarray, scores: np.ndarray, fusion: Fusion) -> dict[str, float]:
    """Hold an engine's logits against PyTorch's; with the linear scores, all [posts, classes].

    logit: largest absolute difference. deep: share of posts whose label is the same from the transformer alone.
    agreement: the same of the fused answer, every post through the transformer.
    """

    def equal(left: np.ndarray, right: np.ndarray) -> float:
        return round(float(np.mean(left.argmax(axis=1) == right.argmax(axis=1))), 4)

    return {
        "logit": round(float(np.abs(ours - theirs).max()), 6),
        "deep": equal(ours, theirs),
        "agreement": equal(fusion.full(ours, scores), fusion.full(theirs, scores)),
    }


def main() -> None:
    with stage("export"):
        params = load()
        settings = params.export
        validation = load_split(PREPARED, "validation")
        cleaned = list(validation.select(spread(len(validation), settings.posts))["clean"])
        predictor = load_predictor(SELECTED)
        logits, scores = raw_scores(predictor, cleaned)
        metrics: dict[str, Any] = {}
        with replacing(ONNX) as folder:
            graphs = {name: folder / name / GRAPH_FILE for name in (FLOAT32, INT8)}
            export_onnx(SELECTED, graphs[FLOAT32], settings.opset)
            quantize(graphs[FLOAT32], graphs[INT8])
            for name, graph in graphs.items():
                theirs, _ = raw_scores(Predictor(SELECTED, OnnxEngine(graph)), cleaned)
                metrics[name] = compare(logits, theirs, scores, predictor.fusion)
                metrics[name]["size_mb"] = round(graph.stat().st_size / 1e6, 1)
                log.info("%s: %s", name, metrics[name])
            if metrics[FLOAT32]["logit"] > settings.tolerance:
                raise StageError(
                    f"the float32 graph differs from PyTorch by {metrics[FLOAT32]['logit']}, more than "
                    f"export.tolerance {settings.tolerance}: try another export.opset"
                )
            metrics[INT8]["packaged"] = metrics[INT8]["agreement"] >= settings.int8_agreement
            if not metrics[INT8]["packaged"]:
                log.warning("%s agrees on too few posts and is left out", INT8)
                remove(folder / INT8)
        write_json(METRICS / "export.json", metrics)


if __name__ == "__main__":
    main()
