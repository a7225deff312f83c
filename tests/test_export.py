"""ONNX against PyTorch on logits, for batches and lengths that the exporter never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.fusion import Fusion
from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from stages.export import compare, export_onnx, quantize, spread
from stages.scoring import raw_scores


@pytest.fixture(scope="module")
def graph(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("onnx") / "float32" / GRAPH_FILE
    export_onnx(tiny_bundle, target, opset=18)
    return target


@pytest.mark.parametrize(("posts", "tokens"), [(1, 2), (1, 32), (3, 5), (17, 31)])
def test_logits_are_the_same(tiny_bundle: Path, graph: Path, posts: int, tokens: int) -> None:
    random = np.random.default_rng(posts)
    ids = [random.integers(5, 60, random.integers(2, tokens + 1)).tolist() for _ in range(posts)]
    ours, theirs = TorchEngine(tiny_bundle), OnnxEngine(graph, threads=1)
    np.testing.assert_allclose(theirs.logits(ids), ours.logits(ids), atol=1e-4)


def test_labels_and_limits_travel_in_the_graph(tiny_bundle: Path, graph: Path) -> None:
    ours, theirs = TorchEngine(tiny_bundle), OnnxEngine(graph)
    assert (theirs.labels, theirs.max_tokens) == (ours.labels, ours.max_tokens)
    assert theirs.pad_id == ours.model.config.pad_id


def test_int8_is_smaller_in_its_weights_and_close(
    tiny_bundle: Path, graph: Path, tmp_path: Path, corpus: tuple[list[str], list[int]]
) -> None:
    target = tmp_path / "int8" / GRAPH_FILE
    quantize(graph, target)
    assert [path.name for path in target.parent.iterdir()] == [GRAPH_FILE]
    kinds = {tensor.data_type for tensor in onnx.load(target).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    ours = Predictor(tiny_bundle, TorchEngine(tiny_bundle))
    logits, scores = raw_scores(ours, corpus[0])
    theirs, _ = raw_scores(Predictor(tiny_bundle, OnnxEngine(target)), corpus[0])
    assert 0 < compare(logits, theirs, scores, ours.fusion)["logit"] < 0.5


def test_compare_sees_a_difference() -> None:
    ours = np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    theirs = np.array([[2.0, 1.0], [1.0, 2.5], [1.0, 2.0], [1.0, 2.0]])
    scores = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    figures = compare(ours, theirs, scores, Fusion(deep=1.0, wide=1.0, fast=1.0, margin=None))
    # The wide part outvotes the one post on which the transformers differ.
    assert figures == {"logit": 1.5, "deep": 0.75, "agreement": 1.0}
    alone = compare(ours, theirs, scores, Fusion(deep=1.0, wide=0.0, fast=1.0, margin=None))
    assert alone["agreement"] == 0.75


@given(count=st.integers(1, 500), most=st.integers(1, 500))
def test_spread_is_even_and_bounded(count: int, most: int) -> None:
    chosen = spread(count, most)
    assert len(chosen) == min(count, most)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_missing_graph_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the export stage"):
        OnnxEngine(tmp_path / GRAPH_FILE)
