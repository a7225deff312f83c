"""What cleaning, augmentation and each part of training are worth on validation: `python -m stages.ablation [part ...]`

No stage of the pipeline. Parts: splits, cleaning, wide, augmentation, training, and raw, which needs scikit-learn's
data host; all where none is named. Each cell of a table is kept as soon as it is measured, so that a run can be
interrupted; `outputs/checkpoints/ablation.json` has them. In `outputs/metrics/ablation.json` a part that is not named
keeps the table of an earlier run, whatever that was measured with.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.metrics import f1_score

from handlers.text import Encoder
from stages import wide
from stages.ablation_plot import draw_ablation
from stages.acceleration import build_accelerator
from stages.augment import augmented_copies, with_copies
from stages.baseline import fit
from stages.cells import Cells
from stages.checkpoint import fingerprint
from stages.corpus import RAW_COLUMNS, features, label_names, load_split
from stages.fetch import posts_from_sklearn
from stages.files import read_json, sha256, write_json
from stages.intervals import mean_interval
from stages.metrics import rounded
from stages.params import REMOVABLE, SPLITS, Params, Train, load
from stages.paths import CHECKPOINTS, METRICS, PLOTS, PROJECT, RAW, WORDNET
from stages.prepare import build_cleaning, clean_split
from stages.splitting import split_validation
from stages.stage import StageError, stage
from stages.train import CODE as TRAINING_CODE
from stages.train import build, encode, fetched, libraries
from stages.training import Trainer

# The transformer's small fixed budget: posts a class to train on, posts a class to validate on, passes over the former.
POSTS = 30
VALIDATION_POSTS = 30
EPOCHS = 2
SEEDS = (1, 2, 3)

CLEANINGS = {
    "as it is": {},
    "stop words dropped": {"stop_words": True},
    "stemmed": {"stem": True},
    "both": {"stop_words": True, "stem": True},
}
REMOVALS = {"nothing removed": (), **{f"{part} removed": (part,) for part in REMOVABLE}, "all three removed": REMOVABLE}
AUGMENTATIONS = {"none": (0, 0), "synonyms": (1, 0), "deletion": (0, 1), "both": (1, 1)}
# Terms that the wide part may have at most.
WIDE_TERMS = (25_000, 50_000, 100_000, 200_000, 400_000)
# The last one cannot run everywhere.
PARTS = ("splits", "cleaning", "wide", "augmentation", "training", "raw")
# What measures a cell, besides this module.
CODE = (
    *TRAINING_CODE,
    "handlers/linear.py",
    "stages/augment.py",
    "stages/augmentation.py",
    "stages/baseline.py",
    "stages/duplicates.py",
    "stages/fetch.py",
    "stages/fitting.py",
    "stages/hardware.py",
    "stages/importance.py",
    "stages/prepare.py",
    "stages/splitting.py",
    "stages/tfidf.py",
    "stages/wide.py",
    "stages/wordnet.py",
)


# What does, besides what training computes with.
LIBRARIES = ("nltk", "numpy", "scikit-learn")


def sample(dataset: Dataset, posts: int, seed: int) -> Dataset:
    """At most `posts` random posts of each class, in the order of the corpus.

    Drawn by their ids: variants of a corpus give the same posts, but for those of which one of them left nothing.
    """
    labels = np.array(dataset["label"])
    order = np.argsort([hashlib.sha256(f"{seed} {post}".encode()).hexdigest() for post in dataset["id"]])
    chosen = [order[labels[order] == label][:posts] for label in np.unique(labels)]
    return dataset.select(np.sort(np.concatenate(chosen)))


def linear_scores(train: Dataset, splits: Mapping[str, Dataset], params: Params) -> dict[str, float]:
    """Macro-F1 of the linear baseline on each of the splits."""
    linear = fit(list(train["clean"]), list(train["label"]), params.baseline, params.seed)
    predicted = {name: linear.scores(list(split["clean"])).argmax(axis=1) for name, split in splits.items()}
    return {
        name: round(float(f1_score(split["label"], predicted[name], average="macro")), 4)
        for name, split in splits.items()
    }


def transformer_score(
    train: Dataset, validation: Dataset, epochs: int, params: Params, seed: int, **changes: Any
) -> dict[str, float]:
    """Validation macro-F1 of the first candidate after the small budget, and the seconds that it took.

    changes: to the section train.
    """
    candidate = params.train.candidates[0]
    settings = dataclasses.replace(params.train.of(candidate), epochs=epochs, evaluations=1, patience=epochs, **changes)
    folder = fetched(candidate)
    encoder = Encoder(folder, settings.max_tokens)
    model = build(folder, label_names(train), settings, seed)
    splits = encode(train, encoder), encode(validation, encoder)
    trainer = Trainer(model, *splits, settings, seed, build_accelerator(settings.precision))
    started = time.perf_counter()
    progress = trainer.fit()
    # The score of the end, not of the best evaluation, which would favour whoever is evaluated more often.
    score = progress.history[-1]["validation_macro_f1"]
    return {"validation": score, "seconds": time.perf_counter() - started}


def split_rows(raw: Dataset, test: Dataset, params: Params, cells: Cells) -> Iterator[list[Any]]:
    """Rows of split, validation and test macro-F1 of the linear baseline: how far validation is from new posts."""
    cleaning = build_cleaning(params.prepare)
    whole, posts = clean_split(raw, cleaning, 0)[0], clean_split(test, cleaning, 0)[0]
    for how in SPLITS:
        train, validation = split_validation(whole, how, params.prepare.validation, params.seed)
        scores = cells.measure(
            f"split: {how}",
            lambda t=train, v=validation: linear_scores(t, {"validation": v, "test": posts}, params),
        )
        yield [how, scores["validation"], scores["test"]]


def cleaning_rows(
    corpora: Mapping[str, Callable[[], tuple[Dataset, dict[str, bool]]]], params: Params, cells: Cells
) -> Iterator[list[Any]]:
    """Rows of variant, the linear baseline's validation macro-F1, and the transformer's: mean, low, high."""
    held: set[str] = set()
    for name, corpus in corpora.items():
        raw, changes = corpus()
        settings = dataclasses.replace(params.prepare, **changes)
        whole, _ = clean_split(raw, build_cleaning(settings), 0)
        # All variants are judged on the posts that the first one holds apart.
        held = held or set(split_validation(whole, settings.split, settings.validation, params.seed)[1]["id"])
        train = whole.select([i for i, post in enumerate(whole["id"]) if post not in held])
        validation = whole.select([i for i, post in enumerate(whole["id"]) if post in held])
        linear = cells.measure(
            f"linear: {name}", lambda t=train, v=validation: linear_scores(t, {"validation": v}, params)
        )
        scores = [
            cells.measure(
                f"transformer: {name}, seed {seed}",
                lambda t=train, v=validation, s=seed: transformer_score(
                    sample(t, POSTS, s), sample(v, VALIDATION_POSTS, 0), EPOCHS, params, s
                ),
            )["validation"]
            for seed in SEEDS
        ]
        yield [name, linear["validation"], *rounded(mean_interval(scores))]


def gain_rows(
    table: str, variants: Mapping[str, Callable[[int], dict[str, float]]], cells: Cells
) -> Iterator[list[Any]]:
    """Rows of variant, the transformer's validation macro-F1, its gain over the first variant, seed by seed (mean, low,
    high each), and the seconds it took over those of the first. variants: what measures each with a seed."""
    measured: dict[str, list[dict[str, float]]] = {}
    for name, measure in variants.items():
        measured[name] = [
            cells.measure(f"{table}: {name}, seed {seed}", functools.partial(measure, seed)) for seed in SEEDS
        ]
        first = next(iter(measured.values()))
        gains = [own["validation"] - base["validation"] for own, base in zip(measured[name], first, strict=True)]
        seconds = [sum(cell["seconds"] for cell in each) for each in (measured[name], first)]
        scores = [cell["validation"] for cell in measured[name]]
        yield [name, *rounded(mean_interval(scores)), *rounded(mean_interval(gains)), round(seconds[0] / seconds[1], 2)]


def wide_rows(train: Dataset, validation: Dataset, params: Params, cells: Cells) -> Iterator[list[Any]]:
    """Rows of the most terms allowed, the terms there are, validation macro-F1 of the wide part, its size in MB, and
    microseconds that it takes for a post."""
    for most in WIDE_TERMS:
        cell = cells.measure(f"wide: {most} terms", lambda most=most: wide_score(train, validation, most, params))
        yield [most, *(cell[name] for name in ("terms", "validation", "megabytes", "microseconds"))]


def wide_score(train: Dataset, validation: Dataset, most: int, params: Params) -> dict[str, float]:
    """The wide part with at most so many terms: its terms, its validation macro-F1, what it weighs and takes."""
    linear = wide.fit(
        list(train["clean"]), list(train["label"]), dataclasses.replace(params.wide, max_terms=most), params.seed
    )
    texts = list(validation["clean"])
    started = time.perf_counter()
    predicted = linear.scores(texts).argmax(axis=1)
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        linear.save(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {
        "terms": len(linear.terms),
        "validation": round(float(f1_score(validation["label"], predicted, average="macro")), 4),
        "megabytes": round(size / 1e6, 1),
        "microseconds": round(1e6 * seconds / len(texts)),
    }


def ingredients(settings: Train) -> dict[str, dict[str, Any]]:
    """What training does, one thing at a time left out or changed: changes to the section train, by name."""
    return {
        "as it is": {},
        "no dense layer in the head": {"head": ()},
        "first token in place of the mean": {"pooling": "cls"},
        "attention in place of the mean": {"pooling": "attention"},
        "no linear probe first": {"probe_epochs": 0},
        "no label smoothing": {"label_smoothing": 0.0},
        "no dropout": {"dropout": 0.0},
        "half the window": {"max_tokens": settings.max_tokens // 2},
    }


def augmented_score(
    seed: int, train: Dataset, validation: Dataset, synonyms: float, deletion: float, params: Params
) -> dict[str, float]:
    """The small budget with a copy of every post, its words replaced and deleted at these rates.

    Without copies there are twice the passes, so that all variants take the same number of steps.
    """
    posts, epochs = sample(train, POSTS, seed), EPOCHS
    if synonyms or deletion:
        rates = {"synonym_rate": synonyms, "deletion_rate": deletion}
        settings = dataclasses.replace(params.augment, share=1.0, copies=1, **rates)
        posts = with_copies(posts, augmented_copies(posts, WORDNET, settings, seed))
    else:
        epochs *= 2
    return transformer_score(posts, sample(validation, VALIDATION_POSTS, 0), epochs, params, seed)


def augmented(train: Dataset, validation: Dataset, params: Params) -> dict[str, Callable[[int], dict[str, float]]]:
    """What measures each of AUGMENTATIONS with a seed."""
    rates = params.augment.synonym_rate, params.augment.deletion_rate
    return {
        name: functools.partial(
            augmented_score,
            train=train,
            validation=validation,
            synonyms=synonyms * rates[0],
            deletion=deletion * rates[1],
            params=params,
        )
        for name, (synonyms, deletion) in AUGMENTATIONS.items()
    }


def changed(train: Dataset, validation: Dataset, params: Params) -> dict[str, Callable[[int], dict[str, float]]]:
    """What measures each of `ingredients` with a seed."""
    return {
        name: functools.partial(changed_score, train=train, validation=validation, changes=changes, params=params)
        for name, changes in ingredients(params.train).items()
    }


def changed_score(
    seed: int, train: Dataset, validation: Dataset, changes: dict[str, Any], params: Params
) -> dict[str, float]:
    """The small budget with changes to the section train."""
    posts = sample(train, POSTS, seed), sample(validation, VALIDATION_POSTS, 0)
    return transformer_score(*posts, EPOCHS, params, seed, **changes)


def clean(raw: Dataset, params: Params) -> tuple[Dataset, Dataset]:
    """Training and validation posts, cleaned and split as `prepare` does."""
    whole, _ = clean_split(raw, build_cleaning(params.prepare), 0)
    return split_validation(whole, params.prepare.split, params.prepare.validation, params.seed)


def raw_posts(remove: tuple[str, ...]) -> Dataset:
    """scikit-learn's raw training posts without the given parts."""
    rows = posts_from_sklearn(remove, retries=1)[0]["train"]
    labels = sorted({label for label, _ in rows})
    columns = {
        "id": [f"train-{number:06d}" for number in range(len(rows))],
        "text": [text for _, text in rows],
        "label": [labels.index(label) for label, _ in rows],
    }
    return Dataset.from_dict(columns, features(labels, RAW_COLUMNS))


