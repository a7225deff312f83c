"""RoBERTa's ways, all the way: byte-level BPE, case, no token types, positions that start behind the padding.

A tiny one with a tokenizer of its own is trained, exported, packed and served.
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing
from transformers import RobertaConfig, RobertaModel

from handlers import drift
from handlers.fusion import Fusion
from handlers.onnx_engine import OnnxEngine
from handlers.predictor import Predictor
from handlers.text import TOKENIZER_FILE, Cleaning, Encoder
from handlers.torch_engine import TorchEngine
from stages.acceleration import build_accelerator
from stages.batches import Split
from stages.drift import reference
from stages.explanation import Scorer
from stages.export import export_onnx
from stages.fuse import assemble
from stages.package import Facts, package
from stages.torchserve import serving
from stages.train import build
from stages.training import Trainer
from tests.conftest import LABELS, answer_probabilities
from tests.test_training import SETTINGS

SCORES = {"test": {"accuracy": 0.9, "macro_f1": 0.89}}
GAIN = {"accuracy": 0.0, "accuracy_95": [0.0, 0.0], "macro_f1": 0.0, "macro_f1_95": [0.0, 0.0]}
FACTS = Facts(
    source={
        "corpus": {"source": "pypi", "version": "corpus==1", "content_sha256": "c" * 64},
        "wordnet": {"licence": "WordNet 3.0 license"},
        "checkpoints": {"roberta": {"version": "checkpoint==2"}},
    },
    posts={"train": 9, "validation": 9, "test": 9},
    quality={"selected": {"name": "roberta", **SCORES, "over_baseline": GAIN}, "baseline": SCORES},
    variants={name: SCORES["test"] | {"agreement": 1.0} for name in ("newsgroups", "newsgroups-onnx")},
    calibration={"ece": 0.03},
    params={"augment": {"share": 0.0}},
)
POSTS = ["The Rocket reached orbit 🚀", "the goalie saved the puck — naïvely", "Old car", "moon " * 60]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, corpus: tuple[list[str], list[int]]) -> Path:
    """What the fetch stage would have brought: weights, configuration, tokenizer."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(corpus[0], vocab_size=400, min_frequency=1, special_tokens=specials)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / TOKENIZER_FILE))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        # As in the real one: two positions more than tokens, because the first one lies behind the padding's.
        max_position_embeddings=34,
        type_vocab_size=1,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(
    pretrained: Path, tiny_bundle: Path, corpus: tuple[list[str], list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A trained one, beside the linear part of the other tiny bundle; its cleaning keeps case and signs."""
    settings = replace(SETTINGS, head=(8, 8), head_norm=True, max_tokens=32, epochs=2)
    split = Split([item.ids for item in Encoder(pretrained, 32)(corpus[0])], corpus[1])
    model = build(pretrained, list(LABELS), settings, seed=0)
    root = tmp_path_factory.mktemp("trained")
    trainer = Trainer(model, split, split, settings, 0, build_accelerator("float32"))
    progress = trainer.fit(root / "c.pt", {})
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    deep, linear, cleaning = root / "deep", root / "linear", root / "cleaning"
    model.save(deep)
    (deep / TOKENIZER_FILE).write_bytes((pretrained / TOKENIZER_FILE).read_bytes())
    for folder in (linear, cleaning):
        folder.mkdir()
    for path in tiny_bundle.glob("linear*"):
        (linear / path.name).write_bytes(path.read_bytes())
    Cleaning(letters_only=False).save(cleaning)
    assemble(deep, linear, cleaning, Fusion(deep=1.0, wide=0.5, fast=1.0, margin=None), root / "bundle")
    predictor = Predictor(root / "bundle", TorchEngine(root / "bundle"))
    drift.save(reference(predictor.predict(corpus[0]), predictor.labels), root / "bundle")
    return root / "bundle"


def test_case_and_bytes_reach_the_model(bundle: Path) -> None:
    predictor = Predictor(bundle, TorchEngine(bundle))
    upper, lower, smile = (item.ids for item in predictor.encoder(["The Moon", "the moon", "🚀"]))
    assert upper != lower
    assert (upper[0], upper[-1]) == (0, 2)
    assert 3 not in smile, "no byte is unknown"
    assert predictor.encoder.tokenizer.decode(smile) == "🚀"


def test_the_longest_post_has_a_position(bundle: Path) -> None:
    predictor = Predictor(bundle, TorchEngine(bundle))
    [answer] = predictor.predict([POSTS[-1]], fast_path=False)
    assert (answer.tokens, answer.truncated) == (32, True)


def test_a_removed_word_leaves_no_space_to_read(bundle: Path) -> None:
    predictor = Predictor(bundle, TorchEngine(bundle))
    texts = ["the  moon", " the moon", "the moon"]
    assert len({tuple(item.ids) for item in predictor.encoder(texts)}) == 3
    first, second, clean = Scorer(predictor, [])(texts)
    np.testing.assert_allclose([first, second], [clean, clean], atol=1e-6)


def test_served_from_its_archive_as_in_process(bundle: Path, tmp_path: Path) -> None:
    graph = tmp_path / "onnx" / "newsgroups-onnx" / "model.onnx"
    export_onnx(bundle, graph, 18)
    package(bundle, tmp_path / "onnx", FACTS, "1.0", tmp_path / "store")
    expected = answer_probabilities(Predictor(bundle, TorchEngine(bundle)), POSTS, fast_path=False)
    exported = answer_probabilities(Predictor(bundle, OnnxEngine(graph)), POSTS, fast_path=False)
    np.testing.assert_allclose(exported, expected, atol=TOLERANCE)
    with serving(tmp_path / "store" / "newsgroups-onnx.mar", "newsgroups-onnx") as server:
        key = json.loads(server.key_file.read_text())["inference"]["key"]
        request = urllib.request.Request(
            f"{server.url}/predictions/newsgroups-onnx",
            data=json.dumps({"instances": POSTS, "fast_path": "off"}).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answers = json.load(response)["predictions"]
    served = np.array([[answer["probabilities"][label] for label in LABELS] for answer in answers])
    np.testing.assert_allclose(served, expected, atol=TOLERANCE)
    assert [answer["label"] for answer in answers] == [LABELS[i] for i in expected.argmax(axis=1)]
