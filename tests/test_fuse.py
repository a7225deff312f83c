"""The fusion's fit, checked on scores whose right answer is known."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from handlers import drift
from handlers.fusion import Fusion, log_softmax, margins, softmax
from handlers.predictor import Predictor
from handlers.text import Cleaning
from handlers.torch_engine import TorchEngine
from stages.confidence import calibration_error
from stages.corpus import features, save_split
from stages.drift import reference
from stages.files import read_json
from stages.fuse import (
    CONFIDENCE,
    assemble,
    choose_margin,
    choose_reject,
    fit,
    fit_weights,
    main,
    negative_log_likelihood,
)
from stages.params import Fuse
from stages.paths import DEEP, FUSED, LINEAR, METRICS, PREPARED
from tests.conftest import LABELS, answer_probabilities

ROOT = Path(__file__).parent.parent
CLASSES = 4


def scores_and_labels(seed: int, temperature: float, posts: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and labels drawn from them at an inverse temperature."""
    random = np.random.default_rng(seed)
    scores = log_softmax(random.normal(size=(posts, CLASSES)) * 2)
    drawn = softmax(temperature * scores)
    labels = np.array([random.choice(CLASSES, p=row) for row in drawn])
    return scores, labels


def confident(classes: np.ndarray) -> np.ndarray:
    """Probabilities of a model that is sure of these classes."""
    return 0.04 + 0.88 * np.eye(CLASSES)[classes]


