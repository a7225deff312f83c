"""LIME and SHAP batched by tokens, as the explain stage runs them, against one sentence a call: `python -m
tests.bench.explain`.

Both sides run the same libraries' loops over the same texts with the same model in float32, so they give the same
values but for rounding, which is checked. Posts are those that the explain stage would choose from; needs the outputs
of stages prepare and select.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handlers.explaining import words_read
from handlers.predictor import Predictor
from stages import attribution
from stages.corpus import load_split
from stages.explain import short
from stages.explanation import Scorer
from stages.metrics import rounded
from stages.paths import PREPARED, SELECTED
from stages.scoring import load_predictor
from tests.bench.traffic import report

TOLERANCE = 1e-3  # largest difference of a value, in log-odds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=12)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures, which are printed as well")
    arguments = parser.parse_args()
    predictor = load_predictor(SELECTED)
    cleaned = load_split(PREPARED, "test")["clean"][:]
    chosen = np.random.default_rng(arguments.seed).choice(
        np.flatnonzero(short(cleaned)), arguments.posts, replace=False
    )
    posts = [cleaned[index].split() for index in chosen.tolist()]
    figures: dict[str, Any] = {
        "posts": arguments.posts,
        "words": [min(map(len, posts)), max(map(len, posts))],
        "texts_a_post": arguments.samples,
        "threads": torch.get_num_threads(),
    }
    for method in ("lime", "shap"):
        seconds, difference = compare(predictor, posts, method, arguments.samples, arguments.seed)
        if difference > TOLERANCE:
            sys.exit(f"the two sides of {method} differ by {difference:.1e}: their times cannot be compared")
        single, batched = seconds
        times = {"one_a_call_s": single, "batched_s": batched, "times_as_fast": single / batched}
        figures[method] = rounded(times) | {"largest_difference": difference}
    report(figures, arguments.output)


def compare(
    predictor: Predictor, posts: Sequence[Sequence[str]], method: str, samples: int, seed: int
) -> tuple[np.ndarray, float]:
    """Seconds a post of the two sides, [one sentence a call, batched], and the largest difference of their values.

    The sides take turns post by post, so that a machine that slows down slows both.
    """
    seconds, difference = np.zeros(2), 0.0
    for number, words in enumerate([posts[0], *posts]):
        read = words_read(predictor, words)
        words, tail = words[:read], words[read:]
        label = int(Scorer(predictor, tail)([" ".join(words)])[0].argmax())
        odds = Scorer(predictor, tail).odds([label])
        values = []
        for side, score in enumerate((one_a_call(odds), odds)):
            started = time.perf_counter()
            if method == "lime":
                values.append(attribution.lime(score, words, 1, samples, seed))
            else:
                values.append(attribution.shap_values(score, words, samples))
            # The first round only warms up.
            seconds[side] += (time.perf_counter() - started) * (number > 0)
        difference = max(difference, float(np.abs(values[0] - values[1]).max()))
    return seconds / len(posts), difference


def one_a_call(score: attribution.Score) -> Callable[[Sequence[str]], np.ndarray]:
    """The same score, each text in a call of its own."""
    return lambda texts: np.concatenate([score([text]) for text in texts])


if __name__ == "__main__":
    main()
