"""ONNX against PyTorch on logits, for batches and lengths that the exporter never saw."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.fusion import Fusion
from handlers.onnx_engine import GRAPH_FILE, OnnxEngine
from handlers.predictor import Predictor
from handlers.torch_engine import TorchEngine
from stages.export import Reference, compare_explanations, export_onnx, halve, judge, spread
from stages.files import sha256
from stages.footprint import footprint
from stages.parity import Parity, compare, explanation_parity, float32_faults, reduced_faults
from stages.quantization import Quantizer, layers, saturates, sensitivity
from stages.scoring import load_logits, raw_scores, save_logits
from stages.sensitivity_plot import draw_sensitivity
from stages.stage import StageError
from stages.variants import FLOAT16, FLOAT32, INT8


@pytest.mark.parametrize(("posts", "tokens"), [(1, 2), (1, 32), (3, 5), (17, 31)])
def test_logits_are_the_same(tiny_bundle: Path, tiny_graph: Path, posts: int, tokens: int) -> None:
    random = np.random.default_rng(posts)
    ids = [random.integers(5, 60, random.integers(2, tokens + 1)).tolist() for _ in range(posts)]
    ours, theirs = TorchEngine(tiny_bundle), OnnxEngine(tiny_graph, threads=1)
    np.testing.assert_allclose(theirs.logits(ids), ours.logits(ids), atol=1e-4)


def test_labels_and_limits_travel_in_the_graph(tiny_bundle: Path, tiny_graph: Path) -> None:
    ours, theirs = TorchEngine(tiny_bundle), OnnxEngine(tiny_graph)
    assert (theirs.labels, theirs.max_tokens) == (ours.labels, ours.max_tokens)
    assert theirs.pad_id == ours.model.config.pad_id
    assert [entry.version for entry in onnx.load(tiny_graph).opset_import if not entry.domain] == [20]


@pytest.mark.parametrize("opset", [18, 23])
def test_the_oldest_and_the_newest_opset_know_their_layers(tiny_bundle: Path, tmp_path: Path, opset: int) -> None:
    export_onnx(tiny_bundle, tmp_path / GRAPH_FILE, opset)
    assert opset == next(entry.version for entry in onnx.load(tmp_path / GRAPH_FILE).opset_import if not entry.domain)
    assert "layer.0.attention.self.query" in " ".join(layers(tmp_path / GRAPH_FILE).values())


def test_every_graph_tells_the_version_and_the_weights_that_it_is_of(
    tiny_bundle: Path, tiny_graph: Path, int8: Path, tmp_path: Path
) -> None:
    halve(tiny_graph, tmp_path / GRAPH_FILE)
    for path in (tiny_graph, int8, tmp_path / GRAPH_FILE):
        notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert (notes["version"], notes["weights_sha256"]) == ("1.2", sha256(tiny_bundle / "model.safetensors"))


def test_float16_is_of_all_weights_and_close(tiny_bundle: Path, tiny_graph: Path, tmp_path: Path) -> None:
    half = tmp_path / GRAPH_FILE
    halve(tiny_graph, half)
    kinds = {tensor.data_type for tensor in onnx.load(half).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    # Of unlike lengths: what keeps a short post from reading its padding has to survive the smaller range.
    ids = [[5, 6, 7], list(range(5, 30)), [9]]
    ours, theirs = TorchEngine(tiny_bundle), OnnxEngine(half, threads=1)
    logits = theirs.logits(ids)
    assert logits.dtype == np.float32 and theirs.labels == ours.labels
    np.testing.assert_allclose(logits, ours.logits(ids), atol=0.02)
    np.testing.assert_allclose(logits, np.concatenate([theirs.logits([post]) for post in ids]), atol=0.01)


@pytest.fixture(scope="module")
def int8(
    tiny_bundle: Path, tiny_graph: Path, corpus: tuple[list[str], list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    target = tmp_path_factory.mktemp("onnx") / "int8" / GRAPH_FILE
    with Quantizer(tiny_graph, tiny_bundle, corpus[0]) as quantizer:
        quantizer.write(target)
    return target


def test_int8_is_smaller_in_its_weights_and_close(
    tiny_bundle: Path, int8: Path, corpus: tuple[list[str], list[int]]
) -> None:
    assert [path.name for path in int8.parent.iterdir()] == [GRAPH_FILE]
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(int8).graph.initializer}
    assert onnx.TensorProto.INT8 in weights.values()
    assert weights["encoder.embeddings.word_embeddings.weight_quantized"] == onnx.TensorProto.UINT8
    ours = Predictor(tiny_bundle, TorchEngine(tiny_bundle))
    logits, scores = raw_scores(ours, corpus[0])
    theirs, _ = raw_scores(Predictor(tiny_bundle, OnnxEngine(int8)), corpus[0])
    assert 0 < compare(theirs, logits, scores, np.array(corpus[1]), ours.fusion).logit < 0.5
    # The weights reach the bound that makes every processor agree, and stay within it; the notes travel on.
    assert not saturates(int8)
    assert OnnxEngine(int8).labels == ours.labels


def test_an_int8_graph_that_is_no_valid_onnx_is_not_written(
    tiny_bundle: Path,
    tiny_graph: Path,
    corpus: tuple[list[str], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(model: Path, target: Path, *_: object, **__: object) -> None:
        proto = onnx.load(model)
        proto.graph.node[0].op_type = "NoSuchOperator"
        onnx.save(proto, target)

    monkeypatch.setattr("stages.quantization.quantize_static", broken)
    with Quantizer(tiny_graph, tiny_bundle, corpus[0]) as quantizer, pytest.raises(onnx.checker.ValidationError):
        quantizer.write(tmp_path / GRAPH_FILE)
    assert not list(tmp_path.iterdir())


def test_an_int8_answer_does_not_depend_on_its_batchmates(int8: Path) -> None:
    random = np.random.default_rng(0)
    ids = [random.integers(5, 60, tokens).tolist() for tokens in (3, 31, 8, 17)]
    engine = OnnxEngine(int8, threads=1)
    alone = np.concatenate([engine.logits([post]) for post in ids])
    np.testing.assert_allclose(engine.logits(ids), alone, atol=1e-5)


def test_weights_of_eight_bits_would_saturate(tmp_path: Path) -> None:
    def graph(largest: int) -> Path:
        weights = onnx.numpy_helper.from_array(np.array([[largest, -3]], dtype=np.int8), "weights")
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [weights])), tmp_path / "g.onnx")
        return tmp_path / "g.onnx"

    assert not saturates(graph(64)) and saturates(graph(65)) and saturates(graph(-128))


def test_each_layer_alone(tiny_bundle: Path, tiny_graph: Path, corpus: tuple[list[str], list[int]]) -> None:
    # Two encoder layers of six products each, two of the head, and tables.
    named = set(layers(tiny_graph).values())
    products = {name for name in named if not name.startswith("embeddings.")}
    assert len(layers(tiny_graph)) == len(named) and len(products) == 14 and {"head.0", "head.3"} < products
    assert "encoder.layer.1.attention.self.query" in products
    assert "embeddings.word_embeddings" in named
    with Quantizer(tiny_graph, tiny_bundle, corpus[0]) as quantizer:
        rows = sensitivity(quantizer, layers(tiny_graph), corpus[0])
    assert {name for name, _, _ in rows} == named
    costs = [cost for _, _, cost in rows]
    assert costs == sorted(costs, reverse=True) and costs[0] > costs[-1] > 0


def test_compare_sees_a_difference() -> None:
    theirs = np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    ours = np.array([[2.0, 1.0], [1.0, 2.5], [1.0, 2.0], [1.0, 2.0]])
    scores = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    labels = np.array([0, 0, 1, 1])
    found = compare(ours, theirs, scores, labels, Fusion(deep=1.0, wide=1.0, fast=1.0, margin=None))
    # The wide part outvotes the one post on which the transformers differ.
    assert (found.logit, found.mean_logit, found.deep, found.agreement) == (1.5, 2.5 / 8, 0.75, 1.0)
    assert (found.accuracy, found.macro_f1, found.f1_loss) == (1, 1, 0)
    alone = compare(ours, theirs, scores, labels, Fusion(deep=1.0, wide=0.0, fast=1.0, margin=None))
    assert (alone.agreement, alone.full, alone.accuracy) == (0.75, 0.75, 0.75)
    assert alone.f1_loss == 1 - alone.macro_f1 == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)
    # Where the wide part answers by itself, the transformers may differ as they like; with the cascade off they do.
    sure = compare(ours, theirs, scores, labels, Fusion(deep=1.0, wide=0.0, fast=1.0, margin=5.0))
    assert (sure.agreement, sure.full) == (1.0, 0.75) and sure.full_macro_f1 < sure.macro_f1 == 1


GOOD = Parity(0.0005, 0.0001, 0.9995, 0.9995, 0.99, 0.88, 0.87, 0.87, 0.001)


def test_gates_name_what_was_missed() -> None:
    def bad(**changes: float) -> Parity:
        return dataclasses.replace(GOOD, **changes)

    assert float32_faults(GOOD, 0.999, 1e-3) == reduced_faults(GOOD, 0.985, 0.003) == []
    assert "99.80% of the posts" in float32_faults(bad(deep=0.998), 0.999, 1e-3)[0]
    assert "differs by 0.002" in float32_faults(bad(logit=0.002), 0.999, 1e-3)[0]
    assert "98.00% of its answers" in reduced_faults(bad(agreement=0.98), 0.985, 0.003)[0]
    assert len(reduced_faults(bad(agreement=0.98, f1_loss=0.004), 0.985, 0.003)) == 2
    # As float16 gives where it overflows: posts that PyTorch gives the first class would even agree.
    nan = bad(logit=float("nan"), mean_logit=float("nan"))
    assert "no number" in float32_faults(nan, 0.999, 1e-3)[0]
    assert "no number" in reduced_faults(nan, 0.985, 0.003)[0]
    # A logit may move as long as the answers stay; more macro-F1 is no fault.
    assert not reduced_faults(bad(logit=3.0, deep=0.98, f1_loss=-0.01), 0.985, 0.003)


@pytest.fixture
def reference(tiny_bundle: Path, corpus: tuple[list[str], list[int]]) -> Reference:
    theirs = Predictor(tiny_bundle, TorchEngine(tiny_bundle))
    return Reference(tiny_bundle, corpus[0], np.array(corpus[1]), *raw_scores(theirs, corpus[0]), theirs.fusion)


def test_a_graph_that_misses_its_gate_is_removed_and_fails_no_other(
    tiny_graph: Path,
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("stages.export.footprint", lambda _: {"load_s": 1.0})
    gates = {
        FLOAT32: lambda parity: float32_faults(parity, 0.999, 0.0),
        FLOAT16: lambda parity: reduced_faults(parity, 0.985, 0.003),
    }
    graphs = {name: tmp_path / name / GRAPH_FILE for name in gates}
    for path in graphs.values():
        path.parent.mkdir()
        path.write_bytes(tiny_graph.read_bytes())
    found = {name: judge(name, path, gates[name], reference, "cpu") for name, path in graphs.items()}
    assert [path.name for path in tmp_path.iterdir()] == [FLOAT16]
    assert [row["packaged"] for row in found.values()] == [False, True]
    # What was measured of it is told all the same.
    assert found[FLOAT32] == found[FLOAT16] | {"packaged": False}
    told = {"deep": 1.0, "agreement": 1.0, "load_s": 1.0, "sha256": sha256(tiny_graph)}
    assert found[FLOAT16].items() >= told.items()
    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith(f"{FLOAT32} is not packaged: a logit differs by ")


@pytest.fixture
def copied(tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A graph in a folder of its own, whose footprint takes no time to measure."""
    monkeypatch.setattr("stages.export.footprint", lambda _: {})
    path = tmp_path / "graph" / GRAPH_FILE
    path.parent.mkdir()
    path.write_bytes(tiny_graph.read_bytes())
    return path


