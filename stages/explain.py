"""Stage `explain`: test posts explained by several methods, compared and pictured. `--text` or `--file` explains any
post."""

from __future__ import annotations

import argparse
import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import Dataset
from tqdm import tqdm

from handlers import explaining
from handlers.predictor import Predictor
from stages import explain_page, html, plots
from stages.comparison import compare, judge, stability, verdict
from stages.corpus import label_names, load_split
from stages.explanation import METHODS, Effort, Explanation, best_words, explain_text
from stages.files import write_json, write_rows
from stages.inputs import selected_name
from stages.metrics import rounded
from stages.params import load
from stages.paths import EVALUATION, METRICS, PLOTS, PREPARED, SELECTED
from stages.scoring import load_logits, load_predictor
from stages.stage import StageError, stage

MAP_WORDS = 30  # of the attention picture
# The cost of an explanation grows with the square of a post's length: the shortest posts alone are compared.
SHORTEST = 0.125
# Of a method, for `dvc metrics show`.
ROW = ("comprehensiveness", "sufficiency", "seconds")
STABLE_EVERY = 5  # one post in so many is explained again, to see whether the explanation stays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", help="explain this post with the selected bundle and print a table")
    source.add_argument("--file", type=Path, help="the same with the post in this UTF-8 file")
    parser.add_argument("--archive", type=Path, help="with the model of this PyTorch archive, not the selected bundle")
    arguments = parser.parse_args()
    own = arguments.text is not None or arguments.file is not None
    if arguments.archive and not own:
        parser.error("--archive explains a post: give --text or --file as well")
    with stage("explain", timed=not own):
        params = load()
        settings = params.explain
        effort = Effort(settings.samples, settings.steps, params.seed)
        if own:
            text = read_post(arguments.file) if arguments.text is None else arguments.text
            predictor = load_packaged(arguments.archive) if arguments.archive else load_predictor(SELECTED)
            print_explanation(predictor, text, settings.top, effort)
            return
        # A limited corpus is a quick look at the whole chain.
        quick = params.data.limit > 0
        test = load_split(PREPARED, "test")
        explain(
            load_predictor(SELECTED),
            test,
            load_logits(EVALUATION / selected_name(SELECTED), len(test)),
            posts=min(settings.posts, 4) if quick else settings.posts,
            shown=min(settings.shown, 2) if quick else settings.shown,
            top=settings.top,
            effort=effort,
            plot=PLOTS / "explain.png",
            metrics_folder=METRICS,
        )


def explain(
    predictor: Predictor,
    test: Dataset,
    logits: np.ndarray,
    posts: int,
    shown: int,
    top: int,
    effort: Effort,
    plot: Path,
    metrics_folder: Path,
) -> None:
    """Explain and compare on `posts` posts of the test split; write figures, a plot, and the report's section.

    logits: the transformer's [posts, classes] of the same split, as `evaluate` wrote them. shown: how many posts the
    section pictures. Raises StageError where no post has enough words.
    """
    # Of the full model, which is what is explained, also where the cascade would not ask it.
    answers = predictor.fusion.full(logits, predictor.linear.scores(test["clean"]))
    actual, predicted, confidence = np.array(test["label"]), answers.argmax(axis=1), answers.max(axis=1)
    chosen = choose_posts(actual, predicted, confidence, short(test["clean"]), posts, effort.seed)
    if not chosen:
        raise StageError("no test post has two words after cleaning: check prepare and data in params.yaml")
    explained, judged, stable, pictured = [], [], [], []
    for number, (index, rule) in enumerate(tqdm(chosen, desc="explain", unit="post")):
        label = test[index]["label"]
        explanation = explain_text(predictor, test[index]["text"], effort, label)
        explained.append(explanation)
        judged.append(judge(predictor, explanation, top, effort.seed + index))
        if number % STABLE_EVERY == 0:
            stable.append(stability(predictor, explanation, effort))
        if number < shown:
            maps = draw(explanation)
            pictured.append(explain_page.post(number + 1, rule, label, explanation, label_names(test), maps, top))
    # Rounded first, so that the section, the plot and the metrics say the same.
    report = rounded(compare(explained, judged, stable, effort.seed))
    draw_faithfulness(plot, report["methods"])
    html.write_section("explanation", *explain_page.comparison(report, plot.read_bytes(), top), *pictured)
    write_json(metrics_folder / "explain.json", report)
    write_rows(
        metrics_folder / "explain",
        {name: {key: row[key] for key in ROW if key in row} for name, row in report["methods"].items()},
    )
    print(verdict(report))


