"""Stage `fuse`: fit on validation the fusion of both parts, the cascade and the rejection; assemble the bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from scipy.stats import beta
from sklearn.metrics import f1_score

from handlers import drift
from handlers.fusion import FLATTER, Fusion, log_softmax, margins
from handlers.text import Cleaning
from stages.corpus import load_split
from stages.drift import reference
from stages.files import copy_into, replacing, write_json
from stages.inputs import candidate_argument, require
from stages.params import Fuse, load
from stages.paths import DEEP, FUSED, LINEAR, METRICS, PREPARED
from stages.scoring import load_predictor, raw_scores
from stages.stage import stage

log = logging.getLogger(__name__)

# Digits that fitted numbers keep. The later ones are rounding noise of the logits, which differs between machines, and
# would make every archive another one.
DIGITS = 4

# Bounds of a weight: no part loses its say over the order of the classes, and none grows without end where every post
# is right.
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-3, 100.0
# Of the flatter softmax: all of it would be none of it with other weights, and the fit could take either.
LARGEST_SHARE = 0.9
# That those answers which do not abstain are right as often as was asked for.
CONFIDENCE = 0.95
# Of a ratio of likelihoods, in a gradient that must stay finite.
LARGEST_LOG = 50.0


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over posts; probabilities [posts, classes], labels [posts]."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def fit_weights(parts: list[np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Positive weights of the parts, each [posts, classes], and the share of the flatter softmax (`Fusion.flat`) that
    together give the labels the highest likelihood.

    One part is temperature scaling; several are a logarithmic opinion pool (Heskes 1998). The exact gradient finds all
    of them to more than DIGITS digits, to which they are rounded.
    """
    stacked = np.stack(parts).astype(np.float64)
    rows = np.arange(len(labels))
    actual = stacked[:, rows, labels]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, flat = values[:-1], values[-1]
        scores = np.tensordot(weights, stacked, axes=1)
        logs, joint, slopes = [], [], []
        for share, steepness in ((1 - flat, 1.0), (flat, FLATTER)):
            log_p = log_softmax(steepness * scores)
            logs.append(log_p[rows, labels])
            with np.errstate(divide="ignore"):
                joint.append(np.log(share) + logs[-1])
            slopes.append(steepness * (actual - (np.exp(log_p) * stacked).sum(axis=2)))
        # In logarithms: the likelihood of a post that is wrong for certain would be zero.
        total = np.logaddexp(*joint)
        by_weight = sum(np.exp(each - total) * slope for each, slope in zip(joint, slopes, strict=True))
        steep, flatter = (np.exp(np.minimum(log - total, LARGEST_LOG)) for log in logs)
        return -float(total.mean()), -np.append(by_weight.mean(axis=1), (flatter - steep).mean())

    def best(start: Sequence[float], largest: float) -> OptimizeResult:
        bounds = [(SMALLEST_WEIGHT, LARGEST_WEIGHT)] * len(parts) + [(0.0, largest)]
        return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 0.0, "gtol": 1e-9})

    plain = best([1.0] * len(parts) + [0.0], 0.0).x
    # The likelihood may have a maximum near the best plain softmax, and one where a steep and a flat one share.
    fits = [best(start, LARGEST_SHARE) for start in (plain, [*(2 * plain[:-1]), 0.5])]
    found = np.round(min(fits, key=lambda fit: fit.fun).x, DIGITS)
    return found[:-1], float(found[-1])


def choose_margin(full: np.ndarray, scores: np.ndarray, labels: np.ndarray, tolerance: float) -> float | None:
    """The smallest margin above which the wide part may answer alone, at a cost of at most `tolerance`: in macro-F1, as
    observed, and in accuracy, as the full model expects it. None where no post may skip the transformer.

    The expected cost is what the full model's probability loses where the wide part names another class. Some thousand
    posts observe a tenth of a point only roughly; expectations, which no single label moves, keep the chance out.

    full: probabilities of the full model [posts, classes]. scores: of the wide part, same shape.
    """
    lead = margins(scores)
    together, alone = full.argmax(axis=1), scores.argmax(axis=1)
    expected = full.max(axis=1) - full[np.arange(len(full)), alone]
    goal = f1_score(labels, together, average="macro") - tolerance
    chosen = None
    # From the surest post down, a percent of them a step; the last margin within both bounds skips the most.
    for share in np.arange(0.01, 1.0, 0.01):
        margin = float(np.quantile(lead, 1 - share))
        skipped = lead >= margin
        if expected[skipped].sum() > tolerance * len(full):
            break
        if f1_score(labels, np.where(skipped, alone, together), average="macro") >= goal:
            chosen = margin
    return None if chosen is None else round(chosen, DIGITS)


