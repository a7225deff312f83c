"""Stage `explain`: chosen test posts explained by several methods, compared, pictured. `--text` explains any post."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from handlers.predictor import Predictor
from stages import plots
from stages.corpus import label_names, load_split
from stages.explain_page import METHOD_NAMES, page
from stages.explanation import Explanation, best_words, explain_text
from stages.faithfulness import rank_correlation, top_overlap
from stages.files import read_json, replacing, write_json
from stages.metrics import rounded
from stages.params import load
from stages.paths import EVALUATION, METRICS, PLOTS, PREPARED, SELECTED
from stages.scoring import load_predictor
from stages.select import SELECTED_FILE
from stages.stage import StageError, stage

MAP_WORDS = 30  # of the attention picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", help="explain this post with the selected bundle and print a table")
    text = parser.parse_args().text
    if text is not None:
        print_explanation(text)
        return
    with stage("explain"):
        params = load()
        # A limited corpus is a quick look at the whole chain.
        quick = params.data.limit > 0
        predictor = load_predictor(SELECTED)
        explain(
            predictor,
            load_split(PREPARED, "test"),
            load_split(EVALUATION / selected_name(SELECTED), "test"),
            posts=min(params.explain.posts, 2) if quick else params.explain.posts,
            samples=min(params.explain.samples, 100) if quick else params.explain.samples,
            top=params.explain.top,
            seed=params.seed,
            plots_folder=PLOTS / "explain",
            metrics_file=METRICS / "explain.json",
        )


def selected_name(bundle: Path) -> str:
    """The candidate behind the selected bundle. Raises StageError where nothing has been selected."""
    try:
        return read_json(bundle / SELECTED_FILE)["name"]
    except FileNotFoundError as error:
        raise StageError(f"{error.filename} is missing: run the select stage, or simply dvc repro") from None


def explain(
    predictor: Predictor,
    test: Dataset,
    predictions: Dataset,
    posts: int,
    samples: int,
    top: int,
    seed: int,
    plots_folder: Path,
    metrics_file: Path,
) -> None:
    """Explain `posts` posts of the test split; write their pictures, one report on them all, and the comparison.

    predictions: what `evaluate` wrote of the same split. Raises StageError where the two do not belong together or no
    post has enough words.
    """
    if predictions["id"][:] != test["id"][:]:
        raise StageError("the test split and its predictions differ: run the evaluate stage again, or simply dvc repro")
    long_enough = np.array([len(clean.split()) >= 2 for clean in test["clean"]])
    columns = (np.array(predictions[name]) for name in ("label", "predicted", "confidence"))
    chosen = choose_posts(*columns, long_enough, posts, seed)
    if not chosen:
        raise StageError("no test post has two words after cleaning: check prepare and data in params.yaml")
    names = label_names(test)
    explained: list[Explanation] = []
    sections = []
    with replacing(plots_folder) as folder:
        for number, (index, rule) in enumerate(tqdm(chosen, desc="explain", unit="post"), 1):
            explanation = explain_text(predictor, test[index]["text"], samples, seed)
            explained.append(explanation)
            picture = draw(explanation, rule, names[test[index]["label"]], top, folder, number)
            sections.append((rule, names[test[index]["label"]], explanation, picture))
        (folder / "index.html").write_text(page(sections, top), encoding="utf-8")
    write_json(metrics_file, rounded(compare(explained, top)))


def choose_posts(
    actual: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    eligible: np.ndarray,
    posts: int,
    seed: int,
) -> list[tuple[int, str]]:
    """At most `posts` eligible posts as (index, rule), the three rules in turn, at random within each.

    Sure: the most confident quarter of the posts that are right (or wrong); unsure: the least confident quarter.
    """
    random = np.random.default_rng(seed)

    def quarter(where: np.ndarray, surest: bool) -> np.ndarray:
        indices = np.flatnonzero(where & eligible)
        order = indices[np.argsort(-confidence[indices] if surest else confidence[indices], kind="stable")]
        return random.permutation(order[: -(-len(order) // 4)])

    right = actual == predicted
    pools = {
        "right and sure": quarter(right, True),
        "right and unsure": quarter(right, False),
        "wrong and sure": quarter(~right, True),
    }
    turns = itertools.zip_longest(*([(int(index), rule) for index in pool] for rule, pool in pools.items()))
    chosen: dict[int, str] = {}
    for turn in itertools.chain.from_iterable(turns):
        if turn is not None and len(chosen) < posts:
            chosen.setdefault(*turn)
    return list(chosen.items())


def draw(explanation: Explanation, rule: str, actual: str, top: int, folder: Path, number: int) -> bytes:
    """Write the two pictures of a post into `folder`; returns the attention picture's content."""
    strongest = {
        METHOD_NAMES[method]: best_words(explanation.words, values, top)
        for method, values in explanation.attributions.items()
    }
    title = f"{rule}: {explanation.label} ({explanation.probability:.2f}), actual {actual}"
    plots.contribution_bars(folder / f"{number}.png", title, strongest)
    shown = min(MAP_WORDS, len(explanation.attended))
    heat_map = folder / f"{number}-attention.png"
    plots.attention_map(heat_map, explanation.words[:shown], explanation.attended[:shown, :shown])
    return heat_map.read_bytes()


def compare(explained: Sequence[Explanation], top: int) -> dict[str, Any]:
    """Agreement of every two methods, ERASER's scores against random rankings, and cost: means over posts.

    Seconds are the median, because the first post also pays for SHAP's compilation.
    """
    methods = list(explained[0].attributions)
    agreement = {}
    for first, second in itertools.combinations(methods, 2):
        pairs = [(post.attributions[first], post.attributions[second]) for post in explained]
        agreement[f"{first}_{second}"] = {
            "spearman": _mean([rank_correlation(*pair) for pair in pairs]),
            "top_overlap": _mean([top_overlap(*pair, top) for pair in pairs]),
        }
    return {
        "posts": len(explained),
        "agreement": agreement,
        "faithfulness": {
            method: {
                "comprehensiveness": _mean([post.comprehensiveness[method] for post in explained]),
                "sufficiency": _mean([post.sufficiency[method] for post in explained]),
            }
            for method in (*methods, "random")
        },
        "seconds": {method: float(np.median([post.seconds[method] for post in explained])) for method in methods},
    }


def _mean(values: Sequence[float]) -> float | None:
    """Mean of what is defined; None, which JSON knows, where nothing is."""
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else None


def print_explanation(text: str) -> None:
    """Print the strongest words of one raw post by every method. Exits with status 1 on StageError."""
    try:
        params = load()
        predictor = load_predictor(SELECTED)
        explanation = explain_text(predictor, text, params.explain.samples, params.seed)
    except StageError as error:
        sys.exit(f"explain: {error}")
    print(format_table(explanation, params.explain.top))


def format_table(explanation: Explanation, top: int) -> str:
    """The answer in one line, then a column a method with its strongest words and their values."""
    columns = {
        METHOD_NAMES[method]: [
            f"{word[:14]} {value:+.3f}" for word, value in best_words(explanation.words, values, top)
        ]
        for method, values in explanation.attributions.items()
    }
    lines = [f"{explanation.label} with probability {explanation.probability:.3f}; as shipped: {explanation.path} path"]
    lines.append("".join(f"{name:<24}" for name in columns).rstrip())
    for cells in itertools.zip_longest(*columns.values(), fillvalue=""):
        lines.append("".join(f"{cell:<24}" for cell in cells).rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
