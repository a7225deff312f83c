"""Int8 weights for an exported graph: which layers, in how many bits, and how much each of them costs in accuracy."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from handlers.onnx_engine import OnnxEngine
from handlers.predictor import Predictor
from stages.files import replacing

# Activations have eight bits without a sign. Two of their products with a weight must fit into sixteen bits.
LARGEST_ACTIVATION, LARGEST_SUM = 255, 2**15 - 1
# What the exporter notes at each node: the modules around it, from the whole model down to its own.
SCOPES = "pkg.torch.onnx.name_scopes"


def layers(graph: Path) -> dict[str, str]:
    """The products with constant weights, which quantisation replaces: name of the torch module by name of the node."""
    proto = onnx.load(graph).graph
    weights = {tensor.name for tensor in proto.initializer}
    found = {}
    for node in proto.node:
        if node.op_type in ("MatMul", "Gemm") and weights & set(node.input):
            scopes = ast.literal_eval({entry.key: entry.value for entry in node.metadata_props}[SCOPES])
            # The last one is the operator itself.
            found[node.name] = scopes[-2].removeprefix("encoder.")
    return found


def quantize(graph: Path, target: Path, nodes: Collection[str] = ()) -> None:
    """Write `graph` with int8 weights, a scale a channel, and activations quantised as they come.

    nodes: quantise these alone; all layers where there are none.
    Weights have seven bits: without VNNI the sum of two u8 x s8 products saturates sixteen bits
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), and answers must not depend on
    the processor. `saturates` proves it of a graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        _quantize(_prepare(graph, Path(folder)), target, nodes)


def saturates(graph: Path) -> bool:
    """Whether a processor without VNNI, which adds pairs of products in sixteen bits, could answer differently.

    Where no weight is larger than 64, no pair reaches 2^15, whatever the activations are.
    """
    weights = [tensor for tensor in onnx.load(graph).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()) for tensor in weights)
    return 2 * LARGEST_ACTIVATION * largest > LARGEST_SUM


def sensitivity(graph: Path, bundle: Path, cleaned: list[str]) -> list[tuple[str, float, float]]:
    """What each layer costs when it alone is quantised: (module, agreement, mean |difference of a logit|), worst first.

    agreement: share of the cleaned posts that the transformer gives the same class. bundle: of the tokenizer.
    """
    whole = Predictor(bundle, OnnxEngine(graph))
    ids = [item.ids for item in whole.encoder(cleaned)]
    expected = whole.logits(ids)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepared, single = _prepare(graph, Path(folder)), Path(folder, "single.onnx")
        for node, module in layers(graph).items():
            _quantize(prepared, single, [node])
            logits = Predictor(bundle, OnnxEngine(single)).logits(ids)
            same = logits.argmax(axis=1) == expected.argmax(axis=1)
            rows.append((module, float(same.mean()), float(np.abs(logits - expected).mean())))
    return sorted(rows, key=lambda row: -row[2])


def _prepare(graph: Path, folder: Path) -> Path:
    """The graph with constants folded and shapes inferred, as quantisation wants it, in a file in `folder`."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
    return prepared


def _quantize(prepared: Path, target: Path, nodes: Collection[str]) -> None:
    options = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    with replacing(target) as temporary:
        quantize_dynamic(prepared, temporary, nodes_to_quantize=list(nodes) or None, **options)
