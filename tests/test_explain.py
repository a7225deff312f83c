"""The explain stage: which posts it chooses, what it writes, and the command for a post of one's own."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import explaining
from handlers.predictor import Predictor
from stages.comparison import verdict
from stages.corpus import features
from stages.evaluate import systems
from stages.explain import choose_posts, explain, format_table, main, read_post, short
from stages.explanation import Effort, Explanation, best_words, explain_text
from stages.params import load
from stages.paths import PROJECT
from stages.stage import StageError
from tests import explanations
from tests.conftest import LABELS
from tests.explanations import EFFORT, TEXT

explanation = explanations.explanation


def test_posts_are_chosen_by_rule_and_class() -> None:
    random = np.random.default_rng(0)
    actual, predicted, confidence = random.integers(3, size=180), random.integers(3, size=180), random.random(180)
    eligible = random.random(180) > 0.2
    chosen = choose_posts(actual, predicted, confidence, eligible, 18, seed=4)
    assert chosen == choose_posts(actual, predicted, confidence, eligible, 18, seed=4)
    assert len({index for index, _ in chosen}) == 18
    counts = {(actual[index], rule): 0 for index, rule in chosen}
    right = actual == predicted
    for index, rule in chosen:
        counts[actual[index], rule] += 1
        assert eligible[index]
        assert right[index] == rule.startswith("right")
        alike = eligible & (right == right[index]) & (actual == actual[index])
        assert (confidence[index] < np.median(confidence[alike])) == rule.endswith("unsure")
    assert set(counts.values()) == {2}
    assert len(counts) == 9


@settings(max_examples=40)
@given(st.integers(0, 12), st.integers(1, 20))
def test_choice_takes_what_there_is(posts_there: int, posts: int) -> None:
    zeros = np.zeros(posts_there, dtype=int)
    chosen = choose_posts(zeros, zeros, np.linspace(0, 1, posts_there), np.ones(posts_there, dtype=bool), posts, 0)
    assert len({index for index, _ in chosen}) == len(chosen) == min(posts, posts_there)


def test_the_shortest_usable_posts_are_compared() -> None:
    posts = ["", "one", *("word " * length for length in range(2, 22))]
    assert np.flatnonzero(short(posts)).tolist() == [2, 3, 4]
    assert not short(["", "one"]).any()


def test_stage_writes_section_plot_and_metrics(
    predictor: Predictor, corpus: tuple[list[str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts, labels = corpus
    columns = {"id": [str(i) for i in range(len(texts))], "text": texts, "clean": texts, "label": labels}
    test = Dataset.from_dict(columns, features(list(LABELS)))
    _, _, logits = systems(predictor, texts, "test")
    arguments = {"posts": 2, "shown": 1, "top": 5, "effort": EFFORT}
    explain(predictor, test, logits, **arguments, plot=tmp_path / "p.png", metrics_folder=tmp_path / "metrics")
    section = (tmp_path / "outputs/sections/explanation.html").read_text()
    assert section.count("<article") == 1
    assert verdict(json.loads((tmp_path / "metrics/explain.json").read_text())) in section.replace("&#x27;", "'")
    assert (tmp_path / "p.png").stat().st_size > 1000
    report = json.loads((tmp_path / "metrics/explain.json").read_text(), parse_constant=pytest.fail)
    assert report["posts"] == 2
    rows = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "metrics/explain").iterdir()}
    assert rows.keys() == report["methods"].keys()
    assert rows["ig"] == {key: report["methods"]["ig"][key] for key in ("comprehensiveness", "sufficiency", "seconds")}
    assert "seconds" not in rows["random"]
    assert report["stability_posts"] == 1
    # A cascade whose linear part is always sure, and of the least likely class: right and wrong stay the full model's.
    contrary = copy.copy(predictor)
    contrary.fusion = dataclasses.replace(predictor.fusion, margin=0.0, fast=-predictor.fusion.fast)
    arguments |= {"shown": 2}
    explain(contrary, test, logits, **arguments, plot=tmp_path / "p.png", metrics_folder=tmp_path / "metrics")
    section = (tmp_path / "outputs/sections/explanation.html").read_text()
    told = re.findall(r"<h3>\d+\. (right|wrong) and \w+: ([^<]+)</h3>.*?of class <strong>([^<]+)<", section, re.DOTALL)
    assert len(told) == 2 and all((rule == "right") == (named == actual) for rule, named, actual in told)


def test_a_file_that_is_no_text_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    with pytest.raises(StageError, match="not UTF-8 text"):
        read_post(tmp_path / "latin")
    with pytest.raises(StageError, match="cannot be read: No such file"):
        read_post(tmp_path / "missing")
    (tmp_path / "post").write_text("The café", encoding="utf-8")
    assert read_post(tmp_path / "post") == "The café"


@pytest.fixture
def command(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The stage's command line, where the tiny bundle is the selected one."""
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stages.explain.SELECTED", tiny_bundle)

    def run(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["explain", *arguments])
        main()

    return run


@pytest.mark.parametrize("source", ["--text", "--file"])
@pytest.mark.parametrize("text", [TEXT, "Hockey!"])
def test_any_post_is_explained_on_the_command_line(
    command: Callable[..., None], predictor: Predictor, text: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("post.txt").write_text(text)
    command(source, text if source == "--text" else "post.txt")
    params = load()
    explained = explain_text(predictor, text, Effort(params.explain.samples, params.explain.steps, params.seed))
    printed = capsys.readouterr().out
    assert printed == format_table(explained, predictor.labels, params.explain.top) + "\n"
    assert len(printed.splitlines()) == 2 + min(len(explained.words), params.explain.top)
    assert not Path("outputs").exists(), "what is no run of the stage leaves no time"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--text", ""), "cleaning leaves no word"), (("--file", "absent"), "absent cannot be read: No such file")],
)
def test_a_post_that_cannot_be_explained_is_one_line(
    command: Callable[..., None], arguments: tuple[str, str], message: str
) -> None:
    with pytest.raises(SystemExit, match=f"^explain: {message}"):
        command(*arguments)


def test_table_names_the_answer_and_the_strongest_words(explanation: Explanation) -> None:
    lines = format_table(explanation, LABELS, 3).splitlines()
    assert lines[0].startswith(f"{LABELS[explanation.predicted]} with probability")
    assert len(lines) == 5
    values = explanation.attributions[explanation.predicted][explaining.DEFAULT]
    strongest, value = best_words(explanation.words, values, 1)[0]
    assert re.match(rf"{strongest} {re.escape(f'{value:+.3f}')}", lines[2])


def test_an_archive_explains_as_the_bundle_that_went_into_it(
    command: Callable[..., None], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--text", TEXT)
    expected = capsys.readouterr().out
    with zipfile.ZipFile("model.mar", "w") as archive:
        for path in tiny_bundle.iterdir():
            archive.write(path, path.name)
    command("--text", TEXT, "--archive", "model.mar")
    assert capsys.readouterr().out == expected
    with pytest.raises(SystemExit, match=r"absent\.mar is no archive"):
        command("--text", TEXT, "--archive", "absent.mar")
    zipfile.ZipFile("empty.mar", "w").close()
    with pytest.raises(SystemExit, match="no complete bundle"):
        command("--text", TEXT, "--archive", "empty.mar")
    with pytest.raises(SystemExit):
        command("--archive", "model.mar")
    assert "--text or --file as well" in capsys.readouterr().err