def short(cleaned: Sequence[str]) -> np.ndarray:
    """Which posts are compared: of those with two words at least, the SHORTEST share by words; bool [posts]."""
    words = np.array([len(text.split()) for text in cleaned])
    usable = words >= 2
    return usable & (words <= np.quantile(words[usable], SHORTEST)) if usable.any() else usable


def choose_posts(
    actual: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    eligible: np.ndarray,
    posts: int,
    seed: int,
) -> list[tuple[int, str]]:
    """At most `posts` eligible posts as (index, rule): the three rules in turn, each over the actual classes in turn.

    Sure: the most confident half of the eligible posts of a class that are right (or wrong); unsure: the other half.
    Within these at random.
    """
    random = np.random.default_rng(seed)

    def half(where: np.ndarray, surest: bool) -> list[int]:
        indices = np.flatnonzero(where & eligible)
        order = indices[np.argsort(-confidence[indices] if surest else confidence[indices], kind="stable")]
        return random.permutation(order[: -(-len(order) // 2)]).tolist()

    right = actual == predicted
    classes = random.permutation(np.unique(actual))
    pools = [
        [(index, rule) for index in half((actual == label) & where, surest)]
        for label in classes
        for rule, where, surest in (
            ("right and sure", right, True),
            ("right and unsure", right, False),
            ("wrong and sure", ~right, True),
        )
    ]
    chosen: dict[int, str] = {}
    for turn in itertools.chain.from_iterable(itertools.zip_longest(*pools)):
        if turn is not None and len(chosen) < posts:
            chosen.setdefault(*turn)
    return list(chosen.items())


def draw(explanation: Explanation) -> tuple[bytes, bytes]:
    """Attention pictures of a post's first words: the mean of the last layer's heads, and each of them."""
    shown = min(MAP_WORDS, len(explanation.words))
    matrices = explanation.attended.matrices[:, :shown, :shown]
    with TemporaryDirectory() as folder:
        mean, heads = Path(folder, "mean.png"), Path(folder, "heads.png")
        plots.attention_map(mean, explanation.words[:shown], matrices.mean(axis=0))
        plots.attention_heads(heads, matrices)
        return mean.read_bytes(), heads.read_bytes()


def draw_faithfulness(path: Path, methods: dict[str, dict[str, float]]) -> None:
    """ERASER's two scores of every method and of random rankings."""
    names = METHODS | {"random": "Random ranking"}
    titles = {"comprehensiveness": "comprehensiveness (more is better)", "sufficiency": "sufficiency (less is better)"}
    scores = {
        title: np.array([[row[key], *row[f"{key}_95"]] for row in methods.values()]) for key, title in titles.items()
    }
    plots.faithfulness(path, [names[name] for name in methods], scores)


def print_explanation(predictor: Predictor, text: str, top: int, effort: Effort) -> None:
    """Print the strongest words of one raw post by every method. Raises StageError where it has none."""
    print(format_table(explain_text(predictor, text, effort), predictor.labels, top))


def load_packaged(archive: Path) -> Predictor:
    """The predictor of a PyTorch archive. Raises StageError where it is none."""
    try:
        with TemporaryDirectory() as folder, zipfile.ZipFile(archive) as content:
            content.extractall(folder)
            return load_predictor(Path(folder))
    except (OSError, zipfile.BadZipFile) as error:
        raise StageError(f"{archive} is no archive ({error}): name a .mar that the package stage wrote") from error


def read_post(file: Path) -> str:
    """A post from a file. Raises StageError where it cannot be read as UTF-8 text."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise StageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StageError(f"{file} is not UTF-8 text: convert it first, for instance with iconv") from None


def format_table(explanation: Explanation, labels: Sequence[str], top: int) -> str:
    """The answer in one line, then a column a method with its strongest words and their values."""
    label = explanation.predicted
    values = explanation.attributions[label]
    order = [explaining.DEFAULT, *(name for name in values if name != explaining.DEFAULT)]
    columns = {
        METHODS[method]: [
            f"{word[:14]} {value:+.3f}" for word, value in best_words(explanation.words, values[method], top)
        ]
        for method in order
    }
    probability = explanation.probabilities[label]
    lines = [f"{labels[label]} with probability {probability:.3f}; as shipped: {explanation.path} path"]
    lines.append("".join(f"{name:<24}" for name in columns).rstrip())
    for cells in itertools.zip_longest(*columns.values(), fillvalue=""):
        lines.append("".join(f"{cell:<24}" for cell in cells).rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