def test_a_graph_that_overflows_misses_its_gate(
    copied: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(OnnxEngine, "logits", lambda _, ids: np.full((len(ids), reference.logits.shape[1]), np.nan))
    found = judge(FLOAT16, copied, lambda parity: reduced_faults(parity, 0.985, 0.003), reference, "cpu")
    assert not found["packaged"] and not copied.parent.exists()
    assert f"{FLOAT16} is not packaged: a logit is no number" in caplog.text


def test_an_int8_graph_that_would_saturate_misses_its_gate(
    copied: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stages.export.saturates", lambda _: True)
    assert not judge(INT8, copied, lambda _: [], reference, "cpu")["packaged"]
    assert "processors without VNNI would answer differently" in caplog.text and not copied.parent.exists()


def test_the_sensitivity_has_a_bar_a_layer_the_costliest_on_top(tmp_path: Path) -> None:
    (axes,) = draw_sensitivity([["head.3", 0.98, 0.2], ["head.0", 1.0, 0.1]], tmp_path / "sensitivity.png").axes
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.1] and axes.yaxis_inverted()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["head.3 (98.0% of the classes the same)", "head.0"]
    assert "logit" in axes.get_xlabel()
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(b"\x89PNG")


def test_logits_of_a_split_are_kept(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    save_logits(logits, tmp_path)
    np.testing.assert_array_equal(load_logits(tmp_path, 5), logits)
    with pytest.raises(StageError, match="of 5 posts, the split has 6"):
        load_logits(tmp_path, 6)
    with pytest.raises(StageError, match="run the evaluate stage"):
        load_logits(tmp_path / "none", 5)


def test_footprint_of_a_graph(tiny_graph: Path, tmp_path: Path) -> None:
    measured = footprint(tiny_graph)
    assert measured["load_s"] > 0 and measured["load_mb"] > 20
    with pytest.raises(StageError, match="cannot be loaded"):
        footprint(tmp_path / "none.onnx")


@given(count=st.integers(1, 500), most=st.integers(1, 500))
def test_spread_is_even_and_bounded(count: int, most: int) -> None:
    chosen = spread(count, most)
    assert len(chosen) == min(count, most)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_graph_that_cannot_run_on_the_gpu_says_so(
    tiny_graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    OnnxEngine(tiny_graph)
    assert not caplog.records
    # Whatever this machine has.
    monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda _: ["CPUExecutionProvider"])
    OnnxEngine(tiny_graph, device="cuda:0")
    assert "runs on the CPU, not on the GPU" in caplog.text


def test_a_gpu_is_asked_for_by_its_number_and_for_float32(tiny_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    session = onnxruntime.InferenceSession

    def on_the_cpu(path: str, options: object, providers: list[object], **others: object) -> object:
        asked.append(providers[0])
        return session(path, options, ["CPUExecutionProvider"], **others)

    monkeypatch.setattr("onnxruntime.InferenceSession", on_the_cpu)
    for device in ("cuda", "cuda:1"):
        OnnxEngine(tiny_graph, device=device)
    options = {"use_tf32": "0"}
    assert asked == [("CUDAExecutionProvider", {"device_id": number, **options}) for number in ("0", "1")]


def test_a_missing_graph_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the export stage"):
        OnnxEngine(tmp_path / GRAPH_FILE)


def test_explanations_of_a_graph_are_held_against_pytorch(
    tiny_graph: Path, int8: Path, reference: Reference, corpus: tuple[list[str], list[int]]
) -> None:
    posts = len(corpus[0])
    found = compare_explanations({FLOAT32: tiny_graph, INT8: int8}, reference, posts, "cpu")
    assert found[FLOAT32]["explanation_difference"] < 1e-3 and found[FLOAT32]["explanation_spearman"] > 0.999
    assert found[INT8]["explanation_difference"] > 1e-3
    one_word = dataclasses.replace(reference, cleaned=["moon", *reference.cleaned[1:]])
    assert compare_explanations({FLOAT32: tiny_graph}, one_word, posts, "cpu")[FLOAT32]["explanation_spearman"] > 0.999


def test_explanation_parity_sees_order_and_size() -> None:
    theirs = [np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0])]
    assert explanation_parity(theirs, theirs) == {"explanation_spearman": 1.0, "explanation_difference": 0.0}
    turned = explanation_parity([theirs[0], theirs[1][::-1]], theirs)
    assert turned == {"explanation_spearman": 0.0, "explanation_difference": 1.0}
    assert explanation_parity([2 * each for each in theirs], theirs)["explanation_difference"] == 3.0
