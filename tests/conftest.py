"""Tiny real parts, built in the tests: a BERT of two layers with a tokenizer of its own, and the bundle around it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig

from handlers import drift
from handlers.config import ModelConfig
from handlers.fusion import Fusion
from handlers.linear import Linear
from handlers.model import Classifier
from handlers.predictor import Predictor
from handlers.text import TOKENIZER_FILE, Cleaning
from handlers.words import TOKEN
from stages.drift import reference
from stages.scoring import load_predictor

# Asserts of the helpers say as much as those of the tests where they fail.
pytest.register_assert_rewrite(
    "tests.browsing", "tests.handling", "tests.packaged", "tests.project", "tests.received", "tests.served"
)

# Tiny tensors gain nothing from threads, and threads that wait for each other cost much on a busy machine.
torch.set_num_threads(1)

# How long an example takes says nothing on a busy machine.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

LABELS = ("autos", "hockey", "space")
POSTS = {
    "autos": ["the car has a new engine and four wheels", "my old car needs brakes and oil", "engine oil for the car"],
    "hockey": [
        "the team won the game on ice",
        "goalie saved the puck in the last game",
        "a hockey team plays",
    ],
    "space": [
        "the rocket reached orbit around the moon",
        "nasa launched a probe to the moon",
        "orbit of a satellite",
    ],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those from end to end first: each is long and in one file, and the others fill the second process meanwhile."""
    items.sort(key=lambda item: "e2e" not in item.keywords)


@pytest.fixture(autouse=True)
def no_accelerator_before() -> Iterator[None]:
    """accelerate keeps one state a process, whose precision cannot be changed: every test starts without one."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module", autouse=True)
def no_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests of the parts compare numbers on the CPU; those from end to end use a GPU where there is one."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("e2e"):
            patch.setattr("torch.cuda.is_available", lambda: False)
        yield


@pytest.fixture
def ctrl_c() -> Iterator[Any]:
    """Python's own handler of SIGINT, which a shell takes away from what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def corpus() -> tuple[list[str], list[int]]:
    """Nine posts and their classes."""
    return tiny_corpus()


def tiny_corpus() -> tuple[list[str], list[int]]:
    """Nine posts and their classes."""
    texts = [text for label in LABELS for text in POSTS[label]]
    return texts, [index for index, label in enumerate(LABELS) for _ in POSTS[label]]


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, built once."""
    return build_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def tiny_graph(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transformer of the tiny bundle as an ONNX graph in float32, version 1.2, exported once."""
    # Imported here: what takes seconds is no business of the tests without a graph.
    from stages.export import export_onnx

    graph = tmp_path_factory.mktemp("graph") / "model.onnx"
    export_onnx(tiny_bundle, graph, opset=20, version="1.2")
    return graph


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    """The tiny bundle's, another one for each file."""
    return load_predictor(tiny_bundle)


def answer_probabilities(predictor: Predictor, texts: Sequence[str], fast_path: bool = True) -> np.ndarray:
    """Calibrated probabilities float64 [posts, classes] of raw posts."""
    return np.stack([answer.probabilities for answer in predictor.predict(texts, fast_path)])


def build_bundle(folder: Path) -> Path:
    """A complete bundle (random transformer, trained linear part, a cascade margin that some posts reach)."""
    texts, labels = tiny_corpus()
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=200, min_frequency=1, show_progress=False)
    tokenizer.post_processor = _with_special_tokens(tokenizer)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    config = ModelConfig(
        encoder=encoder.to_dict(),
        labels=LABELS,
        pooling="mean",
        head=(8,),
        activation="gelu",
        dropout=0.1,
        max_tokens=32,
        pad_id=tokenizer.token_to_id("[PAD]"),
    )
    Classifier(config).save(folder)
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=TOKEN.pattern)
    model = LinearSVC(random_state=0).fit(vectorizer.fit_transform(texts), labels)
    Linear(
        vectorizer.get_feature_names_out().tolist(),
        vectorizer.idf_.astype(np.float32),
        np.ascontiguousarray(model.coef_.T, dtype=np.float32),
        model.intercept_.astype(np.float32),
    ).save(folder)
    Cleaning(letters_only=True).save(folder)
    Fusion(deep=0.5, wide=2.0, fast=3.0, margin=1.2, flat=0.3, fast_flat=0.1).save(folder)
    predictor = load_predictor(folder)
    drift.save(reference(predictor.predict(texts), predictor.labels), folder)
    return folder


def _with_special_tokens(tokenizer: BertWordPieceTokenizer) -> object:
    from tokenizers.processors import BertProcessing

    ids = {name: tokenizer.token_to_id(name) for name in ("[SEP]", "[CLS]")}
    return BertProcessing(*ids.items())