def choose_reject(probabilities: np.ndarray, labels: np.ndarray, precision: float) -> float:
    """The smallest confidence from which on the answers given reach `precision` together; 0 where all of them do.

    They reach it where the lower bound of their share of right ones does (Clopper & Pearson 1934, one-sided, at
    CONFIDENCE), which is the bound of one threshold: that the last of many is taken, and that the fusion was fitted to
    the same posts, is not in it. Of simulated models whose probabilities are true, 96% keep the promise all the same.
    Selection with guaranteed risk (Geifman & El-Yaniv 2017, https://arxiv.org/abs/1705.08500) has the thresholds share
    the chance of a miss, and would have a tenth more of the posts abstain.

    probabilities: of the answers as shipped [posts, classes]. 1, and a warning, where not even the surest reach it.
    """
    # Rounded down to the digits that the threshold has, which is then met by the very same posts.
    confidence = np.floor(np.round(probabilities.max(axis=1) * 10**DIGITS, DIGITS)) / 10**DIGITS
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], (probabilities.argmax(axis=1) == labels)[order]
    reached = least_precision(np.cumsum(hits), np.arange(1, len(labels) + 1)) >= precision
    # Posts that are equally sure are answered all or none.
    reached[:-1] &= ranked[1:] < ranked[:-1]
    if not reached.any():
        log.warning(
            "%s posts of validation prove of no threshold that answers above it are right %s of the time: nearly every "
            "answer abstains; lower fuse.precision, or give more posts",
            len(labels),
            precision,
        )
        return 1.0
    last = int(np.flatnonzero(reached)[-1])
    return 0.0 if last == len(labels) - 1 else float(ranked[last])


def least_precision(right: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The lower bound, at CONFIDENCE, of the share of right ones where so many of so many answers were right."""
    # No bound but 0 where none is right, which the distribution does not know.
    return np.where(right > 0, beta.ppf(1 - CONFIDENCE, np.maximum(right, 1), answers - right + 1), 0.0)


def fit(logits: np.ndarray, scores: np.ndarray, labels: np.ndarray, settings: Fuse) -> Fusion:
    """Fit all numbers of a Fusion on one split: logits and scores [posts, classes], labels [posts]."""
    fusion = fit_fused(logits, scores, labels, settings.tolerance) if settings.enabled else fit_deep(logits, labels)
    return replace(fusion, reject=choose_reject(fusion.shipped(logits, scores), labels, settings.precision))


def fit_deep(logits: np.ndarray, labels: np.ndarray) -> Fusion:
    """The transformer alone, with a temperature."""
    (temperature,), flat = fit_weights([log_softmax(logits)], labels)
    return Fusion(deep=float(temperature), wide=0.0, fast=1.0, margin=None, flat=flat)


def fit_fused(logits: np.ndarray, scores: np.ndarray, labels: np.ndarray, tolerance: float) -> Fusion:
    """Both parts and the cascade, each path calibrated."""
    (a, b), flat = fit_weights([log_softmax(logits), scores], labels)
    full = Fusion(deep=float(a), wide=float(b), fast=1.0, margin=None, flat=flat)
    margin = choose_margin(full.full(logits, scores), scores, labels, tolerance)
    # Calibrated on the posts that take this path, which are the easy ones.
    answered = slice(None) if margin is None else margins(scores) >= margin
    (fast,), fast_flat = fit_weights([scores[answered]], labels[answered])
    return replace(full, fast=float(fast), margin=margin, fast_flat=fast_flat)


def assemble(deep: Path, linear: Path, cleaning: Path, fusion: Fusion, folder: Path) -> None:
    """Write a bundle: everything that a predictor needs, in one flat folder."""
    copy_into(folder, deep, linear)
    Cleaning.load(cleaning).save(folder)
    fusion.save(folder)


def main() -> None:
    candidate = candidate_argument()
    with stage(f"fuse-{candidate}"):
        params = load()
        validation = load_split(PREPARED, "validation")
        labels = np.asarray(validation["label"])
        deep = require(DEEP / candidate, "run the train stage with this candidate")
        linear = require(LINEAR, "run the wide stage")
        with replacing(FUSED / candidate) as folder:
            # The neutral fusion makes a bundle that a predictor can read; the fitted one replaces it.
            assemble(deep, linear, PREPARED, Fusion(1.0, 0.0, 1.0, None), folder)
            predictor = load_predictor(folder)
            logits, scores = raw_scores(predictor, list(validation["clean"]))
            predictor.fusion = fusion = fit(logits, scores, labels, params.fuse)
            fusion.save(folder)
            drift.save(reference(predictor.predict(list(validation["text"])), predictor.labels), folder)
        skipped = float(fusion.sure(scores).mean())
        answered = 1 - float(fusion.abstains(fusion.shipped(logits, scores)).mean())
        likelihood = negative_log_likelihood(fusion.full(logits, scores), labels)
        # What was fitted has its DIGITS already.
        fitted = ("deep", "wide", "flat", "fast", "fast_flat", "margin", "reject")
        metrics = {name: getattr(fusion, name) for name in fitted} | {
            "skipped": round(skipped, DIGITS),
            "answered": round(answered, DIGITS),
            "validation_nll": round(likelihood, DIGITS),
        }
        write_json(METRICS / "fuse" / f"{candidate}.json", metrics)
        log.info("%s", metrics)


if __name__ == "__main__":
    main()
