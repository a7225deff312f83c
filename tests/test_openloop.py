"""Arrivals, percentiles, what voids a run, and what counts as a wrong answer: all without a server."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from handlers.requests import MAX_BYTES, MAX_CHARACTERS
from loadtest.answers import failure, wrong_explanation, wrong_prediction, wrong_refusal
from loadtest.openloop import CORE_SHARE, LAG_SHARE, percentile, schedule, void
from loadtest.posts import MOST_BYTES, MOST_CHARACTERS, InputError, read_key, read_posts
from stages.corpus import features

GOOD = {"label": "a", "probabilities": {"a": 0.7, "b": 0.3}, "model": {"name": "m", "version": "1"}}
EXPLANATION = {"method": "linear", "contributions": [{"position": 0, "word": "car", "value": 0.5}], "rest": 0.0}


def parquet(text: str | None) -> bytes:
    """A data set of one post."""
    buffer = io.BytesIO()
    Dataset.from_dict({"text": [text]}).to_parquet(buffer)
    return buffer.getvalue()


def body(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_arrivals_are_poisson_and_seeded() -> None:
    times = schedule(rate=50, requests=20_000, seed=1)
    waits = np.diff([0.0, *times])
    assert times == schedule(50, 20_000, 1) != schedule(50, 20_000, 2)
    assert waits.min() >= 0
    # Exponential waits: mean and standard deviation are both 1 / rate.
    assert waits.mean() == pytest.approx(1 / 50, rel=0.03)
    assert waits.std() == pytest.approx(1 / 50, rel=0.03)


def test_all_rates_share_one_pattern() -> None:
    assert schedule(10, 100, 3) == pytest.approx([2 * time for time in schedule(20, 100, 3)])


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be(rate: float) -> None:
    with pytest.raises(ValueError, match="positive number"):
        schedule(rate, 10, 1)


def test_percentiles_of_known_samples() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert [percentile(hundred, share) for share in (0.01, 0.29, 0.5, 0.99, 1)] == [1, 29, 50, 99, 100]
    assert percentile([9.0, 10.0, 100.0], 0.5) == 10
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 0.5)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=200), st.integers(1, 100))
def test_percentiles_are_those_of_numpy(samples: list[float], percent: int) -> None:
    assert percentile(samples, percent / 100) == np.quantile(samples, percent / 100, method="inverted_cdf")


def test_a_generator_that_was_the_limit_voids_the_run() -> None:
    assert void(LAG_SHARE * 250, CORE_SHARE, 250) is None
    late = LAG_SHARE * 250 + 1
    assert void(late, 0.1, 250) == "the generator was 26.0 ms late, more than 10% of the 250 ms objective"
    assert void(late, 0.1, 500) is None
    assert void(1, 0.95, 250) == "the generator used 95% of its core, more than 90%"


def test_a_right_answer() -> None:
    assert wrong_prediction(200, body(), ("a", "b")) is None
    assert wrong_prediction(200, body(), ()) is None
    # An answer cut to its best labels sums to less than 1.
    assert wrong_prediction(200, body(probabilities={"a": 0.7}), ("a", "b")) is None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (body(label="c"), "the label is unknown"),
        (body(label="b"), "not the most probable"),
        (body(label=None), "the label is unknown"),
        (body(probabilities={"a": 0.5, "b": 0.3}), "do not sum to 1"),
        (body(probabilities={"a": 0.9, "b": 0.3}), "do not sum to 1"),
        (body(probabilities={"a": "0.9"}), "not numbers"),
        (body(probabilities=None), "not numbers"),
        (body(probabilities={}), "do not sum|not the most"),
        (body(abstained=None), "neither true nor false"),
        (body(model={"name": "m"}), "version is missing"),
        (b"[]", "no JSON object"),
        (b"\xff", "no JSON object"),
    ],
)
def test_a_wrong_answer(answer: bytes, problem: str) -> None:
    assert re.search(problem, wrong_prediction(200, answer, ("a", "b")) or "")


def test_a_bad_request_must_be_refused_in_our_own_words() -> None:
    refusal = json.dumps({"code": 422, "reason": "no text", "field": "text", "mend": "send text"}).encode()
    assert wrong_refusal(422, refusal) is None
    assert wrong_refusal(200, body()) == "status 200 for a bad request"
    assert wrong_refusal(503, refusal) == "status 503 for a bad request"
    assert "status 400, its error JSON says 422" in str(wrong_refusal(400, refusal))
    assert "no error JSON" in str(wrong_refusal(400, b'{"code": 400, "type": "X", "message": "y"}'))


def test_an_explanation() -> None:
    assert wrong_explanation(200, body(explanation=EXPLANATION), ("a", "b")) is None
    assert wrong_explanation(200, body(), ("a", "b")) == "the answer holds no explanation"
    for words in (None, {}, ["car"], [{"word": "car"}], [{"word": 1, "value": 1}], [{"word": "a", "value": "1"}]):
        answer = body(explanation={"method": "linear", "contributions": words})
        assert wrong_explanation(200, answer, ("a", "b")) == "the answer holds no explanation"


def test_failures_say_the_mend() -> None:
    assert "--key-file" in failure(400, {"type": "InvalidKeyException", "message": "..."})
    assert "--model" in failure(404, {"type": "ModelNotFoundException", "message": "..."})
    assert "at --host" in failure(0, None)
    assert "starting" in failure(503, {"type": "ServiceUnavailableException", "message": "..."})


@given(
    st.integers(0, 599),
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "code"]), inner, max_size=4)
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_no_answer_breaks_the_check(status: int, answer: bytes) -> None:
    for verdict in (
        wrong_prediction(status, answer, ("a",)),
        wrong_explanation(status, answer, ()),
        wrong_refusal(status, answer),
    ):
        assert verdict is None or "\n" not in verdict


def test_posts_come_from_three_kinds_of_file(tmp_path: Path) -> None:
    (tmp_path / "posts.txt").write_text("one post\n\n12 34\nanother\n")
    (tmp_path / "posts.jsonl").write_text('"one post"\n{"text": "another"}\n')
    rows = {"id": ["1", "2"], "text": ["one post", "another"], "clean": ["", ""], "label": [0, 1]}
    Dataset.from_dict(rows, features=features(["x", "y"])).to_parquet(str(tmp_path / "posts.parquet"))
    assert read_posts(tmp_path / "posts.txt") == (["one post", "another"], ())
    assert read_posts(tmp_path / "posts.jsonl") == (["one post", "another"], ())
    assert read_posts(tmp_path / "posts.parquet") == (["one post", "another"], ("x", "y"))


def test_posts_that_the_server_would_refuse_are_left_out(tmp_path: Path) -> None:
    assert MOST_CHARACTERS == MAX_CHARACTERS and MAX_BYTES - 400 < MOST_BYTES < MAX_BYTES - 100
    longest = "a" * MAX_CHARACTERS
    # Four bytes of UTF-8, twelve of JSON; one character that stands for eighteen.
    for post in (longest + "a", "12 34", "\U00010400" * (MAX_BYTES // 12), "\ufdfa" * (MAX_CHARACTERS // 17)):
        (tmp_path / "posts.txt").write_text(f"one post\n{post}\n{longest}\n")
        assert read_posts(tmp_path / "posts.txt") == (["one post", longest], ())


def test_only_a_line_feed_ends_a_post(tmp_path: Path) -> None:
    posts = ["a form\x0cfeed", "a carriage\rreturn", "a line\u2028separator", "a next\x85line"]
    (tmp_path / "posts.txt").write_bytes("\r\n".join(posts).encode())
    lines = (json.dumps(post, ensure_ascii=False) for post in posts)
    (tmp_path / "posts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert read_posts(tmp_path / "posts.txt") == read_posts(tmp_path / "posts.jsonl") == (posts, ())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "is missing"),
        ("empty.txt", b"\n \n", "no post"),
        ("bad.jsonl", b"{\n", "cannot be read"),
        ("bad.jsonl", b'{"body": "x"}\n', "cannot be read"),
        ("bad.jsonl", b"5\n", "cannot be read"),
        ("bad.parquet", b"no parquet", "cannot be read"),
        ("bad.parquet", parquet(None), "a post is no string"),
        ("bad.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_posts_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_posts(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), ("{", "no inference key"), ("{}", "no inference")]
)
def test_keys_that_cannot_be_read(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "key_file.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_key(tmp_path / "key_file.json")