def drawn_from(fusion: Fusion, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and labels drawn from what the fusion of them alone makes of them."""
    random = np.random.default_rng(seed)
    scores = log_softmax(random.normal(size=(20000, CLASSES)) * 3)
    return scores, np.array([random.choice(CLASSES, p=row) for row in fusion.full(scores, scores)])


@pytest.mark.parametrize(("temperature", "flat"), [(0.4, 0.0), (1.0, 0.0), (2.0, 0.0), (3.0, 0.7), (2.0, 0.1)])
def test_temperature_and_doubt_are_found(temperature: float, flat: float) -> None:
    truth = Fusion(deep=temperature, wide=0.0, fast=1.0, margin=None, flat=flat)
    scores, labels = drawn_from(truth, seed=0)
    (found,), share = fit_weights([scores], labels)
    fitted = replace(truth, deep=float(found), flat=share)
    # Other numbers may describe the same probabilities nearly as well.
    assert np.abs(fitted.full(scores, scores) - truth.full(scores, scores)).mean() < 0.01
    drawn, alike = (negative_log_likelihood(fusion.full(scores, scores), labels) for fusion in (truth, fitted))
    assert alike <= drawn + 1e-6


def test_doubt_calibrates_what_no_temperature_does() -> None:
    scores, labels = drawn_from(Fusion(deep=3.0, wide=0.0, fast=1.0, margin=None, flat=0.5), seed=1)
    (found,), share = fit_weights([scores], labels)
    calibrated = Fusion(deep=float(found), wide=0.0, fast=1.0, margin=None, flat=share).full(scores, scores)
    by_temperature = min(calibration_error(labels, softmax(t * scores)) for t in np.arange(0.5, 4, 0.1))
    assert calibration_error(labels, calibrated) < 0.015 < by_temperature


def test_posts_that_are_wrong_for_certain_only_flatten() -> None:
    labels = np.arange(400) % CLASSES
    sure = np.where(np.arange(400) < 360, labels, (labels + 1) % CLASSES)
    scores = log_softmax(2000.0 * np.eye(CLASSES)[sure])
    (found,), share = fit_weights([scores], labels)
    fitted = Fusion(deep=float(found), wide=0.0, fast=1.0, margin=None, flat=share).full(scores, scores)
    assert np.isfinite(fitted).all() and fitted.max() < 1
    assert negative_log_likelihood(fitted, labels) < 2.0


def test_a_part_that_knows_nothing_gets_no_weight() -> None:
    scores, labels = scores_and_labels(1, 1.0)
    noise = np.random.default_rng(2).normal(size=scores.shape)
    weights, _ = fit_weights([scores, noise], labels)
    assert weights[0] == pytest.approx(1.0, rel=0.1)
    assert weights[1] < 0.1


def test_fused_is_no_worse_than_either_part() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, CLASSES, 3000)
    truth = np.eye(CLASSES)[labels]
    deep, wide = truth * 1.5 + random.normal(size=truth.shape), truth * 1.5 + random.normal(size=truth.shape)
    fusion = fit(deep, wide, labels, Fuse(enabled=True, tolerance=0.001, precision=0))
    accuracy = np.mean(fusion.full(deep, wide).argmax(axis=1) == labels)
    assert accuracy > max(np.mean(part.argmax(axis=1) == labels) for part in (deep, wide))
    assert fusion.deep > 0
    assert fusion.wide > 0


def test_the_cascade_keeps_its_tolerance() -> None:
    random = np.random.default_rng(4)
    labels = random.integers(0, CLASSES, 2000)
    scores = np.eye(CLASSES)[labels] * 2 + random.normal(size=(2000, CLASSES))
    full = np.where(random.random(2000) < 0.995, labels, (labels + 1) % CLASSES)
    margin = choose_margin(confident(full), scores, labels, tolerance=0.002)
    assert margin is not None
    shipped = np.where(margins(scores) >= margin, scores.argmax(axis=1), full)
    assert f1_score(labels, shipped, average="macro") >= f1_score(labels, full, average="macro") - 0.002
    assert np.mean(margins(scores) >= margin) > 0.1


def test_a_wide_part_that_is_always_wrong_never_answers_alone() -> None:
    labels = np.arange(400) % CLASSES
    wrong = np.eye(CLASSES)[(labels + 1) % CLASSES] * 5
    assert choose_margin(confident(labels), wrong, labels, tolerance=0.0) is None


def test_luck_on_validation_lets_no_more_posts_skip() -> None:
    """Labels that favour the wide part by chance do not outweigh what the full model knows to be likelier."""
    random = np.random.default_rng(1)
    scores, full = random.normal(size=(2, 400, CLASSES))
    lucky = scores.argmax(axis=1)
    margin = choose_margin(softmax(3 * full), scores, lucky, tolerance=0.001)
    assert margin is None or np.mean(margins(scores) >= margin) < 0.05


def test_off_is_temperature_scaling_of_the_transformer_alone() -> None:
    scores, labels = scores_and_labels(5, 0.5)
    fusion = fit(scores, np.zeros_like(scores), labels, Fuse(enabled=False, tolerance=0.1, precision=0.0))
    assert (fusion.wide, fusion.margin) == (0.0, None)
    calibrated = negative_log_likelihood(fusion.full(scores, np.zeros_like(scores)), labels)
    assert calibrated < negative_log_likelihood(softmax(scores), labels)


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 4))
def test_the_answered_reach_the_precision_and_no_smaller_threshold_does(
    posts: int, seed: int, precision: float, digits: int
) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=posts)
    # Few digits, so that many posts are equally sure.
    top = random.uniform(0.5, 1, posts).round(digits)
    predicted = np.where(random.random(posts) < top, labels, (labels + 1) % CLASSES)
    probabilities = np.eye(CLASSES)[predicted] * top[:, None]
    reject = choose_reject(probabilities, labels, precision)
    hit = predicted == labels

    def reached(threshold: float) -> bool:
        chosen = hit[top >= threshold]
        # Clopper and Pearson's interval as another library finds it.
        bound = binomtest(int(chosen.sum()), len(chosen), alternative="greater").proportion_ci(CONFIDENCE).low
        return bound >= precision

    if reject == 1.0 and not (top == 1).any():
        assert not any(reached(value) for value in top)
    else:
        assert reject == 1.0 or reached(reject)
        assert not any(reached(value) for value in top if value < reject)


def test_where_every_answer_is_good_enough_none_abstains() -> None:
    labels = np.arange(100) % CLASSES
    assert choose_reject(np.eye(CLASSES)[labels] * 0.7, labels, 0.97) == 0.0
    assert choose_reject(np.eye(CLASSES)[(labels + 1) % CLASSES], labels, 0.0) == 0.0
    # So few prove nothing, even if all are right.
    assert choose_reject(np.eye(CLASSES)[labels[:40]] * 0.7, labels[:40], 0.97) == 1.0
    assert choose_reject(np.eye(CLASSES)[labels] * 0.7, labels, 1.0) == 1.0


def test_answers_to_other_posts_are_as_often_right_as_was_asked() -> None:
    """Of models that say truly how sure they are, nearly all keep the promise that a thousand posts made."""
    kept = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        top = 0.5 + random.beta(2, 0.6, 20_000) / 2
        hit = random.random(20_000) < top
        probabilities = np.stack([top, 1 - top], axis=1)
        reject = choose_reject(probabilities[:1000], np.where(hit, 0, 1)[:1000], 0.95)
        kept += hit[1000:][top[1000:] >= reject].mean() >= 0.95
    assert kept >= 36


@pytest.mark.parametrize("enabled", [True, False])
def test_rounding_noise_of_the_parts_changes_no_fitted_number(enabled: bool) -> None:
    """Another machine's last digits give the same fusion, to the bit: the archives hold it."""
    random = np.random.default_rng(7)
    labels = random.integers(0, CLASSES, 2000)
    parts = [np.eye(CLASSES)[labels] * 1.5 + random.normal(size=(2000, CLASSES)) for _ in range(2)]
    noisy = [part * (1 + 1e-9 * random.normal(size=part.shape)) for part in parts]
    chosen = Fuse(enabled, tolerance=0.01, precision=0.95)
    assert fit(*parts, labels, chosen) == fit(*noisy, labels, chosen)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_threshold_is_of_the_answers_as_shipped(enabled: bool) -> None:
    random = np.random.default_rng(6)
    labels = random.integers(0, CLASSES, 3000)
    deep, wide = (np.eye(CLASSES)[labels] * 1.5 + random.normal(size=(3000, CLASSES)) for _ in range(2))
    fusion = fit(deep, wide, labels, Fuse(enabled, tolerance=0.01, precision=0.95))
    shipped = fusion.shipped(deep, wide)
    hit = shipped.argmax(axis=1) == labels
    assert hit.mean() < 0.95 <= hit[~fusion.abstains(shipped)].mean()
    assert (fusion.margin is not None) == enabled


def take_apart(bundle: Path, deep: Path, linear: Path) -> None:
    """Write what the stages before this one leave of a bundle."""
    for folder, names in ((deep, ("config.json", "model.safetensors", "tokenizer.json")), (linear, ("linear*",))):
        folder.mkdir(parents=True)
        for name in names:
            for path in bundle.glob(name):
                (folder / path.name).write_bytes(path.read_bytes())


def test_the_stage_counts_the_reference_of_drift_with_what_it_fitted(
    tiny_bundle: Path, corpus: tuple[list[str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fuse", "minilm"])
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    take_apart(tiny_bundle, DEEP / "minilm", LINEAR)
    texts, labels = corpus
    columns = {"id": [str(i) for i in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    save_split(Dataset.from_dict(columns, features(list(LABELS))), PREPARED, "validation")
    Cleaning(letters_only=True).save(PREPARED)
    for missing, mend in ((DEEP / "minilm", "run the train stage with this candidate"), (LINEAR, "run the wide stage")):
        missing.rename("elsewhere")
        with pytest.raises(SystemExit, match=f"{missing} is missing: {mend}"):
            main()
        Path("elsewhere").rename(missing)
    main()
    written = Predictor(FUSED / "minilm", TorchEngine(FUSED / "minilm"))
    assert written.fusion != Fusion(1.0, 0.0, 1.0, None)
    assert drift.load(FUSED / "minilm") == reference(written.predict(texts), LABELS)
    figures = read_json(METRICS / "fuse" / "minilm.json")
    assert {name: figures.pop(name) for name in asdict(written.fusion)} == asdict(written.fusion)
    scores = written.linear.scores(texts)
    assert figures.pop("skipped") == round(float(written.fusion.sure(scores).mean()), 4)
    assert figures.keys() == {"answered", "validation_nll"}


def test_a_bundle_is_complete(tiny_bundle: Path, tmp_path: Path) -> None:
    fusion = Predictor(tiny_bundle, TorchEngine(tiny_bundle)).fusion
    deep, linear = tmp_path / "deep", tmp_path / "linear"
    take_apart(tiny_bundle, deep, linear)
    Cleaning(letters_only=True).save(tmp_path)
    assemble(deep, linear, tmp_path, fusion, tmp_path / "bundle")
    text = ["the car and the moon"]
    ours, theirs = (
        answer_probabilities(Predictor(bundle, TorchEngine(bundle)), text)
        for bundle in (tmp_path / "bundle", tiny_bundle)
    )
    np.testing.assert_array_equal(ours, theirs)
