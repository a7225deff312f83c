"""Stage `export`: the transformer as ONNX, in float32, int8 and on a GPU float16, each held against PyTorch first."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16

from handlers.fusion import Fusion
from handlers.linear import Linear
from handlers.model import WEIGHTS_FILE, Classifier
from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from stages.corpus import load_split
from stages.files import remove, replacing, sha256, write_csv, write_json
from stages.footprint import footprint
from stages.hardware import choose_device
from stages.inputs import selected_name
from stages.params import load
from stages.parity import Parity, compare, explained, explanation_parity, float32_faults, reduced_faults
from stages.paths import EVALUATION, METRICS, ONNX, PLOTS, PREPARED, SELECTED
from stages.quantization import SCOPES, Quantizer, layers, saturates, sensitivity
from stages.scoring import load_logits, load_predictor
from stages.sensitivity_plot import draw_sensitivity
from stages.stage import stage
from stages.variants import FLOAT16, FLOAT32, INT8, TORCH

# Layers, and posts each, of which a quick run measures the sensitivity.
QUICK = 4
# Posts whose explanations are compared.
EXPLAINED = 12

log = logging.getLogger(__name__)


def export_onnx(bundle: Path, target: Path, opset: int, version: str = "") -> None:
    """Write the bundle's transformer, pooling and head as one checked ONNX graph of dynamic batch and length.

    Labels, limits, the version of the model and the hash of the weights travel in its metadata, so that the graph
    alone tells what its logits mean and where they come from.
    """
    model = Classifier.load(bundle)
    # As plain products and softmax: the fused kernel's export guards each row of attention against being empty, which
    # none is, and these guards take a seventh of an int8 pass.
    model.encoder.set_attn_implementation("eager")
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
    # Its notes on where in the source a node came from name folders of this machine: elsewhere, other bytes. Only the
    # names of the modules stay, for the sensitivity of each layer.
    for part in (proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        kept = [entry for entry in part.metadata_props if entry.key == SCOPES]
        del part.metadata_props[:]
        part.metadata_props.extend(kept)
    metadata = {
        "labels": json.dumps(model.config.labels),
        "max_tokens": str(model.config.max_tokens),
        "pad_id": str(model.config.pad_id),
        "version": version,
        "weights_sha256": sha256(bundle / WEIGHTS_FILE),
    }
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(target) as temporary:
        onnx.save(proto, temporary)


def halve(graph: Path, target: Path) -> None:
    """Write a float32 graph with weights and activations in float16; what goes in and comes out stays as it is."""
    proto = convert_float_to_float16(onnx.load(graph), keep_io_types=True)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(target) as temporary:
        onnx.save(proto, temporary)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly spread: the corpus is sorted by class."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, most))})


def row(parity: Parity, weights: Path, faults: list[str], model: Path) -> dict[str, Any]:
    """One variant's row of export.json. weights: the file that ships; model: what an engine is given to load."""
    return {
        **{name: round(value, 6 if "logit" in name else 4) for name, value in asdict(parity).items()},
        "packaged": not faults,
        "size_mb": round(weights.stat().st_size / 1e6, 1),
        **footprint(model),
        "sha256": sha256(weights),
    }


@dataclass(frozen=True)
class Reference:
    """What every graph is held against: PyTorch's answers to the test posts.

    cleaned: the posts. labels: int [posts]. logits: PyTorch's, scores: the linear part's, [posts, classes] each.
    """

    bundle: Path
    cleaned: list[str]
    labels: np.ndarray
    logits: np.ndarray
    scores: np.ndarray
    fusion: Fusion

    def parity(self, logits: np.ndarray) -> Parity:
        """How answers of these logits compare."""
        return compare(logits, self.logits, self.scores, self.labels, self.fusion)