def main() -> None:
    parts = sys.argv[1:] or list(PARTS)
    with stage("ablation", timed=False):
        if unknown := set(parts) - set(PARTS):
            raise StageError(f"no part {', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
        params = load()
        raw, test = load_split(RAW, "train"), load_split(RAW, "test")
        posts = [split[column][:] for split in (raw, test) for column in ("text", "label")]
        code = [sha256(path) for path in (Path(__file__), *(PROJECT / name for name in CODE))]
        budget = [POSTS, VALIDATION_POSTS, EPOCHS]
        measured = [dataclasses.asdict(params), budget, posts, code, libraries(), *map(version, LIBRARIES)]
        cells = Cells(CHECKPOINTS / "ablation.json", fingerprint(measured))
        path = METRICS / "ablation.json"
        tables = read_json(path) if path.is_file() else {}
        rows = {
            "splits": lambda: split_rows(raw, test, params, cells),
            "cleaning": lambda: cleaning_rows(
                {name: lambda changes=changes: (raw, changes) for name, changes in CLEANINGS.items()}, params, cells
            ),
            "wide": lambda: wide_rows(*clean(raw, params), params, cells),
            "augmentation": lambda: gain_rows("augmentation", augmented(*clean(raw, params), params), cells),
            "training": lambda: gain_rows("training", changed(*clean(raw, params), params), cells),
            "raw": lambda: cleaning_rows(
                {name: lambda remove=remove: (raw_posts(remove), {}) for name, remove in REMOVALS.items()},
                params,
                cells,
            ),
        }
        for part in (name for name in PARTS if name in parts):
            tables[part] = list(rows[part]())
            write_json(path, tables)
            draw_ablation(tables, f"{POSTS} posts a class, {EPOCHS} epochs", PLOTS / "ablation.png")


if __name__ == "__main__":
    main()
