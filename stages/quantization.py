"""Int8 for an exported graph: which layers, in how many bits, and how much each of them costs in accuracy."""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from handlers.onnx_engine import OnnxEngine
from handlers.predictor import Predictor
from handlers.text import Encoder, pad
from stages.files import replacing

# Activations have eight bits without a sign. Two of their products with a weight must fit into sixteen bits.
LARGEST_ACTIVATION, LARGEST_SUM = 255, 2**15 - 1
# What the exporter notes at each node: the modules around it, from the whole model down to its own.
SCOPES = "pkg.torch.onnx.name_scopes"
# Operators with constant weights: products, and the embeddings' tables.
PRODUCTS, TABLES = ("MatMul", "Gemm"), ("Gather",)


def layers(graph: Path) -> dict[str, str]:
    """The operators with weights, which quantisation replaces: name of the torch module by name of the node."""
    return {node.name: module(node) for node in weighted(graph, (*PRODUCTS, *TABLES))}


def weighted(graph: Path, kinds: Collection[str]) -> list[onnx.NodeProto]:
    """The operators of these kinds that read floating-point weights."""
    proto = onnx.load(graph).graph
    weights = {tensor.name for tensor in proto.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return [node for node in proto.node if node.op_type in kinds and weights & set(node.input)]


def module(node: onnx.NodeProto) -> str:
    """The torch module that an operator was exported from."""
    scopes = ast.literal_eval({entry.key: entry.value for entry in node.metadata_props}[SCOPES])
    # The last one is the operator itself.
    return scopes[-2].removeprefix("encoder.")


class Posts(CalibrationDataReader):
    """Token ids of posts, a post a pass, for quantisation to see how far each activation reaches."""

    def __init__(self, ids: Sequence[Sequence[int]], pad_id: int) -> None:
        self._passes = iter(tqdm([pad([post], pad_id) for post in ids], "calibrate", unit="post"))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The inputs of the next pass; None at the end."""
        inputs = next(self._passes, None)
        return None if inputs is None else {"input_ids": inputs[0], "attention_mask": inputs[1]}


class Quantizer:
    """Writes a graph with weights and activations in int8; a context, which keeps temporary files.

    Weights have a scale a channel and seven bits: without VNNI the sum of two u8 x s8 products saturates sixteen bits
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html), and answers must not depend on
    the processor. `saturates` checks it of the graph that was written.

    Each activation has one scale, from the smallest and largest value that it took for the calibration's posts. Scales
    that follow each batch would cost a pass over every activation, and an answer would depend on its batchmates.
    """

    def __init__(self, graph: Path, bundle: Path, cleaned: Sequence[str]) -> None:
        """graph: in float32. bundle: of the tokenizer. cleaned: posts to calibrate with, none of them a test post."""
        self.graph, self.bundle = graph, bundle
        engine = OnnxEngine(graph)
        self._ids = [item.ids for item in Encoder(bundle, engine.max_tokens)(cleaned)]
        self._pad_id = engine.pad_id

    def __enter__(self) -> Quantizer:
        self._folder = tempfile.TemporaryDirectory()
        # With constants folded and shapes inferred, as quantisation wants it.
        self._prepared, self._ranges = (Path(self._folder.name, name) for name in ("prepared.onnx", "ranges.json"))
        quant_pre_process(str(self.graph), str(self._prepared), skip_symbolic_shape=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def write(self, target: Path, nodes: Collection[str] = ()) -> None:
        """Write the graph, checked, with the named operators in int8; with none named, all that have weights."""
        tables = weighted(self._prepared, TABLES)
        chosen = list(nodes) or [node.name for node in [*weighted(self._prepared, PRODUCTS), *tables]]
        with replacing(target) as temporary:
            quantize_static(
                self._prepared,
                temporary,
                Posts(self._ids, self._pad_id),
                calibration_cache_path=self._ranges,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*PRODUCTS, *TABLES],
                nodes_to_quantize=chosen,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    # Only what a product reads is rounded: what it gives, and the sums around it, stay in float.
                    "OpTypesToExcludeOutputQuantization": [*PRODUCTS, *TABLES],
                    "DedicatedQDQPair": True,
                    # Nothing is multiplied with a table, so that it may have all eight bits.
                    "TensorQuantOverrides": {node.input[0]: [{"quant_type": QuantType.QUInt8}] for node in tables},
                },
            )
            onnx.checker.check_model(temporary, full_check=True)


def saturates(graph: Path) -> bool:
    """Whether a processor without VNNI, which adds pairs of products in sixteen bits, could answer differently.

    Where no weight is larger than 64, no pair reaches 2^15, whatever the activations are.
    """
    weights = [tensor for tensor in onnx.load(graph).graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    largest = max(int(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()) for tensor in weights)
    return 2 * LARGEST_ACTIVATION * largest > LARGEST_SUM


def sensitivity(
    quantizer: Quantizer, nodes: Mapping[str, str], cleaned: Sequence[str]
) -> list[tuple[str, float, float]]:
    """What each layer costs when it alone is quantised: (module, agreement, mean |difference of a logit|), worst first.

    nodes: of `layers`. agreement: share of the cleaned posts that the transformer gives the same class.
    """
    whole = Predictor(quantizer.bundle, OnnxEngine(quantizer.graph))
    ids = [item.ids for item in whole.encoder(cleaned)]
    expected = whole.logits(ids)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        single = Path(folder, "single.onnx")
        for node, name in tqdm(nodes.items(), "sensitivity", unit="layer"):
            quantizer.write(single, [node])
            logits = Predictor(quantizer.bundle, OnnxEngine(single)).logits(ids)
            same = logits.argmax(axis=1) == expected.argmax(axis=1)
            rows.append((name, float(same.mean()), float(np.abs(logits - expected).mean())))
    return sorted(rows, key=lambda row: -row[2])