def judge(
    name: str, graph: Path, gate: Callable[[Parity], list[str]], reference: Reference, device: str
) -> dict[str, Any]:
    """Hold one graph against PyTorch: its row of export.json.

    gate: the faults of what it is given. A graph that has some is removed with its folder, and a warning says why.
    """
    predictor = Predictor(reference.bundle, OnnxEngine(graph, device=device))
    parity = reference.parity(predictor.logits([item.ids for item in predictor.encoder(reference.cleaned)]))
    faults = gate(parity)
    if name == INT8 and saturates(graph):
        faults.append("its weights are so large that processors without VNNI would answer differently")
    found = row(parity, graph, faults, graph)
    log.info("%s: %s", name, found)
    if faults:
        log.warning("%s is not packaged: %s", name, "; ".join(faults))
        remove(graph.parent)
    return found


def compare_explanations(
    graphs: Mapping[str, Path], reference: Reference, posts: int, device: str
) -> dict[str, dict[str, float]]:
    """Of each graph, how like PyTorch's its explanations are, of the class that PyTorch gives each of some posts."""
    # A post of one word has no order of words.
    sample = [index for index in spread(len(reference.cleaned), posts) if " " in reference.cleaned[index]]
    texts = [reference.cleaned[index] for index in sample]
    labels = reference.fusion.full(reference.logits[sample], reference.scores[sample]).argmax(axis=1).tolist()
    theirs = explained(load_predictor(reference.bundle), texts, labels)
    return {
        name: explanation_parity(
            explained(Predictor(reference.bundle, OnnxEngine(graph, device=device)), texts, labels), theirs
        )
        for name, graph in graphs.items()
    }


def main() -> None:
    with stage("export"):
        params = load()
        settings = params.export
        train, validation, test = (load_split(PREPARED, split) for split in ("train", "validation", "test"))
        cleaned = list(test["clean"])
        reference = Reference(
            SELECTED,
            cleaned,
            np.asarray(test["label"]),
            # PyTorch's own answers to the whole split: `evaluate` asked it once, which is enough.
            load_logits(EVALUATION / selected_name(SELECTED), len(test)),
            Linear.load(SELECTED).scores(cleaned),
            Fusion.load(SELECTED),
        )

        def reduced(parity: Parity) -> list[str]:
            return reduced_faults(parity, settings.reduced_agreement, settings.reduced_f1_loss)

        gates: dict[str, Callable[[Parity], list[str]]] = {
            FLOAT32: lambda parity: float32_faults(parity, settings.float32_agreement, settings.tolerance),
            INT8: reduced,
        }
        if (device := choose_device().type) == "cuda":
            # A CPU has no products in float16: it would convert every weight and activation back, pass by pass.
            gates[FLOAT16] = reduced
        metrics = {TORCH: row(reference.parity(reference.logits), SELECTED / WEIGHTS_FILE, [], SELECTED)}
        with replacing(ONNX) as folder:
            graphs = {name: folder / name / GRAPH_FILE for name in gates}
            export_onnx(SELECTED, graphs[FLOAT32], settings.opset, params.package.version)
            if FLOAT16 in graphs:
                halve(graphs[FLOAT32], graphs[FLOAT16])
            nodes, posts = layers(graphs[FLOAT32]), settings.posts
            if params.data.limit:
                # A quick run only shows that the chain works.
                nodes, posts = dict(list(nodes.items())[:QUICK]), min(posts, QUICK)
            sample = list(validation.select(spread(len(validation), posts))["clean"])
            seen = list(train.select(spread(len(train), settings.calibration))["clean"])
            with Quantizer(graphs[FLOAT32], SELECTED, seen) as quantizer:
                quantizer.write(graphs[INT8])
                costs = sensitivity(quantizer, nodes, sample)
            metrics |= {name: judge(name, graph, gates[name], reference, device) for name, graph in graphs.items()}
            left = {name: graph for name, graph in graphs.items() if metrics[name]["packaged"]}
            likeness = compare_explanations(left, reference, QUICK if params.data.limit else EXPLAINED, device)
            metrics |= {name: metrics[name] | found for name, found in likeness.items()}
        table = [[module, round(same, 4), round(difference, 5)] for module, same, difference in costs]
        write_csv(PLOTS / "sensitivity.csv", ["layer", "agreement", "mean_logit"], table)
        draw_sensitivity(table, PLOTS / "sensitivity.png")
        write_json(METRICS / "export.json", metrics)


if __name__ == "__main__":
    main()
