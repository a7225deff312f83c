"""The ablation's arithmetic, its memory, and all of it on a tiny model; the real tables come from real training."""

from __future__ import annotations

import shutil
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from handlers.model import Classifier
from handlers.text import TOKENIZER_FILE
from stages import ablation
from stages.ablation import sample
from stages.ablation_plot import draw_ablation
from stages.cells import Cells
from stages.corpus import RAW_COLUMNS, features, save_split
from stages.files import read_json
from stages.params import SPLITS, Params, load
from stages.paths import PRETRAINED
from tests.conftest import LABELS


def test_finished_cells_are_kept_for_the_same_parameters(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    calls = []

    def measure(value: float) -> dict[str, float]:
        calls.append(value)
        return {"validation": value}

    assert Cells(path, "a").measure("cell", lambda: measure(1)) == {"validation": 1}
    assert Cells(path, "a").measure("cell", lambda: measure(2)) == {"validation": 1}
    assert Cells(path, "b").measure("cell", lambda: measure(3)) == {"validation": 3}
    assert calls == [1, 3]


def test_sample_is_of_each_class_and_seeded() -> None:
    names = [f"post-{i}" for i in range(60)]
    columns = {"id": names, "text": names, "clean": names, "label": [min(i // 20, 1) for i in range(60)]}
    whole = Dataset.from_dict(columns, features(["a", "b"]))
    chosen = sample(whole, 5, seed=1)
    assert Counter(chosen["label"]) == {0: 5, 1: 5}
    assert chosen["id"][:] == sample(whole, 5, seed=1)["id"][:] != sample(whole, 5, seed=2)["id"][:]
    assert Counter(sample(whole, 30, seed=1)["label"]) == {0: 20, 1: 30}


def test_plot_shows_every_table(tmp_path: Path) -> None:
    tables = {
        "cleaning": [["as it is", 0.8, 0.7, 0.65, 0.75]],
        "augmentation": [
            ["none", 0.7, 0.65, 0.75, 0.0, 0.0, 0.0, 1.0],
            ["both", 0.7, 0.65, 0.75, 0.01, -0.02, 0.04, 1.1],
        ],
    }
    alone = {"splits": [["random", 0.9, 0.8]]}
    panels = draw_ablation(tables | alone, "30 posts", tmp_path / "ablation.png").axes
    assert draw_ablation(alone, "30 posts", tmp_path / "none.png") is None
    assert [axes.get_title() for axes in panels] == list(tables)
    names = [[label.get_text() for label in axes.get_yticklabels()] for axes in panels]
    assert names == [[row[0] for row in rows] for rows in tables.values()]
    assert [axes.containers[0].lines[0].get_xdata().tolist() for axes in panels] == [[0.7], [0.7, 0.7]]
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_parts_run_on_a_tiny_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, corpus: tuple[list[str], list[int]]
) -> None:
    texts, labels = corpus
    document = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
    document["train"] |= {"max_tokens": 16, "head": [8], "batch_size": 8, "probe_epochs": 1, "precision": "float32"}
    document["augment"] |= {"synonym_rate": 0.0}
    document["prepare"] |= {"validation": 0.3}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for name in ("train", "test"):
        columns = {
            "id": [f"{name}-{i}" for i in range(36)],
            "text": [f"{text} {'abcd'[i % 4]}{i}" for i, text in enumerate(texts * 4)],
            "label": labels * 4,
        }
        save_split(Dataset.from_dict(columns, features(list(LABELS), RAW_COLUMNS)), ablation.RAW, name)
    pretrained = PRETRAINED / "minilm"
    Classifier.load(tiny_bundle).encoder.save_pretrained(pretrained)
    shutil.copyfile(tiny_bundle / TOKENIZER_FILE, pretrained / TOKENIZER_FILE)
    # Augmentation by deletion alone looks no word up.
    monkeypatch.setattr("stages.augment.WordNet", lambda _folder: lambda _word: [])
    monkeypatch.setattr(ablation, "SEEDS", (1, 2))
    monkeypatch.setattr("sys.argv", ["ablation", "splits", "cleaning", "wide", "augmentation", "training"])
    monkeypatch.setattr(ablation, "WIDE_TERMS", (5, 1000))
    usual, given = ablation.linear_scores, []

    def recorded(train: Dataset, splits: dict[str, Dataset], params: Params) -> dict[str, float]:
        scores = usual(train, splits, params)
        given.append((set(train["id"]), {name: set(split["id"]) for name, split in splits.items()}, scores))
        return scores

    monkeypatch.setattr(ablation, "linear_scores", recorded)
    ablation.main()
    tables = read_json(ablation.METRICS / "ablation.json")
    assert [row[0] for row in tables["splits"]] == list(SPLITS)
    assert [row[0] for row in tables["cleaning"]] == list(ablation.CLEANINGS)
    assert not any(train & judged["validation"] for train, judged, _ in given), "what was trained on is no judge"
    splits, cleanings = given[: len(SPLITS)], given[len(SPLITS) :]
    assert [row[1:] for row in tables["splits"]] == [[each["validation"], each["test"]] for *_, each in splits]
    assert [row[1] for row in tables["cleaning"]] == [each["validation"] for *_, each in cleanings]
    assert len({frozenset(judged["validation"]) for _, judged, _ in cleanings}) == 1, "all on the same posts"
    (few, *small), (many, *large) = tables["wide"]
    assert (few, small[0]) == (5, 5) and many == 1000 and 5 < large[0] < 1000
    assert small[2] <= large[2] and all(0 <= row[1] <= 1 and row[3] > 0 for row in (small, large))
    for table, first in (("augmentation", "none"), ("training", "as it is")):
        rows = {row[0]: row[1:] for row in tables[table]}
        assert rows[first][3:] == [0, 0, 0, 1]
        assert all(0 <= row[0] <= 1 and row[6] > 0 for row in rows.values())
    assert list(rows) == list(ablation.ingredients(load().train))
    assert (ablation.PLOTS / "ablation.png").is_file()
    measured = (ablation.CHECKPOINTS / "ablation.json").read_text(encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["ablation", "splits"])
    ablation.main()
    assert (ablation.CHECKPOINTS / "ablation.json").read_text(encoding="utf-8") == measured
    monkeypatch.setattr(ablation, "CODE", ablation.CODE[1:])
    ablation.main()
    kept = read_json(ablation.CHECKPOINTS / "ablation.json")
    assert kept["cells"].keys() == {f"split: {how}" for how in SPLITS}
    for changed in ("torch", "scikit-learn"):
        with monkeypatch.context() as patch:
            for module in ("stages.train", "stages.ablation"):
                patch.setattr(f"{module}.version", lambda name, own=changed: "0" if name == own else version(name))
            ablation.main()
        assert read_json(ablation.CHECKPOINTS / "ablation.json")["fingerprint"] != kept["fingerprint"]
    shutil.rmtree(pretrained)
    monkeypatch.setattr("sys.argv", ["ablation", "training"])
    with pytest.raises(SystemExit, match="run the fetch stage with this candidate"):
        ablation.main()
    monkeypatch.setattr("sys.argv", ["ablation", "everything"])
    with pytest.raises(SystemExit, match="the parts are splits, cleaning, wide, augmentation, training, raw"):
        ablation.main()
